"""What every format for preferences holds: a question about a video, and two answers of which one is preferred."""

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from storage.errors import FormatError

VIDEO = "<video>"
# In a question or answer these would be taken for a picture, and a loader counts pictures against its list of them.
PLACEHOLDERS = ("<image>", "<video>", "<audio>")


@dataclass(frozen=True)
class Pair:
    """A labelled pair.

    Attributes:
        id: its own among the pairs of a file.
        question: what is asked, as a person would; without a mark for the video.
        chosen: the preferred answer.
        rejected: the other one.
        media: path of the video's file, or the paths of its frames in the order of time.
        chosen_second: the chosen answer was shown, or stands, second; only formats with an order keep this.
        pictures: the frames' bytes (PNG or JPEG) for a format that holds them itself; none for the others.
    """

    id: str
    question: str
    chosen: str
    rejected: str
    media: str | tuple[str, ...]
    chosen_second: bool = False
    pictures: tuple[bytes, ...] = ()


def fault_of(question: str, *answers: str) -> str | None:
    """Why no format can hold these texts, or None."""
    for name, text in (("question", question), *(("answer", answer) for answer in answers)):
        found = [mark for mark in PLACEHOLDERS if mark in text]
        if found:
            return f"its {name} holds {found[0]}, which loaders take for a picture"
        if not text.strip():
            return f"its {name} is blank"
    return None


def media_value(pair: Pair) -> Any:
    """The media as JSON: a path, or a list of the frames' paths."""
    return pair.media if isinstance(pair.media, str) else list(pair.media)


def media_of(value: Any, where: str) -> str | tuple[str, ...]:
    """The reverse of `media_value`. Raises FormatError that begins with `where`."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(frame, str) for frame in value):
        return tuple(value)
    raise FormatError(f"{where}: a video must be a path or a list of the paths of its frames, not {value!r}.")


def folder_of(pair: Pair) -> str:
    """The path of the video's file or, for frames, of the folder that they lie in."""
    return pair.media if isinstance(pair.media, str) else PurePosixPath(pair.media[0]).parent.as_posix()


def asked(question: str) -> str:
    """A user's turn: the mark of the video, then the question."""
    return VIDEO + question


def question_in(content: str, where: str) -> str:
    """The reverse of `asked`. Raises FormatError that begins with `where`."""
    if not content.startswith(VIDEO):
        raise FormatError(f"{where}: the question must begin with {VIDEO}, not {content[:20]!r}.")
    return content.removeprefix(VIDEO)
