"""GRPO_rank: what the paper prints, what its text gives, and what must hold of every reading."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.rank_advantages import discounted_gain, policy_ranks, rank_advantages
from models.rankings import average_ranks
from models.settings import DcgForm, RankBound, RankMode

MODES: list[RankMode] = ["oracle", "paper", "signed", "tie_aware"]
FORMS: list[DcgForm] = ["written", "table", "log"]
IN_ORDER = torch.arange(5, dtype=torch.float64)[None]
REVERSED = IN_ORDER.flip(1)

scores = st.lists(st.integers(0, 4), min_size=2, max_size=6)


def ranks_of(values: list[int]) -> torch.Tensor:
    return torch.tensor([average_ranks([float(value) for value in values])], dtype=torch.float64)


def plain_gain(rank: float, form: DcgForm) -> float:
    log = math.log2(2 + rank)
    return {"written": 1 / ((1 + rank) * log), "table": log / (1 + rank), "log": 1 / log}[form]


def plain_raw(values: list[int], i: int, found: list[float], mode: RankMode, dcg: DcgForm, bound: RankBound) -> float:
    """One response's advantage before the group's mean is taken off, by the docstring's words."""
    ranks = average_ranks([float(value) for value in values])
    true, predicted = plain_gain(ranks[i], dcg), plain_gain(found[i], dcg)
    tied = sorted(rank for rank, value in enumerate(sorted(values, reverse=True)) if value == values[i])
    if mode == "oracle":
        return true
    if mode == "paper":
        ratio = predicted / true
        return {"none": ratio, "clamp": min(ratio, 1.0), "symmetric": min(ratio, 1 / ratio)}[bound]
    return 0.0 if mode == "tie_aware" and tied[0] <= found[i] <= tied[-1] else true - predicted


@pytest.mark.parametrize(("mode", "dcg", "standardise"), itertools.product(MODES, FORMS, [False, True]))
@given(values=scores, bound=st.sampled_from(["none", "clamp", "symmetric"]), seed=st.integers(0, 1000))
def test_each_mode_is_the_plain_loop(
    mode: RankMode, dcg: DcgForm, standardise: bool, values: list[int], bound: RankBound, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    predicted = policy_ranks(torch.randint(4, (1, len(values)), generator=generator).double())
    raw = [plain_raw(values, i, predicted[0].tolist(), mode, dcg, bound) for i in range(len(values))]
    mean = sum(raw) / len(raw)
    deviation = math.sqrt(sum((each - mean) ** 2 for each in raw) / len(raw))
    by = deviation if standardise and deviation > 1e-6 else 1.0
    expected = [(each - mean) / by for each in raw]
    found = rank_advantages(ranks_of(values), predicted, mode=mode, dcg=dcg, bound=bound, standardise=standardise)
    assert found[0].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_the_published_advantages_of_the_best_response() -> None:
    """Oracle-RLAIF, appendix A.2, K = 5: true rank 0 predicted 0, 1, 2 and 4 (the print has four digits)."""
    ratio = discounted_gain(IN_ORDER, "table") / discounted_gain(torch.zeros(1, 1), "table")
    assert ratio[0, [0, 1, 2, 4]].tolist() == pytest.approx([1, 0.7925, 0.6667, 0.5170], abs=5e-5)
    published = rank_advantages(IN_ORDER, mode="oracle", dcg="table")
    assert published[0, [0, 1, 2, 4]].tolist() == pytest.approx([0.2887, 0.0812, -0.0446, -0.1943], abs=2e-4)


def test_the_written_formula_gives_other_numbers_than_the_printed_table() -> None:
    found = rank_advantages(IN_ORDER, mode="oracle", dcg="written")[0].tolist()
    assert found == pytest.approx([0.6666, -0.0180, -0.1668, -0.2258, -0.2561], abs=1e-4)


def test_the_paper_s_form_promotes_the_worst_answer_of_a_reversed_group() -> None:
    """The sign problem: agreement is rewarded, so that the best answer, ranked last by the policy, is pushed down."""
    found = rank_advantages(IN_ORDER, REVERSED, mode="paper", dcg="written")[0].tolist()
    assert found == pytest.approx([-3.38, -3.11, -2.45, -0.52, 9.47], abs=0.01)
    bounded = rank_advantages(IN_ORDER, REVERSED, mode="paper", dcg="table", bound="symmetric")[0].tolist()
    assert bounded == pytest.approx([-0.183, 0.033, 0.300, 0.033, -0.183], abs=1e-3)
    signed = rank_advantages(IN_ORDER, REVERSED, mode="signed", dcg="written")[0]
    assert signed[0] > 0 > signed[4]


@pytest.mark.parametrize("bound", ["clamp", "symmetric"])
@given(seed=st.integers(0, 1000))
def test_bounded_deltas_stay_between_zero_and_one(bound: RankBound, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    true, predicted = (torch.randperm(5, generator=generator)[None].double() for _ in range(2))
    found = rank_advantages(true, predicted, mode="paper", dcg="written", bound=bound)
    assert found.max() - found.min() < 1


@pytest.mark.parametrize(("mode", "dcg", "standardise"), itertools.product(MODES, FORMS, [False, True]))
@given(values=scores, seed=st.integers(0, 1000))
def test_every_group_sums_to_zero_and_moves_with_its_members(
    mode: RankMode, dcg: DcgForm, standardise: bool, values: list[int], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    true = ranks_of(values)
    predicted = policy_ranks(torch.randn(1, len(values), generator=generator, dtype=torch.float64))
    found = rank_advantages(true, predicted, mode=mode, dcg=dcg, standardise=standardise)
    assert found.sum().item() == pytest.approx(0, abs=1e-9)
    order = torch.randperm(len(values), generator=generator)
    moved = rank_advantages(true[:, order], predicted[:, order], mode=mode, dcg=dcg, standardise=standardise)
    assert torch.allclose(moved, found[:, order], atol=1e-9)


@pytest.mark.parametrize("mode", ["signed", "tie_aware"])
@given(values=scores)
def test_perfect_agreement_teaches_nothing_more(mode: RankMode, values: list[int]) -> None:
    assert not rank_advantages(ranks_of(values), ranks_of(values), mode=mode).any()


@pytest.mark.parametrize("dcg", FORMS)
@given(values=scores)
def test_by_the_oracle_alone_the_better_has_the_larger_advantage(dcg: DcgForm, values: list[int]) -> None:
    true = ranks_of(values)
    found = rank_advantages(true, mode="oracle", dcg=dcg)[0]
    for i, j in itertools.combinations(range(len(values)), 2):
        if values[i] > values[j]:
            assert found[i] > found[j]
        elif values[i] == values[j]:
            assert found[i] == found[j]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_group_without_contrast_teaches_nothing(mode: RankMode, dtype: torch.dtype) -> None:
    for size in range(2, 10):
        level = torch.full((1, size), (size - 1) / 2, dtype=dtype)
        for dcg, standardise in itertools.product(FORMS, [False, True]):
            assert not rank_advantages(level, level, mode=mode, dcg=dcg, standardise=standardise).any()


def test_which_of_tied_answers_is_likelier_is_no_error() -> None:
    true = ranks_of([5, 5, 5, 1])
    predicted = torch.tensor([[2.0, 0.0, 1.0, 3.0]], dtype=torch.float64)
    assert rank_advantages(true, predicted, mode="signed").any()
    assert not rank_advantages(true, predicted, mode="tie_aware").any()


def test_without_ties_the_oracle_s_advantages_are_always_the_same_numbers() -> None:
    """With distinct ranks nothing but the order matters: a group's advantages are a fixed set of constants."""
    constants = rank_advantages(IN_ORDER, mode="oracle")[0]
    for order in itertools.permutations(range(5)):
        found = rank_advantages(IN_ORDER[:, list(order)], mode="oracle")[0]
        assert torch.equal(found.sort().values, constants.sort().values)


def test_the_policy_s_ranks_are_the_average_ranks_of_its_log_probabilities() -> None:
    logprobs = torch.tensor([[-1.0, -0.5, -1.0, -3.0], [-1.0, -1.0, -1.0, -1.0]])
    assert policy_ranks(logprobs).tolist() == [[1.5, 0.0, 1.5, 3.0], [1.5] * 4]
    assert policy_ranks(logprobs).tolist() == [list(average_ranks(row)) for row in logprobs.tolist()]


def test_a_mode_that_compares_needs_both_orders() -> None:
    with pytest.raises(ValueError, match="hand them over"):
        rank_advantages(IN_ORDER, mode="signed")
