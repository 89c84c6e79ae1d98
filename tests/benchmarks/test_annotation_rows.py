"""Rows of files: each is read or a fault, and none costs another."""

import gzip
import zipfile
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from by_rules import kinds

from benchmarks.files import kind_of_file, one_file
from benchmarks.items import Fault, Item, Prediction
from benchmarks.registry import benchmark
from benchmarks.rows import PredictionRows, RowError, Rows, cell, content_name, numbers, rows_of_file, wanted
from storage.errors import FormatError


def read(path: Path) -> tuple[list[dict[str, object]], list[Fault]]:
    found = Rows()
    return [row for _, row in found.objects(rows_of_file(path, "rows"))], found.faults


def test_a_broken_line_of_json_lines_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": 2,\n[3]\n\n{"a": 4}\n')
    rows, faults = read(path)
    assert rows == [{"a": 1}, {"a": 4}]
    assert [(fault.kind, fault.where) for fault in faults] == [
        ("malformed", "rows.jsonl row 2"),
        ("malformed", "rows.jsonl row 3"),
    ]


def test_json_lines_in_a_json_file_are_seen_as_such_even_when_one_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('{"a": 1}\n{"a": 2,\n{"a": 3}\n')
    rows, faults = read(path)
    assert rows == [{"a": 1}, {"a": 3}]
    assert kinds(faults) == ["malformed"]


def test_an_indented_list_is_one_value(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[\n{"a": 1},\n{"a": 2},\n"b"\n]')
    rows, faults = read(path)
    assert rows == [{"a": 1}, {"a": 2}]
    assert kinds(faults) == ["malformed"]


def test_a_csv_row_with_too_many_cells_is_a_fault_and_a_short_one_has_blanks(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('a,b\n1,2\n1,2,3\n4\n"x\ny",5\n')
    rows, faults = read(path)
    assert rows == [{"a": "1", "b": "2"}, {"a": "4", "b": ""}, {"a": "x\ny", "b": "5"}]
    assert [(fault.kind, fault.where) for fault in faults] == [("malformed", "rows.csv row 2")]


def test_packed_files_are_read_by_the_name_inside(tmp_path: Path) -> None:
    gzipped, zipped = tmp_path / "rows.csv.gz", tmp_path / "rows.csv.zip"
    gzipped.write_bytes(gzip.compress(b"a\n1\n"))
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("rows.csv", "a\n1\n")
    assert kind_of_file(gzipped) == kind_of_file(zipped) == ".csv"
    assert read(gzipped) == read(zipped) == ([{"a": "1"}], [])


def test_what_an_archive_holds_is_said_by_the_name_inside(tmp_path: Path) -> None:
    for inner, text in (("val.csv", "a\n1\n"), ("val.jsonl", '{"a": "1"}\n'), ("VAL.CSV", "a\n1\n")):
        path = tmp_path / "val.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("__MACOSX/._val", "")
            archive.writestr(f"data/{inner}", text)
        assert kind_of_file(path) == Path(inner).suffix.lower()
        assert read(path) == ([{"a": "1"}], [])
    with zipfile.ZipFile(tmp_path / "rows.csv.zip", "w") as archive:
        archive.writestr("rows", "a\n1\n")
    assert read(tmp_path / "rows.csv.zip") == ([{"a": "1"}], []), "the name inside says nothing"
    path.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(FormatError, match=r"val\.zip: cannot be read"):
        read(path)
    with pytest.raises(FormatError, match=r"absent\.zip: cannot be read"):
        read(tmp_path / "absent.zip")


def test_parquet_is_read_like_json_packed_or_not(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    row = {"id": 1, "options": ["A. x", "B. y"], "when": date(2024, 6, 1), "picture": b"\xff", "none": None, "s": 0.5}
    pq.write_table(pa.Table.from_pylist([row, {**row, "id": 2}]), path)
    plain = {**row, "when": "2024-06-01", "picture": None}
    assert read(path) == ([plain, {**plain, "id": 2}], [])
    with zipfile.ZipFile(tmp_path / "rows.zip", "w") as archive:
        archive.write(path, "test-00000-of-00001.parquet")
    assert read(tmp_path / "rows.zip") == read(path)
    for broken in (path.read_bytes()[:-20], b"", b"{}"):
        path.write_bytes(broken)
        with pytest.raises(FormatError, match=r"rows\.parquet: cannot be read as a Parquet file"):
            read(path)


def test_a_csv_file_that_cannot_be_told_apart_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    for text, said in (
        ("a,b,a\n1,2,3\n", "several columns a"),
        ("\n", "is empty"),
        (f"a\n{'x' * 200_000}\n", "after line 1"),
    ):
        path.write_text(text)
        with pytest.raises(FormatError, match=said):
            read(path)
    path.write_text(",a,\n0,1,2\n")  # As pandas writes its index.
    assert read(path) == ([{"": "2", "a": "1"}], [])


def test_a_locked_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("rows.json", "[]")
    data = bytearray(path.read_bytes())
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(header) + flags] |= 1
    path.write_bytes(data)
    with pytest.raises(FormatError, match="encrypted"):
        read(path)


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_a_number_of_too_many_digits_is_not_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text('{"a": 1}\n{"a": ' + "1" * 5000 + "}\n")
    rows, faults = read(path)
    assert rows == [{"a": 1}]
    assert [(fault.kind, fault.where) for fault in faults] == [("malformed", f"{name} row 2")]
    path.write_text("[" + "1" * 5000 + "]")
    with pytest.raises(FormatError, match="not JSON"):
        read(path)


@pytest.mark.parametrize("text", ["", "[1, 2", "3"])
def test_a_file_without_rows_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(FormatError, match=r"rows\.json"):
        rows_of_file(path, "rows")


def test_an_object_is_no_list_but_one_line_of_json_lines(tmp_path: Path) -> None:
    tree, line = tmp_path / "tree.json", tmp_path / "rows.jsonl"
    tree.write_text('{"a":\n{"b": 1}}')
    line.write_text('{"a": 1}\n')
    with pytest.raises(FormatError, match="not a list of rows"):
        read(tree)
    assert read(line) == ([{"a": 1}], [])


def test_a_prediction_that_cannot_be_read_leaves_its_item_to_the_next() -> None:
    item = Item("1", "v", ("what",), "that")
    found = PredictionRows([item, Item("2", "v", ("what",), "that")])
    for where, id, reply in (("a", "1", 3), ("b", "1", "x"), ("c", "1", "y"), ("d", "", "z"), ("e", "9", "z")):
        found.add(where, id, reply)
    assert found.predictions.by_id == {"1": Prediction(("x",))}
    assert [(fault.where, fault.kind) for fault in found.predictions.faults] == [
        *(("a", "malformed"), ("c", "duplicate"), ("d", "malformed"), ("e", "unknown"), ("2", "missing")),
    ]


def test_the_one_file_is_found_under_any_name_but_those_of_others(tmp_path: Path) -> None:
    assert one_file("quiz", {"labels": tmp_path / "l", "own": tmp_path / "q"}, "labels") == tmp_path / "q"
    for files in ({}, {"labels": tmp_path / "l"}, {"": tmp_path / "q", "more": tmp_path / "m"}):
        with pytest.raises(FormatError, match="quiz: wants one"):
            one_file("quiz", files, "labels")


def test_cells_are_texts_or_numbers(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"n": 7, "blank": "  ", "list": [1], "yes": true, "text": " a "}\n')
    ((_, row),) = rows_of_file(path, "rows")
    assert cell(row, "n") == "7"
    assert cell(row, "blank", "text") == "a"
    assert cell(row, "nothing") == ""
    for name in ("list", "yes"):
        with pytest.raises(RowError, match=name):
            cell(row, name)
    with pytest.raises(RowError, match="nothing"):
        wanted(row, "no answer", "nothing")


def test_numbers_are_finite_or_infinite_but_never_nan_or_truth_values() -> None:
    assert numbers([1, -float("inf")], "scores") == (1.0, -float("inf"))
    for value in ([float("nan")], [True], ["1"], "1", None):
        with pytest.raises(RowError, match="scores"):
            numbers(value, "scores")


def test_names_of_contents_tell_texts_apart() -> None:
    assert content_name("a", "bc") != content_name("ab", "c")
    assert content_name("a", "b") == content_name("a", "b")


@pytest.mark.parametrize("name", ["msvd_qa", "activitynet_qa_exact", "llava_hound", "nextqa_open", "custom"])
def test_a_prediction_without_a_reply_stops_no_writing(tmp_path: Path, name: str) -> None:
    asked = [Item(id, "v", ("what",), "that", source={"qid": id}) for id in ("1", "2")]
    files = benchmark(name).write(tmp_path, asked, {"1": Prediction(), "2": Prediction(("word",))})
    assert files
    assert all("word" in path.read_text() for path in files)
