"""How many tokens prompts will have, before any is made: what does not fit into the window is known before the work.

Of a video only the shape of its visual tokens is needed. What it adds to a prompt is measured once; texts are measured
with a video of one unit: between a text and a video stand special tokens, over which no tokenizer joins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.prompting import prompt_ids
from models.sequences import Footage

if TYPE_CHECKING:
    from models.video_lm import VideoLM


class Lengths:
    """Lengths of a model's prompts."""

    def __init__(self, lm: VideoLM) -> None:
        self._lm = lm
        self._short: tuple[Footage, int, int] | None = None
        self._texts: dict[str, int] = {}
        self._videos: dict[str, int] = {}

    def of(self, text: str, shown: Footage) -> int:
        """The tokens of a prompt, as `VideoLM.prompt` would make it; the data of `shown` is not read.

        Raises:
            ValueError: the text holds a token that stands for visual tokens.
        """
        if text not in self._texts:
            self._texts[text] = self._added(text, shown)
        return self._texts[text] + self._video(shown)

    def _added(self, text: str, shown: Footage) -> int:
        """What a text adds to a prompt that says nothing."""
        if self._short is None:
            unit = shown[:1]
            self._short = unit, self._places(unit), self._video(unit)
        unit, places, silent = self._short
        return len(prompt_ids(self._lm, text, unit, places)) - silent

    def _video(self, shown: Footage) -> int:
        """The length of a prompt that says nothing about a video."""
        places = self._places(shown)
        unfolded = self._lm.family.unfold(self._lm.processor, shown, places)
        if unfolded not in self._videos:
            self._videos[unfolded] = len(prompt_ids(self._lm, "", shown, places))
        return self._videos[unfolded]

    def _places(self, shown: Footage) -> int:
        return len(self._lm.family.join(self._lm.core, shown))
