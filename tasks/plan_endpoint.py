"""The price of a labelling by an endpoint, without a call: from the sampled pairs, its settings and its ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tasks.ledger import SqliteLedger, Typical, ledger_path
from tasks.plan import Line

if TYPE_CHECKING:
    from models.endpoint_settings import JudgeEndpoint
    from storage.lake import Lake
    from tasks.preferences import PreferencesConfig
    from tasks.stage import StageRef

MOST = "at most: equal answers are not judged"
BYTES_A_TOKEN = 4  # Of English text.


def priced(
    line: Line, calls: int, lake: Lake, pairs: StageRef, config: PreferencesConfig, frames: int, root: str
) -> Line:
    """`line` with what the endpoint of `config` will be asked and paid.

    Args:
        line: the stage.
        calls: the most that its pairs take when no reply has to be asked for again.
        lake: the sample's.
        pairs: its preferences, whoever judged them there.
        config: how they will be judged.
        frames: pictures a call.
        root: the run's lake, whose ledger knows what earlier calls came to.
    """
    endpoint = config.endpoint
    assert endpoint is not None
    rows = lake.table(pairs.table).read(pairs.key).to_pylist()
    text_bytes = _text_bytes([row for row in rows if row["status"] == "ok"], config)
    typical, spent = known_calls(root, endpoint)
    tokens_in = endpoint.image_tokens * frames + text_bytes / BYTES_A_TOKEN
    tokens_out: float = endpoint.max_tokens
    if typical is not None:
        tokens_in, tokens_out = typical.input_tokens, typical.output_tokens
    seconds = _seconds(calls, endpoint, typical)
    return replace(
        line,
        calls=calls,
        input_tokens=round(calls * tokens_in),
        output_tokens=round(calls * tokens_out),
        cost=calls * endpoint.price(round(tokens_in), round(tokens_out)),
        cost_bound=None if endpoint.budget is None else max(0.0, endpoint.budget - spent),
        account=endpoint.account,
        memory_mib=None,
        seconds=seconds,
        wall_seconds=seconds,
        note=_note(endpoint, typical),
    )


def _text_bytes(rows: Sequence[dict[str, Any]], config: PreferencesConfig) -> float:
    """Mean bytes of what is asked about a pair."""
    prompt = len(config.asked[config.prompt_name].encode())
    texts = [
        sum(len((row[key] or "").encode()) for key in ("question", "answer_a", "answer_b"))
        + (len((row["narrative"] or "").encode()) if config.narrative else 0)
        for row in rows
    ]
    return prompt + (sum(texts) / len(texts) if texts else 0.0)


def known_calls(root: str, endpoint: JudgeEndpoint) -> tuple[Typical | None, float]:
    """What an earlier call came to, and what is spent; a ledger that is not there is not made."""
    path = ledger_path(root)
    if not path.is_file():
        return None, 0.0
    ledger = SqliteLedger(path, endpoint)
    try:
        return ledger.typical(), ledger.spent()
    finally:
        ledger.close()


def _seconds(calls: int, endpoint: JudgeEndpoint, typical: Typical | None) -> float | None:
    """As its latency and its rate limit allow; None while neither is known."""
    by_rate = None if endpoint.requests_per_minute is None else calls * 60 / endpoint.requests_per_minute
    by_latency = None if typical is None else calls * typical.latency_s / endpoint.concurrency
    known = [each for each in (by_rate, by_latency) if each is not None]
    return max(known, default=None)


def _note(endpoint: JudgeEndpoint, typical: Typical | None) -> str:
    parts = [MOST, "no call yet: image_tokens a picture, max_tokens a reply"]
    if typical is not None:
        parts[1] = f"tokens as in {typical.calls} earlier calls"
    if not (endpoint.price_input or endpoint.price_output):
        parts.append("set price_input and price_output to see money")
    if endpoint.reasks:
        bounded = "; a budget bounds them" if endpoint.budget is None else ""
        parts.append(f"not in it: replies without a verdict are asked for again (reasks {endpoint.reasks}){bounded}")
    return "; ".join(parts)
