"""Action recognition: Top-1 and Top-5 over a list of labels, by hand and by properties."""

import math
from pathlib import Path

import pytest
from by_rules import graded, kinds, lines, metrics, values
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.benchmark import Benchmark
from benchmarks.items import Item, Prediction, Shown
from benchmarks.recognition import Recognition, as_words, labels_of_file
from benchmarks.registry import benchmark
from storage.errors import FormatError

LABELS = ("archery", "bowling", "diving", "fencing", "golf", "hula hoop")
ASPECTS = ("Top-1", "Top-5")


def item(video: str, label: str) -> Item:
    return Item(video, video, ("q",), label, LABELS, aspects=ASPECTS, groups={"label": label})


def scores(*row: float) -> Prediction:
    return Prediction(scores=row, n_tokens=(1,) * len(row))


def test_tops_by_hand() -> None:
    items = [item("a", "archery"), item("b", "bowling"), item("c", "golf"), item("d", "golf")]
    predictions = {
        "a": scores(-1, -2, -3, -4, -5, -6),  # first
        "b": scores(-1, -2, -3, -4, -5, -6),  # second
        "c": scores(-1, -1, -1, -1, -1, -1),  # ties with all: last
    }
    found = metrics(Recognition(), items, predictions)
    assert found["Top-1", "overall"].value == 0.25
    assert found["Top-5", "overall"].value == 0.5
    assert found["Top-1", "overall"].n == 4
    assert [key for key in found if key[1] != "overall"] == [
        ("Top-1", "label: archery"), ("Top-1", "label: bowling"), ("Top-1", "label: golf"),
    ]  # fmt: skip
    assert found["Top-1", "label: golf"].value == 0.0


def test_statuses_and_the_label_that_was_preferred() -> None:
    items = [item(name, "golf") for name in "abcd"]
    predictions = {"a": scores(-9, -8, -7, -6, -5, -4), "b": scores(-1), "c": scores(math.nan, -1, -1, -1, -1, -1)}
    found = [one.grade for one in graded(Recognition(), items, predictions) if one.aspect == "Top-1"]
    assert [(grade.status, grade.correct, grade.parsed) for grade in found] == [
        ("ok", False, "hula hoop"), ("unparsed", False, None), ("unparsed", False, None), ("missing", False, None),
    ]  # fmt: skip


def test_normalisation_by_tokens() -> None:
    predictions = {"a": Prediction(scores=(-3.0, -4.0, -9, -9, -9, -9), n_tokens=(1, 2, 1, 1, 1, 1))}
    items = [item("a", "bowling")]
    assert values(Recognition(), items, predictions)["Top-1", "overall"] == 0.0
    assert values(Recognition(normalise="mean"), items, predictions)["Top-1", "overall"] == 1.0
    without = {"a": Prediction(scores=predictions["a"].scores)}
    assert graded(Recognition(normalise="mean"), items, without)[0].grade.status == "unparsed"


@given(
    st.lists(st.tuples(st.sampled_from(LABELS), st.permutations(range(6))), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
)
def test_properties(drawn: list[tuple[str, list[int]]], random: object) -> None:
    items = [item(f"v{n}", label) for n, (label, _) in enumerate(drawn)]
    predictions = {f"v{n}": scores(*(-float(place) for place in row)) for n, (_, row) in enumerate(drawn)}
    found = values(Recognition(), items, predictions)
    assert found["Top-1", "overall"] <= found["Top-5", "overall"]
    shuffled = list(items)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert values(Recognition(), shuffled, predictions) == found
    perfect = {one.id: scores(*(0.0 if label == one.answer else -1.0 for label in LABELS)) for one in items}
    assert set(values(Recognition(), items, perfect).values()) == {1.0}


def test_labels_as_words() -> None:
    shown = {"ApplyEyeMakeup": "apply eye makeup", "brush_hair": "brush hair", "YoYo": "yo yo", "TaiChi": "tai chi"}
    assert {label: as_words(label) for label in shown} == shown


def test_a_list_of_labels_in_every_form(tmp_path: Path) -> None:
    for name, text in {
        "classInd.txt": "1 ApplyEyeMakeup\n2 ApplyLipstick\n\n",
        "labels.txt": "ApplyEyeMakeup\r\nApplyLipstick\n",
        "labels.json": '["ApplyEyeMakeup", "ApplyLipstick"]',
        "index.json": '{"ApplyEyeMakeup": 0, "ApplyLipstick": 1}',
    }.items():
        (tmp_path / name).write_bytes(text.encode())
        assert labels_of_file(tmp_path / name) == ["ApplyEyeMakeup", "ApplyLipstick"]
    for name, text in {"a.json": "[1]", "b.json": "3", "c.txt": "x\nx\n", "d.txt": "\n"}.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(FormatError, match=name):
            labels_of_file(tmp_path / name)


def test_reading_with_and_without_a_list(tmp_path: Path) -> None:
    rows = [
        {"video": "a.avi", "label": "BrushHair"},
        {"video": "b.avi", "label": "YoYo"},
        {"video": "a.avi", "label": "YoYo"},
        {"video": "c.avi", "label": ""},
        {"label": "YoYo"},
    ]
    path = lines(tmp_path / "rows.jsonl", *rows)
    found = Recognition().read({"": path})
    assert [(one.video, one.answer, one.options) for one in found.items] == [
        ("a.avi", "brush hair", ("brush hair", "yo yo")), ("b.avi", "yo yo", ("brush hair", "yo yo")),
        ("a.avi", "yo yo", ("brush hair", "yo yo")),
    ]  # fmt: skip
    assert kinds(found.faults) == ["no answer", "no video"]
    (request,) = Recognition().ask(found.items[0], Shown())
    assert request.choices == ("brush hair", "yo yo")

    listed = tmp_path / "labels.txt"
    listed.write_text("Archery\nBrushHair\n")
    with_list = Recognition(readable=False).read({"": path, "labels": listed})
    assert [(one.answer, one.options) for one in with_list.items] == [("BrushHair", ("Archery", "BrushHair"))]
    assert sorted(kinds(with_list.faults)) == ["no answer", "no answer", "no answer", "no video"]


def test_ucf101_lists_name_the_label_as_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "testlist01.txt"
    path.write_text("ApplyEyeMakeup/v_g01_c01.avi\nYoYo/v_g02_c01.avi 101\nlost.avi\n")
    found = Recognition().read({"": path})
    assert [(one.video, one.answer) for one in found.items] == [
        ("ApplyEyeMakeup/v_g01_c01.avi", "apply eye makeup"), ("YoYo/v_g02_c01.avi", "yo yo"),
    ]  # fmt: skip
    assert kinds(found.faults) == ["no answer"]


def test_labels_that_look_alike_are_refused(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", {"video": "a", "label": "YoYo"}, {"video": "b", "label": "yo_yo"})
    with pytest.raises(FormatError, match="readable"):
        Recognition().read({"": path})
    assert len(Recognition(readable=False).read({"": path}).items) == 2
    with pytest.raises(FormatError, match="two or more"):
        Recognition().read({"": lines(tmp_path / "b.jsonl", {"video": "a", "label": "YoYo"})})


def test_predictions_go_through_their_file(tmp_path: Path) -> None:
    items = [item("a", "golf"), item("b", "golf")]
    predictions = {"a": scores(-1, -2, -3, -4, -5, -6)}
    found = Recognition().read_predictions(Recognition().write(tmp_path / "new", items, predictions), items)
    assert found.by_id == predictions
    assert kinds(found.faults) == ["missing"]


def test_it_is_a_benchmark_and_checks_its_settings() -> None:
    assert isinstance(benchmark("recognition", normalise="mean"), Benchmark)
    with pytest.raises(ValueError, match="normalise"):
        benchmark("recognition", normalise="max")
    with pytest.raises(ValueError, match="official"):
        Recognition().metrics([], "official")
