"""What judges behind endpoints will be asked in an evaluation, and what that costs, without a call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.grades import Call
from benchmarks.items import Item, Prediction, Shown
from models.endpoint_settings import JudgeEndpoint
from tasks.candidates import choose
from tasks.evaluation.config import GradingConfig, ScoredBenchmark
from tasks.plan_endpoint import BYTES_A_TOKEN, known_calls

ANSWER = "word " * 60  # Of a length that no benchmark's rules mistake for an option; a sentence or three.


@dataclass(frozen=True)
class JudgePrice:
    """What one judge will be asked, at most: by all checkpoints, each call once."""

    judge: str
    benchmarks: tuple[str, ...]
    calls: int
    input_tokens: int
    output_tokens: int
    cost: float
    note: str


def judge_prices(
    benchmarks: Mapping[str, ScoredBenchmark], grading: GradingConfig, checkpoints: int, lake: str
) -> list[JudgePrice]:
    """The price of the endpoints' work, from the questions, made-up answers and the ledger's means.

    Args:
        benchmarks: what is scored, by label.
        grading: the endpoints.
        checkpoints: how many models are scored.
        lake: its ledger knows what earlier calls came to.

    Raises:
        FormatError: an annotation file cannot be read.
    """
    prices = []
    for name, endpoint in grading.endpoints.items():
        asked = {label: _calls(each) for label, each in benchmarks.items() if each.judge == name}
        if any(asked.values()):
            prices.append(_price(name, endpoint, asked, checkpoints, lake))
    return prices


def _calls(scored: ScoredBenchmark) -> list[Call]:
    """What the judge is asked about one model; protocols that ask the same about an answer share a call."""
    made = scored.made
    items = list(made.read(scored.places).items)
    if scored.limit is not None:
        chosen = {row["item_id"] for row in choose([{"item_id": item.id} for item in items], scored.limit)}
        items = [item for item in items if item.id in chosen]
    found = dict.fromkeys(
        (item.id, aspect, made.grade(item, aspect, _answered(scored, item), protocol))
        for protocol in scored.scored_by
        for item in items
        for aspect in item.aspects
    )
    return [call for _, _, call in found if isinstance(call, Call)]


def _answered(scored: ScoredBenchmark, item: Item) -> Prediction:
    requests = scored.made.ask(item, Shown())
    return Prediction(replies=tuple(ANSWER for request in requests if not request.choices))


def _price(
    name: str, endpoint: JudgeEndpoint, asked: Mapping[str, list[Call]], checkpoints: int, lake: str
) -> JudgePrice:
    calls = checkpoints * sum(map(len, asked.values()))
    text = sum(len(f"{call.system or ''}{call.user}".encode()) for each in asked.values() for call in each)
    tokens_in, tokens_out = checkpoints * text / BYTES_A_TOKEN, float(calls * endpoint.max_tokens)
    note = f"{name}: tokens from the questions' texts and max_tokens a reply"
    typical, _ = known_calls(lake, endpoint)
    if typical is not None:
        tokens_in, tokens_out = calls * typical.input_tokens, calls * typical.output_tokens
        note = f"{name}: tokens as in {typical.calls} earlier calls"
    if not (endpoint.price_input or endpoint.price_output):
        note += "; set price_input and price_output to see money"
    note += f"; a reply that says nothing usable is asked for again, up to {endpoint.reasks} times"
    return JudgePrice(
        judge=f"{name} ({endpoint.model})",
        benchmarks=tuple(label for label, each in asked.items() if each),
        calls=calls,
        input_tokens=round(tokens_in),
        output_tokens=round(tokens_out),
        cost=endpoint.price(round(tokens_in), round(tokens_out)),
        note=note,
    )
