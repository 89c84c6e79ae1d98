"""What every family must hold, through its own transformers class, processor and checkpoint on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from torch import Tensor

from models.batches import Limits
from models.canaries import Probe, check_adapter
from models.encoding import blank_like, encode_clips
from models.families import FAMILIES, VideoFrames
from models.sequences import Footage, Prompt
from models.settings import LoraSettings, Sampling
from models.shape import SEVERAL_AXES, SUPPORTED
from models.training import Trainer
from models.video_lm import VideoLM

QUESTION, OTHER = "what color is the first shape ?", "describe the video ."
ANSWERS = ("it is red .", "a blue cross moves left then a red circle grows .", "yes .")
TIMES = (0.0, 0.5, 1.5, 2.0, 3.5)
GREEDY = Sampling(temperature=0, max_new_tokens=6)
NO_PLAIN_WAY = {"vlm_rlaif"}  # Its pooling is the paper's own; tests/models/test_pooled_video.py holds it.


@pytest.fixture(scope="module", params=sorted(zoo.ZOO))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint; its folder is called as the family is."""
    return zoo.save(request.param, tmp_path_factory.mktemp("zoo") / request.param)


@pytest.fixture(scope="module")
def lm(folder: Path) -> VideoLM:
    return VideoLM.load(str(folder))


def _frames(seed: int = 0) -> VideoFrames:
    return np.random.default_rng(seed).integers(0, 256, (len(TIMES), 40, 56, 3), dtype=np.uint8)


def _shown(lm: VideoLM, seed: int = 0) -> Footage:
    return lm.encode(_frames(seed), TIMES)


def _prompts(lm: VideoLM) -> list[Prompt]:
    first, second = _shown(lm, 0), _shown(lm, 1)
    return [lm.prompt(QUESTION, first), lm.prompt(OTHER, second), lm.prompt(OTHER)]


def _plain(lm: VideoLM) -> tuple[Any, Tensor]:
    """The processor's own inputs for a question about the frames, and the text that it was given."""
    from transformers.video_utils import VideoMetadata

    content = [{"type": "video"}, {"type": "text", "text": QUESTION}]
    chat = lm.processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    video = torch.from_numpy(_frames()).permute(0, 3, 1, 2)
    times = VideoMetadata(total_num_frames=len(TIMES), fps=1.0, frames_indices=list(TIMES))
    options: dict[str, Any] = {"do_sample_frames": False, "return_tensors": "pt"}
    if lm.family.axes > 1:
        options["cap_pixels_per_frame"] = True
    if lm.core.config.model_type in ("qwen3_vl", "smolvlm"):
        options["video_metadata"] = [times]
    return lm.processor(text=[chat], videos=[video], **options)


def test_every_family_has_a_tiny_checkpoint() -> None:
    assert {"vlm_rlaif" if name == "llava" else name for name in FAMILIES} == set(zoo.ZOO)
    assert set(FAMILIES) == SUPPORTED
    assert {name for name, family in FAMILIES.items() if family.axes > 1} == SEVERAL_AXES


@torch.no_grad()
def test_a_prompt_is_what_transformers_makes_of_the_same_frames(lm: VideoLM, folder: Path) -> None:
    """The same tokens as the family's own processor, and the same logits as its own forward from pixels."""
    if folder.name in NO_PLAIN_WAY:
        pytest.skip("transformers has no such model")
    plain = _plain(lm)
    prompt = lm.prompt(QUESTION, _shown(lm))
    assert list(prompt.ids) == plain["input_ids"][0].tolist()
    if prompt.positions is not None:  # Behind a long video they are not transformers' own; see below.
        plain["position_ids"] = prompt.positions[:, None]
    expected = lm.core(**{name: value for name, value in plain.items() if name != "video_metadata"}).logits[0, -1]
    answer = lm.response_ids("red")
    hidden = lm.hidden([prompt], [answer])
    found = lm.core.get_output_embeddings()(hidden.before_response[0, 0])
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("apart", [0.1, 5.0])
def test_text_goes_on_behind_all_of_the_video(lm: VideoLM, apart: float) -> None:
    """The video's positions are transformers' own; the text's count on from the largest of them."""
    if lm.family.axes == 1:
        pytest.skip("its positions count up")
    shown = lm.encode(_frames(), [apart * number for number in range(len(TIMES))])
    prompt = lm.prompt(QUESTION, shown)
    ids, place = torch.tensor(prompt.ids), lm.core.config.video_token_id
    merge = lm.core.config.vision_config.spatial_merge_size
    grid = torch.tensor([[len(shown), shown.grid[0] * merge, shown.grid[1] * merge]])
    steps = {"second_per_grid_ts": [2 * apart * 7 / 8]} if lm.core.config.model_type == "qwen2_5_vl" else {}
    kinds = (ids == place)[None].int() * 2
    theirs = lm.core.model.get_rope_index(ids[None], mm_token_type_ids=kinds, video_grid_thw=grid, **steps)[0][:, 0]
    end = int((ids == place).nonzero()[-1]) + 1
    assert prompt.positions is not None
    assert torch.equal(prompt.positions[:, :end], theirs[:, :end])
    first = int(theirs[:, :end].max()) + 1
    assert prompt.positions[:, end:].tolist() == [list(range(first, first + len(ids) - end))] * 3


@torch.no_grad()
def test_kept_tokens_are_those_of_frames_that_are_encoded_now(lm: VideoLM) -> None:
    """Clips that share frames, in small batches of the tower, give each the tokens that it has alone."""
    clips = [[0, 1, 2, 3, 4], [1, 3, 2], [4]]
    kept = encode_clips(lm, _frames(), clips, TIMES, batch_frames=2)
    for number, clip in enumerate(clips):
        alone = encode_clips(lm, _frames(), [clip, list(range(5))], TIMES, batch_frames=64).shown(0)
        shown = kept.shown(number)
        assert shown.seconds == alone.seconds
        assert shown.grid == alone.grid
        assert torch.allclose(shown.tokens, alone.tokens, atol=1e-5)
        one, other = lm.prompt(QUESTION, shown), lm.prompt(QUESTION, alone)
        assert one.ids == other.ids
        assert torch.allclose(one.visual, other.visual, atol=1e-5)


@torch.no_grad()
def test_many_clips_in_one_pass_of_the_tower_are_seen_as_one_alone(lm: VideoLM) -> None:
    """Where the resolution depends on the number of frames, it is the clip's, however many frames go together."""
    frames = np.random.default_rng(2).integers(0, 256, (13, 160, 160, 3), dtype=np.uint8)
    clips, times = [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11], [12]], list(range(13))
    eyes = lm.processor.video_processor if lm.family.axes > 1 else None
    kept = (eyes.size, eyes.max_video_tokens) if eyes else None
    if eyes:
        eyes.size, eyes.max_video_tokens = {"shortest_edge": 4096, "longest_edge": 64 * 1024}, 128
    try:
        together = encode_clips(lm, frames, clips, times, batch_frames=64)
        alone = encode_clips(lm, frames, clips[:1], times, batch_frames=64)
    finally:
        if eyes and kept:
            eyes.size, eyes.max_video_tokens = kept
    assert together.grid == alone.grid
    assert torch.allclose(together.shown(0).tokens, alone.shown(0).tokens, atol=1e-5)


def test_frames_without_pixels_are_refused(lm: VideoLM) -> None:
    with pytest.raises(ValueError, match="have no pixels"):
        lm.encode(np.zeros((2, 0, 8, 3), dtype=np.uint8))


@torch.no_grad()
def test_greedy_answers_do_not_depend_on_the_batch_nor_on_their_number(lm: VideoLM) -> None:
    prompts = _prompts(lm)
    alone = [lm.generate([prompt], GREEDY)[0][0] for prompt in prompts]
    together = lm.generate(prompts, GREEDY)
    several = lm.generate(prompts, GREEDY, n=3)
    for number, answer in enumerate(alone):
        assert together[number][0].ids == answer.ids
        assert {each.ids for each in several[number]} == {answer.ids}


@torch.no_grad()
def test_what_was_sampled_has_the_log_probabilities_of_the_trainer(lm: VideoLM) -> None:
    """Several answers share a prefix in both; the two ways agree to rounding."""
    prompts = _prompts(lm)
    groups = lm.generate(prompts, Sampling(max_new_tokens=5), n=3, seed=4, logprobs=True)
    repeated = [prompt for prompt in prompts for _ in range(3)]
    responses = [answer for group in groups for answer in group]
    found, mask = lm.logprobs(repeated, [answer.ids for answer in responses])
    for row, answer in enumerate(responses):
        assert found[row][mask[row]].tolist() == pytest.approx(answer.logprobs, abs=1e-4)


def _gradients(lm: VideoLM, prompts: list[Prompt]) -> tuple[Tensor, list[Tensor]]:
    answers = [lm.response_ids(text) for text in ANSWERS]
    logprobs, mask = lm.logprobs(prompts, answers)
    weights = torch.arange(1, len(answers) + 1)[:, None] * mask
    found = torch.autograd.grad((logprobs * weights).sum(), list(lm.adapter_parameters("probe").values()))
    return logprobs.detach(), list(found)


def _adapted(lm: VideoLM, scale: float = 0.2) -> VideoLM:
    """The model with a fresh adapter "probe" that is on; `scale` 0: it changes nothing yet."""
    lm.add_adapter("probe", LoraSettings(rank=4, alpha=8), seed=0)
    lm.use("probe")
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in lm.adapter_parameters("probe").values():
            parameter.add_(torch.randn_like(parameter) * scale)
    return lm


def test_answers_that_share_a_prompt_have_the_plain_gradients(folder: Path) -> None:
    own = _adapted(VideoLM.load(str(folder)))
    shown = _shown(own)
    prompt = own.prompt(QUESTION, shown)
    shared = _gradients(own, [prompt] * len(ANSWERS))
    alone = _gradients(own, [own.prompt(QUESTION, shown) for _ in ANSWERS])
    assert torch.allclose(shared[0], alone[0], atol=1e-5)
    for one, other in zip(shared[1], alone[1], strict=True):
        assert torch.allclose(one, other, atol=1e-4, rtol=1e-4)


def test_layers_that_are_computed_again_have_the_plain_gradients(folder: Path) -> None:
    own = _adapted(VideoLM.load(str(folder)))
    prompts = _prompts(own)
    plain = _gradients(own, prompts)
    own.gradient_checkpointing = True
    again = _gradients(own, prompts)
    assert torch.allclose(again[0], plain[0], atol=1e-6)
    for one, other in zip(again[1], plain[1], strict=True):
        assert torch.allclose(one, other, atol=1e-5, rtol=1e-4)


def test_training_changes_the_adapter_alone_and_it_loads_again(folder: Path, tmp_path: Path) -> None:
    """Three steps, both canaries, save, load: the same log-probabilities, and none of the tower's weights moved."""
    own = VideoLM.load(str(folder))
    prompts = _prompts(own)
    answers = [own.response_ids(text) for text in ANSWERS]
    blank = [own.prompt(QUESTION, blank_like(own, _shown(own)))] * 3
    probe = Probe.take(own, prompts, blank, answers, Limits(2))
    before = {name: value.clone() for name, value in own.core.named_parameters()}
    _adapted(own, scale=0.0)
    trainer = Trainer({"probe": own.adapter_parameters("probe")}, {"probe": 1e-2}, max_norm=1.0)
    losses = []
    for _ in range(3):
        logprobs, mask = own.logprobs(prompts, answers)
        loss = -logprobs.sum() / mask.sum()
        trainer.update(loss, "probe", range(3))
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    check_adapter(own, "probe", probe)
    kept = {name.replace("base_layer.", ""): value for name, value in own.core.named_parameters() if "lora" not in name}
    assert all(torch.equal(kept[name], value) for name, value in before.items())
    own.use("probe")
    own.save_adapter("probe", tmp_path / "adapter", base=str(folder))
    again = VideoLM.load(str(folder), adapter=tmp_path / "adapter")
    with torch.no_grad():
        assert torch.allclose(again.logprobs(prompts, answers)[0], own.logprobs(prompts, answers)[0], atol=1e-5)
        own.merge_into_twin("probe")
        merged = own.logprobs(prompts, answers, merged=True)[0]
    assert torch.allclose(merged, own.logprobs(prompts, answers)[0].detach(), atol=1e-4)


@torch.no_grad()
def test_sampling_without_a_copy_draws_from_the_adapter_and_holds_the_weights_once(folder: Path) -> None:
    own = _adapted(VideoLM.load(str(folder)))
    own.sampling_copy = False
    own.merge_into_twin("probe")
    assert own._twin is None
    prompts = _prompts(own)
    groups = own.generate(prompts, Sampling(max_new_tokens=5), n=2, seed=1, logprobs=True, merged=True)
    responses = [answer for group in groups for answer in group]
    found, mask = own.logprobs([each for each in prompts for _ in range(2)], [answer.ids for answer in responses])
    for row, answer in enumerate(responses):
        assert found[row][mask[row]].tolist() == pytest.approx(answer.logprobs, abs=1e-4)


@torch.no_grad()
def test_a_black_video_changes_what_is_said(lm: VideoLM) -> None:
    shown = _shown(lm)
    black = blank_like(lm, shown)
    assert len(black.seconds) == len(shown.seconds)
    answers = [lm.response_ids(ANSWERS[0])]
    seen, unseen = (lm.logprobs([lm.prompt(QUESTION, each)], answers)[0] for each in (shown, black))
    assert float((seen - unseen).abs().max()) > 1e-4


def test_a_text_that_holds_a_place_of_visual_tokens_is_refused(lm: VideoLM) -> None:
    for place in sorted(lm.family.places(lm.core.config)):
        token = lm.tokenizer.convert_ids_to_tokens(place)
        with pytest.raises(ValueError, match="remove it"):
            lm.prompt(f"what is in {token} ?", _shown(lm))


def test_no_place_of_visual_tokens_is_ever_sampled(lm: VideoLM) -> None:
    assert lm.family.places(lm.core.config) <= set(lm.suppressed)
    assert not set(lm.end_ids) & set(lm.suppressed)


def test_a_further_turn_follows_the_template(lm: VideoLM) -> None:
    turn = lm.next_turn_ids("yes .")
    said = lm.tokenizer.decode(turn)
    assert "yes" in said
    assert lm.tokenizer.bos_token not in said
