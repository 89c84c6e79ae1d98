"""What a prediction is worth, and what a judge has to be asked for that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from benchmarks.items import Item, Prediction

# "ok": graded. "empty": no reply. "unparsed": a reply that names no answer. "missing": no prediction.
# "no verdict": the judge gave none, asked as often as allowed. "out of range": the judge gave a score that is none.
# "off the scale": it gave such a score, and the protocol counts it as it stands; it is not asked again.
Status = Literal["ok", "empty", "unparsed", "missing", "no verdict", "out of range", "off the scale"]


@dataclass(frozen=True, slots=True)
class Grade:
    """What one aspect of a prediction is worth by one protocol.

    Attributes:
        status: whether it could be graded.
        correct: whether it counts as right; None where the protocol gives it no verdict.
        score: points; None where there are none.
        parsed: what the protocol read out of the reply ("B", "yes", ...).
        judged: whether a judge decided it; else rules did.
    """

    status: Status
    correct: bool | None = None
    score: float | None = None
    parsed: str | None = None
    judged: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """What a judge is asked: a chat of text. The rules could not decide, or the benchmark has none."""

    user: str
    system: str | None = None


@dataclass(frozen=True, slots=True)
class Graded:
    """An item with its prediction (None: missing) and the grade of one aspect."""

    item: Item
    aspect: str
    prediction: Prediction | None
    grade: Grade
