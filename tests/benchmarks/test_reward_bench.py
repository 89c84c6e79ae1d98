"""Triplets for judges and reward models: accuracy, ties, consistency and a leaning to a place, by hand."""

import math
from pathlib import Path

import pytest
from by_rules import graded, kinds, lines, metrics, values
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.benchmark import Benchmark
from benchmarks.items import Item, Prediction, Shown
from benchmarks.registry import benchmark
from benchmarks.reward_bench import ORDERS, VideoRewardBench

BENCH = VideoRewardBench()
FIRST, SECOND = "accuracy, chosen first", "accuracy, chosen second"


def triplet(name: str, dimension: str = "") -> Item:
    groups = {"dimension": dimension} if dimension else {}
    return Item(name, f"{name}.mp4", ("why?",), "good", ("good", "bad"), aspects=ORDERS, groups=groups)


def preferred(*each: float) -> Prediction:
    return Prediction(preferred=each)


def test_numbers_by_hand() -> None:
    items = [
        triplet(name, dimension) for name, dimension in zip("abcde", ["safety", "safety", "x", "x", "x"], strict=True)
    ]
    predictions = {
        "a": preferred(0.9, 0.8),  # right both times
        "b": preferred(0.7, 0.2),  # takes what it sees first
        "c": preferred(0.5, 0.9),  # a tie, then right
        "d": preferred(0.1, 0.2),  # wrong both times
    }  # e is missing
    found = metrics(BENCH, items, predictions)
    overall = {name: metric.value for (name, group), metric in found.items() if group == "overall"}
    assert overall == pytest.approx(
        {
            "accuracy": (1 + 0.5 + 0.5 + 0 + 0) / 5,
            "accuracy, ties half": (1 + 0.5 + 0.75 + 0 + 0) / 5,
            "consistent": 2 / 5,
            FIRST: 2 / 5,
            SECOND: 2 / 5,
        }
    )
    assert found["accuracy", "overall"].n == 5
    assert found["accuracy", "dimension: safety"].value == 0.75
    assert found["accuracy", "dimension: x"].value == pytest.approx(0.5 / 3)


def test_a_judge_that_always_takes_the_first_place_is_seen() -> None:
    items = [triplet(name) for name in "abc"]
    found = values(BENCH, items, {item.id: preferred(1.0, 0.0) for item in items})
    assert found["accuracy", "overall"] == 0.5
    assert (found[FIRST, "overall"], found[SECOND, "overall"], found["consistent", "overall"]) == (1.0, 0.0, 0.0)


def test_a_reward_model_sees_no_order() -> None:
    items = [triplet("a"), triplet("b"), triplet("c")]
    found = values(BENCH, items, {"a": preferred(0.6), "b": preferred(0.4)})
    assert found == pytest.approx({("accuracy", "overall"): 1 / 3, ("accuracy, ties half", "overall"): 1 / 3})


def test_a_policy_ranks_by_its_mean_log_probability() -> None:
    predictions = {
        "a": Prediction(scores=(-10.0, -6.0), n_tokens=(10, 4)),  # -1.0 against -1.5: the longer one
        "b": Prediction(scores=(-2.0, -2.0), n_tokens=(2, 2)),
        "c": Prediction(scores=(-2.0, -2.0)),
    }
    found = graded(BENCH, [triplet(name) for name in "abc"], predictions)
    said = [(one.grade.status, one.grade.parsed) for one in found if one.aspect == ORDERS[0]]
    assert said == [("ok", "chosen"), ("ok", "tie"), ("no verdict", None)]
    (request,) = BENCH.ask(triplet("a"), Shown())
    assert (request.text, request.choices) == ("why?", ("good", "bad"))


def test_what_is_no_probability_is_wrong_and_says_so() -> None:
    predictions = {"a": preferred(math.nan, 0.9), "b": preferred(7.0, -1.0), "c": Prediction()}
    items = [triplet(name) for name in "abcd"]
    found = graded(BENCH, items, predictions)
    assert [one.grade.status for one in found] == [
        "no verdict", "ok", "out of range", "out of range", "no verdict", "no verdict", "missing", "missing",
    ]  # fmt: skip
    assert [one.grade.correct for one in found] == [False, True, *[False] * 6]
    assert metrics(BENCH, items, predictions)["accuracy", "overall"].value == 0.125


probabilities = st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0])


@given(st.lists(st.tuples(probabilities, probabilities), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_properties(drawn: list[tuple[float, float]], random: object) -> None:
    items = [triplet(f"t{n}") for n in range(len(drawn))]
    predictions = {f"t{n}": preferred(*both) for n, both in enumerate(drawn)}
    found = values(BENCH, items, predictions)
    assert found["accuracy", "overall"] == pytest.approx((found[FIRST, "overall"] + found[SECOND, "overall"]) / 2)
    # Who prefers the opposite is right where the other was wrong; ties are half either way.
    opposite = {f"t{n}": preferred(1 - one, 1 - other) for n, (one, other) in enumerate(drawn)}
    against = values(BENCH, items, opposite)
    assert found["accuracy, ties half", "overall"] + against["accuracy, ties half", "overall"] == pytest.approx(1)
    assert found["consistent", "overall"] == against["consistent", "overall"]
    shuffled = list(items)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert values(BENCH, shuffled, predictions) == pytest.approx(found)
    assert set(values(BENCH, items, {item.id: preferred(1.0, 1.0) for item in items}).values()) == {1.0}


def test_reading_says_what_it_could_not_read(tmp_path: Path) -> None:
    row = {"video": "a.mp4", "prompt": "why?", "chosen": "good", "rejected": "bad", "dimension": "safety"}
    path = lines(
        tmp_path / "triplets.jsonl",
        {**row, "id": 7},
        row,
        row,
        {**row, "rejected": "good"},
        {**row, "chosen": ""},
        {**row, "video": None},
        {**row, "prompt": ""},
        {**row, "prompt": ["?"]},
    )
    found = BENCH.read({"": path})
    assert [item.groups for item in found.items] == [{"dimension": "safety"}] * 2
    assert found.items[0].id == "7"
    assert kinds(found.faults) == ["duplicate", "no answer", "no answer", "no video", "malformed", "malformed"]


def test_a_row_without_an_id_keeps_its_name_when_rows_move(tmp_path: Path) -> None:
    rows = [{"video": f"{n}.mp4", "question": "?", "chosen": "a", "rejected": "b"} for n in range(3)]
    one = BENCH.read({"": lines(tmp_path / "a.jsonl", *rows)})
    other = BENCH.read({"": lines(tmp_path / "b.jsonl", *reversed(rows))})
    assert {item.id: item.video for item in one.items} == {item.id: item.video for item in other.items}


def test_predictions_go_through_their_file(tmp_path: Path) -> None:
    items = [triplet(name) for name in "abcd"]
    predictions = {
        "a": preferred(0.25, math.nan),
        "b": preferred(0.75),
        "c": Prediction(scores=(-1.0, -2.0), n_tokens=(1, 2)),
    }
    files = BENCH.write(tmp_path / "new", items, predictions)
    found = BENCH.read_predictions(files, items)
    assert repr(found.by_id) == repr(predictions)  # NaN equals nothing
    assert [(fault.kind, fault.where) for fault in found.faults] == [("missing", "d")]


def test_predictions_that_cannot_be_used_are_faults(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "p.jsonl",
        {"id": "a", "preferred": 0.5},
        {"id": "a", "preferred": 0.5},
        {"id": "b", "preferred": [0.1, 0.2, 0.3]},
        {"id": "b", "preferred": "yes"},
        {"id": "b", "scores": [-1.0], "n_tokens": [1]},
        {"id": "z", "preferred": 0.5},
    )
    found = BENCH.read_predictions([path], [triplet("a"), triplet("b")])
    assert found.by_id == {"a": preferred(0.5)}
    assert kinds(found.faults) == ["duplicate", "malformed", "malformed", "malformed", "unknown", "missing"]


def test_it_is_a_benchmark_with_one_protocol() -> None:
    assert isinstance(benchmark("video_reward_bench"), Benchmark)
    with pytest.raises(ValueError, match="official"):
        BENCH.grade(triplet("a"), ORDERS[0], None, "official")
