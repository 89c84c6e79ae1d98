"""TRL (https://huggingface.co/docs/trl/dataset_formats): conversational preferences as Parquet, the frames in `images`.

The question carries no mark for the pictures: TRL puts one for each of `images` before it.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.errors import FormatError
from storage.formats.pairs import Pair
from storage.formats.parquet import read_parquet, write_parquet

FILE = "train.parquet"
LOAD = f"""\
```python
from datasets import load_dataset

train = load_dataset("parquet", data_files="{FILE}", split="train")  # `images` are PIL pictures
```

Give it to `trl.DPOTrainer(..., train_dataset=train)` with a processor of a model that takes several images.
"""
_MESSAGES = pa.list_(pa.struct([("content", pa.string()), ("role", pa.string())]))
_IMAGES = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
# `datasets` reads from here that the structs are pictures; "Sequence" is what its old and new versions understand.
_FEATURES = {"info": {"features": {"images": {"feature": {"_type": "Image"}, "_type": "Sequence"}}}}
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("prompt", _MESSAGES),
        ("chosen", _MESSAGES),
        ("rejected", _MESSAGES),
        ("images", _IMAGES),
    ],
    metadata={"huggingface": json.dumps(_FEATURES)},
)
_ROWS_IN_MEMORY = 128  # Each holds its pictures.


def write(folder: Path, pairs: Iterable[Pair]) -> None:
    """Write preferences with their pictures. Raises FormatError for a pair without them."""
    write_parquet(folder / FILE, SCHEMA, map(_row, pairs), _ROWS_IN_MEMORY)


def read(folder: Path) -> Iterator[Pair]:
    """The preferences that `write` wrote, pictures included."""
    for row in read_parquet(folder / FILE, _ROWS_IN_MEMORY):
        question, chosen, rejected = (row[column][0]["content"] for column in ("prompt", "chosen", "rejected"))
        paths = tuple(image["path"] for image in row["images"])
        pictures = tuple(image["bytes"] for image in row["images"])
        yield Pair(row["id"], question, chosen, rejected, paths, pictures=pictures)


def _row(pair: Pair) -> dict[str, Any]:
    if isinstance(pair.media, str) or len(pair.pictures) != len(pair.media):
        raise FormatError(f"Pair {pair.id!r}: a row for TRL holds its frames' bytes, and this pair has them not.")
    return {
        "id": pair.id,
        "prompt": [{"role": "user", "content": pair.question}],
        "chosen": [{"role": "assistant", "content": pair.chosen}],
        "rejected": [{"role": "assistant", "content": pair.rejected}],
        "images": [{"bytes": data, "path": path} for data, path in zip(pair.pictures, pair.media, strict=True)],
    }
