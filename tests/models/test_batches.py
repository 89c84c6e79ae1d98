"""Batches within their limits: by number alone as ever, and by tokens with their padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.batches import Batch, Limits, Load, batches_by_length, cut, in_batches, sampling_loads, singly, tokens_of
from models.packing import pack_answers
from models.sequences import Prompt

LENGTHS = st.lists(st.integers(0, 20), min_size=1, max_size=30)
QUESTIONS = st.lists(
    st.tuples(st.integers(1, 9), st.lists(st.integers(1, 6), min_size=1, max_size=4)), min_size=1, max_size=8
)
CPU = torch.device("cpu")


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 8), st.none() | st.integers(1, 60))
def test_batches_of_like_length_give_the_values_in_the_items_order(
    lengths: list[int], size: int, tokens: int | None
) -> None:
    seen: list[list[int]] = []

    def double(indices: list[int]) -> Tensor:
        seen.append(indices)
        return torch.tensor([2.0 * index for index in indices])

    loads, limits = [Load(i, length, 0) for i, length in enumerate(lengths)], Limits(size, tokens)
    assert in_batches(double, loads, limits).tolist() == [2.0 * index for index in range(len(lengths))]
    assert seen == list(batches_by_length(loads, limits))
    assert all(1 <= len(batch) <= size for batch in seen)
    assert [lengths[index] for batch in seen for index in batch] == sorted(lengths)
    if tokens is None:
        assert len(seen) == -(-len(lengths) // size)
        return
    for batch, after in zip(seen, [*seen[1:], []], strict=True):
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= tokens
        if after and len(batch) < size:
            assert (len(batch) + 1) * lengths[after[0]] > tokens, "one more would have found room"


def _answers(questions: list[tuple[int, list[int]]]) -> tuple[list[Prompt], list[tuple[int, ...]], list[list[int]]]:
    prompts: list[Prompt] = []
    responses: list[tuple[int, ...]] = []
    units: list[list[int]] = []
    for length, answers in questions:
        prompt = Prompt((1,) * length, torch.empty(0, 4))
        units.append(list(range(len(prompts), len(prompts) + len(answers))))
        prompts += [prompt] * len(answers)
        responses += [(2,) * size for size in answers]
    return prompts, responses, units


@settings(max_examples=80, deadline=None)
@given(QUESTIONS, st.booleans(), st.integers(1, 8), st.integers(1, 80))
def test_tokens_are_those_of_the_forward_pass_and_questions_stay_whole(
    questions: list[tuple[int, list[int]]], share: bool, size: int, tokens: int
) -> None:
    prompts, responses, units = _answers(questions)
    rows: list[Any] = [id(prompt) if share else number for number, prompt in enumerate(prompts)]
    loads = [Load(row, len(p.ids), len(r)) for row, p, r in zip(rows, prompts, responses, strict=True)]
    passes = Batch(units, lambda: loads).passes(Limits(size, tokens))
    assert sorted(place for one in passes for place in one) == list(range(len(prompts)))
    for one in passes:
        packed = pack_answers([prompts[i] for i in one], [responses[i] for i in one], 0, CPU, share=share)
        assert tokens_of(loads[i] for i in one) == packed.ids.numel()
        whole = [unit for unit in units if set(unit) <= set(one)]
        assert sum(map(len, whole)) == len(one)
        assert len(whole) == 1 or (packed.ids.numel() <= tokens and len(one) <= size)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=9), st.integers(1, 9))
def test_without_a_limit_of_tokens_no_length_is_asked_for_and_the_order_stays(sizes: list[int], most: int) -> None:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    units = [list(range(start, start + size)) for start, size in zip(starts, sizes, strict=True)]

    def unknown() -> list[Load]:
        pytest.fail("a length was asked for")

    passes = Batch(units, unknown).passes(Limits(most))
    assert [place for one in passes for place in one] == list(range(sum(sizes)))
    assert all(len(one) <= max(most, *sizes) for one in passes)


def test_answers_yet_to_be_sampled_count_at_their_longest() -> None:
    prompts = [Prompt((1,) * length, torch.empty(0, 4)) for length in (10, 30)]
    loads = sampling_loads(prompts, 4, longest=5)
    assert tokens_of(loads[:1]) == 4 * 15
    assert tokens_of(loads) == 2 * 4 * 35
    assert list(cut(singly(2), loads, Limits(8, 279))) == [[0], [1]]
    assert list(cut(singly(2), loads, Limits(8, 280))) == [[0, 1]]
