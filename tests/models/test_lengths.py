"""How long prompts will be, of every family, against the prompts themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zoo

from models.lengths import Lengths
from models.sequences import Footage
from models.video_lm import VideoLM

TEXTS = ("what color is the first shape ?", "", "a red circle grows . " * 40, "no such word <")


@pytest.mark.parametrize("name", sorted(zoo.ZOO))
def test_a_measured_length_is_the_prompts_own(name: str, tmp_path: Path) -> None:
    """Of clips of other lengths, sizes and times than the one that texts are measured with."""
    lm = VideoLM.load(str(zoo.save(name, tmp_path / name)))
    lengths = Lengths(lm)
    for seed, (count, height, apart) in enumerate([(2, 40, 1.0), (8, 72, 31.5), (3, 40, 0.25)]):
        frames = np.random.default_rng(seed).integers(0, 256, (count, height, 56, 3), dtype=np.uint8)
        shown = lm.encode(frames, [apart * number for number in range(count)])
        unread = Footage(shown.tokens.to("meta"), shown.grid, shown.seconds)
        for text in TEXTS:
            assert lengths.of(text, unread) == len(lm.prompt(text, shown).ids)
