"""Bootstrap intervals: what is drawn does not depend on how many resamples are drawn at once."""

from __future__ import annotations

import numpy as np
import pytest

from tasks import intervals
from tasks.intervals import Interval, bootstrap_mean


def drawn(at_once: int, monkeypatch: pytest.MonkeyPatch) -> Interval:
    rng = np.random.default_rng(5)
    monkeypatch.setattr(intervals, "_DRAWN_AT_ONCE", at_once)
    return bootstrap_mean(rng.random(90).tolist(), rng.integers(30, size=90).tolist(), resamples=101)


def test_the_same_is_drawn_however_many_resamples_are_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    one_by_one = drawn(1, monkeypatch)
    assert one_by_one == drawn(30 * 7, monkeypatch) == drawn(10**6, monkeypatch)
    assert one_by_one.low < one_by_one.value < one_by_one.high
