"""Kendall's tau-b against a count by hand, and the agreement of two rankers from their rows."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.rank_agreement import kendall_tau_b, rank_agreement

PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=8)


def _counted(ranks: list[int], others: list[int]) -> float | None:
    """The textbook's formula, pair by pair: (C - D) / sqrt((n0 - n1) (n0 - n2))."""
    concordant = discordant = ties = other_ties = pairs = 0
    for (a, x), (b, y) in combinations(zip(ranks, others, strict=True), 2):
        pairs += 1
        ties += a == b
        other_ties += x == y
        concordant += (a < b and x < y) or (a > b and x > y)
        discordant += (a < b and x > y) or (a > b and x < y)
    below = (pairs - ties) * (pairs - other_ties)
    return (concordant - discordant) / math.sqrt(below) if below else None


@given(pairs=PAIRS)
def test_tau_b_is_what_counting_gives(pairs: list[tuple[int, int]]) -> None:
    ranks, others = (list(column) for column in zip(*pairs, strict=True))
    expected = _counted(ranks, others)
    for one, two in ((ranks, others), (others, ranks)):
        assert kendall_tau_b(one, two) == (None if expected is None else pytest.approx(expected))


def test_tau_b_of_published_numbers() -> None:
    # https://docs.scipy.org/doc/scipy/reference/generated/scipy.stats.kendalltau.html
    assert kendall_tau_b([12, 2, 1, 12, 2], [1, 4, 7, 1, 0]) == pytest.approx(-0.47140452079103173)
    assert kendall_tau_b([0, 1, 2], [0, 1, 2]) == pytest.approx(1)
    assert kendall_tau_b([0, 1, 2], [2, 1, 0]) == pytest.approx(-1)
    assert kendall_tau_b([1, 1, 1], [2, 1, 0]) is None


def _rows(groups: dict[str, list[float]], texts: str = "abc") -> list[dict[str, Any]]:
    return [
        {"status": "ok", "instruction": name, "video": f"{name}.mp4", "candidate": i, "text": texts[i], "rank": rank}
        for name, ranks in groups.items()
        for i, rank in enumerate(ranks)
    ]


def test_the_groups_that_both_ranked_are_averaged() -> None:
    one = _rows({"same": [0, 1, 2], "reversed": [0, 1, 2], "flat": [1, 1, 1], "alone": [0, 1, 2]})
    two = _rows({"same": [0, 1, 2], "reversed": [2, 1, 0], "flat": [0, 1, 2], "other": [0, 1, 2]})
    given_ = rank_agreement(one, [*two, {"status": "quarantined", "instruction": None}])
    assert (given_.groups, given_.undefined) == (3, 1)
    assert given_.tau is not None
    assert (given_.tau.value, given_.tau.low, given_.tau.high, given_.tau.n) == (0, -1, 1, 2)
    assert rank_agreement(one, []).tau is None


def test_rankings_of_other_candidates_are_not_compared() -> None:
    with pytest.raises(ValueError, match="other candidates of instruction 'same'"):
        rank_agreement(_rows({"same": [0, 1, 2]}), _rows({"same": [0, 1, 2]}, texts="abd"))
