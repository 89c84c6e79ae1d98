"""Means with bootstrap intervals, whole groups resampled: questions about one video are not independent."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000


@dataclass(frozen=True)
class Interval:
    """A mean of `n` values and the 2.5 % and 97.5 % quantiles of its bootstrap."""

    value: float
    low: float
    high: float
    n: int


def bootstrap_mean(
    values: Sequence[float], groups: Sequence[Hashable], *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """The mean of all values, and its 95 % percentile interval when groups are drawn with replacement.

    https://en.wikipedia.org/wiki/Bootstrapping_(statistics)#Block_bootstrap

    Args:
        values: what is averaged.
        groups: the group of each value (a video, an instruction); values of a group are drawn together.
        resamples: bootstrap samples.
        seed: the same values, groups and seed give the same interval.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("There is nothing to average: no values were given.")
    numbers = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    sums, counts = np.zeros(len(numbers)), np.zeros(len(numbers))
    for value, group in zip(values, groups, strict=True):
        sums[numbers[group]] += value
        counts[numbers[group]] += 1
    drawn = np.random.default_rng(seed).integers(len(numbers), size=(resamples, len(numbers)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(sums.sum() / counts.sum()), float(low), float(high), len(values))
