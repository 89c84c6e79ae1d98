"""Narratives that refine earlier ones: each clip is asked about with the caption that it had."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from labels_by_hand import questions
from small import BASE, base_model, committed, keep_scenes, rows_of, scenes, small_run

from miniature.lessons import FRAMES
from miniature.world import QUESTIONS, render
from models.settings import Sampling
from models.video_lm import VideoLM
from tasks.captions import CaptionsConfig, captions
from tasks.fanout import WorkerPool
from tasks.stage import RunContext, StageResult
from tasks.visual_tokens import VisualTokensConfig, visual_tokens

VIDEOS = scenes(3)
WRONG = "a red square shrinks."


@pytest.fixture(scope="module")
def ctx(pool: WorkerPool, tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    return small_run(pool, tmp_path_factory.mktemp("run") / "lake")


@pytest.fixture(scope="module")
def tokens(ctx: RunContext) -> StageResult:
    return visual_tokens(ctx, VisualTokensConfig(), keep_scenes(ctx.lake, VIDEOS), base_model())


def config(**changes: Any) -> CaptionsConfig:
    prompts = {"refine": "context: {previous} describe the clip.", "question_refine": "context: {previous} {question}"}
    fixed = {"prompt": "describe the clip.", "prompts": prompts, "sampling": {"temperature": 0, "max_new_tokens": 24}}
    return CaptionsConfig.model_validate({**fixed, **changes})


def earlier(ctx: RunContext, items: list[str], key: str, clips: tuple[int, ...] = (0, 1)) -> StageResult:
    """Narratives as a stage wrote them, the last item's quarantined."""
    about = {"item_key": "k", "run": "test", "seed": 0}
    said = [{"clip": clip, "start": 0.0, "end": 1.0, "text": WRONG, "n_tokens": 6} for clip in clips]
    *fine, bad = items
    rows = [
        {"item_id": item, "status": "ok", "video": item, "narrative": WRONG, "clips": said, **about} for item in fine
    ]
    rows.append({"item_id": bad, "status": "quarantined", "reason": "it was cut", **about})
    return committed(ctx.lake.table("captions"), rows, key)


def asked(text: str, video: str, clip: str) -> str:
    lm = VideoLM.load(str(BASE))
    frames = lm.encode(render(VIDEOS[video])[list(FRAMES[clip])])
    ((answer,),) = lm.generate([lm.prompt(text, frames)], Sampling(temperature=0, max_new_tokens=24))
    return answer.text


def test_each_clip_is_asked_about_with_its_own_earlier_caption(ctx: RunContext, tokens: StageResult) -> None:
    plain = captions(ctx, config(), tokens, base_model())
    again = captions(ctx, config(), tokens, base_model(), previous=plain, arm="self_round_2")
    assert (again.ok, again.label, again.key != plain.key) == (3, "captions self_round_2", True)
    was, now = rows_of(ctx.lake, plain), rows_of(ctx.lake, again)
    for video in VIDEOS:
        for number, clip in enumerate(("clip0", "clip1")):
            before = was[video][0]["clips"][number]["text"]
            text = f"context: {before} describe the clip."
            assert now[video][0]["clips"][number]["text"] == asked(text, video, clip)
    assert captions(ctx, config(), tokens, base_model(), previous=plain).cached


def test_an_item_without_an_earlier_narrative_is_quarantined_and_says_why(ctx: RunContext, tokens: StageResult) -> None:
    first, second, third = VIDEOS
    told = rows_of(
        ctx.lake, captions(ctx, config(), tokens, base_model(), previous=earlier(ctx, [first, second], "e0"))
    )
    assert told[first][0]["clips"][0]["text"] == asked(f"context: {WRONG} describe the clip.", first, "clip0")
    assert told[second][0]["reason"] == "there is no earlier narrative to refine: it was cut"
    assert told[third][0]["reason"] == "there is no earlier narrative to refine: it was not captioned"

    lenient, fewer = replace(ctx, max_quarantined=1.0), earlier(ctx, [first, third], "e1", (0,))
    other = rows_of(ctx.lake, captions(lenient, config(), tokens, base_model(), previous=fewer))
    assert other[first][0]["reason"] == "the earlier narrative was written from other clips and lacks clip 1"


def test_with_the_question_in_view_it_is_refined_for_the_question(ctx: RunContext, tokens: StageResult) -> None:
    instructions = questions(ctx.lake, VIDEOS)
    video = next(iter(VIDEOS))
    settings = config(condition_on_question=True, splits=["rl"], frame_set="policy")
    before = earlier(ctx, [f"{video}-0", "another"], "e2", (0,))
    told = rows_of(ctx.lake, captions(ctx, settings, tokens, base_model(), instructions, before))
    assert told[f"{video}-0"][0]["narrative"] == asked(f"context: {WRONG} {QUESTIONS[0].text}", video, "8")


def test_the_refining_prompt_counts_only_where_it_is_asked(ctx: RunContext, tokens: StageResult) -> None:
    other = config(prompts={"refine": "{previous} describe the video."})
    assert config().asked() == other.asked()
    assert config().asked(refines=True) != other.asked(refines=True)
    plain = captions(ctx, config(), tokens, base_model())
    assert captions(ctx, other, tokens, base_model()).key == plain.key
