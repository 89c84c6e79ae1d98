"""What an audit measures, against slow loops, published examples and properties that must hold whatever the labels."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.audit_measures import (
    LABELS,
    Judged,
    blind_effect,
    cohen_kappa,
    confusion,
    length_of,
    matched,
    measure_between,
    measure_version,
    narrative_effect,
    reliability,
    slope,
)
from tasks.intervals import bootstrap, bootstrap_mean

ANSWERS = st.sampled_from(["red.", "blue.", "it is red.", "it is a small blue circle.", "Red", "green and blue"])
PROBABILITIES = st.floats(0, 1, allow_nan=False)


@st.composite
def judged(draw: st.DrawFn) -> Judged:
    orders = draw(st.none() | st.tuples(PROBABILITIES, PROBABILITIES))
    return Judged(
        instruction=draw(st.sampled_from("ijk")),
        video=draw(st.sampled_from("vw")),
        answers=(draw(ANSWERS), draw(ANSWERS)),
        preferred=draw(st.sampled_from(LABELS)),
        p_a=draw(PROBABILITIES),
        orders=orders,
        truth=draw(st.none() | st.sampled_from(LABELS)),
    )


LISTS = st.lists(judged(), max_size=12)


def turned(pair: Judged) -> Judged:
    """The same judgement with the answers called the other way round."""
    other = {"a": "b", "b": "a", "tie": "tie", None: None}
    return replace(
        pair,
        answers=pair.answers[::-1],
        preferred=other[pair.preferred],
        p_a=1 - pair.p_a,
        # Where a was shown first, b was shown second, and what was p(a) is 1 - p(b).
        orders=None if pair.orders is None else (1 - pair.orders[1], 1 - pair.orders[0]),
        truth=other[pair.truth],
    )


def pair(preferred: str = "a", p_a: float = 0.9, answers: tuple[str, str] = ("x", "y"), **more: object) -> Judged:
    return Judged("i", "v", answers, preferred, p_a, **more)  # type: ignore[arg-type]


@given(LISTS)
def test_shares_lie_between_0_and_1_and_within_their_intervals_ends(pairs: list[Judged]) -> None:
    for name, found in measure_version(pairs, resamples=100).items():
        low = {"longer_excess": -1.0, "truth_kappa": -1.0, "length_slope": -math.inf}.get(name, 0.0)
        high = math.inf if name == "length_slope" else 1.0
        assert low <= found.value <= high, name
        assert low - 1e-9 <= found.low <= found.high <= high + 1e-9, name
        assert 1 <= found.n <= max(len(pairs), 1)


@given(LISTS)
def test_which_answer_is_called_a_changes_no_measure_but_the_calibration(pairs: list[Judged]) -> None:
    """p(A) and 1 - p(A) fall into mirrored bins but for their own edges: the calibration error may move there."""
    one, other = measure_version(pairs, resamples=100), measure_version([*map(turned, pairs)], resamples=100)
    assert set(one) == set(other)
    for name in set(one) - {"calibration_error"}:
        assert one[name].value == pytest.approx(other[name].value, abs=1e-9), name


@given(LISTS, LISTS)
def test_agreement_between_versions_is_mutual_and_complete_with_oneself(one: list[Judged], other: list[Judged]) -> None:
    here, there = measure_between(one, other, resamples=100), measure_between(other, one, resamples=100)
    assert set(here) == set(there)
    for name, found in here.items():
        assert found.value == pytest.approx(there[name].value), name
    itself = measure_between(one, one, resamples=100)
    assert all(found.value == pytest.approx(1) for found in itself.values())


@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=60))
def test_kappa_is_that_of_a_slow_loop(labels: list[tuple[str, str]]) -> None:
    """Cohen 1960: (p_o - p_e) / (1 - p_e), p_e from the marginals; undefined where p_e is 1."""
    n = len(labels)
    observed = sum(one == other for one, other in labels) / n
    mine, theirs = Counter(one for one, _ in labels), Counter(other for _, other in labels)
    expected = sum(mine[label] / n * theirs[label] / n for label in LABELS)
    found = float(cohen_kappa(confusion(labels)))
    if expected == 1:
        assert math.isnan(found)
    else:
        assert found == pytest.approx((observed - expected) / (1 - expected))


def test_kappa_of_published_examples() -> None:
    # https://en.wikipedia.org/wiki/Cohen%27s_kappa#Simple_example and #Same_percentages_but_different_numbers
    assert float(cohen_kappa(np.array([[20.0, 5], [10, 15]]))) == pytest.approx(0.4)
    assert float(cohen_kappa(np.array([[45.0, 15], [25, 15]]))) == pytest.approx(0.1304, abs=5e-5)
    assert float(cohen_kappa(np.array([[25.0, 35], [5, 35]]))) == pytest.approx(0.2593, abs=5e-5)
    # Cohen 1960, table 1, in per cent of 200 subjects: kappa .492.
    assert float(cohen_kappa(np.array([[44.0, 5, 1], [7, 20, 3], [9, 5, 6]]))) == pytest.approx(0.492, abs=5e-4)


def test_position_of_both_orders() -> None:
    pairs = [
        pair(orders=(0.9, 0.8)),  # a, whichever is shown first
        pair(orders=(0.9, 0.3)),  # always the first
        pair(orders=(0.2, 0.6)),  # always the second
        pair(orders=(0.5, 0.9)),  # nothing, then a (shown second)
        pair(),  # judged without an order
    ]
    found = measure_version(pairs, resamples=100)
    assert found["first"].value == pytest.approx((1 + 0 + 2 + 0 + 0.5) / 8)
    assert {name: found[name].value for name in ("consistent", "always_first", "always_second")} == {
        "consistent": 0.25,
        "always_first": 0.25,
        "always_second": 0.25,
    }
    assert found["first"].n == 4
    assert not {"first", "consistent"} & set(measure_version([pair()], resamples=100))


def test_length_bias_is_what_goes_beyond_the_truth() -> None:
    long, short = "it is red.", "red."
    pairs = [
        pair("a", answers=(long, short), truth="a"),
        pair("b", answers=(short, long), truth="a"),
        pair("tie", answers=(long, short), truth="b"),
        pair("a", answers=(long, short)),
        pair("a", answers=("red.", "blue.")),  # of one length
    ]
    found = measure_version(pairs, resamples=100)
    assert (found["longer"].value, found["longer"].n) == (pytest.approx(3.5 / 4), 4)
    assert (found["longer_true"].value, found["longer_true"].n) == (pytest.approx(1 / 3), 3)
    assert found["longer_excess"].value == pytest.approx(2.5 / 3 - 1 / 3)
    assert found["length_slope"].value > 0
    assert [length_of("two  words", unit) for unit in ("words", "characters")] == [2, 10]


def firth_objective(beta: float, x: list[int], y: list[bool]) -> float:
    likelihood = information = 0.0
    for difference, chosen in zip(x, y, strict=True):
        p = 1 / (1 + math.exp(-beta * difference))
        likelihood += math.log(p if chosen else 1 - p)
        information += difference**2 * p * (1 - p)
    return likelihood + math.log(information) / 2


@given(st.lists(st.tuples(st.integers(-4, 4).filter(bool), st.booleans()), min_size=1, max_size=30))
def test_the_slope_is_the_best_of_a_fine_grid(pairs: list[tuple[int, bool]]) -> None:
    """Firth 1993: the likelihood times the square root of the information is greatest there."""
    x, y = [difference for difference, _ in pairs], [chosen for _, chosen in pairs]
    found = slope(x, y, range(len(x)))
    assert found is not None
    best = max(np.arange(-6, 6, 0.01), key=lambda beta: firth_objective(float(beta), x, y))
    assert found.value == pytest.approx(best, abs=0.011)
    mirrored = slope([-each for each in x], [not each for each in y], range(len(x)))
    assert mirrored is not None
    assert mirrored.value == pytest.approx(found.value, abs=1e-9)


def test_the_slope_comes_back_from_simulations_and_scales_with_the_unit() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        x = rng.integers(-5, 6, 1000)
        y = rng.random(1000) < 1 / (1 + np.exp(-0.3 * x))
        found = slope(x.tolist(), y.tolist(), range(1000))
        assert found is not None
        covered += found.low < 0.3 < found.high
    assert 0.92 <= covered / 400 <= 0.98, "nineteen of twenty intervals hold the truth"
    tenfold = slope((10 * x).tolist(), y.tolist(), range(1000))
    assert tenfold is not None
    assert tenfold.value == pytest.approx(found.value / 10)
    # The same pair ten times tells no more than once: its interval is as wide, where the group says so.
    copies = slope(np.repeat(x[:500], 10).tolist(), np.repeat(y[:500], 10).tolist(), np.repeat(range(500), 10).tolist())
    once = slope(x[:500].tolist(), y[:500].tolist(), range(500))
    assert copies is not None
    assert once is not None
    assert copies.high - copies.low == pytest.approx(once.high - once.low, rel=0.02)
    assert slope([0, 0], [True, False], [0, 1]) is None


def test_calibration_error_of_a_hand_made_example() -> None:
    """Guo et al. 2017, equation 3, with ten bins: 3/6 * |0.15 - 1/3| + 2/6 * |0.75 - 1/2| + 1/6 * |1 - 1|."""
    said = [(0.12, "b"), (0.15, "a"), (0.18, "b"), (0.72, "a"), (0.78, "b"), (1.0, "a")]
    pairs = [pair("a", p, truth=truth) for p, truth in said]
    found = measure_version([*pairs, pair("a", 0.7), pair("a", 0.7, truth="tie")], resamples=100)
    assert found["calibration_error"].value == pytest.approx(0.5 * (1 / 3 - 0.15) + (0.75 - 0.5) / 3)
    assert found["calibration_error"].n == 6
    squares = [(p - (truth == "a")) ** 2 for p, truth in said]
    assert found["brier"].value == pytest.approx(sum(squares) / 6)
    bins = reliability(pairs, resamples=100)
    assert [(each.p, each.true.value, each.true.n) for each in bins] == [
        (pytest.approx(0.15), pytest.approx(1 / 3), 3),
        (pytest.approx(0.75), 0.5, 2),
        (1.0, 1.0, 1),
    ]


def test_a_calibrated_judge_is_found_calibrated_and_a_boastful_one_is_not() -> None:
    rng = np.random.default_rng(1)
    p = rng.random(20_000)
    truth = np.where(rng.random(20_000) < p, "a", "b")
    honest = [Judged(str(n), str(n), ("x", "y"), "a", float(q), None, str(t)) for n, (q, t) in enumerate(zip(p, truth))]  # noqa: B905
    boastful = [replace(each, p_a=float(each.p_a > 0.5)) for each in honest]
    assert measure_version(honest, resamples=100)["calibration_error"].value < 0.02
    assert measure_version(boastful, resamples=100)["calibration_error"].value == pytest.approx(0.25, abs=0.01)


def test_repeated_judgements_and_equal_answers() -> None:
    again = [
        pair("a", answers=("x", "y")),
        pair("b", answers=("y", "x")),  # the same label, turned round
        pair("tie", answers=("x", "y")),
        pair("a", answers=("x", "z")),  # once
        pair("tie", answers=("same", "Same.")),
        pair("a", answers=("same", "same")),
    ]
    found = measure_version(again, resamples=100)
    # Of the three pairs of judgements one agrees.
    assert (found["repeated"].value, found["repeated"].n) == (pytest.approx(1 / 3), 1)
    assert (found["equal_ties"].value, found["equal_ties"].n) == (0.5, 2)


def test_the_narrative_and_the_blind_judge() -> None:
    def labels(*said: str) -> list[Judged]:
        return [Judged(str(n), str(n), ("x", "y"), each, 0.7, None, "a") for n, each in enumerate(said)]

    told, untold = labels("a", "a", "b", "tie"), labels("a", "b", "b", "b")
    found = narrative_effect(told, untold, resamples=100)
    assert found["narrative_gain"].value == pytest.approx((0 + 1 + 0 + 0.5) / 4)
    assert found["narrative_moved"].value == 0.5
    blind = blind_effect(told, untold, resamples=100)
    assert blind["blind_same"].value == 0.5
    assert len(matched(told, untold[:2])) == 2


def test_without_pairs_nothing_is_measured() -> None:
    assert measure_version([], resamples=100) == {}
    assert measure_between([pair()], [], resamples=100) == {}
    assert "kappa" not in measure_between([pair()], [pair()], resamples=100), "one label alone: chance explains it"


@given(st.lists(st.tuples(st.floats(-5, 5), st.sampled_from("uvw")), min_size=1, max_size=20))
def test_the_mean_is_one_statistic_of_sums(values: list[tuple[float, str]]) -> None:
    numbers, groups = [value for value, _ in values], [group for _, group in values]
    found = bootstrap_mean(numbers, groups, resamples=100)
    assert found.value == pytest.approx(sum(numbers) / len(numbers))
    doubled = bootstrap(
        lambda sums: 2 * sums[..., 0] / sums[..., 1], np.array([[x, 1.0] for x in numbers]), groups, resamples=100
    )
    ends = [found.value, found.low, found.high]
    assert [doubled.value, doubled.low, doubled.high] == pytest.approx([2 * each for each in ends])
    # Slowly: the same draws, group by group.
    names, rng = list(dict.fromkeys(groups)), np.random.default_rng(0)
    means = []
    for _ in range(100):
        drawn = [names[place] for place in rng.integers(len(names), size=len(names))]
        sample = [value for name in drawn for value, group in values if group == name]
        means.append(sum(sample) / len(sample))
    assert [found.low, found.high] == pytest.approx(list(np.quantile(means, [0.025, 0.975])), abs=1e-9)
