"""What judges behind endpoints will be asked in an evaluation, and what that costs, without a call.

Two figures: what is to be expected, and what it can be at most. The first takes answers of a sentence or three, replies
that can be read, and each call once, though several protocols make it. The second takes answers as long as they may be,
one token a byte of all that is sent, every protocol's calls as its own, and every reply asked for as often as allowed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.benchmark import Benchmark, check_protocol
from benchmarks.grades import Call
from benchmarks.items import Item, Prediction, Shown
from models.endpoint_settings import JudgeEndpoint
from tasks.candidates import choose
from tasks.evaluation.config import GradingConfig, ScoredBenchmark
from tasks.evaluation.judges import messages_of
from tasks.frames import FramesConfig
from tasks.judge_endpoint import AGAIN
from tasks.plan_endpoint import BYTES_A_TOKEN, known_calls

# Of a length that no benchmark's rules mistake for an option, and with nothing at its ends that a protocol takes off.
ANSWER = " ".join(["word"] * 60)
_FRAME_BYTES = 256  # Around a message: names of fields, the fault that a judge is reminded of.


@dataclass(frozen=True)
class JudgePrice:
    """What one endpoint will be asked: about all checkpoints, and as one itself.

    Attributes:
        calls, input_tokens, output_tokens, cost: to be expected.
        most_calls: asked about everything by every protocol, and as often as allowed.
        most_cost: of these, or what its budget leaves where that is less. Calls that are repeated because their reply
            was lost are not in it.
        cost_bound: the most that its budget lets it cost; None: it has none.
        account: whose budget that is.
        note: what the figures were taken from.
    """

    judge: str
    benchmarks: tuple[str, ...]
    calls: int
    input_tokens: int
    output_tokens: int
    cost: float
    most_calls: int
    most_cost: float
    cost_bound: float | None
    account: str
    note: str


@dataclass(frozen=True)
class _Work:
    """Calls of one endpoint for one benchmark, and what they send.

    Attributes:
        calls, text_bytes, pictures: expected.
        most_calls, most_tokens: at most; tokens of text that are sent.
        most_pictures: likewise.
    """

    calls: int = 0
    text_bytes: float = 0.0
    pictures: int = 0
    most_calls: int = 0
    most_tokens: int = 0
    most_pictures: int = 0

    def __add__(self, other: _Work) -> _Work:
        return _Work(*(one + more for one, more in zip(vars(self).values(), vars(other).values(), strict=True)))

    def __mul__(self, times: int) -> _Work:
        return _Work(*(one * times for one in vars(self).values()))


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
            work = _Work()
            if each.judge == name:
                work += _graded(each, endpoint) * checkpoints
            for _ in range(list(comparing).count(name) if each.pairs != "likelihood" else 0):
                work += _compared(each, grading, endpoint, pictures.get(each.frame_set, 0))
            if work.most_calls:
                asked[label] = work
        if asked:
            prices.append(_price(name, endpoint, asked, lake))
    return prices


def price_of_files(
    benchmark: Benchmark,
    annotations: Mapping[str, Path],
    predictions: Sequence[Path],
    protocol: str,
    endpoint: JudgeEndpoint,
    ledger: Path,
) -> JudgePrice | None:
    """The price of grading prediction files, whose answers are known; None where rules decide all.

    Args:
        benchmark: that they answer.
        annotations: its annotation files, by the names of `benchmark.files`.
        predictions: the files.
        protocol: by which is graded.
        endpoint: the judge.
        ledger: folder whose ledger knows what earlier calls came to; not made.

    Raises:
        FormatError: a file cannot be read.
        ValueError: the benchmark does not know the protocol.
    """
    check_protocol(benchmark, protocol)
    items = benchmark.read(annotations).items
    given = benchmark.read_predictions(predictions, items).by_id
    calls = dict.fromkeys(call for _, call in _calls(benchmark, items, given, [protocol]))
    if not calls:
        return None
    return _price("", endpoint, {benchmark.name: _work([*calls], [*calls], endpoint)}, str(ledger))


def _graded(scored: ScoredBenchmark, endpoint: JudgeEndpoint) -> _Work:
    """What the answers of one model take; protocols that ask the same about an answer share a call."""
    made, items = scored.made, _items(scored)
    longest = "word" * (scored.sampling.max_new_tokens * BYTES_A_TOKEN // len("word"))
    expected, most = (
        _calls(made, items, {item.id: _answered(made, item, answer) for item in items}, scored.scored_by)
        for answer in (ANSWER, longest)
    )
    return _work([call for _, call in dict.fromkeys(expected)], [call for _, call in most], endpoint)


def _compared(scored: ScoredBenchmark, grading: GradingConfig, endpoint: JudgeEndpoint, pictures: int) -> _Work:
    """What all pairs of a benchmark take, in both orders. A judge that is asked again is shown what it has said."""
    asked = grading.ranking.listwise if scored.pairs == "listwise" else grading.prompts.endpoint
    pairs = [item for item in _items(scored) if len(item.options) == 2]
    sent = [json.dumps([asked, item.questions[0], *item.options], ensure_ascii=False) for item in pairs]
    text = sum(len(each.encode()) for each in sent)
    calls, times = 2 * len(pairs), endpoint.reasks + 1
    more = endpoint.max_tokens + len(AGAIN.encode()) + _FRAME_BYTES
    reminded = calls * more * sum(range(times)) if scored.pairs == "verdict" else 0
    return _Work(
        calls=calls,
        text_bytes=2 * text,
        pictures=calls * pictures,
        most_calls=calls * times,
        most_tokens=(2 * text + calls * _FRAME_BYTES) * times + reminded,
        most_pictures=calls * pictures * times,
    )


def _work(expected: Sequence[Call], most: Sequence[Call], endpoint: JudgeEndpoint) -> _Work:
    times = endpoint.reasks + 1
    sent = sum(len(json.dumps(messages_of(call), ensure_ascii=False).encode()) for call in most)
    return _Work(
        calls=len(expected),
        text_bytes=sum(len(f"{call.system or ''}{call.user}".encode()) for call in expected),
        most_calls=len(most) * times,
        most_tokens=sent * times,
    )


def _items(scored: ScoredBenchmark) -> list[Item]:
    items = list(scored.made.read(scored.places).items)
    if scored.limit is None:
        return items
    chosen = {row["item_id"] for row in choose([{"item_id": item.id} for item in items], scored.limit)}
    return [item for item in items if item.id in chosen]


def _calls(
    made: Benchmark, items: Sequence[Item], said: Mapping[str, Prediction], protocols: Sequence[str]
) -> list[tuple[str, Call]]:
    """What a judge is asked about answers, by each protocol, with the item's id."""
    found = (
        (item.id, made.grade(item, aspect, said.get(item.id), protocol))
        for protocol in protocols
        for item in items
        for aspect in item.aspects
    )
    return [(id, each) for id, each in found if isinstance(each, Call)]


def _answered(made: Benchmark, item: Item, answer: str) -> Prediction:
    return Prediction(replies=tuple(answer for request in made.ask(item, Shown()) if not request.choices))


def _price(name: str, endpoint: JudgeEndpoint, asked: Mapping[str, _Work], lake: str) -> JudgePrice:
    work = sum(asked.values(), _Work())
    calls = work.calls
    tokens_in = work.text_bytes / BYTES_A_TOKEN + work.pictures * endpoint.image_tokens
    tokens_out = float(calls * endpoint.max_tokens)
    basis = "tokens from the texts, image_tokens a frame and max_tokens a reply"
    typical, spent = known_calls(lake, endpoint)
    if typical is not None:
        tokens_in, tokens_out = calls * typical.input_tokens, calls * typical.output_tokens
        basis = f"tokens as in {typical.calls} earlier calls"
    left = None if endpoint.budget is None else max(0.0, endpoint.budget - spent)
    most_in = work.most_tokens + work.most_pictures * endpoint.image_tokens
    most_cost = endpoint.price(most_in, work.most_calls * endpoint.max_tokens)
    return JudgePrice(
        judge=f"{name} ({endpoint.model})" if name else endpoint.model,
        benchmarks=tuple(asked),
        calls=calls,
        input_tokens=round(tokens_in),
        output_tokens=round(tokens_out),
        cost=endpoint.price(round(tokens_in), round(tokens_out)),
        most_calls=work.most_calls,
        most_cost=most_cost if left is None else min(most_cost, left),
        cost_bound=left,
        account=endpoint.account,
        note=f"{name or endpoint.model}: {_note(endpoint, basis)}",
    )


def _note(endpoint: JudgeEndpoint, basis: str) -> str:
    parts = [basis]
    if not (endpoint.price_input or endpoint.price_output):
        parts.append("set price_input and price_output to see money")
    parts.append(
        "at most: a token a byte, the longest answers where they are not known, each protocol's calls as its own, and "
        f"every reply asked for {endpoint.reasks + 1} times"
    )
    if endpoint.budget is None:
        parts.append("calls whose reply is lost may be charged beyond that: a budget bounds them")
    parts.append("replies that the ledger has are not paid again")
    return "; ".join(parts)
