"""What fits into a model's window, measured before a training begins: one row that is too long must not end it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.sequences import Footage
    from models.video_lm import VideoLM
    from tasks.tokens import VisualTokens

logger = logging.getLogger(__name__)


def without_faults(
    rows: list[dict[str, Any]], fault_of: Callable[[dict[str, Any]], str | None], what: str
) -> list[dict[str, Any]]:
    """The rows that have no fault; how many have one is logged, with the first's.

    Args:
        rows: to choose from.
        fault_of: why a row cannot be used, or None.
        what: the rows are, in the plural.

    Raises:
        ValueError: every row has a fault.
    """
    checked = [(row, fault_of(row)) for row in rows]
    sound = [row for row, fault in checked if fault is None]
    faults = [fault for _, fault in checked if fault is not None]
    if faults and not sound:
        raise ValueError(f"None of the {len(rows)} {what} can be used, the first because {faults[0]}")
    if faults:
        logger.warning("%d of %d %s are left out, the first because %s", len(faults), len(rows), what, faults[0])
    return sound


class Fit:
    """Tells what leaves no room in a model's window, from the shapes of the visual tokens alone."""

    def __init__(self, lm: VideoLM, tokens: VisualTokens, frame_set: str) -> None:
        from models.lengths import Lengths

        self._lm, self._tokens, self._frame_set = lm, tokens, frame_set
        self._lengths = Lengths(lm)
        self._shown: dict[str, Footage] = {}

    def fault(self, text: str, video: str, answer: int) -> str | None:
        """Why a question and `answer` tokens behind it cannot be read together, or None.

        Args:
            text: what is asked.
            video: that it is asked about.
            answer: tokens that are written or read behind the prompt, at most.
        """
        try:
            if video not in self._shown:
                self._shown[video] = self._tokens.outline(video, self._frame_set)
            length = self._lengths.of(text, self._shown[video])
        except ValueError as error:
            return str(error)
        if length + answer <= self._lm.window:
            return None
        return (
            f"a prompt about video {video} has {length:,} tokens, its answer up to {answer:,}, and the model's window "
            f"is {self._lm.window:,}. Shorten its text, or show fewer frames (frames.sets) or smaller ones "
            "(frames.max_side)."
        )
