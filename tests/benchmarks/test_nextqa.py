"""NExT-QA, multiple choice: the published result to the last digit, its files, and where the protocols differ."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scoring import graded, metrics, said, written

from benchmarks.benchmark import Benchmark
from benchmarks.items import Prediction, Shown
from benchmarks.nextqa import NextQa
from storage.errors import FormatError

BENCHMARK = NextQa()
HEADER = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4\n"


def rows_of(folder: Path, *rows: str) -> dict[str, Path]:
    return {"": written(folder / "val.csv", HEADER + "".join(f"{row}\n" for row in rows))}


@pytest.mark.parametrize("protocol", ["official", "strict"])
def test_the_published_scores_come_out_to_the_last_digit(test_data: Path, protocol: str) -> None:
    folder = test_data / "annotations" / "nextqa_mc"
    annotations = BENCHMARK.read({"": folder / "val.csv.gz"})
    assert (len(annotations.items), annotations.faults) == (4996, ())
    read = BENCHMARK.read_predictions([folder / "HGA-bert-ft-h256-val-example.json.gz"], annotations.items)
    assert (len(read.by_id), read.faults) == (4996, ())
    found = metrics(BENCHMARK, annotations, read.by_id, protocol)
    # The answers that this file gives are those of the annotations: so the right way gives the same.
    assert {group: f"{metric.value * 100:.2f}" for group, metric in found.items()} == {
        "type: CW": "46.99",
        "type: CH": "44.22",
        "type: TN": "49.53",
        "type: TC": "52.49",
        "type: DC": "44.07",
        "type: DL": "72.54",
        "type: DO": "55.41",
        "kind: C": "46.26",
        "kind: T": "50.74",
        "kind: D": "59.33",
        "overall": "49.74",
    }
    assert protocol == "strict" or found["overall"].printed == "49.74"


def test_the_shapes_are_scored_as_by_hand(tmp_path: Path, test_data: Path) -> None:
    annotations = BENCHMARK.read({"": test_data / "annotations" / "shapes" / "nextqa_mc_style.csv"})
    # Two of its videos have one name, so that their questions share ids: the official script counts each row.
    assert not annotations.faults
    n = len(annotations.items)
    assert (n, sum(item.id.endswith("#2") for item in annotations.items)) == (151, 4)
    predictions = {
        "askanything_hitting_baseball_0": {"prediction": 1, "answer": 1},  # Right by both.
        "askanything_hitting_baseball_1": {"prediction": 0, "answer": 2},  # Right; the file's answer is not.
        "askanything_hitting_baseball_2": {"prediction": 2, "answer": 2},  # Wrong, as the file's answer is.
        "askanything_hitting_baseball_3": {"prediction": -1, "answer": 3},  # Wrong by both.
        "askanything_hitting_baseball_4": {"prediction": 3},  # Right; the file gives no answer.
    }
    path = written(tmp_path / "predictions.json", json.dumps(predictions))
    read = BENCHMARK.read_predictions([path], annotations.items)
    official = metrics(BENCHMARK, annotations, read.by_id, "official")
    strict = metrics(BENCHMARK, annotations, read.by_id, "strict")
    assert (official["overall"].value, official["overall"].n) == (3 / n, n)
    assert (strict["overall"].value, strict["overall"].n) == (3 / n, n)
    assert official["type: DC"].value == 0 < strict["type: DC"].value
    assert official["type: DO"].value == 2 * strict["type: DO"].value > 0
    statuses = [one.grade.status for one in graded(BENCHMARK, annotations, read.by_id, "strict")]
    assert statuses[:6] == ["ok", "ok", "ok", "empty", "ok", "missing"]


def test_questions_that_share_an_id_share_its_prediction_as_in_the_script(tmp_path: Path) -> None:
    annotations = BENCHMARK.read(
        rows_of(
            tmp_path, "v,1,2,3,what,0,1,CW,a,b,c,d,e", "v,1,2,3,who,1,1,CW,f,g,h,i,j", "v,1,2,3,who,1,1,CW,f,g,h,i,j"
        )
    )
    assert [item.id for item in annotations.items] == ["v_1", "v_1#2"]
    assert [fault.kind for fault in annotations.faults] == ["duplicate"]
    for text, letters in (
        ('{"v_1": {"prediction": 0}}', ["A", "A"]),
        ('{"v_1": {"prediction": 0}, "v_1#2": {"prediction": 1}}', ["A", "B"]),
        ('{"v_1": {"prediction": 0}, "v_1": {"prediction": 1}}', ["A", "B"]),
    ):
        path = written(tmp_path / "p.json", text)
        found = BENCHMARK.read_predictions([path], annotations.items)
        assert not found.faults
        assert [found.by_id[item.id].replies for item in annotations.items] == [(letter,) for letter in letters]
        right = metrics(BENCHMARK, annotations, found.by_id, "strict")["overall"]
        assert (right.value, right.n) == (0.5 * len(set(letters)), 2)


def test_parquet_with_the_columns_of_the_csv_is_read_too(tmp_path: Path) -> None:
    """As lmms-eval's data set has it: numbers are numbers."""
    options = {f"a{place}": text for place, text in enumerate("abcde")}
    row = {"video": 7, "question": "what", "answer": 2, "qid": 1, "type": "CW", **options}
    path = tmp_path / "test.parquet"
    pq.write_table(pa.Table.from_pylist([row, {**row, "qid": 2, "answer": None}]), path)
    annotations = BENCHMARK.read({"": path})
    assert [(item.id, item.answer) for item in annotations.items] == [("7_1", "c")]
    assert [(fault.kind, fault.where) for fault in annotations.faults] == [("no answer", "test.parquet row 2")]
    for protocol in BENCHMARK.protocols:
        assert metrics(BENCHMARK, annotations, said({"7_1": "C"}), protocol)["overall"].value == 1.0


def test_tp_counts_as_tn_and_bad_rows_are_faults(tmp_path: Path) -> None:
    annotations = BENCHMARK.read(
        rows_of(
            tmp_path,
            "v,1,2,3,what,0,1,TP,a ,b,c,d,e",
            "v,1,2,3,what,0,1,CW,a,b,c,d,e",
            "v,1,2,3,what,,2,CW,a,b,c,d,e",
            "v,1,2,3,what,5,3,CW,a,b,c,d,e",
            "v,1,2,3,what,0,4,XX,a,b,c,d,e",
            "v,1,2,3,what,0,5,CW,a,b,c,d",
            ",1,2,3,what,0,6,CW,a,b,c,d,e",
            "v,1,2,3,,0,7,CW,a,b,c,d,e",
            "v,1,2,3,what,0,8,CW,a,b,c,d,e, and f",  # A comma without quotes: the last option would be cut.
        )
    )
    assert [(item.id, item.options[0], dict(item.groups)) for item in annotations.items] == [
        ("v_1", "a", {"type": "TN", "kind": "T"})
    ]
    assert [fault.kind for fault in annotations.faults] == [
        *("duplicate", "no answer", "no answer", "malformed", "malformed", "no video", "malformed", "malformed"),
    ]
    with pytest.raises(FormatError, match="no column question, answer"):
        BENCHMARK.read({"": written(tmp_path / "test.csv", "video,qid\n1,2\n")})


def test_a_reply_that_names_nothing_is_drawn_under_lmms_eval_only(tmp_path: Path) -> None:
    annotations = BENCHMARK.read(
        rows_of(
            tmp_path, *(f"v{number},1,2,3,what,{number % 5},1,CW,red,blue,green,black,white" for number in range(200))
        )
    )
    predictions = said({item.id: "no idea" for item in annotations.items})
    drawn = graded(BENCHMARK, annotations, predictions, "lmms_eval")
    assert {one.grade.status for one in drawn} == {"unparsed"}
    right = sum(one.grade.correct is True for one in drawn)
    assert 20 < right < 60  # One in five, the same ones each time.
    assert [one.grade for one in drawn] == [
        one.grade for one in graded(BENCHMARK, annotations, predictions, "lmms_eval")
    ]
    for protocol in ("official", "strict"):
        found = metrics(BENCHMARK, annotations, predictions, protocol)["overall"]
        assert (found.value, found.n) == (0, 200)


def test_predictions_go_through_the_official_file(tmp_path: Path) -> None:
    rows = [f"v,1,2,3,what,{number},{number},DO,red,blue,green,black,white" for number in range(5)]
    annotations = BENCHMARK.read(rows_of(tmp_path, *rows))
    predictions = said({"v_0": "A", "v_1": "(B) because A is wrong", "v_2": "no idea", "v_3": "E"})
    files = BENCHMARK.write(tmp_path, annotations.items, predictions)
    value = json.loads(files[0].read_text())
    # What eval_mc.py takes of it: every item of the annotations, and two numbers of each.
    assert {id: (row["prediction"], row["answer"]) for id, row in value.items()} == {
        "v_0": (0, 0),
        "v_1": (1, 1),
        "v_2": (-1, 2),
        "v_3": (4, 3),
        "v_4": (-1, 4),
    }
    read = BENCHMARK.read_predictions(files, annotations.items)
    assert {id: one.replies for id, one in read.by_id.items()} == {id: one.replies for id, one in predictions.items()}
    assert [(fault.kind, fault.where) for fault in read.faults] == [("missing", "v_4")]
    for protocol in BENCHMARK.protocols:
        before = metrics(BENCHMARK, annotations, predictions, protocol)["overall"].value
        assert metrics(BENCHMARK, annotations, read.by_id, protocol)["overall"].value == before


def test_bad_predictions_are_faults(tmp_path: Path) -> None:
    rows = [f"v,1,2,3,what,0,{number},DO,red,blue,green,black,white" for number in range(7)]
    annotations = BENCHMARK.read(rows_of(tmp_path, *rows))
    text = (
        '{"v_0": {"prediction": 1, "answer": 0}, "v_0": {"prediction": 0, "answer": 0}, "v_1": {"prediction": 7},'
        ' "v_2": {"prediction": "B"}, "v_3": NaN, "v_6": {"prediction": NaN},'
        ' "v_4": {"prediction": 1, "answer": "x"}, "w_9": {"prediction": 1},'
        ' "v_5": {"prediction": 2.0, "answer": 2, "reply": "it is D"}}'
    )
    read = BENCHMARK.read_predictions([written(tmp_path / "predictions.json", text)], annotations.items)
    # Of v_5 the number counts, not the text that says otherwise.
    assert read.by_id == {"v_0": Prediction(("B",), truth="A"), "v_5": Prediction(("C",), truth="C")}
    assert [fault.kind for fault in read.faults] == [
        *("duplicate", "malformed", "malformed", "malformed", "malformed", "malformed", "unknown"),
        *["missing"] * 5,
    ]
    with pytest.raises(FormatError, match="not one JSON object"):
        BENCHMARK.read_predictions([written(tmp_path / "list.json", "[]")], annotations.items)


def test_the_question_is_asked_with_its_options(tmp_path: Path) -> None:
    item = BENCHMARK.read(rows_of(tmp_path, "v,1,2,3,what is it,0,1,DO,red,blue,green,black,white")).items[0]
    assert [request.text for request in BENCHMARK.ask(item, Shown())] == [
        "what is it\nA. red\nB. blue\nC. green\nD. black\nE. white\n"
        "Answer with the option's letter from the given choices directly."
    ]
    assert isinstance(BENCHMARK, Benchmark)
