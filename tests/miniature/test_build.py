"""The command that makes the shipped weights again: a few steps of it, from nothing to two checkpoints."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

import miniature
from miniature import build, checkpoint, lessons
from miniature.build import Recipe, World
from miniature.evaluation import evaluate
from miniature.lessons import FRAMES
from miniature.world import Question, render
from models.video_lm import VideoLM

PACKAGE = Path(miniature.__file__).parent
SHIPPED = PACKAGE / "weights"


@pytest.fixture(scope="module")
def world() -> World:
    torch.set_num_threads(1)
    return World.make(24, seed=5)


def test_a_world_holds_the_frames_as_the_processor_gives_them(world: World) -> None:
    assert world.pixels.shape == (24, 16, 3, checkpoint.MODEL_SIZE, checkpoint.MODEL_SIZE)
    processor = checkpoint.new_processor()
    video = [torch.from_numpy(frame).permute(2, 0, 1) for frame in render(world.scenes[3])]
    expected = processor.video_processor(videos=[video], return_tensors="pt")["pixel_values_videos"][0]
    assert torch.allclose(world.pixels[3].float(), expected, atol=2e-3)
    assert World.make(24, seed=5).scenes == world.scenes != World.make(24, seed=6).scenes


@torch.no_grad()
def test_lessons_see_the_tokens_that_the_product_sees(world: World) -> None:
    model, processor = checkpoint.new_model(1, seed=0).eval(), checkpoint.new_processor()
    shown = [(3, FRAMES["8"]), (7, FRAMES["2"]), (3, FRAMES["clip1"])]
    for (scene, frames), tokens in zip(shown, build.visual_tokens(model, world, shown), strict=True):
        kept = VideoLM(model, processor).encode(render(world.scenes[scene]))
        assert torch.allclose(tokens, build.FAMILY.join(model, kept[frames]), atol=1e-2)  # kept as float16


@pytest.mark.parametrize("step", [1, 600])
def test_the_seeing_loss_falls(world: World, step: int) -> None:
    model, make = checkpoint.new_model(2, seed=0), build._SeeingLessons(Recipe())
    _falls(model, world, make(world, step)[::3], None)


@pytest.mark.parametrize("step", [1, 701])
def test_the_judging_loss_falls_with_its_probes(world: World, step: int) -> None:
    make = build._JudgingLessons(Recipe())
    batch = make(world, step)[:8]
    assert any(lesson.truths for _, lesson in batch)
    _falls(checkpoint.deepen(checkpoint.new_model(2, seed=0), 4), world, batch, build._Probes())


def test_a_judging_batch_of_seeing_lessons_needs_no_marks(world: World) -> None:
    batch = build._JudgingLessons(Recipe())(world, 4)
    assert not any(lesson.truths for _, lesson in batch)
    with torch.no_grad():
        model, probes = checkpoint.new_model(2, seed=0), build._Probes()
        assert build.batch_loss(model, world, batch, probes) == build.batch_loss(model, world, batch, None)


def _falls(model: Any, world: World, batch: list[tuple[int, lessons.Lesson]], probes: build._Probes | None) -> None:
    """A few steps on one batch: a wrong target, mask or place would leave the loss where it was."""
    parameters = [*model.parameters(), *([] if probes is None else probes.parameters())]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3)
    losses = []
    for _ in range(8):
        loss = build.batch_loss(model, world, batch, probes)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.7 * losses[0]


@torch.no_grad()
def test_the_loss_is_the_cross_entropy_of_what_is_to_be_learned(world: World) -> None:
    """Against the checkpoint's own forward on one unpadded lesson."""
    model = checkpoint.new_model(2, seed=0).eval()
    question = Question("describe")
    lesson = lessons.answering("4", question, question.answer(world.scenes[2]))
    longer = lessons.answering("8", Question("shape"), "it is a cross.")
    pixels = world.pixels[2, list(lesson.frames)].float()[None]
    logits = model(input_ids=torch.tensor([lesson.ids]), pixel_values_videos=pixels).logits[0].log_softmax(-1)
    each = [-logits[at - 1, token] for at, token in lesson.learned.items()]
    assert build.batch_loss(model, world, [(2, lesson)], None).item() == pytest.approx(
        float(torch.stack(each).mean()), abs=1e-4
    )
    # Beside a longer one it counts the same: the mean is over all learned tokens, padding is not among them.
    both = build.batch_loss(model, world, [(2, lesson), (5, longer)], None)
    other = build.batch_loss(model, world, [(5, longer)], None)
    counts = len(lesson.learned), len(longer.learned)
    expected = (counts[0] * torch.stack(each).mean() + counts[1] * other) / sum(counts)
    assert both.item() == pytest.approx(float(expected), abs=1e-4)


def test_the_shipped_base_scores_as_its_record_says() -> None:
    model = AutoModelForImageTextToText.from_pretrained(SHIPPED / "base")
    recorded = json.loads((SHIPPED / "build.json").read_text())["base"]
    scores = evaluate(model, World.make(40, seed=8), count=80)
    assert scores.keys() == recorded.keys()
    for name in ("slot", "color_slot", "shape_slot", "describe_slot", "caption_slot"):
        assert scores[name] == pytest.approx(recorded[name], abs=0.08), name


def test_a_short_build_writes_two_checkpoints_and_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "SCENES", 16)
    monkeypatch.setattr(build, "evaluate", partial(evaluate, count=24))
    said: list[str] = []
    result = build.build(tmp_path, Recipe(base_steps=2, labeler_steps=2, seed=3), said.append)
    assert json.loads((tmp_path / "build.json").read_text()) == result
    assert result["recipe"]["labeler_steps"] == 2
    assert said == [json.dumps(result["base"]), json.dumps(result["labeler"])]
    for name, layers in (("base", build.BASE_LAYERS), ("labeler", build.LABELER_LAYERS)):
        assert VideoLM.load(str(tmp_path / name)).core.config.text_config.num_hidden_layers == layers


def test_the_command_says_what_it_can_do() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "miniature", "--help"],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "build" in done.stdout
    assert "render" in done.stdout
    assert "Train base and labeler" in done.stdout
