"""A stage's items in shards, kept as bytes until their shard's turn: dicts of thousands take several times as much."""

from __future__ import annotations

import math
import pickle
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from operator import itemgetter
from typing import Any, overload

from tasks.fanout import Unit

Item = dict[str, Any]
_WINDOW = -10  # Bytes that look back 1 KiB, without a header: a packer that takes some KiB itself.


class TwiceError(ValueError):
    """Two items have the same id; the text is that."""


class Shards(Sequence[list[Item]]):
    """The items sorted by `item_id` and cut into shards of one size; a shard's items are made when it is asked for.

    Attributes:
        items: how many there are.
    """

    def __init__(self, items: Iterable[Item], size: int) -> None:
        """Raises TwiceError."""
        self._like = b""
        kept = [(str(item["item_id"]), self._packed(item)) for item in items]
        kept.sort(key=itemgetter(0))
        for (name, _), (following, _) in pairwise(kept):
            if name == following:
                raise TwiceError(repr(name))
        self._kept = [packed for _, packed in kept]
        self._size = size
        self.items = len(self._kept)

    def __len__(self) -> int:
        return math.ceil(self.items / self._size)

    @overload
    def __getitem__(self, shard: int) -> list[Item]: ...
    @overload
    def __getitem__(self, shard: slice) -> list[list[Item]]: ...
    def __getitem__(self, shard: int | slice) -> list[Item] | list[list[Item]]:
        if isinstance(shard, slice):
            return [self[each] for each in range(len(self))[shard]]
        first = range(len(self))[shard] * self._size
        return [self._unpacked(each) for each in self._kept[first : first + self._size]]

    def count(self, shard: int) -> int:  # type: ignore[override]
        """How many items a shard has."""
        return min(self._size, self.items - shard * self._size)

    def each(self) -> Iterator[Item]:
        """All items, one after the other."""
        return map(self._unpacked, self._kept)

    def _packed(self, item: Item) -> bytes:
        """An item's bytes, of which those that stand in the first item too are left out: names, and what all ask."""
        data = pickle.dumps(item)
        self._like = self._like or data
        packer = zlib.compressobj(level=1, wbits=_WINDOW, memLevel=1, zdict=self._like)
        return packer.compress(data) + packer.flush()

    def _unpacked(self, packed: bytes) -> Item:
        item: Item = pickle.loads(zlib.decompressobj(wbits=_WINDOW, zdict=self._like).decompress(packed))
        return item


class Units(Sequence[Unit]):
    """The units of shards, each made when its turn comes."""

    def __init__(self, shards: Sequence[int], unit: Callable[[int], Unit]) -> None:
        self._shards, self._unit = shards, unit

    def __len__(self) -> int:
        return len(self._shards)

    @overload
    def __getitem__(self, place: int) -> Unit: ...
    @overload
    def __getitem__(self, place: slice) -> list[Unit]: ...
    def __getitem__(self, place: int | slice) -> Unit | list[Unit]:
        if isinstance(place, slice):
            return [self._unit(shard) for shard in self._shards[place]]
        return self._unit(self._shards[place])
