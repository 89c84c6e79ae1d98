"""The losses against plain loops in float64, and what must never change them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ragged import ragged

from models.losses import (
    bradley_terry,
    dpo,
    entropy,
    masked_mean,
    next_token_loss,
    policy_loss,
    value_loss,
)


def test_bradley_terry_gives_the_published_vector() -> None:
    # spec of the released reward model: chosen 0.8, rejected 0.3 -> 0.47408, with centring 1e-3 -> 0.47518
    chosen, rejected = torch.tensor([0.8]), torch.tensor([0.3])
    assert bradley_terry(chosen, rejected).item() == pytest.approx(0.47408, abs=1e-5)
    assert bradley_terry(chosen, rejected, centering=1e-3).item() == pytest.approx(0.47518, abs=1e-5)


@given(st.integers(0, 10_000), st.floats(0.05, 0.5))
def test_policy_loss_is_the_plain_loop(seed: int, clip: float) -> None:
    (new, old, advantages), mask = ragged(seed)
    total, clipped, count = 0.0, 0, 0
    for row, column in mask.nonzero().tolist():
        ratio = math.exp(new[row, column] - old[row, column])
        bounded = min(max(ratio, 1 - clip), 1 + clip)
        a = advantages[row, column].item()
        total += max(-a * ratio, -a * bounded)
        clipped += -a * bounded > -a * ratio
        count += 1
    loss, share = policy_loss(new, old, advantages, mask, clip)
    assert loss.item() == pytest.approx(total / count, rel=1e-12, abs=1e-12)
    assert share.item() == pytest.approx(clipped / count)


@given(st.integers(0, 10_000), st.floats(0.05, 2.0))
def test_value_loss_is_the_plain_loop(seed: int, clip: float) -> None:
    (new, old, returns), mask = ragged(seed)
    terms = []
    for row, column in mask.nonzero().tolist():
        v, before, target = (x[row, column].item() for x in (new, old, returns))
        bounded = before + min(max(v - before, -clip), clip)
        terms.append(0.5 * max((v - target) ** 2, (bounded - target) ** 2))
    found = value_loss(new, old, returns, mask, clip).item()
    assert found == pytest.approx(sum(terms) / len(terms), rel=1e-12, abs=1e-12)


@given(st.integers(0, 10_000))
def test_means_over_tokens_are_the_plain_loop(seed: int) -> None:
    (logprobs, *_), mask = ragged(seed)
    counted = [logprobs[row, column].item() for row, column in mask.nonzero().tolist()]
    mean = pytest.approx(sum(counted) / len(counted), abs=1e-12)
    assert masked_mean(logprobs, mask).item() == mean
    assert -next_token_loss(logprobs, mask).item() == mean


@given(st.integers(0, 10_000), st.integers(1, 4))
def test_padding_changes_no_loss(seed: int, extra: int) -> None:
    (new, old, third), mask = ragged(seed)
    pad = [torch.nn.functional.pad(x, (0, extra), value=7.0) for x in (new, old, third)]
    wider = torch.nn.functional.pad(mask, (0, extra), value=False)
    assert torch.allclose(policy_loss(new, old, third, mask, 0.2)[0], policy_loss(*pad, wider, 0.2)[0])
    assert torch.allclose(value_loss(new, old, third, mask, 0.2), value_loss(*pad, wider, 0.2))
    assert torch.allclose(next_token_loss(new, mask), next_token_loss(pad[0], wider))


def test_no_value_moves_past_its_clip_for_free() -> None:
    target = torch.tensor([[0.0]])
    new = torch.tensor([[0.0]], requires_grad=True)  # jumped from 1 straight to the target
    value_loss(new, torch.ones(1, 1), target, torch.ones(1, 1), clip=0.2).backward()
    assert new.grad is not None
    assert new.grad.item() == 0.0


def test_masked_mean_counts_tokens_not_rows() -> None:
    values = torch.tensor([[1.0, 3.0, 100.0], [5.0, 100.0, 100.0]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    assert masked_mean(values, mask).item() == 3.0


@given(st.integers(0, 10_000), st.floats(0.0, 1.0), st.floats(-1.0, 1.0))
def test_bradley_terry_with_margins_and_soft_labels_is_the_plain_loop(seed: int, label: float, margin: float) -> None:
    (rewards, *_), _ = ragged(seed)
    chosen, rejected = rewards[0], rewards[1]
    terms = []
    for one, other in zip(chosen.tolist(), rejected.tolist(), strict=True):
        p = 1 / (1 + math.exp(-(one - other - margin)))
        terms.append(-label * math.log(p) - (1 - label) * math.log(1 - p))
    every = torch.full_like(chosen, label), torch.full_like(chosen, margin)
    found = bradley_terry(chosen, rejected, margin=every[1], preference=every[0])
    assert found.item() == pytest.approx(sum(terms) / len(terms), abs=1e-12)


@given(st.integers(0, 10_000), st.floats(0.01, 1.0), st.floats(0.0, 0.5))
def test_dpo_is_the_plain_loop(seed: int, beta: float, smoothing: float) -> None:
    (one, other, _), _ = ragged(seed, rows=2)
    terms, margins = [], []
    for row in zip(*one.tolist(), *other.tolist(), strict=True):
        margin = beta * ((row[0] - row[2]) - (row[1] - row[3]))
        p = 1 / (1 + math.exp(-margin))
        terms.append(-(1 - smoothing) * math.log(p) - smoothing * math.log(1 - p))
        margins.append(margin)
    loss, found = dpo(one[0], one[1], other[0], other[1], beta=beta, label_smoothing=smoothing)
    assert loss.item() == pytest.approx(sum(terms) / len(terms), abs=1e-12)
    assert found.tolist() == pytest.approx(margins, abs=1e-12)


def test_dpo_where_the_policy_is_the_reference_is_a_coin() -> None:
    logprobs = torch.tensor([-3.0, -7.0])
    loss, margin = dpo(logprobs, logprobs - 1, logprobs, logprobs - 1, beta=0.1)
    assert loss.item() == pytest.approx(math.log(2))
    assert margin.tolist() == [0.0, 0.0]


def test_what_padding_holds_cannot_make_the_loss_nan() -> None:
    new = torch.tensor([[-1.0, 300.0]], requires_grad=True)
    loss, _ = policy_loss(new, torch.tensor([[-1.0, -300.0]]), torch.ones(1, 2), torch.tensor([[True, False]]), 0.2)
    loss.backward()
    assert loss.item() == -1.0
    assert new.grad is not None
    assert new.grad.tolist() == [[-1.0, 0.0]]


@given(st.integers(0, 10_000))
def test_entropy_is_the_definition_and_a_forbidden_token_adds_nothing(seed: int) -> None:
    (logits, *_), _ = ragged(seed)
    for row, found in zip(logits.tolist(), entropy(logits).tolist(), strict=True):
        total = sum(map(math.exp, row))
        plain = -sum(math.exp(x) / total * math.log(math.exp(x) / total) for x in row)
        assert found == pytest.approx(plain, rel=1e-12, abs=1e-12)
    forbidden = torch.nn.functional.pad(logits, (0, 1), value=-math.inf).requires_grad_()
    assert torch.allclose(entropy(forbidden), entropy(logits))
    entropy(forbidden).sum().backward()
    assert forbidden.grad is not None
    assert forbidden.grad.isfinite().all()


@pytest.mark.parametrize("gap", [-200.0, 200.0])
@pytest.mark.parametrize("advantage", [-1.0, 1.0])
def test_a_ratio_that_would_overflow_keeps_loss_and_gradient_finite(gap: float, advantage: float) -> None:
    new = torch.tensor([[gap]], requires_grad=True)
    loss, _ = policy_loss(new, torch.zeros(1, 1), torch.full((1, 1), advantage), torch.ones(1, 1), 0.2)
    loss.backward()
    assert math.isfinite(loss.item())
    assert new.grad is not None
    assert math.isfinite(new.grad.item())
