"""Answers that share a prompt: each gets what it gets in a row of its own, and so do the gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import ANSWERS, adapt, prompts_of, save_random
from torch import Tensor

from models.packing import pack_answers
from models.sequences import Prompt
from models.settings import Sampling
from models.video_lm import VideoLM

CPU = torch.device("cpu")
PAD = 99
ROWS = st.lists(
    st.tuples(st.integers(1, 6), st.lists(st.integers(1, 5), min_size=1, max_size=4)), min_size=1, max_size=4
)


@settings(max_examples=80, deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_every_answer_finds_its_own_tokens_and_sees_its_prompt_and_itself(
    rows: list[tuple[int, list[int]]], random: object
) -> None:
    prompts, responses, token = [], [], 0
    for length, answers in rows:
        prompt = Prompt(tuple(range(token, token + length)), torch.empty(0, 4))
        token += length
        for size in answers:
            prompts.append(prompt)
            responses.append(tuple(range(token, token + size)))
            token += size
    order = list(range(len(prompts)))
    random.shuffle(order)  # type: ignore[attr-defined]
    prompts, responses = [prompts[i] for i in order], [responses[i] for i in order]
    packed = pack_answers(prompts, responses, PAD + token, CPU)
    assert len(packed.prompts) == len(rows)
    assert packed.shared == (len(prompts) > len(rows))
    assert int(packed.mask.sum()) == token, "no prompt stands twice"
    mask = packed.attention(torch.float32)
    for number, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        row, size = int(packed.row[number]), len(response)
        assert packed.response_ids[number].tolist() == [*response, *[PAD + token] * (max(map(len, responses)) - size)]
        assert int(packed.response_mask[number].sum()) == size
        wanted = [*prompt.ids[-1:], *response[:-1]]
        assert packed.ids[row, packed.before[number, :size]].tolist() == wanted
        last = int(packed.last[number])
        assert int(packed.ids[row, last]) == response[-1]
        assert int(packed.positions[row, last]) == len(prompt.ids) + size - 1
        if packed.shared:
            seen = (mask[row, 0, last] == 0).nonzero()[:, 0]
            assert packed.ids[row, seen].tolist() == [*prompt.ids, *response]
            assert packed.positions[row, seen].tolist() == list(range(len(prompt.ids) + size))
    assert bool(((mask == 0).any(-1)).all() if packed.shared else True), "a row with nothing to see is no number"


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> VideoLM:
    return adapt(VideoLM.load(str(save_random(tmp_path_factory.mktemp("models") / "tiny"))))


def _repeated(lm: VideoLM) -> tuple[list[Prompt], list[tuple[int, ...]]]:
    prompts = prompts_of(lm)
    asked = [prompts[0], prompts[1], prompts[0], prompts[2], prompts[0]]
    said = [ANSWERS[1], ANSWERS[0], ANSWERS[2], ANSWERS[1], ANSWERS[0]]
    return asked, [lm.response_ids(text) for text in said]


def _gradients(lm: VideoLM, prompts: list[Prompt], answers: list[tuple[int, ...]]) -> tuple[Tensor, list[Tensor]]:
    logprobs, mask = lm.logprobs(prompts, answers)
    weights = torch.arange(1, len(answers) + 1)[:, None] * mask
    found = torch.autograd.grad((logprobs * weights).sum(), list(lm.adapter_parameters("policy").values()))
    return logprobs.detach(), list(found)


def test_a_shared_prompt_changes_neither_log_probabilities_nor_gradients(lm: VideoLM) -> None:
    prompts, answers = _repeated(lm)
    own = [Prompt(prompt.ids, prompt.visual) for prompt in prompts]
    lm.use("policy")
    shared, alone = _gradients(lm, prompts, answers), _gradients(lm, own, answers)
    assert torch.allclose(shared[0], alone[0], atol=1e-5)
    for one, other in zip(shared[1], alone[1], strict=True):
        assert torch.allclose(one, other, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_last_states_too_whatever_the_attention(tmp_path: Path, attention: str) -> None:
    lm = VideoLM.load(str(save_random(tmp_path / "tiny")))
    lm.core.set_attn_implementation(attention)
    prompts, answers = _repeated(lm)
    together = lm.hidden(prompts, answers).last
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        assert torch.allclose(together[row], lm.hidden([prompt], [answer]).last[0], atol=1e-4)


def test_attention_that_takes_no_such_mask_gets_a_row_an_answer(lm: VideoLM, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, answers = _repeated(lm)
    expected = lm.hidden(prompts, answers).last
    seen: list[int] = []
    inner, forward = lm.core.model, lm.core.model.forward

    def counted(**inputs: Tensor) -> object:
        seen.append(inputs["attention_mask"].dim())
        return forward(**inputs)

    monkeypatch.setattr(inner, "forward", counted)
    monkeypatch.setattr(VideoLM, "_takes_any_attention", False)
    assert torch.allclose(lm.hidden(prompts, answers).last, expected, atol=1e-4)
    assert seen == [2]


@pytest.mark.parametrize(("slides", "rows"), [(8, 5), (2048, 3), (None, 3)])
def test_attention_that_slides_gets_a_row_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slides: int | None, rows: int
) -> None:
    """A mask of our own would let its layers see the whole prompt; over the whole window nothing slides."""
    monkeypatch.setitem(zoo.TEXT, "sliding_window", slides)
    monkeypatch.setattr(zoo, "LANGUAGE", "mistral")
    lm = VideoLM.load(str(zoo.save("vlm_rlaif", tmp_path / "mistral")))
    assert lm.core.config.get_text_config().model_type == "mistral"
    assert lm.core.config.get_text_config().sliding_window == slides
    asked = [lm.prompt(f"what happens first ? {'a red circle grows ' * count}") for count in (1, 8, 3)]
    prompts = [asked[number] for number in (0, 1, 0, 2, 1)]
    answers = [lm.response_ids(text) for text in (*ANSWERS, *ANSWERS[:2])]
    assert len({load.row for load in lm.loads(prompts, answers)}) == rows
    with torch.no_grad():
        together, mask = lm.logprobs(prompts, answers)
        for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            alone = lm.logprobs([prompt], [answer])[0][0]
            assert torch.allclose(together[number][mask[number]], alone, atol=1e-5)
        drawn = lm.generate(asked[1:2], Sampling(max_new_tokens=6), n=4, logprobs=True)[0]
        again = lm.logprobs(asked[1:2] * 4, [said.ids for said in drawn])[0]
    for said, row in zip(drawn, again, strict=True):
        assert torch.allclose(torch.tensor(said.logprobs), row[: len(said.ids)], atol=1e-4)


def test_an_answer_without_tokens_is_an_error() -> None:
    prompt = Prompt((1, 2, 3), torch.empty(0, 4))
    cases: list[list[tuple[int, ...]]] = [[()], [(1,), ()]]
    for answers in cases:
        with pytest.raises(ValueError, match="An answer without tokens"):
            pack_answers([prompt] * len(answers), answers, PAD, CPU)
