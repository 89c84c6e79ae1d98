"""What the multiple-choice benchmarks share: options and letters, the strict grade, accuracies."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.choices import LETTERS
from benchmarks.grades import Grade, Graded
from benchmarks.items import Item, Prediction
from benchmarks.metrics import Floats, Metric, members, ratio
from benchmarks.rows import RowError
from benchmarks.strict_choices import letter_of

_LETTERED = re.compile(r"\s*\(?([A-Z])[.):]\s*(.*)", re.DOTALL)


def options_at(row: Mapping[str, Any], *keys: str) -> tuple[str, ...]:
    """The options under one of the keys, as the file writes them. Raises RowError for no list of 2 to 26 texts."""
    value: Any = next((row[key] for key in keys if key in row), None)
    if (
        not isinstance(value, list)
        or not 2 <= len(value) <= len(LETTERS)
        or not all(isinstance(option, str) and option.strip() for option in value)
    ):
        raise RowError("malformed", f"{keys[0]} must be a list of 2 to 26 texts, not {value!r:.80}.")
    return tuple(value)


def without_letters(options: Sequence[str]) -> tuple[str, ...]:
    """The options without "A. ", "B. ", ... in front, where they all have them."""
    found = [_LETTERED.fullmatch(option) for option in options]
    if all(match and match[1] == letter and match[2].strip() for match, letter in zip(found, LETTERS, strict=False)):
        return tuple(match[2] for match in found if match)
    return tuple(options)


def lettered(options: Sequence[str]) -> dict[str, str]:
    """The options by letter."""
    return dict(zip(LETTERS, options, strict=False))


def reply_of(prediction: Prediction | None) -> str | None:
    """The one reply; "" where there is a prediction without one, None where there is no prediction."""
    if prediction is None:
        return None
    return prediction.replies[0] if prediction.replies else ""


def strict_grade(item: Item, prediction: Prediction | None) -> Grade:
    """Right where the reply means the right option; a reply that is missing, empty, not to be read or outside the
    options is wrong. A letter outside the options is kept in `parsed`.
    """
    reply = reply_of(prediction)
    if reply is None:
        return Grade("missing", correct=False)
    if not reply.strip():
        return Grade("empty", correct=False)
    letter = letter_of(reply, item.options)
    if letter is None or LETTERS.index(letter) >= len(item.options):
        return Grade("unparsed", correct=False, parsed=letter)
    return Grade("ok", correct=item.options[LETTERS.index(letter)] == item.answer, parsed=letter)


def letter_grade(reply: str, letter: str, right: str, *, unread: bool | None = False) -> Grade:
    """The grade of a published scorer that compares letters; `unread` is what it makes of a reply that gives none."""
    if letter:
        return Grade("ok", correct=letter == right, parsed=letter)
    return Grade("unparsed" if reply.strip() else "empty", correct=unread)


def accuracies(
    graded: Sequence[Graded],
    groups_of: Callable[[Item], Iterable[str]],
    order: Callable[[str], Any] | None = None,
    *,
    digits: int | None = None,
    scale: float = 1.0,
    nothing: float | None = None,
) -> list[Metric]:
    """The share of right replies in each group, grades without a verdict left out.

    Args:
        graded: every item with its grade.
        groups_of: the groups of an item.
        order: what the groups are sorted by; None: their first member.
        digits: that the script prints.
        scale: what it prints shares by.
        nothing: what it gives where no reply of a group counts; None: NaN.
    """
    # [N, 2]: right and counted. Whole columns at once: of 100,000 items, each counts in many groups.
    verdicts = np.array([-1 if each.grade.correct is None else each.grade.correct for each in graded], np.int64)
    parts = np.stack([verdicts == 1, verdicts >= 0], axis=-1).astype(np.float64)
    videos = np.array([each.item.video for each in graded], object)
    printed: dict[str, Any] = {
        "statistic": ratio if nothing is None else RatioOr(nothing),
        "digits": digits,
        "scale": scale,
    }
    metrics = []
    for group, places in _places(graded, groups_of, order):
        n = int(parts[places, 1].sum())
        out = len(places) - n
        metrics.append(Metric("accuracy", group, parts[places], tuple(videos[places]), n=n, left_out=out, **printed))
    return metrics


def _places(
    graded: Sequence[Graded], groups_of: Callable[[Item], Iterable[str]], order: Callable[[str], Any] | None
) -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
    """Each group and the places of its members, in order."""
    alike: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for place, each in enumerate(graded):
        alike[tuple(groups_of(each.item))].append(place)
    named = members((group, np.array(places, np.int64)) for groups, places in alike.items() for group in groups)
    for group in sorted(named, key=order) if order else named:
        yield group, np.sort(np.concatenate(named[group]))


class RatioOr:
    """`ratio`, with a number of its own where there is nothing to divide by."""

    def __init__(self, nothing: float) -> None:
        self.nothing = nothing

    def __call__(self, sums: Floats) -> Any:
        return np.where(sums[..., 1] > 0, ratio(sums), self.nothing)
