"""Two checkpoints on the questions that both were asked: what differs, what of it is chance, which answers flipped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.benchmark import Benchmark
from benchmarks.grades import Graded
from benchmarks.metrics import Floats, Metric
from tasks.evaluation.measured import FEWEST, counted_videos
from tasks.intervals import RESAMPLES, Interval, bootstrap


@dataclass(frozen=True)
class Verdicts:
    """Right and wrong answers of two checkpoints to the same questions, one aspect of them.

    Attributes:
        aspect: of the answers; "" where there is one.
        both: right in both.
        lost: right in the first alone.
        won: right in the second alone.
        neither: right in neither.
        left_out: questions without a verdict on one side or both.
        p: two-sided, of McNemar's exact test: how often chance alone would part `lost` and `won` so far or farther.
    """

    aspect: str
    both: int
    lost: int
    won: int
    neither: int
    left_out: int
    p: float


@dataclass(frozen=True)
class Difference:
    """One metric of the second checkpoint minus that of the first, on the questions of both.

    Attributes:
        metric, group: as of Metric.
        first, second: the two values.
        n: items in the number, on the side that has fewer.
        interval: of the difference, 95 %; draws videos anew, the same for both. None where a side has only one.
        scale, digits: as of Metric, of the numbers as they are printed.
    """

    metric: str
    group: str
    first: float
    second: float
    n: int
    interval: Interval | None
    scale: float
    digits: int | None

    @property
    def value(self) -> float:
        return self.second - self.first

    @property
    def sign(self) -> int:
        """1 or -1 where the interval leaves 0 out on that side, else 0."""
        return 0 if self.interval is None else (self.interval.low > 0) - (self.interval.high < 0)


@dataclass(frozen=True)
class Flip:
    """A question that one checkpoint has right and the other wrong."""

    first: Graded
    second: Graded

    @property
    def won(self) -> bool:
        """Whether the second checkpoint has it right."""
        return bool(self.second.grade.correct)


@dataclass(frozen=True)
class Comparison:
    """Two checkpoints by one protocol and one judge.

    Attributes:
        first, second: their names.
        n: questions of both, each in each aspect.
        alone: questions of one of them alone; they are in no number here.
        verdicts: one an aspect that has verdicts.
        differences: one a metric that both have, each of some items.
        flips: in the order of the questions.
    """

    first: str
    second: str
    n: int
    alone: int
    verdicts: tuple[Verdicts, ...]
    differences: tuple[Difference, ...]
    flips: tuple[Flip, ...]


def compare(
    names: tuple[str, str],
    benchmark: Benchmark,
    protocol: str,
    first: Iterable[Graded],
    second: Iterable[Graded],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare two checkpoints question by question.

    Args:
        names: of the first and the second.
        benchmark: whose metrics are compared.
        protocol: by which both were graded; they must have been graded by the same judge too.
        first: the grades of the first; those of other questions than the second's are left out and counted.
        second: the grades of the second.
        resamples: bootstrap samples of each difference.
        seed: the same grades and seed give the same intervals.

    Raises:
        ValueError: there is no question that both were asked.
    """
    ones = {(each.item.id, each.aspect): each for each in first}
    others = {(each.item.id, each.aspect): each for each in second}
    common = [key for key in ones if key in others]
    if not common:
        raise ValueError(f"{names[0]} and {names[1]} have no question in common: give answers to the same questions.")
    pairs = [(ones[key], others[key]) for key in common]
    mine = benchmark.metrics([one for one, _ in pairs], protocol)
    theirs = benchmark.metrics([other for _, other in pairs], protocol)
    return Comparison(
        *names,
        n=len(pairs),
        alone=len(ones) + len(others) - 2 * len(pairs),
        verdicts=tuple(_verdicts(pairs)),
        differences=tuple(_differences(mine, theirs, resamples, seed)),
        flips=tuple(
            Flip(one, other) for one, other in pairs if {one.grade.correct, other.grade.correct} == {True, False}
        ),
    )


def mcnemar(lost: int, won: int) -> float:
    """The two-sided p value of McNemar's exact test: `lost` against `won` as throws of a fair coin.

        p = min(1, 2 * sum_{k <= min(lost, won)} C(lost + won, k) / 2^(lost + won));  1 where there was no throw

    https://en.wikipedia.org/wiki/McNemar%27s_test#Variations. It takes questions for independent, which those about one
    video are not: the intervals of differences, which draw whole videos, do without that.
    """
    throws = lost + won
    # By logarithms: the binomial coefficients of some thousand throws are beyond a float.
    tail = (
        math.exp(math.lgamma(throws + 1) - math.lgamma(k + 1) - math.lgamma(throws - k + 1) - throws * math.log(2))
        for k in range(min(lost, won) + 1)
    )
    return min(1.0, 2 * math.fsum(tail))


def _verdicts(pairs: Sequence[tuple[Graded, Graded]]) -> list[Verdicts]:
    found = []
    for aspect in dict.fromkeys(one.aspect for one, _ in pairs):
        said = [(one.grade.correct, other.grade.correct) for one, other in pairs if one.aspect == aspect]
        decided = [pair for pair in said if None not in pair]
        if decided:
            both, lost = decided.count((True, True)), decided.count((True, False))
            won, neither = decided.count((False, True)), decided.count((False, False))
            left_out = len(said) - len(decided)
            found.append(Verdicts(aspect, both, lost, won, neither, left_out, mcnemar(lost, won)))
    return found


def _differences(first: Sequence[Metric], second: Sequence[Metric], resamples: int, seed: int) -> list[Difference]:
    others = {(each.name, each.group): each for each in second}
    pairs = [(one, others[one.name, one.group]) for one in first if (one.name, one.group) in others]
    return [
        _difference(one, other, resamples, seed)
        for one, other in pairs
        if one.n and other.n and math.isfinite(other.value - one.value)
    ]


def _difference(first: Metric, second: Metric, resamples: int, seed: int) -> Difference:
    few = min(counted_videos(first), counted_videos(second)) < FEWEST
    interval = None if few else _paired(first, second, resamples, seed)
    n = min(first.n, second.n)
    return Difference(first.name, first.group, first.value, second.value, n, interval, first.scale, first.digits)


def _paired(first: Metric, second: Metric, resamples: int, seed: int) -> Interval:
    """The paired bootstrap: the sums of both side by side, so that a draw takes all that both said to a video."""
    width = first.parts.shape[1]
    parts = np.zeros((len(first.parts) + len(second.parts), width + second.parts.shape[1]))
    parts[: len(first.parts), :width] = first.parts
    parts[len(first.parts) :, width:] = second.parts

    def statistic(sums: Floats) -> Floats:
        found: Floats = second.statistic(sums[..., width:]) - first.statistic(sums[..., :width])
        return found

    return bootstrap(statistic, parts, [*first.videos, *second.videos], resamples=resamples, seed=seed)
