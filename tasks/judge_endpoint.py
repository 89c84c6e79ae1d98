"""Puts together a judge behind an endpoint: its key from the environment, its ledger beside the lake."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from models.endpoint_settings import JudgeEndpoint
from models.templates import shipped
from tasks.ledger import SqliteLedger, ledger_path
from tasks.worker import StageFailure

if TYPE_CHECKING:
    from models.endpoint_judge import EndpointJudge

AGAIN = shipped("judge_endpoint_again")


def endpoint_judge(
    settings: JudgeEndpoint, *, lake: str, workers: int, text: str, context_text: str, tie_margin: float
) -> EndpointJudge:
    """The judge for one of `workers` processes, which share the endpoint's limits.

    Raises:
        StageFailure: the key's variable is not set here, or there are more workers than calls may be under way.
        LakeError: the ledger cannot be used.
    """
    from models.endpoint import Endpoint
    from models.endpoint_judge import SCHEMA, EndpointJudge

    if workers > settings.concurrency:
        raise StageFailure(
            f"The judge {settings.model!r} takes {settings.concurrency} calls at once, but {workers} workers share it: "
            f"set its concurrency to at least {workers}, or run.workers to less."
        )
    ledger = SqliteLedger(ledger_path(lake), settings)
    endpoint = Endpoint(settings, ledger, _key(settings), SCHEMA, settings.concurrency // workers)
    return EndpointJudge(endpoint, text=text, context_text=context_text, again=AGAIN, tie_margin=tie_margin)


def _key(settings: JudgeEndpoint) -> str | None:
    if settings.api_key_env is None:
        return None
    key = os.environ.get(settings.api_key_env)
    if not key:
        raise StageFailure(
            f"The judge {settings.model!r} needs a key, but the variable {settings.api_key_env} is not set in the "
            "workers' environment: set it before the run (on a Ray cluster that runs already, where that was started)."
        )
    return key
