from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from storage.errors import LakeError
from storage.lake import Lake
from storage.rows import row_digest
from storage.schemas import REQUIRED, SCHEMAS


def provenance(item: str, **more: Any) -> dict[str, Any]:
    return {"item_id": item, "status": "ok", "item_key": f"key of {item}", "run": "r1", "seed": 7, **more}


def metrics(n: int) -> list[dict[str, Any]]:
    return [provenance(str(i), step=i, name="loss", value=i / 8) for i in range(n)]


def test_the_digest_sees_values_and_not_order_or_chunks() -> None:
    rows = [{"a": 1, "b": b"\x00", "c": [0.1, None]}, {"a": 2, "b": None, "c": []}]
    table = pa.Table.from_pylist(rows)
    turned = pa.concat_tables([table.slice(1, 1), table.slice(0, 1)]).select(["c", "b", "a"])
    assert row_digest(turned) == row_digest(table)
    assert row_digest(table.slice(0, 1)) != row_digest(table)
    changed = pa.Table.from_pylist([{**rows[0], "c": [0.1 + 1e-16, None]}, rows[1]])
    assert row_digest(changed) != row_digest(table)
    assert row_digest(changed, ignore=["c"]) == row_digest(table, ignore=["c"])


def refusals() -> list[tuple[dict[str, Any], str]]:
    good = provenance("i", step=1, name="loss", value=0.5)
    return [
        ({**good, "vaule": 1.0}, "metrics has no column vaule; its columns are"),
        ({**good, "seed": None}, "'i': column seed is missing"),
        ({key: good[key] for key in good if key != "name"}, "'i': column name is missing"),
        ({**good, "value": "high"}, "metrics.value holds double"),
        ({**good, "step": 2**40}, "metrics.step holds int32"),
        ({**good, "status": "maybe"}, "status must be 'ok' or 'quarantined'"),
        ({**good, "status": "quarantined"}, "a quarantined row needs a reason"),
        ({**good, "shard": 3}, "hold another shard"),
        ({**good, "name": "\ud800"}, "metrics.name holds string"),
    ]


@pytest.mark.parametrize(("row", "message"), refusals())
def test_rows_that_do_not_fit_are_refused_by_name(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    table = Lake(tmp_path).table("metrics")
    with pytest.raises(LakeError) as refusal:
        table.commit_shard([provenance("fine", step=1, name="x", value=0.0), row], stage_key="k", shard=0)
    assert message in str(refusal.value)
    assert table.version() == -1


def test_a_misspelt_key_inside_a_list_is_refused(tmp_path: Path) -> None:
    rows = [provenance("v", video="v", clips=[{"clip": 0, "start": 0.0, "end": 1.0, "txt": "a", "n_tokens": 1}])]
    with pytest.raises(LakeError, match=r"captions.clips takes parts with the keys .*'text'.* not .*'txt'"):
        Lake(tmp_path).table("captions").commit_shard(rows, stage_key="k", shard=0)


def test_arrow_rows_are_taken_and_checked(tmp_path: Path) -> None:
    table = Lake(tmp_path).table("metrics")
    rows = pa.Table.from_pylist(metrics(3))
    table.commit_shard(rows, stage_key="k", shard=0)
    assert table.read("k")["arm"].to_pylist() == [None] * 3
    with pytest.raises(LakeError, match="no column extra"):
        table.commit_shard(rows.append_column("extra", pa.array([1, 2, 3])), stage_key="k", shard=1)
    with pytest.raises(LakeError, match="value holds double"):
        table.commit_shard(
            rows.drop(["value"]).append_column("value", pa.array(["a", "b", "c"])), stage_key="k", shard=1
        )


@pytest.mark.parametrize("name", sorted(set(SCHEMAS) - {"runs"}))
def test_every_table_takes_rows_of_provenance_alone_when_quarantined(name: str, tmp_path: Path) -> None:
    table = Lake(tmp_path).table(name)
    rows = [provenance(item, status="quarantined", reason="it was broken") for item in ("b", "a", "a")]
    table.commit_shard(rows, stage_key="k", shard=-1)
    assert table.read("k")["item_id"].to_pylist() == ["a", "a", "b"]
    assert table.count("k") == {"ok": 0, "quarantined": 2}
    if REQUIRED[name]:
        with pytest.raises(LakeError, match=r"row 'a': column \w+ is missing"):
            table.commit_shard([provenance("a")], stage_key="k", shard=0)
