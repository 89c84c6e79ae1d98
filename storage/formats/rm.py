"""Preferences as VLM-RLAIF's file for its reward model: output_1, output_2 and preference (see official.py)."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from storage.errors import FormatError
from storage.formats.official import OfficialRow, Turn, read_official, write_official
from storage.formats.pairs import Pair

FILE = "train.json"
LOAD = f"""\
`{FILE}` takes the place of VLM-RLAIF's RM_13b_v1_dataset_39k.json, as training and as evaluation data (its code wants
the same path for both), and this folder that of its folder of images. Its code does not know `video`, which stands here
in place of `images` when the videos' files are named.
"""
_MARK = "<image>\n"
_SOURCE = "rlaif"


def write(folder: Path, pairs: Iterable[Pair]) -> None:
    """Write preferences: output_1 is the answer that was candidate a."""
    write_official(folder / FILE, map(_row, pairs))


def read(folder: Path) -> Iterator[Pair]:
    """The preferences that `write` wrote. Raises FormatError for rows of another shape."""
    for number, row in enumerate(read_official(folder / FILE), start=1):
        yield _pair(row, f"{folder / FILE} row {number}")


def _row(pair: Pair) -> OfficialRow:
    outputs = (pair.rejected, pair.chosen) if pair.chosen_second else (pair.chosen, pair.rejected)
    return OfficialRow(
        pair.id,
        (Turn(_MARK + pair.question, "human"), Turn("", "gpt")),  # The trainer puts the outputs in its place.
        images=None if isinstance(pair.media, str) else pair.media,
        video=pair.media if isinstance(pair.media, str) else None,
        src_data=_SOURCE,
        output_1=Turn(outputs[0]),
        output_2=Turn(outputs[1]),
        preference=2 if pair.chosen_second else 1,
    )


def _pair(row: OfficialRow, where: str) -> Pair:
    if row.output_1 is None or row.output_2 is None or row.preference is None:
        raise FormatError(f"{where} (id {row.id!r}): a preference has output_1, output_2 and preference.")
    outputs = (row.output_1.value, row.output_2.value)
    second = row.preference == 2
    question = row.conversations[0].value.removeprefix(_MARK)
    media = row.video or row.images or (row.image or "",)
    return Pair(str(row.id), question, outputs[second], outputs[not second], media, chosen_second=second)
