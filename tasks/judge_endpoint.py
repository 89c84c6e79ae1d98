"""Puts together a judge behind an endpoint: its key from the environment, its ledger beside the lake."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from models.endpoint_settings import JudgeEndpoint
from models.templates import shipped
from storage.places import is_s3
from tasks.ledger import SqliteLedger, ledger_path
from tasks.worker import StageFailure

if TYPE_CHECKING:
    from models.endpoint import Endpoint
    from models.endpoint_judge import EndpointJudge
    from models.endpoint_speaker import EndpointSpeaker
    from storage.lake import Lake
    from tasks.stage import StageRef

logger = logging.getLogger(__name__)

AGAIN = shipped("judge_endpoint_again")


def endpoint_judge(
    settings: JudgeEndpoint,
    *,
    lake: str,
    workers: int,
    text: str,
    context_text: str,
    tie_margin: float,
    attempt: int = 0,
) -> EndpointJudge:
    """The judge for one of `workers` processes, which share the endpoint's limits; `attempt` is the stage's.

    Raises:
        StageFailure: the key's variable is not set here, or there are more workers than calls may be under way.
        LakeError: the ledger cannot be used.
    """
    from models.endpoint_judge import SCHEMA, EndpointJudge

    endpoint = _endpoint(settings, lake, workers, SCHEMA)
    texts = {"text": text, "context_text": context_text, "again": AGAIN}
    return EndpointJudge(endpoint, **texts, tie_margin=tie_margin, attempt=attempt)


def endpoint_speaker(settings: JudgeEndpoint, *, lake: str, workers: int, attempt: int = 0) -> EndpointSpeaker:
    """Who replies in words, for one of `workers` processes. Raises as `endpoint_judge`."""
    from models.endpoint_speaker import EndpointSpeaker

    in_words = replace(settings, structured="off", logprobs="off")  # An order is no verdict, and of any form.
    return EndpointSpeaker(_endpoint(in_words, lake, workers, {}), attempt)


def _endpoint(settings: JudgeEndpoint, lake: str, workers: int, schema: dict[str, Any]) -> Endpoint:
    from models.endpoint import Endpoint

    if workers > settings.concurrency:
        raise StageFailure(
            f"The judge {settings.model!r} takes {settings.concurrency} calls at once, but {workers} workers share it: "
            f"set its concurrency to at least {workers}, or run.workers to less."
        )
    ledger = SqliteLedger(ledger_path(lake), settings)
    return Endpoint(settings, ledger, _key(settings), schema, settings.concurrency // workers)


def answered_otherwise(asked: str, named: Iterable[str | None]) -> tuple[str, ...]:
    """The models that replies named, in order, where it was not the one that was asked for alone; else nothing."""
    names = tuple(sorted({each for each in named if each}))
    return () if names == (asked,) else names


def say_who_answered(asked: str, names: Sequence[str]) -> None:
    """Warns that `names` answered in place of the model that was asked for."""
    if not names:
        return
    several = " More than one version has answered: they are no one judge." if len(names) > 1 else ""
    logger.warning(
        "the endpoint was asked for the judge %r, and its replies name %s.%s To pin a judge, set `model` to the name "
        "of a version: an alias is moved without a word",
        asked,
        ", ".join(names),
        several,
    )


def say_whose_rows(lake: Lake, rows: StageRef, asked: str) -> None:
    """Warns where the rows of a stage were answered for by another model than was asked for, or by several."""
    found = lake.table(rows.table).read(rows.key, columns=["answered_by"])["answered_by"].unique().to_pylist()
    say_who_answered(asked, answered_otherwise(asked, named_models(found)))


def named_models(column: Iterable[str | None]) -> set[str]:
    """The models that the values of a column `answered_by` name."""
    return {name for each in column if each for name in each.split(", ")}


@functools.cache  # Each arm asks for it; to be told once is enough.
def say_what_the_budget_counts(lake: str, model: str) -> None:
    """Warns where the budget of a judge does not hold for whoever else works in the lake."""
    if is_s3(lake):
        logger.warning(
            "the budget of the judge %r, its rate and the calls that are paid already are counted on this machine "
            "(%s), as the lake is on S3: a run on another machine, or without this file, counts from nothing",
            model,
            ledger_path(lake),
        )


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
