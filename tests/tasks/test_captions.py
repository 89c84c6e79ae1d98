"""Clips to captions to narratives, through the shipped tiny model on rendered scenes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from small import BASE, base_model, keep_scenes, other_lake, rows_of, scenes, small_run

from miniature.dataset import encode
from miniature.lessons import FRAMES, SLOTS
from miniature.world import Question, render
from models.settings import Sampling
from models.video_lm import VideoLM
from tasks.captions import CaptionClips, CaptionsConfig, CaptionSettings, captions
from tasks.fanout import Outcome, WorkerPool
from tasks.frames import FramesConfig, frames
from tasks.stage import RunContext, StageResult
from tasks.videos import VideosConfig, videos
from tasks.visual_tokens import VisualTokensConfig, visual_tokens

PROMPT = "describe the clip."
VIDEOS = scenes(4)


@pytest.fixture(scope="module")
def ctx(pool: WorkerPool, tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    return small_run(pool, tmp_path_factory.mktemp("run") / "lake")


def _config(**changes: Any) -> CaptionsConfig:
    sampling = {"temperature": 0.0, "max_new_tokens": 24}
    return CaptionsConfig.model_validate({"prompt": PROMPT, "sampling": sampling, "shard_size": 3, **changes})


@pytest.fixture(scope="module")
def tokens(ctx: RunContext) -> StageResult:
    return visual_tokens(ctx, VisualTokensConfig(), keep_scenes(ctx.lake, VIDEOS), base_model())


def _here(
    ctx: RunContext, tokens: StageResult, items: list[dict[str, Any]] | None = None, **changes: Any
) -> list[Outcome]:
    """The captions of all videos, made in this process."""
    windows = [{"clip": 0, "start": 0.0, "end": 1.0}, {"clip": 1, "start": 1.0, "end": 2.0}]
    items = items or [{"item_id": video, "video": video, "question": None, "clips": windows} for video in VIDEOS]
    return CaptionClips(CaptionSettings(ctx.lake_root, tokens.ref, base_model(), _config(**changes))).process(items, 0)


def test_a_narrative_is_the_captions_of_the_clips_in_order(ctx: RunContext, tokens: StageResult) -> None:
    result = captions(ctx, _config(separator=" / "), tokens, base_model())
    assert (result.items, result.ok) == (4, 4)
    lm = VideoLM.load(str(BASE))
    for video, (row,) in rows_of(ctx.lake, result).items():
        shown = render(VIDEOS[video])
        prompts = [lm.prompt(PROMPT, lm.encode(shown[list(FRAMES[clip])])) for clip in ("clip0", "clip1")]
        said = [answer for (answer,) in lm.generate(prompts, Sampling(temperature=0, max_new_tokens=24))]
        assert row["narrative"] == " / ".join(answer.text for answer in said)
        assert row["clips"] == [
            {"clip": n, "start": float(n), "end": n + 1.0, "text": answer.text, "n_tokens": len(answer.ids)}
            for n, answer in enumerate(said)
        ]


def test_from_an_mp4_to_its_narrative(ctx: RunContext, tmp_path: Path) -> None:
    ctx = other_lake(ctx, tmp_path / "lake")
    for video, scene in VIDEOS.items():
        (tmp_path / video).parent.mkdir(exist_ok=True)
        encode(render(scene), tmp_path / video)
    sets = ({"name": "clips", "n": 4, "clips": 2},)
    config = FramesConfig.model_validate({"sets": sets, "image_format": "png"})
    source = VideosConfig(folder=str(tmp_path / "scenes"))
    kept = frames(ctx, config, videos(ctx, source), source)
    seen = visual_tokens(ctx, VisualTokensConfig(), kept, base_model())
    told = rows_of(ctx.lake, captions(ctx, _config(), seen, base_model()))
    truths = {video: [Question("clip", n).answer(scene) for n in (0, 1)] for video, scene in VIDEOS.items()}
    scores = [
        SLOTS.score(truth, clip["text"])
        for video, both in truths.items()
        for truth, clip in zip(both, told[video.removeprefix("scenes/")][0]["clips"], strict=True)
    ]
    assert sum(scores) / len(scores) > 0.8
    assert [clip["start"] for clip in told["00.mp4"][0]["clips"]] == [0.0, 1.0]


def test_each_caption_tells_what_its_own_clip_shows(ctx: RunContext, tokens: StageResult) -> None:
    right, swapped = [], []
    for outcome in _here(ctx, tokens):
        assert outcome.rows is not None
        texts = [clip["text"] for clip in outcome.rows[0]["clips"]]
        truths = [Question("clip", n).answer(VIDEOS[outcome.item_id]) for n in (0, 1)]
        right += [SLOTS.score(truth, text) for truth, text in zip(truths, texts, strict=True)]
        swapped += [SLOTS.score(truth, text) for truth, text in zip(truths, reversed(texts), strict=True)]
    assert sum(right) / len(right) > 0.8
    assert sum(swapped) / len(swapped) < 0.6


def test_the_batch_does_not_change_a_caption(ctx: RunContext, tokens: StageResult) -> None:
    together = _here(ctx, tokens, batch_size=16)
    assert together == _here(ctx, tokens, batch_size=1)
    assert together == _here(ctx, tokens, batch_size=3)


def test_a_video_with_a_cut_caption_is_quarantined_by_the_setting_to_raise(
    ctx: RunContext,
    tokens: StageResult,
) -> None:
    for outcome in _here(ctx, tokens, sampling={"temperature": 0.0, "max_new_tokens": 3}):
        assert outcome.rows is None
        assert outcome.reason == "the caption of clip 0 was cut at 3 tokens; raise captions.sampling.max_new_tokens"


def test_a_set_that_was_not_sampled_and_a_video_without_tokens_are_named(
    ctx: RunContext,
    tokens: StageResult,
) -> None:
    (outcome, *_) = _here(ctx, tokens, frame_set="clip")
    assert outcome.reason == "Frame set 'clip' was not sampled; known: clips, judge_2, policy. Add it to frames.sets."
    (outcome,) = _here(ctx, tokens, [{"item_id": "x", "video": "gone.mp4", "question": None, "clips": []}])
    assert outcome.reason is not None
    assert "gone.mp4 has no visual tokens" in outcome.reason


def test_another_prompt_is_another_version_and_greedy_captions_serve_every_seed(
    ctx: RunContext,
    tokens: StageResult,
) -> None:
    first = captions(ctx, _config(), tokens, base_model())
    other_seed = replace(ctx, seed=1)
    assert captions(other_seed, _config(), tokens, base_model()).cached
    other_prompt = captions(ctx, _config(prompt="describe the video."), tokens, base_model())
    assert other_prompt.key != first.key
    assert len(rows_of(ctx.lake, first)) == len(rows_of(ctx.lake, other_prompt)) == 4


def test_a_new_video_is_captioned_and_the_known_ones_are_kept(ctx: RunContext, tmp_path: Path) -> None:
    ctx = other_lake(ctx, tmp_path / "lake")
    few, more = dict(list(VIDEOS.items())[1:]), VIDEOS
    config = VisualTokensConfig()
    first = captions(ctx, _config(), visual_tokens(ctx, config, keep_scenes(ctx.lake, few), base_model()), base_model())
    tokens = visual_tokens(ctx, config, keep_scenes(ctx.lake, more, key="fedcba9876543210"), base_model())
    second = captions(ctx, _config(), tokens, base_model())
    assert (tokens.reused, second.reused, second.ok) == (3, 3, 4)
    old, new = rows_of(ctx.lake, first), rows_of(ctx.lake, second)
    assert all(new[video][0]["narrative"] == old[video][0]["narrative"] for video in few)


def test_the_default_is_the_papers_prompt() -> None:
    assert CaptionsConfig().prompt == "Describe this video in detail"


def test_a_misspelt_setting_is_refused() -> None:
    with pytest.raises(ValidationError, match="max_tokens"):
        CaptionsConfig.model_validate({"sampling": {"max_tokens": 5}})
    with pytest.raises(ValidationError, match="frameset"):
        CaptionsConfig.model_validate({"frameset": "clips"})


@pytest.mark.parametrize("module", ["tasks.captions", "tasks.candidates", "tasks.visual_tokens", "tasks.instructions"])
def test_importing_a_stage_does_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
