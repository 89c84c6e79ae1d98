"""A tiny real checkpoint that has learned one reply by heart: an order of three labelled answers."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import torch

from miniature import checkpoint
from models.sequences import Footage
from models.video_lm import VideoLM

REPLY = "B > A > C"
_WORDS = [*checkpoint.vocabulary(), ">", "C"]


def save_orderly(folder: Path) -> Path:
    """A checkpoint that replies REPLY to whatever it is asked; greedily, and nearly always when drawn."""
    torch.set_num_threads(1)
    with patch.object(checkpoint, "vocabulary", lambda: _WORDS):
        checkpoint.save(checkpoint.new_model(1, seed=0), folder)
    lm = VideoLM.load(str(folder))
    lm.core.requires_grad_(True)
    optimizer = torch.optim.AdamW(lm.core.parameters(), lr=3e-3)
    frames = Footage(torch.zeros(2, 4, lm.hidden_size), (2, 2), (0.0, 1.0))
    prompts = [lm.prompt(text, frames) for text in ("what is it?", "A: it is red. B: it is a square. C: no. better:")]
    for _ in range(40):
        logprobs, mask = lm.logprobs(prompts, [lm.response_ids(REPLY)] * len(prompts))
        loss = -logprobs.sum() / mask.sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    lm.core.save_pretrained(folder)
    return folder
