"""Paired comparisons against brute force, and what they count."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quiz import Quiz, questions

from benchmarks.grades import Grade, Graded
from benchmarks.items import Item, Prediction
from tasks.evaluation.comparison import Comparison, compare, mcnemar
from tasks.evaluation.file_scores import grades_of
from tasks.intervals import bootstrap_mean

ITEMS = questions(40)


def answered(right: set[int], items: list[Item] = ITEMS, protocol: str = "strict", empty: int = 0) -> list[Graded]:
    """Right replies to the questions of these numbers, wrong ones to the others, none to the last `empty`."""
    said = {}
    for place, item in enumerate(items[: len(items) - empty]):
        wrong = "no" if item.answer == "yes" else "yes"
        said[item.id] = Prediction((item.answer if place in right else wrong,))
    return grades_of(Quiz(), items, said, protocol)


def against(first: list[Graded], second: list[Graded], protocol: str = "strict") -> Comparison:
    return compare(("base", "tuned"), Quiz(), protocol, first, second, resamples=200)


@given(st.integers(0, 9), st.integers(0, 9))
def test_mcnemar_is_the_share_of_all_outcomes_that_part_so_far(lost: int, won: int) -> None:
    throws = lost + won
    heads = [sum(outcome) for outcome in product((0, 1), repeat=throws)] if throws <= 12 else None
    if heads is None:
        counts = [comb(throws, k) for k in range(throws + 1)]
    else:
        counts = [heads.count(k) for k in range(throws + 1)]
    extreme = sum(count for k, count in enumerate(counts) if abs(2 * k - throws) >= abs(lost - won))
    assert mcnemar(lost, won) == pytest.approx(extreme / 2**throws, rel=1e-12)


@given(st.integers(0, 3000), st.integers(0, 3000))
def test_mcnemar_is_symmetric_and_a_probability(lost: int, won: int) -> None:
    assert mcnemar(lost, won) == mcnemar(won, lost)
    assert 0 <= mcnemar(lost, won) <= 1


def test_mcnemar_of_many_throws_is_that_of_whole_numbers() -> None:
    lost, won = 1900, 2100
    tail = sum(comb(4000, k) for k in range(lost + 1))
    assert mcnemar(lost, won) == pytest.approx(2 * tail / 2**4000, rel=1e-8)
    assert mcnemar(0, 100_000) == 0


def test_a_comparison_counts_and_lists_what_flipped() -> None:
    found = against(answered(set(range(20))), answered(set(range(10, 36))))
    (verdicts,) = found.verdicts
    assert (verdicts.both, verdicts.lost, verdicts.won, verdicts.neither) == (10, 10, 16, 4)
    assert verdicts.p == pytest.approx(mcnemar(10, 16))
    assert [flip.first.item.id for flip in found.flips if not flip.won] == [f"q{n:03d}" for n in range(10)]
    assert [flip.second.item.id for flip in found.flips if flip.won] == [f"q{n:03d}" for n in range(20, 36)]
    assert found.n == 40
    assert found.alone == 0


def test_a_difference_is_that_of_the_metrics_and_its_interval_draws_videos() -> None:
    first, second = answered(set(range(20))), answered(set(range(10, 36)))
    found = against(first, second)
    overall = next(each for each in found.differences if each.group == "overall")
    assert overall.first == 0.5
    assert overall.second == 0.65
    each = [float(bool(b.grade.correct)) - float(bool(a.grade.correct)) for a, b in zip(first, second, strict=True)]
    drawn = bootstrap_mean(each, [one.item.video for one in first], resamples=200)
    assert overall.interval is not None
    assert (overall.interval.low, overall.interval.high) == pytest.approx((drawn.low, drawn.high))
    assert {each.group for each in found.differences} == {"overall", "kind: odd", "kind: even"}


def test_the_same_answers_differ_in_nothing() -> None:
    found = against(answered({1, 2, 3}), answered({1, 2, 3}))
    assert found.flips == ()
    assert found.verdicts[0].p == 1
    assert all(
        each.interval and each.value == each.interval.low == each.interval.high == 0 for each in found.differences
    )


def test_questions_of_one_side_alone_are_left_out_and_counted() -> None:
    found = against(answered(set(range(30)), ITEMS[:30]), answered(set(), ITEMS[10:]))
    assert (found.n, found.alone) == (20, 20)
    assert found.verdicts[0].lost == 20
    with pytest.raises(ValueError, match="base and tuned have no question in common"):
        against(answered(set(), ITEMS[:10]), answered(set(), ITEMS[10:]))


def test_what_the_protocol_gives_no_verdict_is_no_flip() -> None:
    found = against(
        answered(set(range(40)), protocol="official"), answered(set(), protocol="official", empty=15), "official"
    )
    assert found.verdicts[0].left_out == 15
    assert len(found.flips) == found.verdicts[0].lost == 25
    overall = next(each for each in found.differences if each.group == "overall")
    assert overall.n == 25
    assert overall.scale == 100


def test_nothing_differs_from_a_side_of_which_nothing_counts() -> None:
    nothing = [replace(each, grade=Grade("missing")) for each in answered(set(), protocol="official")]
    found = against(answered(set(range(20)), protocol="official"), nothing, "official")
    assert found.differences == ()


def test_one_video_gives_a_difference_but_no_interval() -> None:
    found = against(answered({0, 1}, ITEMS[:2]), answered({0}, ITEMS[:2]))
    overall = next(each for each in found.differences if each.group == "overall")
    assert (overall.value, overall.interval, overall.sign, overall.n) == (-0.5, None, 0, 2)


def test_each_aspect_has_verdicts_of_its_own() -> None:
    def both(right: bool) -> list[Graded]:
        return [
            Graded(ITEMS[0], "detail", Prediction(("yes",)), Grade("ok", score=3.0)),
            Graded(ITEMS[0], "truth", Prediction(("yes",)), Grade("ok", correct=right)),
        ]

    found = against(both(True), both(False))
    assert [(each.aspect, each.lost) for each in found.verdicts] == [("truth", 1)]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40))
def test_verdicts_add_up(said: list[tuple[bool, bool]]) -> None:
    items = questions(len(said))
    first = answered({n for n, (one, _) in enumerate(said) if one}, items)
    second = answered({n for n, (_, other) in enumerate(said) if other}, items)
    (verdicts,) = compare(("a", "b"), Quiz(), "strict", first, second, resamples=10).verdicts
    assert verdicts.both + verdicts.lost + verdicts.won + verdicts.neither == len(said)
    gain = (verdicts.won - verdicts.lost) / len(said)
    assert gain == pytest.approx(np.mean([float(other) - float(one) for one, other in said]))
