"""Answers chosen by their likelihood: ranks, and the file that keeps log-probabilities by the answer's text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.files import write_rows
from benchmarks.items import Item, Prediction, Predictions
from benchmarks.rows import Row, RowError, numbers, predictions_of_files


def usable(scores: Sequence[float], n: int) -> bool:
    """Whether these are log-probabilities of n choices. Minus infinity is one, NaN and plus infinity are none."""
    return len(scores) == n and n > 0 and not any(math.isnan(one) or one == math.inf for one in scores)


def rank(scores: Sequence[float], right: int) -> int:
    """The place of the right choice, 1 for the likeliest. Of equal ones it comes last: a model that finds everything
    equally likely knows nothing.
    """
    return 1 + sum(score >= scores[right] for place, score in enumerate(scores) if place != right)


def write_scores(path: Path, items: Sequence[Item], predictions: Mapping[str, Prediction]) -> list[Path]:
    """Writes one line an item: {"id", "video", "scores": {choice: log-probability}, "n_tokens": {choice: tokens}}."""
    known = [(item, predictions[item.id]) for item in items if item.id in predictions]
    return write_rows(path, (_row(item, prediction) for item, prediction in known))


def _row(item: Item, prediction: Prediction) -> Row:
    row: Row = {"id": item.id, "video": item.video}
    if len(prediction.scores) == len(item.options):
        row["scores"] = dict(zip(item.options, prediction.scores, strict=True))
    if len(prediction.n_tokens) == len(item.options):
        row["n_tokens"] = dict(zip(item.options, prediction.n_tokens, strict=True))
    return row


def read_scores(files: Sequence[Path], items: Sequence[Item]) -> Predictions:
    """Predictions from files that `write_scores` wrote; a row must hold every choice of its item and no other.

    Raises:
        FormatError: a file cannot be read at all.
    """
    return predictions_of_files(files, items, _prediction)


def _prediction(row: Row, item: Item) -> Prediction:
    scores = _by_choice(row, "scores", item)
    n_tokens = _by_choice(row, "n_tokens", item) if "n_tokens" in row else ()
    if any(count < 1 or count != int(count) for count in n_tokens):
        raise RowError("malformed", "its 'n_tokens' are no counts of tokens.")
    return Prediction(scores=scores, n_tokens=tuple(int(count) for count in n_tokens))


def _by_choice(row: Row, name: str, item: Item) -> tuple[float, ...]:
    given = row.get(name)
    if not isinstance(given, dict):
        raise RowError("malformed", f"has no {name!r} by choice: write {{choice: number}}.")
    odd = sorted(set(given) ^ set(item.options))
    if odd:
        raise RowError("malformed", f"its {name!r} and the item's choices differ in {len(odd)}, first {odd[0][:60]!r}.")
    return numbers([given[option] for option in item.options], name)
