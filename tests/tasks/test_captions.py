"""Clips to captions to narratives, through the shipped tiny model on rendered scenes."""

from __future__ import annotations

import itertools
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from small import BASE, base_model, committed, keep_scenes, other_lake, rows_of, scenes, small_run

from miniature.dataset import encode
from miniature.lessons import FRAMES, SLOTS
from miniature.world import Question, render
from models.sequences import Response
from models.settings import Sampling
from models.video_lm import VideoLM
from tasks.captions import CaptionClips, CaptionsConfig, CaptionSettings, captions, without_controls
from tasks.fanout import Outcome, WorkerPool
from tasks.frames import FramesConfig, frames
from tasks.model_ref import ModelRef
from tasks.narratives import Narratives
from tasks.stage import RunContext, StageResult
from tasks.videos import VideosConfig, videos
from tasks.visual_tokens import VisualTokensConfig, visual_tokens

PROMPT = "describe the clip."
LABELER = BASE.parent / "labeler"
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
    ctx: RunContext,
    tokens: StageResult,
    items: list[dict[str, Any]] | None = None,
    model: ModelRef | None = None,
    **changes: Any,
) -> list[Outcome]:
    """The captions of all videos, made in this process."""
    windows = [{"clip": 0, "start": 0.0, "end": 1.0}, {"clip": 1, "start": 1.0, "end": 2.0}]
    items = items or [{"item_id": video, "video": video, "question": None, "clips": windows} for video in VIDEOS]
    return CaptionClips(CaptionSettings(ctx.lake_root, tokens.ref, model or base_model(), _config(**changes))).process(
        items, 0
    )


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


def test_sampled_captions_of_one_seed_do_not_serve_another(ctx: RunContext, tokens: StageResult) -> None:
    config = _config(sampling=Sampling(temperature=1.0, max_new_tokens=24))
    first = captions(ctx, config, tokens, base_model())
    second = captions(replace(ctx, seed=1), config, tokens, base_model())
    assert (first.items, second.cached, second.reused) == (4, False, 0)


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


def _told(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    assert all(outcome.rows for outcome in outcomes), outcomes
    return [row for outcome in outcomes for row in outcome.rows or []]


def _ask(lm: VideoLM, text: str, frames: Any = None) -> str:
    ((answer,),) = lm.generate([lm.prompt(text, frames)], Sampling(temperature=0, max_new_tokens=24))
    return answer.text


def test_a_dependent_caption_is_asked_for_with_the_caption_before_it(ctx: RunContext, tokens: StageResult) -> None:
    prompts = {"next": "context: {previous} " + PROMPT}
    alone = _told(_here(ctx, tokens))
    told = _told(_here(ctx, tokens, mode="dependent", prompts=prompts))
    lm = VideoLM.load(str(BASE))
    for row, independent in zip(told, alone, strict=True):
        first, second = (clip["text"] for clip in row["clips"])
        assert first == independent["clips"][0]["text"]
        shown = lm.encode(render(VIDEOS[row["video"]])[list(FRAMES["clip1"])])
        assert second == _ask(lm, f"context: {first} {PROMPT}", shown)
        assert row["narrative"] == f"{first} {second}"
    assert [row["clips"][1]["text"] for row in told] != [row["clips"][1]["text"] for row in alone]
    assert told == _told(_here(ctx, tokens, mode="dependent", prompts=prompts, batch_size=1))


def test_a_summary_is_made_of_the_captions_alone_and_stands_beside_them(ctx: RunContext, tmp_path: Path) -> None:
    ctx, model = other_lake(ctx, tmp_path / "lake"), ModelRef.of(str(LABELER))
    tokens = visual_tokens(ctx, VisualTokensConfig(), keep_scenes(ctx.lake, VIDEOS), model)
    alone = _told(_here(ctx, tokens, model=model))
    prompts = {"summary": "context: {captions} describe the video."}
    outcomes = _here(ctx, tokens, model=model, aggregate="summarise", prompts=prompts)
    lm = VideoLM.load(str(LABELER))
    for outcome, plain in zip(outcomes, alone, strict=True):
        prompt = lm.prompt(f"context: {plain['narrative']} describe the video.")
        ((summary,),) = lm.generate([prompt], Sampling(temperature=0, max_new_tokens=24))
        if not summary.finished:
            assert "the summary of its captions was cut at 24 tokens; raise captions" in str(outcome.reason)
            continue
        assert outcome.rows == [{**plain, "narrative": summary.text, "summary_tokens": len(summary.ids)}]
        assert (plain["narrative"], plain["summary_tokens"]) != (summary.text, len(summary.ids))
    assert any(outcome.rows for outcome in outcomes)


def test_the_times_of_the_clips_are_written_on_demand(ctx: RunContext, tokens: StageResult) -> None:
    for row in _told(_here(ctx, tokens, timestamps=True, separator="\n")):
        first, second = (clip["text"] for clip in row["clips"])
        assert row["narrative"] == f"[0.0-1.0 s] {first}\n[1.0-2.0 s] {second}"


def _asked(ctx: RunContext, questions: dict[str, tuple[str, str]]) -> StageResult:
    """Instructions by id ("split/number") with video and question."""
    rows = [
        {
            "item_id": name,
            "status": "ok",
            "item_key": name,
            "run": "test",
            "seed": 0,
            "video": video,
            "question": question,
            "split": name.partition("/")[0],
        }
        for name, (video, question) in questions.items()
    ]
    return committed(ctx.lake.table("instructions"), rows, f"questions{len(rows)}")


def test_a_narrative_for_each_question_belongs_to_its_instruction(ctx: RunContext, tokens: StageResult) -> None:
    one, two, *_ = VIDEOS
    questions = {
        "rl/0": (one, "what color is the first shape?"),
        "rl/1": (one, "what does the first shape do?"),
        "benchmark/0": (two, "what is the first shape?"),
        "sft/0": (two, "what is the first shape?"),
        "rl/gone": ("gone.mp4", "what is the first shape?"),
    }
    asked = _asked(ctx, questions)
    config = _config(condition_on_question=True, prompts={"question": "{question}"})
    result = captions(ctx, config, tokens, base_model(), asked)
    rows = {name: row for name, (row,) in rows_of(ctx.lake, result).items()}
    assert sorted(rows) == ["benchmark/0", "rl/0", "rl/1", "rl/gone"]
    assert "gone.mp4 has no visual tokens" in rows.pop("rl/gone")["reason"]
    lm = VideoLM.load(str(BASE))
    for name, row in rows.items():
        video, question = questions[name]
        assert (row["instruction"], row["video"], row["question"]) == (name, video, question)
        shown = [lm.encode(render(VIDEOS[video])[list(FRAMES[clip])]) for clip in ("clip0", "clip1")]
        assert row["narrative"] == " ".join(_ask(lm, question, clip) for clip in shown)
    assert rows["rl/0"]["narrative"] != rows["rl/1"]["narrative"]
    told = Narratives(ctx.lake, result.ref)
    assert told.of("rl/1", one) == (rows["rl/1"]["narrative"], None)
    assert told.of("rl/9", one) == (None, "was not captioned")
    assert "gone.mp4 has no visual tokens" in str(told.of("rl/gone", "gone.mp4")[1])


def test_question_and_caption_before_are_asked_about_together(ctx: RunContext, tokens: StageResult) -> None:
    video = next(iter(VIDEOS))
    item = {"item_id": "rl/0", "video": video, "question": "what happens second?"}
    item["clips"] = [{"clip": 0, "start": 0.0, "end": 1.0}, {"clip": 1, "start": 1.0, "end": 2.0}]  # type: ignore[assignment]
    prompts = {
        "question": "{question}",
        "question_next": "context: {previous} {question}",
        "question_summary": "context: {captions} {question}",
    }
    (row,) = _told(
        _here(ctx, tokens, [item], mode="dependent", condition_on_question=True, aggregate="summarise", prompts=prompts)
    )
    first, second = (clip["text"] for clip in row["clips"])
    lm = VideoLM.load(str(BASE))
    shown = [lm.encode(render(VIDEOS[video])[list(FRAMES[clip])]) for clip in ("clip0", "clip1")]
    assert first == _ask(lm, "what happens second?", shown[0])
    assert second == _ask(lm, f"context: {first} what happens second?", shown[1])
    assert row["narrative"] == _ask(lm, f"context: {first} {second} what happens second?")


def test_questions_in_view_need_instructions_and_splits_that_hold_some(ctx: RunContext, tokens: StageResult) -> None:
    with pytest.raises(ValueError, match="needs the instructions"):
        captions(ctx, _config(condition_on_question=True), tokens, base_model())
    asked = _asked(ctx, {"rl/0": (next(iter(VIDEOS)), "what is the first shape?")})
    with pytest.raises(ValueError, match=r"captions\.splits: 'benchmark' holds no usable instruction.* do: rl\."):
        captions(ctx, _config(condition_on_question=True), tokens, base_model(), asked)


def test_narratives_that_are_all_quarantined_say_why(ctx: RunContext, tmp_path: Path) -> None:
    ctx = other_lake(ctx, tmp_path / "lake")
    fault = {
        "item_id": "a.mp4",
        "status": "quarantined",
        "reason": "was cut",
        "item_key": "k",
        "run": "test",
        "seed": 0,
    }
    result = committed(ctx.lake.table("captions"), [fault], "c0")
    assert Narratives(ctx.lake, result.ref).of("rl/0", "a.mp4") == (None, "was cut")
    assert Narratives(ctx.lake, None).of("rl/0", "a.mp4") == (None, "was not captioned")


def _says(ctx: RunContext, tokens: StageResult, said: Callable[[int, str], str], **changes: Any) -> list[Outcome]:
    """The captions of all videos where the real model's n-th reply is put into other words."""
    clips = CaptionClips(CaptionSettings(ctx.lake_root, tokens.ref, base_model(), _config(batch_size=1, **changes)))
    real, count = clips._lm.generate, itertools.count()

    def generate(*arguments: Any, **options: Any) -> list[list[Response]]:
        return [[replace(each, text=said(next(count), each.text))] for (each,) in real(*arguments, **options)]

    clips._lm.generate = generate  # type: ignore[method-assign]
    windows = [{"clip": 0, "start": 0.0, "end": 1.0}, {"clip": 1, "start": 1.0, "end": 2.0}]
    items = [{"item_id": video, "video": video, "question": None, "clips": windows} for video in VIDEOS]
    return clips.process(items, 0)


def test_control_characters_are_removed_and_the_row_says_so(ctx: RunContext, tokens: StageResult) -> None:
    plain = _told(_here(ctx, tokens))
    outcomes = _says(ctx, tokens, lambda number, text: f"\x1b[31m{text}\x00\n\ttwo\r\x85" if number == 0 else text)
    assert outcomes[0].reason == "4 control characters were removed from its captions"
    assert _told(outcomes)[0]["clips"][0]["text"] == f"[31m{plain[0]['clips'][0]['text']}\n\ttwo"
    assert [outcome.reason for outcome in outcomes[1:]] == [None] * 3
    assert _told(outcomes)[1:] == plain[1:]


def test_an_empty_caption_and_one_with_the_placeholder_cost_their_own_video_alone(
    ctx: RunContext, tokens: StageResult
) -> None:
    plain = _told(_here(ctx, tokens))
    empty = _says(ctx, tokens, lambda number, text: "\x00 " if number == 1 else text)
    assert [outcome.reason for outcome in empty] == [
        "the caption of clip 1 is empty; change captions.prompt or captions.sampling",
        None,
        None,
        None,
    ]
    assert _told(empty[1:]) == plain[1:]
    asked = {"mode": "dependent", "prompts": {"next": "context: {previous} " + PROMPT}}
    shown = _says(ctx, tokens, lambda number, text: f"a <video>. {text}" if number == 1 else text, **asked)
    assert shown[1].rows is None
    assert "holds the video placeholder '<video>'" in str(shown[1].reason)
    assert all(outcome.rows for number, outcome in enumerate(shown) if number != 1)


@given(text=st.text())
def test_cleaning_removes_controls_and_nothing_else(text: str) -> None:
    kept = without_controls(text)
    assert without_controls(kept) == kept
    assert not [each for each in kept if unicodedata.category(each) in ("Cc", "Cs") and each not in "\n\t"]
    assert [each for each in text if each.isprintable() or each in "\n\t"] == [
        each for each in kept if each.isprintable() or each in "\n\t"
    ]
    kept.encode()


def test_a_prompt_counts_only_where_it_is_asked() -> None:
    plain = CaptionsConfig()
    assert plain.asked() == {"clip": plain.prompt}
    reworded = CaptionsConfig.model_validate({"prompts": {"next": "{previous}"}, "splits": ["rl"], "max_frames": 3})
    assert (reworded.asked(), reworded.decisive()) == (plain.asked(), plain.decisive())
    both = CaptionsConfig(mode="dependent", aggregate="summarise", condition_on_question=True)
    prompts = both.prompts
    assert list(both.asked().values()) == [prompts.question, prompts.question_next, prompts.question_summary]
    assert "splits" not in both.decisive(), "which items there are is no part of one"


@pytest.mark.parametrize("prompts", [{"next": "go on"}, {"summary": "{captions} {question}"}, {"question": "{}"}])
def test_a_prompt_with_other_placeholders_is_refused(prompts: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="needs the placeholders"):
        CaptionsConfig.model_validate({"prompts": prompts})


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
