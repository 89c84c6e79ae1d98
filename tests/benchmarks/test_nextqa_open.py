"""Open-ended NExT-QA: three protocols by hand on a tiny taxonomy, its files, and what is wrong in them."""

import json
import pickle
from pathlib import Path

import pytest
from by_rules import graded, kinds, metrics, values
from hypothesis import given
from hypothesis import strategies as st
from taxonomy import WORDS, Taxonomy

from benchmarks.benchmark import Benchmark
from benchmarks.items import Annotations, Item, Prediction, Shown
from benchmarks.nextqa_open import THRESHOLDS, NextQaOpen
from benchmarks.registry import benchmark
from storage.errors import FormatError

OPEN = NextQaOpen(words=Taxonomy())
HEADER = "video,frame_count,width,height,question,answer,qid,type\n"
W0, W9 = "WUPS@0", "WUPS@0.9"


def item(name: str, answer: str, kind: str = "CW", second: str = "") -> Item:
    video, qid = name.split("_")
    family = {"C": "causal", "T": "temporal", "D": "descriptive"}[kind[0]]
    source = {"qid": qid, "additional_ref_answer": second}
    groups = {"kind": family, "type": kind}
    return Item(name, video, ("why",), answer, aspects=tuple(THRESHOLDS), groups=groups, source=source)


def said(**replies: str) -> dict[str, Prediction]:
    return {name: Prediction(replies=(reply,)) for name, reply in replies.items()}


def read(tmp_path: Path, rows: str, references: object = None) -> Annotations:
    files = {"": tmp_path / "val.csv"}
    files[""].write_text(HEADER + rows)
    if references is not None:
        files["references"] = tmp_path / "add_reference_answer.json"
        files["references"].write_text(json.dumps(references))
    return OPEN.read(files)


def test_the_official_table_by_hand() -> None:
    items = [
        item("a_0", "dog", "CW"), item("a_1", "the dogs", "CH"), item("a_2", "spoon", "TN"),
        item("b_0", "dog", "DC"), item("b_1", "the dog", "DB"), item("b_2", "animal", "DO"),
    ]  # fmt: skip
    replies = said(a_0="cat", a_1="Dog", a_2="dog", b_0="cat", b_1="dogs", b_2="dog")
    found = metrics(OPEN, items, replies, "official")
    zero = {group: metric.printed for (name, group), metric in found.items() if name == W0}
    # dog-cat 2*3/8, spoon-dog 2*1/8, animal-dog 2*2/6.
    assert zero == {
        "type: CW": "75.00", "type: CH": "100.00", "kind: causal": "87.50",
        "type: TN": "25.00", "kind: temporal": "25.00",
        "type: DB": "100.00", "type: DC": "0.00", "type: DO": "66.67", "kind: descriptive": "55.56",
        "overall": "61.11",
    }  # fmt: skip
    assert found[W9, "overall"].value == pytest.approx((0.075 + 1 + 0.025 + 0 + 1 + 2 / 3 / 10) / 6)


def test_the_second_reference_and_lmms_eval_s_threshold() -> None:
    items = [item("a_0", "spoon", second="cat"), item("a_1", "dog", "DB", second="cat")]
    replies = said(a_0="dog", a_1="cat")
    assert values(OPEN, items, replies, "official")[W0, "overall"] == (0.75 + 1) / 2
    assert values(OPEN, items, replies, "official")[W9, "overall"] == pytest.approx((0.075 + 1) / 2)
    assert values(OPEN, items, replies, "lmms_eval")[W9, "overall"] == (0.75 + 1) / 2
    assert values(OPEN, items, replies, "lmms_eval")[W0, "overall"] == (0.75 + 1) / 2
    assert values(OPEN, items, replies, "strict")[W9, "overall"] == pytest.approx((0.075 + 1) / 2)


def test_what_strict_does_otherwise() -> None:
    cases = {
        # reply: (answer, type, official, strict)
        "dog gently": ("dog", "CW", 1.0, 0.0),
        "dog </s>": ("dog", "DB", 0.0, 1.0),
        "it is": ("it is", "CW", 0.0, 1.0),
        " ": ("the", "DB", 1.0, 0.0),
        "dog .": ("dog", "CW", 1.0, 1.0),
    }
    for reply, (answer, kind, official, strict) in cases.items():
        one = [item("a_0", answer, kind)]
        found = [values(OPEN, one, said(a_0=reply), protocol)[W0, "overall"] for protocol in ("official", "strict")]
        assert found == [official, strict], reply


def test_a_missing_prediction_is_left_out_where_the_script_would_stop_and_counts_in_strict() -> None:
    items = [item("a_0", "dog"), item("a_1", "dog")]
    official = metrics(OPEN, items, said(a_0="dog"), "official")[W0, "overall"]
    assert (official.value, official.n, official.left_out) == (1.0, 1, 1)
    strict = metrics(OPEN, items, said(a_0="dog"), "strict")[W0, "overall"]
    assert (strict.value, strict.n, strict.left_out) == (0.5, 2, 0)
    statuses = [one.grade.status for one in graded(OPEN, items, said(a_0=" "), "strict")]
    assert statuses == ["empty", "empty", "missing", "missing"]


replies = st.lists(st.sampled_from([*WORDS, "gently", "the"]), min_size=1, max_size=3).map(" ".join)


@given(st.lists(st.tuples(replies, replies), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_properties(drawn: list[tuple[str, str]], random: object) -> None:
    items = [item(f"v{n}_0", answer) for n, (answer, _) in enumerate(drawn)]
    predictions = said(**{f"v{n}_0": reply for n, (_, reply) in enumerate(drawn)})
    shuffled = list(items)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for protocol in OPEN.protocols:
        found = values(OPEN, items, predictions, protocol)
        assert found[W9, "overall"] <= found[W0, "overall"] + 1e-12
        assert values(OPEN, shuffled, predictions, protocol) == pytest.approx(found)
    perfect = said(**{one.id: one.answer for one in items})
    assert set(values(OPEN, items, perfect, "strict").values()) == {1.0}


def test_reading_the_official_files(tmp_path: Path) -> None:
    rows = (
        "1,9,6,4,why did he go,to eat,0,CW\n"
        "1,9,6,4,what then,sleep,1,TP\n"
        "2,9,6,4,how many,two,0,DC\n"
        "2,9,6,4,how many,two,0,DC\n"
        "2,9,6,4,what,,1,DO\n"
        "2,9,6,4,what,x,2,XX\n"
        ",9,6,4,what,x,2,DO\n"
    )
    found = read(tmp_path, rows, {"1": {"0": "for food", "7": "nothing"}, "3": {"0": "x"}})
    assert [(one.id, one.groups["type"], one.groups["kind"]) for one in found.items] == [
        ("1_0", "CW", "causal"), ("1_1", "TN", "temporal"), ("2_0", "DC", "descriptive"),
    ]  # fmt: skip
    assert [one.source["additional_ref_answer"] for one in found.items] == ["for food", "", ""]
    assert [(fault.kind, fault.where) for fault in found.faults] == [
        ("duplicate", "val.csv row 4"), ("no answer", "val.csv row 5"), ("malformed", "val.csv row 6"),
        ("no video", "val.csv row 7"), ("unknown", "reference 1 7"), ("unknown", "reference 3 0"), ("no answer", "1_1"),
    ]  # fmt: skip
    (request,) = OPEN.ask(found.items[0], Shown())
    assert request.text == "why did he go\nAnswer a question using a short phrase or sentence."


def test_lmms_eval_s_rows_hold_their_second_reference(tmp_path: Path) -> None:
    path = tmp_path / "oe.jsonl"
    row = {"video": 1, "question": "q", "answer": "dog", "qid": 0, "type": "DO", "additional_ref_answer": "cat"}
    path.write_text(json.dumps(row))
    (one,) = OPEN.read({"": path}).items
    assert values(OPEN, [one], {one.id: Prediction(("cat",))}, "official")[W0, "overall"] == 1.0


def test_references_that_are_none(tmp_path: Path) -> None:
    row = "1,9,6,4,why,to eat,0,CW\n"
    with pytest.raises(FormatError, match="add_reference"):
        read(tmp_path, row, ["x"])
    assert kinds(read(tmp_path, row, {"1": {"0": 3}}).faults) == ["malformed"]


def test_predictions_in_the_official_form(tmp_path: Path) -> None:
    items = [item("1_0", "dog"), item("1_1", "cat"), item("2_0", "dog")]
    files = OPEN.write(tmp_path / "new", items, said(**{"1_0": "a dog", "1_1": "a cat"}))
    assert json.loads(files[0].read_text()) == {"1": {"0": "a dog", "1": "a cat"}}
    found = OPEN.read_predictions(files, items)
    assert found.by_id == said(**{"1_0": "a dog", "1_1": "a cat"})
    assert [(fault.kind, fault.where) for fault in found.faults] == [("missing", "2_0")]


def test_nothing_in_a_prediction_file_goes_unseen(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text('{"1": {"0": "first", "0": "second", "9": "x"}, "2": "x", "1": {"0": "third", "1": null}}')
    found = OPEN.read_predictions([path], [item("1_0", "dog"), item("1_1", "dog")])
    assert found.by_id == said(**{"1_0": "first"})
    assert kinds(found.faults) == ["duplicate", "unknown", "malformed", "duplicate", "malformed", "missing"]
    for text in ("[1]", "{,}", '{"1": {}}\n{"2": {}}'):
        path.write_text(text)
        with pytest.raises(FormatError, match=r"p\.json"):
            OPEN.read_predictions([path], [])


def test_missing_word_data_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    task = benchmark("nextqa_open", word_data=str(tmp_path / "absent"))
    assert isinstance(task, Benchmark)
    assert pickle.loads(pickle.dumps(task)) == task
    (tmp_path / "val.csv").write_text(HEADER)
    with pytest.raises(FormatError, match="NLTK"):
        task.read({"": tmp_path / "val.csv"})
