"""Statistics with bootstrap intervals, whole groups resampled: questions about one video are not independent."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

RESAMPLES = 1000
_DRAWN_AT_ONCE = 100_000
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A statistic (mostly a mean) of `n` values and the 2.5 % and 97.5 % quantiles of its bootstrap."""

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
    parts = np.column_stack([np.asarray(values, np.float64), np.ones(len(values))])
    return bootstrap(lambda sums: sums[..., 0] / sums[..., 1], parts, groups, resamples=resamples, seed=seed)


def bootstrap(
    statistic: Callable[[Floats], Any],
    parts: Floats,
    groups: Sequence[Hashable],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """A statistic of sums over values, and its 95 % percentile interval when groups are drawn with replacement.

    Resamples in which the statistic is undefined (NaN) are left out of the interval.

    Args:
        statistic: of sums [..., K]; gives [...].
        parts: what each of the N values adds to the sums [N, K], N at least 1.
        groups: the group of each value.
        resamples: bootstrap samples.
        seed: the same values, groups and seed give the same interval.
    """
    numbers = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    totals = np.zeros((len(numbers), parts.shape[1]))
    np.add.at(totals, [numbers[group] for group in groups], parts)
    drawn = _draws(len(totals), resamples, seed)
    found = statistic(np.stack([np.bincount(each, minlength=len(totals)) @ totals for each in drawn]))
    low, high = np.nanquantile(found, [0.025, 0.975])
    return Interval(float(statistic(totals.sum(0))), float(low), float(high), len(parts))


def _draws(groups: int, resamples: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Numbers of groups, drawn with replacement, once a resample.

    Some resamples at a time: each by itself takes a call, and all together take gigabytes for 100,000 videos.
    """
    rng = np.random.default_rng(seed)
    at_once = max(1, _DRAWN_AT_ONCE // groups)
    for begin in range(0, resamples, at_once):
        yield from rng.integers(groups, size=(min(at_once, resamples - begin), groups))
