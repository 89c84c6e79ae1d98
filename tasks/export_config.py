"""What exports and imports of labels are asked for. Imported by the command line, so nothing heavy here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

FormatName = Literal["trl", "llamafactory", "ms-swift", "verl", "vlm-rlaif", "hound"]
ImportFormat = Literal["vlm-rlaif", "hound"]
Ties = Literal["leave-out", "both-ways"]


@dataclass(frozen=True)
class ExportConfig:
    """What is exported and how.

    Attributes:
        format: whose format.
        to: the folder; new or empty.
        arm: which arm's labels, the version that a run used last.
        key: which version of labels instead, by its stage key.
        ties: leave-out, or both-ways: a tie is two pairs, each answer chosen once, so that training pulls neither way.
        frame_set: the frames that are written.
        videos: a folder with the videos' files, which are then named instead of frames.
        prefix: put before every path of a frame or video, such as the place where the folder will lie.
    """

    format: FormatName
    to: Path
    arm: str | None = None
    key: str | None = None
    ties: Ties = "leave-out"
    frame_set: str = "policy"
    videos: Path | None = None
    prefix: str = ""
