"""Monitors: what rings, when, and that a training that was killed rings where it would have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.monitor_limits import MonitorLimits
from models.monitors import Monitors, repetition
from models.sequences import Response
from models.training import TrainingError

CALM = {"kl": 1.0, "entropy": 0.5, "unique_share": 0.5, "repetition": 0.0, "clip_fraction": 0.1}


def rung(limits: MonitorLimits, curves: list[dict[str, float]]) -> list[set[str]]:
    monitors = Monitors(limits, {})
    return [set(monitors.watch(step, metrics)) for step, metrics in enumerate(curves, 1)]


@pytest.mark.parametrize(
    ("limits", "bad", "alarm"),
    [
        ({"max_kl": 5.0}, {"kl": 50.0}, "alarm_max_kl"),
        ({"min_entropy": 0.1}, {"entropy": 0.0}, "alarm_min_entropy"),
        ({"max_response_length": 20.0}, {"response_length": 100.0}, "alarm_max_response_length"),
        ({"max_repetition": 0.5}, {"repetition": 0.9}, "alarm_max_repetition"),
        ({"min_unique_share": 0.1}, {"unique_share": 0.0}, "alarm_min_unique_share"),
        ({"max_clip_fraction": 0.5}, {"clip_fraction": 0.9}, "alarm_max_clip_fraction"),
        ({"min_explained_variance": 0.0}, {"explained_variance": -3.0}, "alarm_min_explained_variance"),
    ],
)
def test_each_limit_rings_and_stops(limits: dict[str, float], bad: dict[str, float], alarm: str) -> None:
    curves = [CALM] * 3 + [CALM | bad] * 5
    found = rung(MonitorLimits(window=2, **limits), curves)
    assert found[:3] == [set()] * 3
    assert alarm in found[-1]
    stopping = Monitors(MonitorLimits(window=2, action="stop", **limits), {})
    stopping.stop_if_told(3, {})
    with pytest.raises(TrainingError, match=f"{next(iter(limits))}.*goes on from it"):
        stopping.stop_if_told(4, stopping.watch(4, CALM | bad))


def test_a_single_bad_iteration_is_no_alarm() -> None:
    found = rung(MonitorLimits(window=5, max_kl=10.0), [CALM] * 5 + [CALM | {"kl": 30.0}] + [CALM] * 5)
    assert found == [set()] * 11


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_curve_that_is_no_number_rings_and_deafens_nothing(value: float) -> None:
    found = rung(MonitorLimits(window=2, max_kl=5.0), [CALM] * 3 + [CALM | {"kl": value}, CALM] + [{"kl": 50.0}] * 3)
    assert found[3] == {"alarm_max_kl"}
    assert found[4] == set()
    assert found[-1] == {"alarm_max_kl"}


def test_a_reward_that_rises_while_the_truth_falls_is_called_hacking() -> None:
    def curves(true: float) -> list[dict[str, float]]:
        start = {"reward_raw": 0.0, "reward_true": 0.7}
        return [start] * 2 + [{"reward_raw": 2.0, "reward_true": true}] * 6

    limits = MonitorLimits(window=2, max_true_loss=0.1)
    assert rung(limits, curves(0.4))[-1] == {"alarm_max_true_loss"}
    assert rung(limits, curves(0.65))[-1] == set()
    falling = [{**each, "reward_raw": -each["reward_raw"]} for each in curves(0.4)]
    assert rung(limits, falling)[-1] == set(), "a policy that loses both exploits nothing"


@given(st.lists(st.floats(0, 100), min_size=1, max_size=20), st.integers(1, 6), st.data())
def test_a_killed_training_rings_where_it_would_have(kl: list[float], window: int, data: st.DataObject) -> None:
    limits = MonitorLimits(window=window, max_kl=20.0)
    curves = [{"kl": value} for value in kl]
    numbers: dict[str, float] = {}
    split = data.draw(st.integers(0, len(kl)))
    resumed = [set(Monitors(limits, numbers).watch(step, each)) for step, each in enumerate(curves[:split], 1)]
    again = Monitors(limits, dict(numbers))
    resumed += [set(again.watch(step, each)) for step, each in enumerate(curves[split:], split + 1)]
    assert resumed == rung(limits, curves)


def test_repetition_is_the_share_of_pairs_that_came_before() -> None:
    def answer(*ids: int) -> Response:
        return Response(ids, "", finished=True)

    assert repetition([answer(1, 2, 3, 4)]) == 0
    assert repetition([answer(1, 2, 1, 2, 1)]) == pytest.approx(0.5)
    assert repetition([answer(7)]) == 0
