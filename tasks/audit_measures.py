"""What an audit measures of judged pairs: pairs in, numbers with intervals out. Reads and writes nothing.

Intervals are 95 % bootstraps over videos, where nothing else is said. A measure for which there are no pairs is left
out, never set to a default. In every share a tie counts one half where it is neither for nor against.

Sources: position bias and the share of pairs whose two orders agree, https://arxiv.org/abs/2306.05685 (section 3.3);
kappa, Cohen 1960; agreement of repeated judgements, Fleiss 1971; calibration error, https://arxiv.org/abs/1706.04599;
Brier 1950; the slope's penalty, Firth 1993, and its interval by groups, Liang and Zeger 1986.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from models.comparisons import normalised
from tasks.intervals import RESAMPLES, Floats, Interval, bootstrap, bootstrap_mean

LengthUnit = Literal["words", "characters"]
LABELS = ("a", "b", "tie")
BINS = 10
_TURNED = {"a": "b", "b": "a", "tie": "tie"}

# What is measured of one version of the labels. The names stand in table `metrics`, with "audit_" before them.
MEASURES = {
    "ties": "pairs that are called a tie",
    "first": "showings that prefer the answer shown first; 50 % is no position bias",
    "consistent": "pairs whose two orders prefer the same answer",
    "always_first": "pairs where both orders prefer whatever is shown first",
    "always_second": "pairs where both orders prefer whatever is shown second",
    "longer": "pairs of different lengths where the longer answer is preferred",
    "longer_true": "the same pairs, where the truth tells them apart: the longer answer is truly better",
    "longer_excess": "by how much more often the judge prefers the longer answer there than the truth does",
    "length_slope": "log-odds by which a unit of length more makes an answer preferred",
    "repeated": "two judgements of the same two answers that agree",
    "equal_ties": "pairs of equal answers that are called a tie",
    "truth": "pairs that the truth tells apart where the truly better answer is preferred",
    "truth_kappa": "agreement with the truth beyond chance (a, b or tie)",
    "calibration_error": "mean distance between p(A) and how often A is truly better, over bins of p(A)",
    "brier": "mean squared distance between p(A) and the truth",
}
# What is measured between two versions on the pairs that both judged and whose answers differ.
BETWEEN = {
    "same": "labels that are the same",
    "kappa": "agreement beyond chance (a, b or tie)",
    "narrative_gain": "truth with the narrative minus truth without it, same pairs",
    "narrative_moved": "labels that the narrative moves",
    "blind_same": "labels that the judge gives without seeing the video too",
    "blind_kappa": "the same beyond chance",
}


@dataclass(frozen=True, slots=True)
class Judged:
    """A judged pair.

    Attributes:
        instruction: the question's id.
        video: the question's video.
        answers: a and b.
        preferred: "a", "b" or "tie".
        p_a: probability that a is better.
        orders: p_a when a was shown first, and when it was shown second; None where the judge is shown no order.
        truth: "a", "b" or "tie"; None where nobody knows.
    """

    instruction: str
    video: str
    answers: tuple[str, str]
    preferred: str
    p_a: float
    orders: tuple[float, float] | None = None
    truth: str | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """The same for the same two answers to a question, whichever is called a."""
        return (self.instruction, *sorted(self.answers))  # type: ignore[return-value]

    @property
    def equal(self) -> bool:
        """Whether both answers say the same."""
        one, other = self.answers
        return normalised(one) == normalised(other)

    @property
    def turned(self) -> str:
        """The label of the same pair with its answers called the other way round."""
        return _TURNED[self.preferred]

    def upright(self, label: str) -> str:
        """A label of this pair with the answer that comes first in the alphabet as a."""
        return label if self.answers[0] <= self.answers[1] else _TURNED[label]


def measure_version(
    pairs: Sequence[Judged], *, unit: LengthUnit = "words", resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """The MEASURES of one version of the labels."""
    draw = _Draw(resamples, seed)
    differing = [pair for pair in pairs if not pair.equal]
    told = [pair for pair in differing if pair.truth in ("a", "b")]
    found = {
        "ties": draw.mean(differing, [float(pair.preferred == "tie") for pair in differing]),
        **_orders(differing, draw),
        **_lengths(differing, unit, draw),
        **_repeats(pairs, draw),
        "truth": draw.mean(told, [hit(pair) for pair in told]),
        "truth_kappa": _kappa_of([(pair, pair.preferred, pair.truth) for pair in differing if pair.truth], draw),
        **_calibration(told, draw),
    }
    return {name: each for name, each in found.items() if each is not None}


def measure_between(
    one: Sequence[Judged], other: Sequence[Judged], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """ "same" and "kappa" of BETWEEN."""
    draw = _Draw(resamples, seed)
    both = matched(one, other)
    labels = [(a, a.upright(a.preferred), b.upright(b.preferred)) for a, b in both]
    found = {
        "same": draw.mean([a for a, _ in both], [float(mine == yours) for _, mine, yours in labels]),
        "kappa": _kappa_of([(a, mine, yours) for a, mine, yours in labels], draw, upright=True),
    }
    return {name: each for name, each in found.items() if each is not None}


def narrative_effect(
    told: Sequence[Judged], untold: Sequence[Judged], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """ "narrative_gain" and "narrative_moved": the version with the narrative against the one without."""
    draw = _Draw(resamples, seed)
    both = matched(told, untold)
    graded = [(a, b) for a, b in both if a.truth in ("a", "b")]
    moved = [float(a.upright(a.preferred) != b.upright(b.preferred)) for a, b in both]
    found = {
        "narrative_gain": draw.mean([a for a, _ in graded], [hit(a) - hit(b) for a, b in graded]),
        "narrative_moved": draw.mean([a for a, _ in both], moved),
    }
    return {name: each for name, each in found.items() if each is not None}


def blind_effect(
    sighted: Sequence[Judged], blind: Sequence[Judged], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """ "blind_same" and "blind_kappa": the version that saw the video against the one that did not."""
    found = measure_between(sighted, blind, resamples=resamples, seed=seed)
    return {f"blind_{name}": each for name, each in found.items()}


def matched(one: Sequence[Judged], other: Sequence[Judged]) -> list[tuple[Judged, Judged]]:
    """The pairs of different answers that both judged; of repeated judgements the first."""
    theirs = {pair.key: pair for pair in reversed(other)}
    mine = {pair.key: pair for pair in reversed(one) if not pair.equal}
    return [(pair, theirs[key]) for key, pair in reversed(mine.items()) if key in theirs]


def hit(pair: Judged) -> float:
    """1 where the truly better answer is preferred, 0 where the other one is, one half for a tie."""
    return 0.5 if pair.preferred == "tie" else float(pair.preferred == pair.truth)


@dataclass(frozen=True)
class _Draw:
    """How intervals are drawn."""

    resamples: int
    seed: int

    def mean(self, pairs: Sequence[Judged], values: Sequence[float]) -> Interval | None:
        if not values:
            return None
        return bootstrap_mean(values, [pair.video for pair in pairs], resamples=self.resamples, seed=self.seed)

    def statistic(self, pairs: Sequence[Judged], statistic: Any, parts: Floats) -> Interval | None:
        """None where it is undefined for the sample itself."""
        if not pairs or not np.isfinite(statistic(parts.sum(0))):
            return None
        videos = [pair.video for pair in pairs]
        return bootstrap(statistic, parts, videos, resamples=self.resamples, seed=self.seed)


def _orders(pairs: Sequence[Judged], draw: _Draw) -> dict[str, Interval | None]:
    shown = [pair for pair in pairs if pair.orders is not None]
    # What each of the two showings says for the answer that was shown first in it.
    first = [(_sign(pair.orders[0]), 1 - _sign(pair.orders[1])) for pair in shown if pair.orders is not None]
    return {
        "first": draw.mean(shown, [(one + two) / 2 for one, two in first]),
        "consistent": draw.mean(shown, [float({one, two} == {0.0, 1.0}) for one, two in first]),
        "always_first": draw.mean(shown, [float(one == two == 1) for one, two in first]),
        "always_second": draw.mean(shown, [float(one == two == 0) for one, two in first]),
    }


def _sign(p: float) -> float:
    return 0.5 if p == 0.5 else float(p > 0.5)


def length_of(text: str, unit: LengthUnit) -> int:
    """Words or characters of a text."""
    return len(text.split()) if unit == "words" else len(text)


def length_difference(pair: Judged, unit: LengthUnit) -> int:
    """Length of a minus length of b."""
    one, other = (length_of(answer, unit) for answer in pair.answers)
    return one - other


def _lengths(pairs: Sequence[Judged], unit: LengthUnit, draw: _Draw) -> dict[str, Interval | None]:
    uneven = [(pair, difference) for pair in pairs if (difference := length_difference(pair, unit))]
    told = [(pair, difference) for pair, difference in uneven if pair.truth in ("a", "b")]
    judged = [_longer(pair.preferred, difference) for pair, difference in uneven]
    said = [_longer(pair.preferred, difference) for pair, difference in told]
    true = [_longer(pair.truth, difference) for pair, difference in told]
    decided = [(pair, difference) for pair, difference in uneven if pair.preferred != "tie"]
    return {
        "longer": draw.mean([pair for pair, _ in uneven], judged),
        "longer_true": draw.mean([pair for pair, _ in told], true),
        "longer_excess": draw.mean([pair for pair, _ in told], [x - y for x, y in zip(said, true, strict=True)]),
        "length_slope": slope(
            [difference for _, difference in decided],
            [pair.preferred == "a" for pair, _ in decided],
            [pair.video for pair, _ in decided],
        ),
    }


def _longer(label: str | None, difference: int) -> float:
    """Whether the label is for the longer answer."""
    return 0.5 if label == "tie" else float((label == "a") == (difference > 0))


def slope(differences: Sequence[float], chosen: Sequence[bool], groups: Sequence[Hashable]) -> Interval | None:
    """beta of P(a is chosen) = sigmoid(beta * difference), in log-odds a unit; None where all differences are 0.

    There is no intercept: which answer is called a says nothing, and turning a pair round changes nothing. beta
    maximises the likelihood times the root of its information (Firth), so it is finite even where the longer answer
    always wins. The interval is beta plus and minus 1.96 standard errors that allow for dependence within a group.
    """
    x, y = np.asarray(differences, np.float64), np.asarray(chosen, np.float64)
    if not x.any():
        return None
    scale = float(np.abs(x).max())
    z = x / scale
    # The penalised score falls through 0 once; beyond 40 a sigmoid is 0 or 1 for all that floats can tell.
    low, high = -40.0 / float(np.abs(z[z != 0]).min()), 40.0 / float(np.abs(z[z != 0]).min())
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _firth_score(middle, z, y) > 0 else (low, middle)
    beta = (low + high) / 2
    p = _sigmoid(beta * z)
    information = float((z**2 * p * _sigmoid(-beta * z)).sum())
    by_group: defaultdict[Hashable, float] = defaultdict(float)
    for group, residual in zip(groups, z * (y - p), strict=True):
        by_group[group] += float(residual)
    error = float(np.sqrt(sum(each**2 for each in by_group.values()))) / information
    return Interval(beta / scale, (beta - 1.96 * error) / scale, (beta + 1.96 * error) / scale, len(x))


def _firth_score(beta: float, z: Floats, y: Floats) -> float:
    """d/dbeta of (log-likelihood + log(information) / 2)."""
    p = _sigmoid(beta * z)
    weight = p * _sigmoid(-beta * z)
    information = float((z**2 * weight).sum())
    score = float((z * (y - p)).sum())
    return score + float((z**3 * weight * (1 - 2 * p)).sum()) / (2 * information) if information > 0 else score


def _sigmoid(x: Floats) -> Floats:
    exponential = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + exponential), exponential / (1 + exponential))


def _repeats(pairs: Sequence[Judged], draw: _Draw) -> dict[str, Interval | None]:
    groups: defaultdict[tuple[str, str, str], list[Judged]] = defaultdict(list)
    for pair in pairs:
        groups[pair.key].append(pair)
    repeated = [group for group in groups.values() if len(group) > 1 and not group[0].equal]
    agreed = [_pairwise([pair.upright(pair.preferred) for pair in group]) for group in repeated]
    equal = [pair for pair in pairs if pair.equal]
    return {
        "repeated": draw.mean([group[0] for group in repeated], agreed),
        "equal_ties": draw.mean(equal, [float(pair.preferred == "tie") for pair in equal]),
    }


def _pairwise(labels: Sequence[str]) -> float:
    """Share of the pairs of labels that agree (Fleiss' P_i)."""
    return sum(n * (n - 1) for n in Counter(labels).values()) / (len(labels) * (len(labels) - 1))


def confusion(labels: Sequence[tuple[str, str]]) -> Floats:
    """How often each label of LABELS (rows) met each other one (columns) [3, 3]."""
    counts = Counter(labels)
    return np.array([[float(counts[one, other]) for other in LABELS] for one in LABELS])


def cohen_kappa(counts: Floats) -> Any:
    """Cohen's kappa of confusions [..., 3, 3] (any square): (observed - expected) / (1 - expected) agreement.

    NaN where both only ever say one and the same thing: chance then explains everything.
    """
    total = counts.sum((-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = np.trace(counts, axis1=-2, axis2=-1) / total
        expected = (counts.sum(-1) * counts.sum(-2)).sum(-1) / total**2
        return np.where(expected < 1, (observed - expected) / (1 - expected), np.nan)


def _kappa_of(labels: Sequence[tuple[Judged, str, str | None]], draw: _Draw, *, upright: bool = False) -> Any:
    """`upright` says that the labels are already."""
    parts = np.zeros((len(labels), len(LABELS) ** 2))
    for row, (pair, one, other) in enumerate(labels):
        assert other is not None
        mine, theirs = (one, other) if upright else (pair.upright(one), pair.upright(other))
        parts[row, LABELS.index(mine) * len(LABELS) + LABELS.index(theirs)] = 1

    def kappa(sums: Floats) -> Any:
        return cohen_kappa(sums.reshape(*sums.shape[:-1], len(LABELS), len(LABELS)))

    return draw.statistic([pair for pair, _, _ in labels], kappa, parts)


@dataclass(frozen=True)
class Bin:
    """Pairs whose p(A) lies in one bin: mean p(A), and how often A is truly better with its interval."""

    p: float
    true: Interval


def reliability(pairs: Sequence[Judged], *, bins: int = BINS, resamples: int = RESAMPLES, seed: int = 0) -> list[Bin]:
    """The reliability diagram: bins of equal width over [0, 1] that hold a pair which the truth tells apart."""
    draw = _Draw(resamples, seed)
    told = [pair for pair in pairs if pair.truth in ("a", "b") and not pair.equal]
    found = []
    for number in range(bins):
        inside = [pair for pair in told if _bin(pair.p_a, bins) == number]
        true = draw.mean(inside, [float(pair.truth == "a") for pair in inside])
        if true is not None:
            found.append(Bin(sum(pair.p_a for pair in inside) / len(inside), true))
    return found


def _bin(p: float, bins: int) -> int:
    return min(int(p * bins), bins - 1)


def calibration_error(sums: Floats) -> Any:
    """sum over bins of n_b / n * |mean p - mean truth|, from sums [..., 3 * bins] of 1, p and truth by bin."""
    n, p, true = np.split(sums, 3, axis=-1)
    return np.abs(p - true).sum(-1) / n.sum(-1)


def _calibration(told: Sequence[Judged], draw: _Draw) -> dict[str, Interval | None]:
    parts = np.zeros((len(told), 3 * BINS))
    for row, pair in enumerate(told):
        place = _bin(pair.p_a, BINS)
        parts[row, [place, BINS + place, 2 * BINS + place]] = 1, pair.p_a, float(pair.truth == "a")
    return {
        "calibration_error": draw.statistic(told, calibration_error, parts) if told else None,
        "brier": draw.mean(told, [(pair.p_a - float(pair.truth == "a")) ** 2 for pair in told]),
    }
