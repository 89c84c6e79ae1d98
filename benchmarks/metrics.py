"""Metrics: sums over items and a statistic of the sums, so that intervals can be drawn by resampling videos."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Statistic = Callable[[Floats], Any]
T = TypeVar("T")

ALL_DIGITS = -1


def ratio(sums: Floats) -> Any:
    """First sum over second [..., 2] -> [...]; NaN where there is nothing to divide by."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[..., 0] / sums[..., 1]


@dataclass(frozen=True)
class Metric:
    """One number of a benchmark's result.

    Attributes:
        name: "accuracy", "score", "R@1", ...
        group: what part of the items it is about: "overall", or "duration: short".
        parts: what each of N items adds to the K sums [N, K].
        videos: the video of each item; intervals draw all items of a video together.
        statistic: of the sums [..., K]; gives the number [...], in [0, 1] for shares.
        n: items that are in the number.
        left_out: items that the protocol leaves out of it, though they were asked.
        digits: that the official script prints; ALL_DIGITS: as Python prints a number; None: no script.
        scale: what the official script multiplies a share by when it prints it.
    """

    name: str
    group: str
    parts: Floats
    videos: tuple[str, ...]
    statistic: Statistic = ratio
    n: int = 0
    left_out: int = 0
    digits: int | None = None
    scale: float = 1.0

    @property
    def value(self) -> float:
        """The number; NaN where no item counts."""
        return float(self.statistic(self.parts.sum(0)))

    @property
    def printed(self) -> str:
        """The number as the official script prints it."""
        number = self.value * self.scale
        return str(number) if self.digits == ALL_DIGITS else f"{number:.{4 if self.digits is None else self.digits}f}"


def mean(
    name: str,
    group: str,
    values: Sequence[float | None],
    videos: Sequence[str],
    *,
    digits: int | None = None,
    scale: float = 1.0,
) -> Metric:
    """The mean of `values` over those that are not None, which are left out of the denominator too."""
    parts = np.array([[0.0, 0.0] if value is None else [value, 1.0] for value in values], np.float64).reshape(-1, 2)
    counted = int(parts[:, 1].sum())
    return Metric(
        name, group, parts, tuple(videos), n=counted, left_out=len(values) - counted, digits=digits, scale=scale
    )


def members(each: Iterable[tuple[str, T]]) -> dict[str, list[T]]:
    """Things by the group that they are in, groups in the order of their first member."""
    found: defaultdict[str, list[T]] = defaultdict(list)
    for group, one in each:
        found[group].append(one)
    return dict(found)
