"""A metric with its interval."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

from benchmarks.metrics import Metric
from tasks.intervals import RESAMPLES, Interval, bootstrap


@dataclass(frozen=True)
class Measured:
    """A metric with its 95 % interval; None where no item counts."""

    metric: Metric
    interval: Interval | None


def measured(metric: Metric, resamples: int = RESAMPLES, seed: int = 0) -> Measured:
    """A metric with its interval, for which all items of a video are drawn together."""
    if not len(metric.parts) or not math.isfinite(metric.value):
        return Measured(metric, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # Of resamples in which nothing counts; they are left out.
        return Measured(
            metric, bootstrap(metric.statistic, metric.parts, metric.videos, resamples=resamples, seed=seed)
        )
