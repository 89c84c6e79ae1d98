"""What judges behind endpoints will be asked in an evaluation, and what that costs, without a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.grades import Call
from benchmarks.items import Item, Prediction, Shown
from models.endpoint_settings import JudgeEndpoint
from tasks.candidates import choose
from tasks.evaluation.config import GradingConfig, ScoredBenchmark
from tasks.frames import FramesConfig
from tasks.plan_endpoint import BYTES_A_TOKEN, known_calls

ANSWER = "word " * 60  # Of a length that no benchmark's rules mistake for an option; a sentence or three.


@dataclass(frozen=True)
class JudgePrice:
    """What one endpoint will be asked, at most: about all checkpoints, and as one itself; each call once.

    Attributes:
        cost_bound: the most that its budget lets it cost; None: it has none.
        account: whose budget that is.
    """

    judge: str
    benchmarks: tuple[str, ...]
    calls: int
    input_tokens: int
    output_tokens: int
    cost: float
    cost_bound: float | None
    account: str
    note: str


@dataclass(frozen=True)
class _Work:
    """Calls of one endpoint for one benchmark, and what they send: bytes of text, and pictures."""

    calls: int
    text_bytes: float
    pictures: int = 0

    def __add__(self, other: _Work) -> _Work:
        return _Work(self.calls + other.calls, self.text_bytes + other.text_bytes, self.pictures + other.pictures)


def judge_prices(
    benchmarks: Mapping[str, ScoredBenchmark],
    grading: GradingConfig,
    checkpoints: int,
    lake: str,
    *,
    comparing: Sequence[str] = (),
    frames: FramesConfig | None = None,
) -> list[JudgePrice]:
    """The price of the endpoints' work, from the questions, made-up answers and the ledger's means.

    Args:
        benchmarks: what is scored, by label.
        grading: the endpoints.
        checkpoints: how many models' answers are graded.
        lake: its ledger knows what earlier calls came to.
        comparing: the endpoints that are checkpoints themselves, one each, and compare pairs of answers.
        frames: the frame sets that those are shown.

    Raises:
        FormatError: an annotation file cannot be read.
    """
    pictures = {} if frames is None else {each.name: each.n * each.clips for each in frames.sets}
    prices = []
    for name, endpoint in grading.endpoints.items():
        asked = dict[str, _Work]()
        for label, each in benchmarks.items():
            work = _Work(0, 0.0)
            if each.judge == name:
                work += _graded(each, checkpoints)
            for _ in range(list(comparing).count(name) if each.pairs != "likelihood" else 0):
                work += _compared(each, grading, pictures.get(each.frame_set, 0))
            if work.calls:
                asked[label] = work
        if asked:
            prices.append(_price(name, endpoint, asked, lake))
    return prices


def _graded(scored: ScoredBenchmark, checkpoints: int) -> _Work:
    """What the answers of all models take."""
    calls = _calls(scored)
    text = sum(len(f"{call.system or ''}{call.user}".encode()) for call in calls)
    return _Work(checkpoints * len(calls), checkpoints * text)


def _compared(scored: ScoredBenchmark, grading: GradingConfig, pictures: int) -> _Work:
    """What all pairs of a benchmark take, in both orders."""
    asked = grading.ranking.listwise if scored.pairs == "listwise" else grading.prompts.endpoint
    pairs = [item for item in _items(scored) if len(item.options) == 2]
    text = sum(len("".join((asked, item.questions[0], *item.options)).encode()) for item in pairs)
    return _Work(2 * len(pairs), 2 * text, 2 * len(pairs) * pictures)


def _items(scored: ScoredBenchmark) -> list[Item]:
    items = list(scored.made.read(scored.places).items)
    if scored.limit is None:
        return items
    chosen = {row["item_id"] for row in choose([{"item_id": item.id} for item in items], scored.limit)}
    return [item for item in items if item.id in chosen]


def _calls(scored: ScoredBenchmark) -> list[Call]:
    """What the judge is asked about one model; protocols that ask the same about an answer share a call."""
    made, items = scored.made, _items(scored)
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


def _price(name: str, endpoint: JudgeEndpoint, asked: Mapping[str, _Work], lake: str) -> JudgePrice:
    work = sum(asked.values(), _Work(0, 0.0))
    calls = work.calls
    tokens_in = work.text_bytes / BYTES_A_TOKEN + work.pictures * endpoint.image_tokens
    tokens_out = float(calls * endpoint.max_tokens)
    note = f"{name}: tokens from the questions' texts, image_tokens a frame and max_tokens a reply"
    typical, spent = known_calls(lake, endpoint)
    if typical is not None:
        tokens_in, tokens_out = calls * typical.input_tokens, calls * typical.output_tokens
        note = f"{name}: tokens as in {typical.calls} earlier calls"
    if not (endpoint.price_input or endpoint.price_output):
        note += "; set price_input and price_output to see money"
    note += f"; a reply that says nothing usable is asked for again, up to {endpoint.reasks} times"
    return JudgePrice(
        judge=f"{name} ({endpoint.model})",
        benchmarks=tuple(asked),
        calls=calls,
        input_tokens=round(tokens_in),
        output_tokens=round(tokens_out),
        cost=endpoint.price(round(tokens_in), round(tokens_out)),
        cost_bound=None if endpoint.budget is None else max(0.0, endpoint.budget - spent),
        account=endpoint.account,
        note=note,
    )
