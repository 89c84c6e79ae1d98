"""Rewards a token, KL estimates and generalized advantages against plain loops."""

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ragged import ragged

from models.advantages import (
    generalized_advantages,
    group_advantages,
    kl_per_token,
    penalised,
    token_rewards,
    whiten,
)
from models.settings import GroupAdvantage


def plain_advantages(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """The definition as a double loop over one response."""
    deltas = [
        reward + gamma * (values[t + 1] if t + 1 < len(values) else 0.0) - values[t] for t, reward in enumerate(rewards)
    ]
    return [sum((gamma * lam) ** k * delta for k, delta in enumerate(deltas[t:])) for t in range(len(deltas))]


@given(st.integers(0, 10_000), st.floats(0.5, 1.0), st.floats(0.0, 1.0))
def test_advantages_are_the_definition(seed: int, gamma: float, lam: float) -> None:
    (rewards, values, _), mask = ragged(seed)
    advantages, returns = generalized_advantages(rewards * mask, values, mask, gamma, lam)
    for row in range(len(mask)):
        length = int(mask[row].sum())
        plain = plain_advantages(rewards[row, :length].tolist(), values[row, :length].tolist(), gamma, lam)
        assert advantages[row, :length].tolist() == pytest.approx(plain, rel=1e-12, abs=1e-12)
        assert returns[row, :length].tolist() == pytest.approx(
            (torch.tensor(plain, dtype=torch.float64) + values[row, :length]).tolist(), rel=1e-12, abs=1e-12
        )
        assert not advantages[row, length:].any()
        assert not returns[row, length:].any()


def test_with_gamma_and_lambda_one_the_return_is_all_that_follows() -> None:
    rewards = torch.tensor([[0.1, 0.2, 1.0]])
    _, returns = generalized_advantages(rewards, torch.tensor([[5.0, -3.0, 2.0]]), torch.ones(1, 3), 1.0, 1.0)
    assert returns[0].tolist() == pytest.approx([1.3, 1.2, 1.0])


@given(st.integers(0, 10_000))
def test_whitening_gives_mean_zero_and_variance_one_over_the_mask(seed: int) -> None:
    (values, *_), mask = ragged(seed)
    if mask.sum() < 3:
        return
    white = whiten(values, mask)
    assert white[mask].mean().item() == pytest.approx(0.0, abs=1e-9)
    assert white[mask].var(correction=0).item() == pytest.approx(1.0, abs=1e-5)
    assert not white[~mask].any()
    assert torch.allclose(whiten(values * 3 + 5, mask), white, atol=1e-6)


@given(st.integers(0, 10_000))
def test_whitening_is_the_plain_loop(seed: int) -> None:
    (values, *_), mask = ragged(seed)
    counted = values[mask].tolist()
    mean = sum(counted) / len(counted)
    variance = sum((each - mean) ** 2 for each in counted) / len(counted)
    plain = [(each - mean) / math.sqrt(variance + 1e-8) for each in counted]
    assert whiten(values, mask)[mask].tolist() == pytest.approx(plain, abs=1e-12)


@given(st.integers(0, 10_000), st.floats(0.0, 1.0))
def test_token_rewards_are_the_plain_loop(seed: int, kl_coef: float) -> None:
    (policy, reference, scores), mask = ragged(seed)
    kl = kl_per_token(policy, reference, "k3")
    found = token_rewards(scores[:, 0], kl, mask, kl_coef)
    for row, length in enumerate(mask.sum(1).tolist()):
        difference = (policy[row] - reference[row]).tolist()
        plain = [-kl_coef * (math.exp(-each) - 1 + each) for each in difference[:length]]
        plain[-1] += scores[row, 0].item()
        assert found[row].tolist() == pytest.approx(plain + [0.0] * (5 - length), rel=1e-12, abs=1e-12)


def test_the_score_falls_on_the_last_token_and_the_penalty_on_each() -> None:
    kl = torch.tensor([[0.5, 1.0, 9.0], [2.0, 9.0, 9.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    rewards = token_rewards(torch.tensor([10.0, 20.0]), kl, mask, kl_coef=0.1)
    assert rewards.tolist() == [pytest.approx([-0.05, 9.9, 0.0]), pytest.approx([19.8, 0.0, 0.0])]


def test_kl_estimators() -> None:
    policy, reference = torch.tensor([-1.0, -3.0]), torch.tensor([-2.0, -2.0])
    assert kl_per_token(policy, reference, "k1").tolist() == [1.0, -1.0]
    assert kl_per_token(policy, reference, "k1_clamped").tolist() == [1.0, 0.0]
    k3 = kl_per_token(policy, reference, "k3")
    assert k3.tolist() == pytest.approx([0.36788, 0.71828], abs=1e-5)


def test_k1_and_k3_estimate_the_same_divergence() -> None:
    generator = torch.Generator().manual_seed(0)
    policy = torch.tensor([0.5, 0.3, 0.2]).log()
    reference = torch.tensor([0.4, 0.4, 0.2]).log()
    truth = float((policy.exp() * (policy - reference)).sum())
    drawn = torch.multinomial(policy.exp(), 400_000, replacement=True, generator=generator)
    for estimator in ("k1", "k3"):
        estimate = kl_per_token(policy[drawn], reference[drawn], estimator).mean().item()
        assert estimate == pytest.approx(truth, abs=2e-3)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=6), st.floats(-10, 10))
def test_group_advantages_are_their_definitions(scores: list[float], shift: float) -> None:
    each = torch.tensor([scores], dtype=torch.float64)
    mean = sum(scores) / len(scores)
    deviation = statistics.stdev(scores)
    plain = {
        "grpo": [(score - mean) / (deviation + 1e-4) for score in scores],
        "dr_grpo": [score - mean for score in scores],
        "rloo": [score - (sum(scores) - score) / (len(scores) - 1) for score in scores],
    }
    for kind, expected in plain.items():
        found = group_advantages(each, kind)
        assert found[0].tolist() == pytest.approx(expected, abs=1e-9)
        assert found.sum().item() == pytest.approx(0, abs=1e-9)
        assert torch.allclose(group_advantages(each + shift, kind), found, atol=1e-8)


@given(st.lists(st.integers(-40, 40), min_size=2, max_size=6).filter(lambda eighths: len(set(eighths)) > 1))
def test_advantages_of_groups_with_contrast_are_exact(eighths: list[int]) -> None:
    """Dividing by little contrast makes rounding large; by an eighth, and by none, it does not."""
    scores = [each / 8 for each in eighths]
    mean, deviation, others = sum(scores) / len(scores), statistics.stdev(scores), len(scores) - 1
    plain = {
        "grpo": [(score - mean) / (deviation + 1e-4) for score in scores],
        "dr_grpo": [score - mean for score in scores],
        "rloo": [score - (sum(scores) - score) / others for score in scores],
    }
    for kind, expected in plain.items():
        found = group_advantages(torch.tensor([scores], dtype=torch.float64), kind)
        assert found[0].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "rloo"])
def test_equal_scores_teach_nothing(kind: GroupAdvantage) -> None:
    assert not group_advantages(torch.full((2, 3), 0.1), kind).any()


def test_a_group_of_one_has_nothing_to_compare_with() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        group_advantages(torch.zeros(4, 1), "grpo")


def test_penalties_give_the_published_vector() -> None:
    """Reward 1.5, 300 of 896 tokens, with and without an end; times 10 before advantages are estimated."""
    two = torch.tensor([1.5, 1.5], dtype=torch.float64)
    found = penalised(
        two, torch.tensor([300, 300]), torch.tensor([True, False]), limit=896, length_penalty=-10, unfinished_penalty=-8
    )
    assert found.tolist() == pytest.approx([-1.84821, -9.84821], abs=1e-5)
    last = 10 * token_rewards(found[:1], torch.zeros(1, 3), torch.ones(1, 3), kl_coef=0.1)
    assert last[0].tolist() == pytest.approx([0, 0, -18.4821], abs=1e-4)


@given(st.integers(0, 10_000))
def test_whitening_may_keep_the_mean(seed: int) -> None:
    (values, *_), mask = ragged(seed)
    if mask.sum() < 3:
        return
    found = whiten(values, mask, shift_mean=False)
    assert found[mask].mean().item() == pytest.approx(values[mask].mean().item(), abs=1e-9)
    assert found[mask].var(correction=0).item() == pytest.approx(1.0, abs=1e-5)
    assert not found[~mask].any()
