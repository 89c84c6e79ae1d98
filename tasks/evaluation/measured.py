"""A metric with its interval."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from itertools import compress

import numpy as np

from benchmarks.metrics import Metric
from tasks.intervals import RESAMPLES, Interval, bootstrap

FEWEST = 2  # Videos of an interval: drawn from one alone, every resample is the same.


@dataclass(frozen=True)
class Measured:
    """A metric with its 95 % interval; None where no item counts, or those of one video alone."""

    metric: Metric
    interval: Interval | None

    @property
    def value(self) -> float | None:
        """The number; None where there is none. A script may print one where no item counts."""
        return self.metric.value if math.isfinite(self.metric.value) else None


def measured(metric: Metric, resamples: int = RESAMPLES, seed: int = 0) -> Measured:
    """A metric with its interval, for which all items of a video are drawn together."""
    if not metric.n or counted_videos(metric) < FEWEST or not math.isfinite(metric.value):
        return Measured(metric, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # Of resamples in which nothing counts; they are left out.
        return Measured(
            metric, bootstrap(metric.statistic, metric.parts, metric.videos, resamples=resamples, seed=seed)
        )


def counted_videos(metric: Metric) -> int:
    """Videos with an item that adds to the number."""
    return len(set(compress(metric.videos, np.count_nonzero(metric.parts, axis=1).tolist())))
