"""The one interface to video models, through the real processor, PEFT and transformers on a tiny random checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import ANSWERS, QUESTIONS, SHOWN, adapt, logprobs_of, prompts_of, random_frames, save_random
from torch import Tensor

from miniature import checkpoint
from models.families import VideoFrames
from models.settings import Sampling
from models.video_lm import VideoLM


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def lm(folder: Path) -> VideoLM:
    return VideoLM.load(str(folder))


@pytest.fixture
def adapted(lm: VideoLM) -> VideoLM:
    return adapt(lm)


def _uncached_logits(lm: VideoLM, text: str, frames: VideoFrames) -> tuple[list[int], Tensor]:
    """What the checkpoint's own processor and forward make of a question: prompt tokens, logits after the last one."""
    content = [{"type": "video"}, {"type": "text", "text": text}]
    chat = lm.processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    inputs = lm.processor(text=chat, videos=[list(frames)], return_tensors="pt", add_special_tokens=False)
    return inputs["input_ids"][0].tolist(), lm.core(**inputs).logits[0, -1].detach()


@pytest.mark.parametrize(("text", "shown"), list(zip(QUESTIONS, SHOWN, strict=True)))
def test_cached_tokens_give_what_the_processor_and_the_pixels_give(lm: VideoLM, text: str, shown: list[int]) -> None:
    ids, expected = _uncached_logits(lm, text, random_frames()[shown])
    prompt = lm.prompt(text, lm.encode(random_frames())[shown])
    assert list(prompt.ids) == ids
    hidden = lm.hidden([prompt], [lm.response_ids("it is red.")])
    after_prompt = lm.core.lm_head(hidden.before_response[0, 0]).detach()
    assert torch.allclose(after_prompt, expected, atol=1e-5)


def test_a_batch_of_different_frame_counts_gives_each_video_what_it_gets_alone(lm: VideoLM) -> None:
    prompts = prompts_of(lm)
    together = logprobs_of(lm, prompts)
    for row, (prompt, answer) in enumerate(zip(prompts, ANSWERS, strict=True)):
        alone = lm.logprobs([prompt], [lm.response_ids(answer)])[0][0]
        assert torch.allclose(together[row, : len(alone)], alone, atol=1e-5)
        assert not together[row, len(alone) :].any()


def test_a_blank_video_changes_the_log_probabilities(lm: VideoLM) -> None:
    blank = prompts_of(lm, np.zeros((8, 64, 64, 3), dtype=np.uint8))
    assert (logprobs_of(lm) - logprobs_of(lm, blank)).abs().max() > 0.01


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_rollout_and_trainer_agree_on_the_log_probabilities(adapted: VideoLM, temperature: float) -> None:
    prompts, sampling = prompts_of(adapted), Sampling(temperature=temperature, max_new_tokens=12)
    sampled = adapted.generate(prompts, sampling, n=2, seed=3, logprobs=True)
    flat = [response for group in sampled for response in group]
    repeated = [prompt for prompt in prompts for _ in range(2)]
    trained, mask = adapted.logprobs(repeated, [response.ids for response in flat], temperature=temperature)
    for row, response in enumerate(flat):
        assert int(mask[row].sum()) == len(response.ids)
        assert trained[row, : len(response.ids)].tolist() == pytest.approx(response.logprobs, abs=1e-4)


def test_sampling_repeats_with_its_seed_and_differs_with_another(lm: VideoLM) -> None:
    prompts, sampling = prompts_of(lm), Sampling(max_new_tokens=8)
    first = lm.generate(prompts, sampling, n=3, seed=5)
    assert [len(group) for group in first] == [3, 3, 3]
    assert lm.generate(prompts, sampling, n=3, seed=5) == first
    assert lm.generate(prompts, sampling, n=3, seed=6) != first


def test_special_tokens_are_never_sampled_and_a_cut_answer_says_so(lm: VideoLM) -> None:
    responses = [r for group in lm.generate(prompts_of(lm), Sampling(max_new_tokens=16), n=16, seed=0) for r in group]
    assert not {token for response in responses for token in response.ids} & set(lm.suppressed)
    assert {response.finished for response in responses} == {True, False}
    assert all((response.ids[-1] == checkpoint.EOS) == response.finished for response in responses)
    assert all(len(response.ids) == 16 for response in responses if not response.finished)


def test_greedy_takes_the_likeliest_token_whatever_the_seed(lm: VideoLM) -> None:
    prompts, greedy = prompts_of(lm), Sampling(temperature=0, max_new_tokens=6)
    answers = lm.generate(prompts, greedy, seed=1)
    assert answers == lm.generate(prompts, greedy, seed=2)
    for prompt, (answer,) in zip(prompts, answers, strict=True):
        states = lm.hidden([prompt], [answer.ids]).before_response[0]
        assert lm.logits(states).argmax(-1).tolist() == list(answer.ids)


def test_a_second_turn_continues_the_chat_as_the_template_writes_it(lm: VideoLM) -> None:
    prompt = lm.prompt("describe the video.", lm.encode(random_frames(1)))
    ids = [*prompt.ids, *lm.response_ids("a red circle grows."), *lm.next_turn_ids(checkpoint.CORRECT_PROMPT)]
    user = [{"type": "video"}, {"type": "text", "text": "describe the video."}]
    chat = lm.processor.apply_chat_template(
        [
            {"role": "user", "content": user},
            {"role": "assistant", "content": [{"type": "text", "text": "a red circle grows."}]},
            {"role": "user", "content": [{"type": "text", "text": checkpoint.CORRECT_PROMPT}]},
        ],
        tokenize=False,
        add_generation_prompt=True,
    )
    chat = chat.replace("<video>", "<video>" * len(prompt.visual))
    assert ids == lm.tokenizer(chat, add_special_tokens=False)["input_ids"]


def test_text_alone_gives_what_the_language_model_gives(lm: VideoLM) -> None:
    text = [{"type": "text", "text": QUESTIONS[1]}]
    chat = lm.processor.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
    )
    ids = lm.tokenizer(chat, return_tensors="pt", add_special_tokens=False)["input_ids"]
    prompt = lm.prompt(QUESTIONS[1])
    assert (list(prompt.ids), len(prompt.visual)) == (ids[0].tolist(), 0)
    after_prompt = lm.logits(lm.hidden([prompt], [lm.response_ids("it is red.")]).before_response[0, 0]).detach()
    expected = lm.core(input_ids=ids).logits[0, -1].detach()
    said = [token for token in range(len(expected)) if token not in lm.suppressed]
    assert torch.allclose(after_prompt[said], expected[said], atol=1e-5)


def test_a_prompt_leaves_visual_tokens_where_they_are(lm: VideoLM) -> None:
    seen = lm.encode(random_frames(2))
    assert lm.prompt(QUESTIONS[0], replace(seen, tokens=seen.tokens.to("meta"))).visual.device.type == "meta"


def test_text_alone_may_stand_beside_videos_in_a_batch(lm: VideoLM) -> None:
    greedy = Sampling(temperature=0, max_new_tokens=6)
    shown, *others = prompts_of(lm)
    mixed = [shown, lm.prompt(QUESTIONS[0]), *others, lm.prompt(QUESTIONS[1])]
    together = lm.generate(mixed, greedy)
    assert together == [lm.generate([prompt], greedy)[0] for prompt in mixed]


def test_a_question_that_holds_the_placeholder_is_refused(lm: VideoLM) -> None:
    with pytest.raises(ValueError, match="placeholder '<video>'; remove it"):
        lm.prompt("what is in <video>?", lm.encode(random_frames(2)))
    with pytest.raises(ValueError, match="placeholder '<video>'; remove it"):
        lm.prompt("what is in <video>?")


@pytest.mark.parametrize("name", ["missing", "nowhere/at/all"])
def test_a_missing_model_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{name}.*does not load.*Give a local folder"):
        VideoLM.load(str(tmp_path / name))


def test_a_folder_without_weights_is_named(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (broken / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match=r"broken.*do not load.*safetensors"):
        VideoLM.load(str(broken))


def test_another_family_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(ValueError, match="type 'qwen2' are not supported; supported: internvl, llava"):
        VideoLM.load(str(tmp_path))


def test_sampling_that_makes_no_sense_is_refused() -> None:
    for wrong in ({"temperature": -1.0}, {"top_p": 0.0}, {"max_new_tokens": 0}):
        with pytest.raises(ValueError, match="temperature must be >= 0"):
            Sampling(**wrong)  # type: ignore[arg-type]
