"""Which blobs the rows of a lake name. Any column may: a name is 64 hex digits, wherever it stands in a text."""

import re
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from storage.lake import Lake

_NAME = re.compile(r"[0-9a-f]{64}")


def named_blobs(lake: Lake, without: frozenset[str] = frozenset()) -> set[str]:
    """Names of blobs in the rows of all tables, leaving out the rows of the stage keys `without`.

    Whatever looks like the name of a blob counts as one, so that a column that is added one day is not forgotten here.
    """
    found: set[str] = set()
    for name in lake.tables():
        for batch in lake.table(name).batches(without):
            for column in batch.columns:
                for texts in _texts(column):
                    with_names = texts.filter(pc.match_substring_regex(texts, _NAME.pattern))
                    for text in pc.unique(with_names).to_pylist():
                        found.update(_NAME.findall(text))
    return found


def _texts(column: pa.Array) -> Iterator[pa.Array]:
    """The strings of a column, however deep they stand."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        yield column
    elif pa.types.is_list(column.type):
        yield from _texts(column.flatten())
    elif pa.types.is_struct(column.type):
        for field in column.flatten():
            yield from _texts(field)
