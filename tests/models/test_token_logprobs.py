"""Log-probabilities and entropies in chunks are those of all logits at once, gradients too, in less memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kept import kept_bytes
from tiny import ANSWERS, adapt, prompts_of, save_random
from torch import Tensor, nn

from models.losses import entropy
from models.token_logprobs import chunk_of, entropies, picked_logprobs
from models.video_lm import VideoLM

WIDTH, VOCABULARY, BANNED = 6, 11, [0, 7]


def _head(seed: int) -> tuple[nn.Linear, Callable[[Tensor], Tensor]]:
    torch.manual_seed(seed)
    head = nn.Linear(WIDTH, VOCABULARY)

    def logits_of(states: Tensor) -> Tensor:
        banned = torch.zeros(VOCABULARY, dtype=torch.bool)
        banned[BANNED] = True
        return head(states).float().masked_fill(banned, torch.finfo(torch.float32).min)  # type: ignore[no-any-return]

    return head, logits_of


def _plain(ids: Tensor, mask: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    picked = logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    return torch.where(mask, picked, 0.0), torch.where(mask, entropy(logits), 0.0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=4),
    st.integers(1, 7),
    st.sampled_from([0.3, 1.0, 1.7]),
    st.integers(0, 2**16),
)
def test_chunks_give_what_all_logits_at_once_give(
    lengths: list[int], chunk: int, temperature: float, seed: int
) -> None:
    head, logits_of = _head(seed)
    width = max(1, *lengths)
    states = torch.randn(len(lengths), width, WIDTH, requires_grad=True)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    said = [token for token in range(VOCABULARY) if token not in BANNED]
    ids = torch.tensor(said)[torch.randint(len(said), mask.shape)]
    weights, others = torch.randn(mask.shape), torch.randn(mask.shape)

    def gradients(logprobs: Tensor, spread: Tensor) -> list[Tensor]:
        loss = (weights * logprobs + others * spread).sum()
        return list(torch.autograd.grad(loss, [states, *head.parameters()]))

    expected = _plain(ids, mask, logits_of(states) / temperature)
    found = (
        picked_logprobs(states, ids, mask, logits_of, temperature=temperature, chunk=chunk),
        entropies(states, mask, logits_of, temperature=temperature, chunk=chunk),
    )
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-6, rtol=1e-6)
    for one, other in zip(gradients(*found), gradients(*expected), strict=True):
        assert torch.allclose(one, other, atol=1e-6, rtol=1e-5)


def test_what_is_kept_for_the_backward_pass_is_one_chunk_not_all_logits() -> None:
    _, logits_of = _head(0)
    states = torch.randn(4, 100, WIDTH, requires_grad=True)
    ids, mask = torch.ones(4, 100, dtype=torch.long), torch.ones(4, 100, dtype=torch.bool)

    def kept(chunk: int) -> int:
        return kept_bytes(lambda: picked_logprobs(states, ids, mask, logits_of, temperature=1.0, chunk=chunk))

    logits = 4 * 100 * VOCABULARY * 4
    assert kept(10) < logits < kept(400)


def test_more_tokens_than_a_chunk_change_nothing_that_a_model_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = adapt(VideoLM.load(str(save_random(tmp_path / "tiny"))))
    prompts, answers = prompts_of(lm), [lm.response_ids(text) for text in ANSWERS]

    def said() -> list[Tensor]:
        hidden = lm.hidden(prompts, answers)
        logprobs, _ = lm.logprobs_from(hidden, temperature=0.7)
        spread = lm.entropies_from(hidden, temperature=0.7)
        learned = list(lm.adapter_parameters("policy").values())
        return [logprobs, spread, *torch.autograd.grad((logprobs + spread).sum(), learned)]

    at_once = said()
    monkeypatch.setattr(VideoLM, "_chunk", 3)
    for one, other in zip(said(), at_once, strict=True):
        assert torch.allclose(one, other, atol=1e-3, rtol=1e-4)


def test_a_chunk_holds_the_same_memory_whatever_the_vocabulary() -> None:
    assert chunk_of(152_064) * 152_064 * 4 <= 2**27
    assert chunk_of(2**40) == 1
