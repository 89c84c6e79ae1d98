"""Trains the tiny models from nothing: first the base, then the labeler from it.

Stage 1 learns to see and to answer (captions, questions, questions with a narrative). Its end is the base. Stage 2 adds
two text layers and learns to judge (verdicts, yes/no) while it keeps captioning and answering. Its end is the labeler.
About 40 CPU minutes on one core.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from miniature import checkpoint, lessons
from miniature.evaluation import evaluate
from miniature.lessons import FRAMES, Lesson
from miniature.world import QUESTIONS, Question, Scene, render, sample_scene
from models.families.base import square
from models.families.llava import LlavaOnevision
from models.sequences import Footage

BASE_LAYERS, LABELER_LAYERS = 3, 5
SCENES, SCENE_SEED, HELD_OUT_SEED = 4000, 1, 999


FAMILY = LlavaOnevision()


@dataclass(frozen=True)
class Recipe:
    """How long and how fast each stage learns."""

    base_steps: int = 4500
    base_rate: float = 2e-3
    labeler_steps: int = 3200
    labeler_rate: float = 1.5e-3
    easy_steps: int = 700  # single-slot judgements first
    seed: int = 0


@dataclass
class World:
    """Scenes and their frames as the models see them: normalised float16 [N, 16, 3, 32, 32]."""

    scenes: list[Scene]
    pixels: Tensor

    @classmethod
    def make(cls, count: int, seed: int) -> World:
        rng = np.random.default_rng(seed)
        scenes = [sample_scene(rng) for _ in range(count)]
        processor = checkpoint.new_processor()
        pixels = [FAMILY.pixels(processor, render(scene)).half() for scene in scenes]
        return cls(scenes, torch.stack(pixels))


def build(folder: Path, recipe: Recipe, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Train base and labeler, write them to `folder`/base and `folder`/labeler.

    Returns:
        The evaluation of both on held-out scenes, also written to `folder`/build.json.
    """
    torch.set_num_threads(1)
    started = time.process_time()
    world, held_out = World.make(SCENES, SCENE_SEED), World.make(300, HELD_OUT_SEED)
    base = checkpoint.new_model(BASE_LAYERS, recipe.seed)
    _learn(base, world, recipe.base_steps, recipe.base_rate, _SeeingLessons(recipe), held_out, report)
    checkpoint.save(base, folder / "base")
    result: dict[str, Any] = {"recipe": asdict(recipe), "base": evaluate(base, held_out)}
    report(json.dumps(result["base"]))
    labeler = checkpoint.deepen(base, LABELER_LAYERS)
    _learn(labeler, world, recipe.labeler_steps, recipe.labeler_rate, _JudgingLessons(recipe), held_out, report)
    checkpoint.save(labeler, folder / "labeler")
    result["labeler"] = evaluate(labeler, held_out)
    result["cpu_seconds"] = round(time.process_time() - started)
    report(json.dumps(result["labeler"]))
    (folder / "build.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


class _SeeingLessons:
    """Stage 1: clip captions beside one group of questions a step."""

    auxiliary = False
    groups = (
        ("8", False, 0.62),
        ("2", False, 0.06),
        ("4", False, 0.06),
        ("2", True, 0.12),
        ("4", True, 0.07),
        ("8", True, 0.07),
    )

    def __init__(self, recipe: Recipe) -> None:
        self.rng = np.random.default_rng(recipe.seed)

    def __call__(self, world: World, step: int) -> list[tuple[int, Lesson]]:
        batch = []
        for scene in self.rng.integers(len(world.scenes), size=12):
            clip = int(self.rng.integers(2))
            question = Question("clip", clip)
            batch.append((int(scene), lessons.answering(f"clip{clip}", question, question.answer(world.scenes[scene]))))
        # A narrative would give the answers away before seeing has begun.
        groups = self.groups if step > 500 else self.groups[:1]
        weights = np.array([weight for *_, weight in groups])
        for scene in self.rng.integers(len(world.scenes), size=20):
            frames, narrated, _ = groups[self.rng.choice(len(groups), p=weights / weights.sum())]
            batch.append((int(scene), self._question(world.scenes[scene], frames, narrated)))
        return batch

    def _question(self, scene: Scene, frames: str, narrated: bool) -> Lesson:
        question = Question("describe") if self.rng.random() < 0.4 else QUESTIONS[self.rng.integers(len(QUESTIONS) - 1)]
        context = lessons.noisy_narrative(scene, self.rng) if narrated else None
        return lessons.answering(frames, question, question.answer(scene), context)


class _JudgingLessons:
    """Stage 2: judgements on three steps of four, the lessons of stage 1 on the fourth."""

    auxiliary = True

    def __init__(self, recipe: Recipe) -> None:
        self.rng = np.random.default_rng(recipe.seed + 31)
        self.seeing = _SeeingLessons(recipe)
        self.easy_steps = recipe.easy_steps

    def __call__(self, world: World, step: int) -> list[tuple[int, Lesson]]:
        if step % 4 == 0:
            return self.seeing(world, step + 501)
        easy = step < self.easy_steps
        batch = []
        for scene in self.rng.integers(len(world.scenes), size=24):
            context = lessons.noisy_narrative(world.scenes[scene], self.rng) if self.rng.random() < 0.55 else None
            few = "2" if context is not None or not easy else "8"  # two frames hide the actions from easy lessons
            frames = few if self.rng.random() < 0.5 else str(self.rng.choice(("8", "4")))
            batch.append((int(scene), lessons.judging(world.scenes[scene], frames, self.rng, context, easy)))
        return batch


class _Probes(nn.Module):
    """Heads that exist only while judging is learned: what is true at a slot, and is the answer right there."""

    def __init__(self) -> None:
        super().__init__()
        hidden = checkpoint.HIDDEN
        self.truth = nn.Linear(hidden, len(checkpoint.vocabulary()))
        self.right = nn.Sequential(nn.Linear(hidden, 64), nn.GELU(), nn.Linear(64, 1))


def _learn(
    model: Any,
    world: World,
    steps: int,
    rate: float,
    make_batch: _SeeingLessons | _JudgingLessons,
    held_out: World,
    report: Callable[[str], None],
) -> None:
    torch.manual_seed(steps)
    probes = _Probes()
    parameters = [*model.parameters(), *probes.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01, betas=(0.9, 0.98))
    started = time.process_time()
    losses: list[float] = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 100) * (0.1 + 0.9 * (1 - step / steps))
        loss = batch_loss(model.train(), world, make_batch(world, step), probes if make_batch.auxiliary else None)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if (step + 1) % 250 == 0:
            scores = json.dumps(evaluate(model, held_out, count=200))
            cpu = time.process_time() - started
            report(f"step {step + 1}/{steps} loss {np.mean(losses[-250:]):.3f} cpu {cpu:.0f} s {scores}")
    model.eval()


def batch_loss(model: Any, world: World, batch: list[tuple[int, Lesson]], probes: _Probes | None) -> Tensor:
    """Mean cross-entropy of the learned tokens, verdicts and yes/no counted apart, plus the probes' losses."""
    out = _forward(model, world, batch, hidden_states=probes is not None)
    rows, places, targets, sorts = _learned(batch)
    logits = model.lm_head(out.last_hidden_state[rows, places - 1])
    each = nn.functional.cross_entropy(logits, targets, reduction="none")
    loss = torch.stack([each[sorts == sort].mean() for sort in sorts.unique()]).sum()
    if probes is None or not any(lesson.truths for _, lesson in batch):
        return loss
    marks = [
        (row, at, token, lesson.rights[at])
        for row, (_, lesson) in enumerate(batch)
        for at, token in lesson.truths.items()
    ]
    rows, places, truths, rights = (torch.tensor(column) for column in zip(*marks, strict=True))
    guess = model.lm_head(out.last_hidden_state[rows, places - 1])
    carried = probes.truth(_rms(out.hidden_states[-3][rows, places]))
    right = probes.right(_rms(out.hidden_states[-2][rows, places]))[:, 0]
    loss = loss + 0.5 * nn.functional.cross_entropy(guess, truths) + nn.functional.cross_entropy(carried, truths)
    return loss + nn.functional.binary_cross_entropy_with_logits(right, rights.float())


def _forward(model: Any, world: World, batch: list[tuple[int, Lesson]], hidden_states: bool) -> Any:
    longest = max(len(lesson.ids) for _, lesson in batch)
    ids = torch.full((len(batch), longest), checkpoint.PAD)
    mask = torch.zeros_like(ids)
    for row, (_, lesson) in enumerate(batch):
        ids[row, : len(lesson.ids)] = torch.tensor(lesson.ids)
        mask[row, : len(lesson.ids)] = 1
    return model.model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        output_hidden_states=hidden_states,
        use_cache=False,
        **FAMILY.pack(model, visual_tokens(model, world, [(scene, lesson.frames) for scene, lesson in batch])),
    )


def visual_tokens(model: Any, world: World, shown: list[tuple[int, tuple[int, ...]]]) -> list[Tensor]:
    """The tokens [T_i, D] of each (scene, frame numbers), all frames in one pass through the tower."""
    scenes = [scene for scene, frames in shown for _ in frames]
    numbers = [number for _, frames in shown for number in frames]
    encoded = FAMILY.encode_pixels(model, world.pixels[scenes, numbers].float()[None])
    parts = torch.split(encoded, [len(frames) for _, frames in shown])
    return [FAMILY.join(model, Footage(part, square(part.shape[1]), ())) for part in parts]


def _learned(batch: list[tuple[int, Lesson]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    flat = [
        (row, at, token, lesson.verdict.get(at, 0))
        for row, (_, lesson) in enumerate(batch)
        for at, token in lesson.learned.items()
    ]
    rows, places, targets, sorts = (torch.tensor(column) for column in zip(*flat, strict=True))
    return rows, places, targets, sorts


def _rms(hidden: Tensor) -> Tensor:
    return hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + 1e-6)


assert set(FRAMES) >= {group[0] for group in _SeeingLessons.groups}
