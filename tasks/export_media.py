"""The videos of exported pairs: their frames out of the lake, or the names of their files."""

from __future__ import annotations

import posixpath
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from storage.lake import Lake

_FORMATS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpg"}


class NoMediaError(ValueError):
    """A video cannot be exported, and why."""


class Media(Protocol):
    """What stands for a video in an exported file."""

    def of(self, video: str) -> str | tuple[str, ...]:
        """The path of its file, or of its frames in the order of time. Raises NoMediaError."""
        ...

    def pictures(self, video: str) -> tuple[bytes, ...]:
        """The frames' bytes; none where its file stands for it."""
        ...


class VideoFiles:
    """The files of a folder, by the names that the lake has for them."""

    def __init__(self, folder: Path, prefix: str = "") -> None:
        self._folder = folder
        self._prefix = prefix

    def of(self, video: str) -> str:
        """The name below the folder, after the prefix."""
        if not (self._folder / video).is_file():
            raise NoMediaError(f"video {video}: there is no such file in {self._folder}")
        return posixpath.join(self._prefix, video)

    def pictures(self, video: str) -> tuple[bytes, ...]:  # noqa: ARG002 - the Protocol's argument.
        return ()


class KeptFrames:
    """A frame set out of the lake. `folder`: where each video's frames are written to, once; None: nowhere."""

    def __init__(self, lake: Lake, frames_key: str, frame_set: str, folder: Path | None, prefix: str = "") -> None:
        """Raises ValueError when no video has that frame set; the message names those that there are."""
        columns = ["video", "status", "reason", "blob", "row", "sets"]
        rows = lake.table("frames").read(frames_key, columns=[*columns, "item_id"]).to_pylist()
        self._rows: dict[str, dict[str, Any]] = {row["item_id"]: row for row in rows}
        known = {each["name"] for row in rows for each in row["sets"] or ()}
        if frame_set not in known:
            there = ", ".join(sorted(known)) or "none"
            raise ValueError(f"The lake holds no frame set {frame_set!r} of these videos; it holds {there}.")
        self._lake, self._set, self._folder, self._prefix = lake, frame_set, folder, prefix
        self._paths: dict[str, tuple[str, ...]] = {}

    def of(self, video: str) -> tuple[str, ...]:
        """frames/<video>/001.jpg and so on, after the prefix."""
        if video not in self._paths:
            paths = self._named(video, self.pictures(video))
            self._paths[video] = tuple(posixpath.join(self._prefix, path) for path in paths)
        return self._paths[video]

    def pictures(self, video: str) -> tuple[bytes, ...]:
        row = self._rows.get(video)
        if row is None or row["status"] != "ok":
            reason = "it is not among the lake's videos" if row is None else row["reason"]
            raise NoMediaError(f"video {video}: no frames are kept of it: {reason}")
        kept = self._lake.blobs.open_arrow(row["blob"])["frames"][row["row"]].as_py()
        clips = sorted((each for each in row["sets"] if each["name"] == self._set), key=lambda each: each["clip"])
        return tuple(kept[place] for clip in clips for place in clip["indices"])

    def _named(self, video: str, pictures: tuple[bytes, ...]) -> list[str]:
        name = PurePosixPath(video)
        if name.is_absolute() or ".." in name.parts:
            raise NoMediaError(f"video {video}: its name leads out of the folder")
        paths = []
        for number, data in enumerate(pictures, start=1):
            ending = next(ending for head, ending in _FORMATS.items() if data.startswith(head))
            paths.append(f"frames/{video}/{number:04d}.{ending}")
            if self._folder is not None:
                place = self._folder / paths[-1]
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data)
        return paths
