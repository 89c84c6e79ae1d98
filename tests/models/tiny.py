"""A tiny random checkpoint, and what its tests ask it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from miniature import checkpoint
from models.families import VideoFrames
from models.pairs import Pair
from models.reward_model import RewardModel, RewardPrompt, Scorer
from models.sequences import Prompt
from models.settings import LoraSettings
from models.video_lm import VideoLM

QUESTIONS = (
    "what color is the first shape?",
    "describe the video.",
    "context: a red circle grows. what happens first?",
)
SHOWN = ([0, 1, 2, 3, 4, 5, 6, 7], [2, 5], [0, 2, 4, 6])  # different numbers of frames in one batch
ANSWERS = ("it is red.", "first a red circle grows. then a blue cross moves left.", "a red circle grows.")
BASE = "/the/base/of/these/tests"  # a folder: PEFT would look a bare name up in the Hub
LORA = LoraSettings(rank=4, alpha=8)
COLORS = ("red", "green", "blue", "yellow")
SHAPES = ("circle", "square", "triangle", "cross")
AnyPrompt = TypeVar("AnyPrompt", bound=Prompt)


def save_random(folder: Path) -> Path:
    """A checkpoint whose weights are far enough from uniform that every input matters."""
    torch.set_num_threads(1)
    model = checkpoint.new_model(3, seed=0)
    shake(model.parameters(), seed=1, scale=0.05)
    checkpoint.save(model, folder)
    return folder


def adapt(lm: VideoLM) -> VideoLM:
    """The model with an adapter "policy", on, that changes its answers."""
    lm.add_adapter("policy", LORA, seed=0)
    lm.use("policy")
    shake(lm.adapter_parameters("policy").values(), seed=2, scale=0.2)
    return lm


def shake(parameters: Iterable[Tensor], seed: int, scale: float) -> None:
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn_like(parameter) * scale)


def random_frames(count: int = 8, seed: int = 0) -> VideoFrames:
    return np.random.default_rng(seed).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)


def prompts_of(lm: VideoLM, frames: VideoFrames | None = None) -> list[Prompt]:
    tokens = lm.encode(random_frames() if frames is None else frames)
    return [lm.prompt(text, tokens[shown]) for text, shown in zip(QUESTIONS, SHOWN, strict=True)]


def read_by(reward: RewardModel, narrative: str | None = None) -> list[RewardPrompt]:
    """The same questions as a reward model reads them."""
    tokens = reward.lm.encode(random_frames())
    return [reward.prompt(text, tokens[shown], narrative) for text, shown in zip(QUESTIONS, SHOWN, strict=True)]


def scorer_of(reward: RewardModel, policy: VideoLM | None = None) -> Scorer:
    return Scorer(reward, read_by(reward), policy or reward.lm)


def growing_pairs(lm: VideoLM, shapes: tuple[str, ...] = SHAPES, seed: int = 0) -> list[Pair[Prompt]]:
    """Growing is better than shrinking, whatever the colour and shape; both answers are of one length."""
    return _growing(lm, lm.prompt("what happens first?", lm.encode(random_frames(2, seed))), shapes)


def reward_pairs(reward: RewardModel, shapes: tuple[str, ...] = SHAPES, seed: int = 0) -> list[Pair[RewardPrompt]]:
    """The same for a reward model."""
    lm = reward.lm
    return _growing(lm, reward.prompt("what happens first?", lm.encode(random_frames(2, seed)), None), shapes)


def _growing(lm: VideoLM, prompt: AnyPrompt, shapes: tuple[str, ...]) -> list[Pair[AnyPrompt]]:
    return [
        Pair(prompt, *(lm.response_ids(f"a {color} {shape} {action}.") for action in ("grows", "shrinks")))
        for color in COLORS
        for shape in shapes
    ]


def logprobs_of(lm: VideoLM, prompts: Sequence[Prompt] | None = None, *, merged: bool = False) -> Tensor:
    answers = [lm.response_ids(answer) for answer in ANSWERS]
    return lm.logprobs(prompts_of(lm) if prompts is None else prompts, answers, merged=merged)[0]
