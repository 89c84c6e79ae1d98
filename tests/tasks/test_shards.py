"""Items in shards, kept as bytes: the same items, sorted, each once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.fanout import Unit
from tasks.shards import Shards, TwiceError, Units


@given(st.lists(st.text(min_size=1, max_size=3), unique=True, max_size=20), st.integers(1, 6))
def test_every_item_comes_back_in_order_in_shards_of_one_size(names: list[str], size: int) -> None:
    items = [{"item_id": name, "nested": [[1, name], None]} for name in names]
    shards = Shards(iter(items), size)
    expected = sorted(items, key=lambda item: str(item["item_id"]))
    assert [item for shard in shards for item in shard] == list(shards.each()) == expected
    assert shards.items == len(items)
    assert [shards.count(shard) for shard in range(len(shards))] == [len(shard) for shard in shards]
    assert all(shards.count(shard) == size for shard in range(len(shards) - 1))
    assert shards[:1] == [shards[0]] if items else not shards


def test_an_item_that_comes_twice_is_told_by_its_id() -> None:
    with pytest.raises(TwiceError, match="'a'"):
        Shards([{"item_id": "a"}, {"item_id": "b"}, {"item_id": "a"}], 2)


def test_what_is_changed_in_an_item_that_was_taken_out_stays_out() -> None:
    shards = Shards([{"item_id": "a", "list": [1]}], 2)
    shards[0][0]["list"].append(2)
    assert shards[0] == [{"item_id": "a", "list": [1]}]


def test_units_are_made_when_their_turn_comes() -> None:
    made: list[int] = []

    def unit(shard: int) -> Unit:
        made.append(shard)
        return Unit(shard, [], 0)

    units = Units([2, 5, 7], unit)
    assert (len(units), made) == (3, [])
    assert next(iter(units)).shard == 2
    assert made == [2]
    assert [each.shard for each in units[1:]] == [5, 7]
