"""How well a tiny model sees, captions and judges on scenes it never saw."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from miniature import checkpoint, lessons
from miniature.world import QUESTIONS, Question
from models.slots import exact

if TYPE_CHECKING:
    from miniature.build import World


def evaluate(model: Any, world: World, count: int = 1000) -> dict[str, float]:
    """Slot and exact accuracy of greedy answers, of clip captions, and of verdicts with and without a narrative.

    Args:
        model: base or labeler.
        world: held-out scenes.
        count: questions asked; captions and verdicts take half as many each.
    """
    model.eval()
    rng = np.random.default_rng(5)
    scores: dict[str, float] = {}
    asked = [(int(rng.integers(len(world.scenes))), QUESTIONS[rng.integers(len(QUESTIONS))]) for _ in range(count)]
    scores["slot"], scores["exact"] = _answers(model, world, asked, "8")
    for kind in ("color", "shape", "action", "describe"):
        of_kind = [(scene, question) for scene, question in asked if question.kind == kind]
        scores[f"{kind}_slot"] = _answers(model, world, of_kind, "8")[0]
    clips = [(int(rng.integers(len(world.scenes))), Question("clip", i % 2)) for i in range(count // 2)]
    scores["caption_slot"] = float(np.mean([_answers(model, world, clips[k::2], f"clip{k}")[0] for k in (0, 1)]))
    scores["verdict_2_context"] = _verdicts(model, world, count // 2, "2", narrated=True)
    scores["verdict_2"] = _verdicts(model, world, count // 2, "2", narrated=False)
    return {name: round(value, 3) for name, value in scores.items()}


@torch.no_grad()
def _answers(model: Any, world: World, asked: list[tuple[int, Question]], frames: str) -> tuple[float, float]:
    from miniature.build import FAMILY, visual_tokens

    slot, right = [], []
    asked = sorted(asked, key=lambda item: len(item[1].text.split()))
    for start in range(0, len(asked), 50):
        part = asked[start : start + 50]
        prompts = []
        for _, question in part:
            lesson = lessons.opening(frames)
            lesson.ask(question.text)
            prompts.append(lesson.ids)
        ids, mask = _left_pad(prompts)
        shown = visual_tokens(model, world, [(scene, lessons.FRAMES[frames]) for scene, _ in part])
        out = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, **FAMILY.pack(model, shown))
        out = out[:, ids.shape[1] :]
        for (scene, question), row in zip(part, out.tolist(), strict=True):
            said = " ".join(checkpoint.vocabulary()[i] for i in row if i not in (checkpoint.PAD, checkpoint.EOS))
            truth = question.answer(world.scenes[scene])
            slot.append(lessons.SLOTS.score(truth, said))
            right.append(exact(truth, said))
    return float(np.mean(slot)), float(np.mean(right))


@torch.no_grad()
def _verdicts(model: Any, world: World, count: int, frames: str, narrated: bool) -> float:
    """Share of verdict letters that are right, single order, hard (not only single-slot) questions."""
    from miniature.build import FAMILY, visual_tokens

    rng = np.random.default_rng(6)
    batch: list[tuple[int, list[int], int]] = []
    while len(batch) < count:
        scene = int(rng.integers(len(world.scenes)))
        context = lessons.noisy_narrative(world.scenes[scene], rng) if narrated else None
        lesson = lessons.judging(world.scenes[scene], frames, rng, context, easy=False)
        first = min(lesson.verdict)
        if lesson.verdict[first] == 1:
            batch.append((scene, lesson.ids[:first], lesson.ids[first]))
    letters = [checkpoint.vocabulary().index("A"), checkpoint.vocabulary().index("B")]
    right = 0
    for start in range(0, count, 50):
        part = batch[start : start + 50]
        ids, mask = _left_pad([prompt for _, prompt, _ in part])
        shown = visual_tokens(model, world, [(scene, lessons.FRAMES[frames]) for scene, *_ in part])
        places = (mask.cumsum(1) - 1).clamp(min=0)
        out = model(input_ids=ids, attention_mask=mask, position_ids=places, **FAMILY.pack(model, shown))
        chosen = out.logits[:, -1, letters].argmax(1)
        right += sum(letters[int(c)] == letter for c, (*_, letter) in zip(chosen, part, strict=True))
    return right / count


def _left_pad(prompts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), checkpoint.PAD)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    return ids, mask
