"""VideoRewardBench-style triplets: does a judge, a ranker or a reward model prefer the better answer?

Source: arXiv 2509.00484: the share of triplets (video, prompt, chosen, rejected) in which the model prefers the chosen
answer; 1,563 of them in five dimensions. Its files were not seen: the columns read here, and the two orders of
showing a pair, are ours, so there is no "official" protocol.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from benchmarks.benchmark import ByRules, check_protocol
from benchmarks.choice_scores import usable
from benchmarks.files import one_file, write_rows
from benchmarks.grades import Call, Grade, Graded
from benchmarks.items import Annotations, Item, Prediction, Predictions, Request, Shown
from benchmarks.metrics import Metric, mean, members
from benchmarks.rows import (
    ItemRows,
    Row,
    RowError,
    cell,
    content_name,
    numbers,
    predictions_of_files,
    rows_of_file,
    wanted,
)

# The order in which the pair was shown; each is graded by itself.
ORDERS = ("chosen first", "chosen second")


@dataclass(frozen=True)
class VideoRewardBench(ByRules):
    """Triplets for judges, rankers and reward models. An item's options are (chosen, rejected), its aspects the orders.

    `Prediction.preferred` holds the probability that the chosen answer is the better one: shown first, then shown
    second. A model that sees one answer at a time (a reward model) gives one number, which counts for both orders.
    Where it is empty but the log-probabilities of both answers are there (what `ask` wants of a policy), the answer
    with the higher mean per token is preferred: how a policy ranks answers by itself, which is no judgement.
    """

    name: ClassVar[str] = "video_reward_bench"
    source: ClassVar[str] = "https://arxiv.org/abs/2509.00484"
    protocols: ClassVar[tuple[str, ...]] = ("strict",)
    files: ClassVar[Mapping[str, str]] = {
        "": "CSV, JSON or JSON lines of video, prompt, chosen, rejected, and if you like dimension and id"
    }
    max_new_tokens: ClassVar[int] = 0
    temperature: ClassVar[float] = 0.0

    @property
    def texts(self) -> Mapping[str, str]:
        """None of its own: judges and rankers ask with their own prompts."""
        return {}

    def read(self, files: Mapping[str, Path]) -> Annotations:
        """The triplets of a file. One without an id is known by a hash of its content.

        Raises:
            FormatError: the file cannot be read at all.
        """
        return ItemRows().read(rows_of_file(one_file(self.name, files), "triplets"), _item)

    def ask(self, item: Item, shown: Shown) -> tuple[Request, ...]:
        """For a policy: how likely it finds both answers. Judges, rankers and reward models are asked in their own
        ways.
        """
        del shown
        return (Request(text=item.questions[0], choices=item.options),)

    def grade(self, item: Item, aspect: str, prediction: Prediction | None, protocol: str) -> Grade | Call:
        """Right where the chosen answer is preferred in this order; `score` is a half where neither is."""
        del item
        check_protocol(self, protocol)
        if prediction is None:
            return Grade("missing", correct=False, score=0.0)
        probability = _preference(prediction, ORDERS.index(aspect))
        if probability is None or math.isnan(probability):
            return Grade("no verdict", correct=False, score=0.0)
        if not 0 <= probability <= 1:
            return Grade("out of range", correct=False, score=0.0)
        word = "tie" if probability == 0.5 else "chosen" if probability > 0.5 else "rejected"
        return Grade(
            "ok", correct=word == "chosen", score={"chosen": 1.0, "tie": 0.5, "rejected": 0.0}[word], parsed=word
        )

    def metrics(self, graded: Sequence[Graded], protocol: str) -> list[Metric]:
        """Over all triplets, then by dimension:

        accuracy: share of orders in which the chosen answer is preferred; a tie or no verdict is wrong.
        accuracy, ties half: the same with a tie as one half.
        consistent: share of triplets with the same preference, no tie, in both orders, among those asked in both.
        accuracy, chosen first / second: of one order alone. Their difference is a leaning to a place.

        The last three are there only where a prediction has both orders.
        """
        check_protocol(self, protocol)
        triplets = list(members((one.item.id, one) for one in graded).values())
        by_dimension = members((ones[0].item.groups.get("dimension", ""), ones) for ones in triplets)
        found = _metrics("overall", triplets)
        for dimension, ones in by_dimension.items():
            if dimension:
                found += _metrics(f"dimension: {dimension}", ones)
        return found

    def write(self, folder: Path, items: Sequence[Item], predictions: Mapping[str, Prediction]) -> list[Path]:
        """Writes `video_reward_bench.jsonl`, our form: {"id", "preferred": [P shown first, P shown second]}, or
        {"id", "scores", "n_tokens"} of a policy.
        """
        known = [(item.id, predictions[item.id]) for item in items if item.id in predictions]
        return write_rows(folder / "video_reward_bench.jsonl", (_line(name, one) for name, one in known))

    def read_predictions(self, files: Sequence[Path], items: Sequence[Item]) -> Predictions:
        """Predictions from files that `write` wrote; `preferred` may be one number."""
        return predictions_of_files(files, items, _prediction)


def _item(row: Row) -> Item:
    video = wanted(row, "no video", "video", "video_path", "video_id")
    prompt = wanted(row, "malformed", "prompt", "question")
    chosen = wanted(row, "no answer", "chosen")
    rejected = wanted(row, "no answer", "rejected")
    if chosen == rejected:
        raise RowError("no answer", "its chosen and its rejected answer are the same: neither is better.")
    dimension = cell(row, "dimension", "category")
    return Item(
        id=cell(row, "id") or content_name(video, prompt, chosen, rejected),
        video=video,
        questions=(prompt,),
        answer=chosen,
        options=(chosen, rejected),
        aspects=ORDERS,
        groups={"dimension": dimension} if dimension else {},
        source=dict(row),
    )


def _preference(prediction: Prediction, order: int) -> float | None:
    """P(chosen better) in this order; None where the prediction holds none."""
    if prediction.preferred:
        return prediction.preferred[order if len(prediction.preferred) > 1 else 0]
    if not usable(prediction.scores, 2) or len(prediction.n_tokens) != 2 or min(prediction.n_tokens) < 1:
        return None
    chosen, rejected = (score / n for score, n in zip(prediction.scores, prediction.n_tokens, strict=True))
    return 0.5 if chosen == rejected else float(chosen > rejected)


def _metrics(group: str, triplets: Sequence[Sequence[Graded]]) -> list[Metric]:
    videos = [ones[0].item.video for ones in triplets]
    right = [_share([float(bool(one.grade.correct)) for one in ones]) for ones in triplets]
    halves = [_share([one.grade.score or 0.0 for one in ones]) for ones in triplets]
    found = [mean("accuracy", group, right, videos), mean("accuracy, ties half", group, halves, videos)]
    if any(_orders(ones) == len(ORDERS) for ones in triplets):
        found.append(mean("consistent", group, [_consistent(ones) for ones in triplets], videos))
        for order in ORDERS:
            found.append(mean(f"accuracy, {order}", group, [_in_order(ones, order) for ones in triplets], videos))
    return found


def _share(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _orders(ones: Sequence[Graded]) -> int | None:
    """In how many orders the model was asked; None where there is no prediction."""
    prediction = ones[0].prediction
    return None if prediction is None else len(prediction.preferred)


def _consistent(ones: Sequence[Graded]) -> float | None:
    """A triplet without a prediction is not consistent; one asked in a single order is left out."""
    if _orders(ones) not in {None, len(ORDERS)}:
        return None
    return float({one.grade.parsed for one in ones} in ({"chosen"}, {"rejected"}))


def _in_order(ones: Sequence[Graded], order: str) -> float | None:
    if _orders(ones) not in {None, len(ORDERS)}:
        return None
    return next((float(bool(one.grade.correct)) for one in ones if one.aspect == order), None)


def _line(name: str, prediction: Prediction) -> Row:
    if prediction.preferred:
        # JSON has no NaN: where a judge gave no verdict, null stands.
        return {"id": name, "preferred": [None if math.isnan(one) else one for one in prediction.preferred]}
    return {"id": name, "scores": list(prediction.scores), "n_tokens": list(prediction.n_tokens)}


def _prediction(row: Row, item: Item) -> Prediction:
    del item
    if "preferred" in row:
        given = row["preferred"]
        listed = given if isinstance(given, list) else [given]
        preferred = tuple(math.nan if one is None else numbers([one], "preferred")[0] for one in listed)
        if not 1 <= len(preferred) <= len(ORDERS):
            raise RowError("malformed", f"its 'preferred' holds {len(preferred)} numbers: give one, or one each order.")
        return Prediction(preferred=preferred)
    scores = numbers(row.get("scores"), "scores")
    n_tokens = numbers(row.get("n_tokens"), "n_tokens")
    if len(scores) != 2 or len(n_tokens) != 2 or any(count < 1 or count != int(count) for count in n_tokens):
        raise RowError("malformed", "has no 'preferred', and no two 'scores' with their 'n_tokens' either.")
    return Prediction(scores=scores, n_tokens=tuple(int(count) for count in n_tokens))
