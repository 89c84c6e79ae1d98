"""Instructions out of files in the row format of VLM-RLAIF (storage/formats/official.py), and into such files.

What a row holds besides (uid, the names of the frame images, further turns) the stages do not use; it is kept by
reading and writing the rows themselves.
"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from storage.errors import FormatError
from storage.formats import json_rows, official
from storage.formats.json_rows import known_keys
from storage.formats.official import OfficialRow, Turn

_PLACEHOLDER = re.compile(r"<(?:image|video)>")
_NOTICES = {
    "role": "rows name a turn's speaker 'role' instead of 'from': read as the same",
    "images": "rows name frame images: the folder of the frames is taken as the video",
    "turns": "rows go on after the first answer: the first question and its answer are taken, as the official trainer "
    "does for RL",
}


@dataclass(frozen=True)
class Instruction:
    """A question about a video; `video` is a path relative to the data folder (of a file, or a folder of frames)."""

    id: str
    video: str
    question: str
    answer: str | None = None
    kind: str | None = None
    source: str | None = None


def read_instructions(path: Path) -> tuple[list[Instruction], list[str]]:
    """Return the instructions of a file in its order, and notices about what was read otherwise than it stands there.

    Raises FormatError that names the file, the row (counted from 1), the fault and the known keys.
    """
    rows: list[Instruction] = []
    rows_by_id: dict[str, int] = {}
    oddities: Counter[str] = Counter()
    for number, raw in enumerate(json_rows.read_rows(path), start=1):
        where = f"{path} row {number}"
        row = instruction_of(official.parse(raw, where), where, oddities)
        if row.id in rows_by_id:
            first = rows_by_id[row.id]
            raise FormatError(f"{path} row {number} (id {row.id!r}): row {first} has this id too; make ids unique.")
        rows_by_id[row.id] = number
        rows.append(row)
    return rows, [f"{path}: {count} {_NOTICES[oddity]}." for oddity, count in sorted(oddities.items()) if count]


def write_instructions(path: Path, rows: list[Instruction]) -> None:
    """Write instructions so that `read_instructions` returns equal ones; JSON lines where the name ends in .jsonl.

    Raises FormatError for no rows, an id used twice, or a row that would not come back as it is (a text that is empty,
    begins or ends with white space, or holds <image> or <video>).
    """
    if not rows:
        raise FormatError(f"{path}: there are no instructions to write.")
    repeated = [identity for identity, count in Counter(row.id for row in rows).items() if count > 1]
    if repeated:
        raise FormatError(f"{path}: the ids {repeated[:3]} are used more than once; make ids unique.")
    written = [_official(row) for row in rows]
    for number, (row, raw) in enumerate(zip(rows, written, strict=True), start=1):
        where = f"{path} row {number}"
        given = {key: value for key, value in official.unparse(raw).items() if value is not None}
        if instruction_of(official.parse(given, where), where, Counter()) != row:
            raise FormatError(
                f"{where} (id {row.id!r}): would be read back otherwise. Its texts must not be empty, "
                "begin or end with white space, or hold <image> or <video>."
            )
    official.write_official(path, written)


def instruction_of(row: OfficialRow, where: str, oddities: Counter[str]) -> Instruction:
    """What the stages use of a row; counts in `oddities` what is read otherwise than it stands there.

    Raises FormatError that begins with `where` for a row without a question or whose frames lie in several folders.
    """
    where = f"{where} (id {row.id!r})"
    question, answer = _question_and_answer(row, where, oddities)
    return Instruction(str(row.id), video_of(row, where, oddities), question, answer, row.kind, row.src_data)


def video_of(row: OfficialRow, where: str, oddities: Counter[str]) -> str:
    """The row's video: its file, or the folder of its frame images."""
    if row.video is not None:
        return row.video
    frames = row.images or (row.image or "",)
    folders = {PurePosixPath(frame).parent.as_posix() for frame in frames}
    if len(folders) != 1 or folders == {"."}:
        raise FormatError(
            f"{where}: the frames must lie in one folder, which names the video; found {sorted(folders)}."
        )
    oddities["images"] += 1
    return folders.pop()


def question_text(value: str) -> str:
    """What a turn says, without the mark of the video in it."""
    return _PLACEHOLDER.sub("", value).strip()


def _question_and_answer(row: OfficialRow, where: str, oddities: Counter[str]) -> tuple[str, str | None]:
    turns = row.conversations
    oddities["role"] += any(turn.key == "role" for turn in turns)
    oddities["turns"] += len(turns) > 2
    speakers = [turn.speaker for turn in turns]
    if "human" not in speakers:
        raise FormatError(f"{where}: has no human turn; {known_keys(official.TURN_KEYS)}.")
    if speakers != ["human", "gpt"] * (len(turns) // 2) + ["human"] * (len(turns) % 2):
        raise FormatError(f"{where}: turns are {speakers}; a human turn comes first, then a gpt turn, and so on.")
    texts = [question_text(turn.value) for turn in turns[:2]]
    if not texts[0]:
        raise FormatError(f"{where}: the human turn asks nothing; write the question in its value.")
    return texts[0], (texts[1] or None) if len(texts) > 1 else None


def _official(row: Instruction) -> OfficialRow:
    turns = [Turn(f"<video>\n{row.question}", "human")]
    if row.answer is not None:
        turns.append(Turn(row.answer, "gpt"))
    return OfficialRow(row.id, tuple(turns), video=row.video, src_data=row.source, kind=row.kind)
