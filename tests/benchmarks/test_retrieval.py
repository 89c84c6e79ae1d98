"""Retrieval: ranks of videos by a caption's log-probability, by hand and by properties."""

import json
import math
import pickle
from pathlib import Path

import pytest
from by_rules import by_id, kinds, lines
from by_rules import metrics as named_metrics
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.benchmark import Benchmark
from benchmarks.items import Item, Prediction, Shown
from benchmarks.metrics import Metric
from benchmarks.registry import benchmark
from benchmarks.retrieval import Retrieval
from storage.errors import FormatError

OVERALL = "overall"


def gallery(captions: dict[str, list[str]]) -> list[Item]:
    """Items as `read` makes them, without a file."""
    options = tuple(dict.fromkeys(text for texts in captions.values() for text in texts))
    size = len(captions)
    return [
        Item(video, video, ("q",), texts[0], options, source={"captions": texts, "gallery": size})
        for video, texts in captions.items()
    ]


def scored(rows: dict[str, list[float]]) -> dict[str, Prediction]:
    return {video: Prediction(scores=tuple(row)) for video, row in rows.items()}


def metrics(made: Retrieval, items: list[Item], predictions: dict[str, Prediction]) -> dict[tuple[str, str], Metric]:
    """By "R@k" alone: what else a name says, "of 3", is the number of videos."""
    found = named_metrics(made, items, predictions)
    return {(name.partition(" of ")[0], group): metric for (name, group), metric in found.items()}


def values(made: Retrieval, items: list[Item], predictions: dict[str, Prediction]) -> dict[tuple[str, str], float]:
    return {key: metric.value for key, metric in metrics(made, items, predictions).items()}


def test_ranks_by_hand() -> None:
    items = gallery({"v1": ["one"], "v2": ["two"], "v3": ["three"]})
    # Columns are captions: "one" is likeliest under v1 (rank 1), "two" under v1 too (rank 2), "three" ties (rank 3).
    rows = {"v1": [-1.0, -2.0, -9.0], "v2": [-3.0, -4.0, -9.0], "v3": [-2.0, -7.0, -9.0]}
    found = values(Retrieval(at=(1, 2, 3)), items, scored(rows))
    assert found == {("R@1", OVERALL): 1 / 3, ("R@2", OVERALL): 2 / 3, ("R@3", OVERALL): 1.0}


def test_a_caption_of_two_videos_is_one_query_and_the_better_placed_counts() -> None:
    items = gallery({"v1": ["a cat"], "v2": ["a cat"], "v3": ["a dog"]})
    rows = {"v1": [-5.0, -4.0], "v2": [-1.0, -4.0], "v3": [-2.0, -3.0]}
    found = metrics(Retrieval(), items, scored(rows))["R@1", OVERALL]
    assert (found.value, found.n) == (1.0, 2)


def test_several_captions_of_a_video_are_several_queries_of_one_video() -> None:
    items = gallery({"v1": ["a", "b"], "v2": ["c"]})
    rows = {"v1": [-1.0, -9.0, -9.0], "v2": [-2.0, -1.0, -1.0]}
    found = metrics(Retrieval(), items, scored(rows))["R@1", OVERALL]
    assert (found.value, found.n, found.videos) == (2 / 3, 3, ("v1", "v1", "v2"))


def test_a_video_without_scores_makes_no_other_easier_to_find() -> None:
    items = gallery({"v1": ["one"], "v2": ["two"]})
    rows = {"v1": [-1.0, -5.0], "v2": [-2.0, -1.0]}
    assert values(Retrieval(), items, scored(rows))["R@1", OVERALL] == 1.0
    for broken in (Prediction(), Prediction(scores=(math.nan, -1.0)), Prediction(scores=(-1.0,))):
        # v2 is found by nobody, and v1 stands behind it.
        found = values(Retrieval(), items, {"v1": scored(rows)["v1"], "v2": broken})
        assert found == {("R@1", OVERALL): 0.0, ("R@5", OVERALL): 0.5}
    grades = [Retrieval().grade(items[0], "", one, "strict") for one in (None, Prediction(), scored(rows)["v1"])]
    assert [grade.status for grade in grades] == ["missing", "unparsed", "ok"]  # type: ignore[union-attr]


def test_a_limit_of_items_shows_in_the_name() -> None:
    items = gallery({"v1": ["one"], "v2": ["two"], "v3": ["three"]})
    rows = {"v1": [-1.0, -2.0, -1.0], "v2": [-3.0, -1.0, -1.0]}
    found = named_metrics(Retrieval(), items[:2], scored(rows))
    assert {key: (metric.value, metric.n) for key, metric in found.items()} == {
        ("R@1 of 2", OVERALL): (1.0, 2),
        ("R@5 of 2", OVERALL): (1.0, 2),
    }


@pytest.mark.parametrize(("videos", "name"), [(3, "R@5 of 3"), (999, "R@5 of 999"), (1_000, "R@5")])
def test_a_small_gallery_shows_in_the_name(videos: int, name: str) -> None:
    items = gallery({f"v{n}": ["a cat"] for n in range(videos)})
    found = named_metrics(Retrieval(), items, scored({item.id: [-3.0] for item in items}))
    assert {of for of, _ in found} == {name, name.replace("5", "1", 1)}


def test_a_model_that_finds_everything_equally_likely_finds_nothing() -> None:
    items = gallery({f"v{n}": [f"caption {n}"] for n in range(4)})
    assert values(Retrieval(), items, scored({item.id: [-3.0] * 4 for item in items}))["R@1", OVERALL] == 0.0


@given(st.lists(st.lists(st.floats(-50, 0), min_size=5, max_size=5), min_size=5, max_size=5), st.randoms())
def test_properties(table: list[list[float]], random: object) -> None:
    items = gallery({f"v{n}": [f"caption {n}"] for n in range(5)})
    predictions = scored({f"v{n}": row for n, row in enumerate(table)})
    found = values(Retrieval(at=(1, 2, 5)), items, predictions)
    assert found["R@1", OVERALL] <= found["R@2", OVERALL] <= found["R@5", OVERALL] == 1.0
    shuffled = list(items)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert values(Retrieval(at=(1, 2, 5)), shuffled, predictions) == found
    # The length or commonness of a caption adds the same to it under every video.
    offset = {f"v{n}": [round(score) - 7.0 * at for at, score in enumerate(row)] for n, row in enumerate(table)}
    plain = {f"v{n}": [float(round(score)) for score in row] for n, row in enumerate(table)}
    assert values(Retrieval(), items, scored(offset)) == values(Retrieval(), items, scored(plain))


@given(st.integers(2, 8))
def test_a_perfect_model_finds_all(n: int) -> None:
    items = gallery({f"v{i}": [f"caption {i}"] for i in range(n)})
    rows = {f"v{i}": [0.0 if i == j else -1.0 for j in range(n)] for i in range(n)}
    assert set(values(Retrieval(), items, scored(rows)).values()) == {1.0}


def test_reading_says_what_it_could_not_read(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "captions.jsonl",
        {"video": "v1", "caption": "a cat"},
        {"video": "v2", "captions": ["a dog", "a brown dog"]},
        {"video": "v1", "caption": "a cat"},
        {"video": "v3", "caption": ""},
        {"caption": "nobody's"},
        "{",
    )
    found = Retrieval().read({"": path})
    assert sorted(kinds(found.faults)) == ["duplicate", "malformed", "no answer", "no video"]
    assert [item.source["captions"] for item in found.items] == [["a cat"], ["a dog", "a brown dog"]]
    (request,) = Retrieval().ask(found.items[0], Shown())
    assert request.choices == ("a cat", "a dog", "a brown dog")
    assert by_id(Retrieval(captions=1).read({"": path}))["v2"].options == ("a cat", "a dog")


def test_csv_as_msrvtt_1ka_has_it(tmp_path: Path) -> None:
    path = tmp_path / "MSRVTT_JSFUSION_test.csv"
    path.write_text("key,vid_key,video_id,sentence\nret0,msr7020,video7020,a man sings\nret1,msr7021,video7021,a cat\n")
    found = Retrieval().read({"": path})
    assert [(item.video, item.answer) for item in found.items] == [("video7020", "a man sings"), ("video7021", "a cat")]
    assert not found.faults


def test_msrvtt_own_json_by_split(tmp_path: Path) -> None:
    path = tmp_path / "MSRVTT_data.json"
    videos = [{"video_id": f"video{n}", "split": "test" if n < 3 else "train"} for n in range(4)]
    sentences = [{"video_id": f"video{n}", "caption": f"caption {n}"} for n in (0, 1, 3, 9)]
    path.write_text(json.dumps({"videos": videos, "sentences": [*sentences, "x"]}))
    found = Retrieval().read({"": path})
    assert [item.video for item in found.items] == ["video0", "video1"]
    assert sorted(kinds(found.faults)) == ["malformed", "no answer", "no video"]
    assert len(Retrieval(split="").read({"": path}).items) == 3
    with pytest.raises(FormatError, match="train"):
        Retrieval(split="val").read({"": path})


def test_a_broken_line_or_a_missing_list_of_videos_costs_no_caption(tmp_path: Path) -> None:
    sentences = [{"video_id": "a", "caption": "x"}, {"video_id": "b", "caption": "y"}]
    broken, own = tmp_path / "rows.json", tmp_path / "own.json"
    broken.write_text("\n".join([json.dumps(sentences[0]), '{"video_id"', json.dumps(sentences[1])]))
    own.write_text(json.dumps({"videos": None, "sentences": [*sentences, 7]}))
    for path in (broken, own):
        annotations = Retrieval().read({"": path})
        assert [item.id for item in annotations.items] == ["a", "b"]
        assert kinds(annotations.faults) == ["malformed"]


def test_one_video_is_no_gallery(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="two or more"):
        Retrieval().read({"": lines(tmp_path / "a.jsonl", {"video": "v", "caption": "c"})})


def test_too_much_work_is_refused_with_what_to_set(tmp_path: Path) -> None:
    rows = [{"video": f"v{n}", "captions": [f"caption {n} {k}" for k in range(20)]} for n in range(800)]
    path = lines(tmp_path / "a.jsonl", *rows)
    with pytest.raises(FormatError, match=r"12,800,000 log-probabilities.*captions.*pool"):
        Retrieval().read({"": path})
    assert len(Retrieval(captions=1).read({"": path}).items) == len(Retrieval(pool=100).read({"": path}).items) == 800


def test_pools_do_not_depend_on_the_order_of_the_file_and_say_their_size(tmp_path: Path) -> None:
    rows = [{"video": f"v{n}", "caption": f"caption {n}"} for n in range(11)]
    task = Retrieval(pool=3)
    one = task.read({"": lines(tmp_path / "a.jsonl", *rows)})
    other = task.read({"": lines(tmp_path / "b.jsonl", *reversed(rows))})
    assert {item.id: set(item.options) for item in one.items} == {item.id: set(item.options) for item in other.items}
    assert sorted({len(item.options) for item in one.items}) == [3, 4]
    predictions = {
        item.id: Prediction(scores=tuple(0.0 if text == item.answer else -1.0 for text in item.options))
        for item in one.items
    }
    found = named_metrics(task, one.items, predictions)
    assert {key: (metric.value, metric.n) for key, metric in found.items()} == {
        ("R@1 of 3", OVERALL): (1.0, 11),
        ("R@5 of 3", OVERALL): (1.0, 11),
    }


def test_predictions_go_through_their_file(tmp_path: Path) -> None:
    items = gallery({"v1": ["one"], "v2": ["two"]})
    predictions = {"v1": Prediction(scores=(-1.5, -math.inf), n_tokens=(3, 4))}
    files = Retrieval().write(tmp_path / "out", items, predictions)
    found = Retrieval().read_predictions(files, items)
    assert found.by_id == predictions
    assert [(fault.kind, fault.where) for fault in found.faults] == [("missing", "v2")]


def test_predictions_that_cannot_be_used_are_faults(tmp_path: Path) -> None:
    items = gallery({"v1": ["one"], "v2": ["two"], "v3": ["three"]})
    full = {"one": -1.0, "two": -2.0, "three": -3.0}
    path = lines(
        tmp_path / "p.jsonl",
        {"id": "v1", "scores": full},
        {"id": "v1", "scores": full},
        {"id": "v9", "scores": full},
        {"id": "v2", "scores": {"one": -1.0}},
        {"id": "v3", "scores": {**full, "three": "x"}},
        {"scores": full},
    )
    found = Retrieval().read_predictions([path], items)
    assert set(found.by_id) == {"v1"}
    assert sorted(kinds(found.faults)) == [
        "duplicate", "malformed", "malformed", "malformed", "missing", "missing", "unknown",
    ]  # fmt: skip


def test_settings_are_checked_and_official_does_not_exist() -> None:
    for settings in ({"pool": 1}, {"captions": -1}, {"at": []}, {"at": [0]}, {"nonsense": 1}):
        with pytest.raises(ValueError, match="retrieval"):
            benchmark("retrieval", **settings)
    task = benchmark("retrieval", at=[1, 10])
    assert isinstance(task, Benchmark)
    assert pickle.loads(pickle.dumps(task)) == task
    with pytest.raises(ValueError, match="official"):
        task.grade(gallery({"v1": ["a"], "v2": ["b"]})[0], "", None, "official")
    with pytest.raises(ValueError, match="no judge"):
        task.judged(gallery({"v1": ["a"]})[0], "", "yes", "strict")
