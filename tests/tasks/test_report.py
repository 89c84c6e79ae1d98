"""The report of a synthetic run: what stands on the page is what stands in the lake."""

from __future__ import annotations

import base64
import io
import json
import re
import socket
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import report_lake
from PIL import Image

from storage.lake import Lake
from tasks.fanout import WorkerPool
from tasks.intervals import Interval
from tasks.progress import SilentProgress
from tasks.report import ReportConfig, report
from tasks.report_checks import checks_of, economy_of
from tasks.report_data import Arm, Graph
from tasks.report_pairs import data_address, pairs_of
from tasks.report_scores import Checkpoint, headline, points
from tasks.stage import RunContext, StageResult
from tasks.usage import Usage

HOSTILE = "<script>alert('x')</script> & \"$\\frac{1}{0}$\" </article>"
USAGE = Usage(wall_seconds=431.2, cpu_seconds=702.5, peak_rss_mib=3480.0, peak_pss_mib=2210.0, peak_processes=11)
VOID = {"meta", "link", "img", "br", "input", "hr"}


class Elements(HTMLParser):
    """Every element with its attributes; fails on a tag that closes another one."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def write(made: report_lake.Made, folder: Path, **changes: Any) -> tuple[str, dict[str, Any]]:
    """Page and summary of a run with everything, or with what `changes` replaces."""
    ctx = RunContext(made.lake.root, "demo", WorkerPool(1), SilentProgress(), 0.05, 0)  # never started
    made.parameters["run"]["folder"] = str(folder)
    graph = Graph(
        sft=made.results["sft/sft"],
        preferences=made.of("preferences"),
        rewards=made.of("reward_model"),
        policies=made.of("policy"),
        scores=made.of("benchmark"),
        agreement=made.results["agreement"],
        audits={"held out": made.results["audit"]} if "audit" in made.results else {},
    )
    given: dict[str, Any] = {
        "results": list(made.results.values()),
        "graph": graph,
        "usage": USAGE,
        "command": "rlaif run --preset miniature run.seed=0",
        "parameters": made.parameters,
    }
    places = {name: changes.pop(name) for name in [*changes] if name not in given}
    path = report(ctx, ReportConfig(), **given | {"graph": replace(graph, **places)} | changes)
    return path.read_text(), json.loads((path.parent / "summary.json").read_text())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> report_lake.Made:
    return report_lake.make(tmp_path_factory.mktemp("report") / "lake")


@pytest.fixture(scope="module")
def written(made: report_lake.Made, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    return write(made, tmp_path_factory.mktemp("written"))


def mean(made: report_lake.Made, label: str, decoding: str, column: str) -> float:
    rows = made.lake.table("scores").read(made.of("benchmark")[label].key).to_pylist()
    values = [row[column] for row in rows if row["decoding"] == decoding]
    return sum(values) / len(values)


def plain(page: str) -> str:
    return " ".join("".join(Elements(page).text).split())


@pytest.mark.parametrize("label", ["base", "sft", "ppo_context", "ppo_no_context"])
def test_scores_on_the_page_and_in_the_summary_are_those_of_the_lake(
    made: report_lake.Made, written: tuple[str, dict[str, Any]], label: str
) -> None:
    page, summary = written
    scores = summary["scores"][label]
    for measure in ("greedy_exact", "greedy_slot", "sampled_exact"):
        decoding, column = measure.split("_")
        value = mean(made, label, decoding, column)
        assert scores[measure] == pytest.approx(value)
        assert f"<td>{100 * value:.1f}\u00a0%<small>" in page.replace("<td>\n", "<td>")
    assert scores["n"] == 42
    low, high = scores["intervals"]["greedy_exact"]
    assert low < scores["greedy_exact"] < high


def test_differences_and_recovery_follow_from_the_scores(written: tuple[str, dict[str, Any]]) -> None:
    page, summary = written
    arm, sft, base = (summary["scores"][label]["greedy_exact"] for label in ("ppo_context", "sft", "base"))
    difference = summary["scores"]["ppo_context"]["minus_sft"]["greedy_exact"]
    assert difference["value"] == pytest.approx(arm - sft)
    assert points(arm - sft, sign=True) in page
    assert summary["scores"]["ppo_context"]["recovery"]["greedy_exact"] == pytest.approx((arm - sft) / (base - sft))
    assert summary["headline"] in plain(page).replace("\u00a0", " ") or summary["headline"] in page


def test_the_audit_of_the_labels_stands_on_the_page(written: tuple[str, dict[str, Any]]) -> None:
    page, summary = written
    text = plain(page).replace("\u00a0", " ")
    assert "ppo_context prefers the answer shown first in 61.0 % of the showings" in text
    assert "Position: first shown preferred" in text
    first = {"measure": "first", "version": "ppo_context", "other": "all", "value": 0.61}
    assert any(first.items() <= each.items() for each in summary["audit"])


def test_summary_has_the_promised_keys(written: tuple[str, dict[str, Any]]) -> None:
    _, summary = written
    assert summary["judge_agreement"] == report_lake.AGREEMENT
    keys = {"name", "label", "seconds", "work_seconds", "ok", "quarantined", "cached"}
    assert all(keys <= set(stage) for stage in summary["stages"])
    frames = next(stage for stage in summary["stages"] if stage["name"] == "frames")
    assert (frames["ok"], frames["quarantined"]) == (6, 4)
    assert summary["checks"] == {
        "adapter_canary": True,
        "blank_canary": True,
        "rollout_trainer_gap": True,
        "no_truncation": True,
    }
    assert (summary["wall_seconds"], summary["cpu_seconds"], summary["peak_rss_mib"]) == (431.2, 702.5, 3480.0)
    assert (summary["decodes_per_video"], summary["tower_passes_per_video"]) == (1.0, 1.0)
    assert summary["tower_frames_per_kept_frame"] == dict.fromkeys(summary["tower_passes_per_tower"], 1.0)
    assert summary["command"] == "rlaif run --preset miniature run.seed=0"
    assert {"python", "torch", "transformers"} <= set(summary["versions"])


def test_page_needs_nothing_beside_it(written: tuple[str, dict[str, Any]]) -> None:
    page, _ = written
    elements = Elements(page).found
    for tag, attributes in elements:
        assert tag not in {"script", "iframe", "object", "embed"}
        for name in ("src", "href", "srcset", "xlink:href", "data", "poster"):
            value = attributes.get(name) or ""
            assert value.startswith(("data:", "#")) or not value, (tag, name, value)
    assert "@import" not in page
    assert set(re.findall(r"url\((.)", page)) <= {"#"}
    assert "http://" not in page
    assert "https://" not in page
    anchors = {attributes["href"] for tag, attributes in elements if tag == "a"}
    ids = Counter(attributes["id"] for _, attributes in elements if attributes.get("id"))
    assert {f"#{name}" for name in ids} >= anchors
    assert "width=device-width" in page


def test_page_names_no_place_of_this_machine(written: tuple[str, dict[str, Any]]) -> None:
    page, summary = written
    said = plain(page) + json.dumps(summary)
    for place in (str(Path.cwd()), f"{Path.home()}/", socket.gethostname(), sys.prefix):
        assert place not in said


def test_same_lake_gives_the_same_page(
    made: report_lake.Made, written: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    again, _ = write(made, tmp_path)
    # The folder of the results stands in the configuration.
    first, second = (re.sub(r"folder: .*", "", page) for page in (written[0], again))
    assert first == second


def test_parts_that_the_run_lacks_are_said(made: report_lake.Made, tmp_path: Path) -> None:
    none: dict[str, StageResult] = {}
    page, summary = write(
        made,
        tmp_path,
        results=[],
        scores=none,
        agreement=None,
        audits=none,
        preferences=none,
        policies=none,
        rewards=none,
        sft=None,
        usage=None,
        parameters={"run": {"folder": str(tmp_path)}},
    )
    text = plain(page)
    for said in (
        "This run has no benchmark scores.",
        "No benchmark stage in this run",
        "No agreement stage in this run",
        "No audit stage in this run",
        "No preferences in this run",
        "No policy was trained in this run",
        "No reward model was trained in this run",
        "This report was given no stages",
    ):
        assert said in text
    assert summary["scores"] == {}
    assert summary["wall_seconds"] is None
    assert summary["checks"]["adapter_canary"] is None


def test_empty_lake_gives_a_page(tmp_path: Path) -> None:
    made = report_lake.Made(Lake(tmp_path / "lake"), parameters={"run": {}})
    none: dict[str, StageResult] = {}
    made.results["agreement"] = None  # type: ignore[assignment]
    made.results["sft/sft"] = None  # type: ignore[assignment]
    page, summary = write(made, tmp_path, results=[], scores=none, preferences=none, policies=none, rewards=none)
    assert "No benchmark stage in this run" in plain(page)
    assert summary["decodes_per_video"] is None


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    made = report_lake.make(tmp_path / "lake", videos=2, per_video=4, steps=3, hostile=HOSTILE)
    page, _ = write(made, tmp_path)
    assert not any(tag == "script" for tag, _ in Elements(page).found)
    assert "<script" not in page
    # As an answer, a narrative and a reason; as a kind of question also inside a figure.
    assert plain(page).count(" ".join(HOSTILE.split())) >= 5


def test_quarantined_items_are_grouped_by_reason_with_examples(written: tuple[str, dict[str, Any]]) -> None:
    text = plain(written[0])
    assert "3 × clips/broken0.mp4: moov atom not found at byte 40" in text
    assert "such as clips/broken0.mp4, clips/broken1.mp4, clips/broken2.mp4" in text
    assert "1 × took longer than 20 s to decode <b>all</b>" in text


def test_cached_stages_tell_how_long_they_took_before(made: report_lake.Made, tmp_path: Path) -> None:
    again = {"cached": True, "seconds": 0.01, "work_seconds": 0.01}
    cached = [each.model_copy(update=again) for each in made.results.values()]
    page, summary = write(made, tmp_path, results=cached)
    assert "cached took 1 min 28 s" in " ".join(re.sub(r"<[^>]*>", " ", page).split())
    assert all(stage["cached"] for stage in summary["stages"])


def arms() -> list[Arm]:
    how = {"frame_set": "judge_2", "method": "likelihood"}
    return [
        Arm("none", 2, narrative=False, title="PPO, no narrative", phrase="PPO without", **how),
        Arm("context", 3, narrative=True, title="PPO, with narrative", phrase="PPO with", **how),
    ]


def scored(label: str, value: float, difference: tuple[float, float, float] | None = None) -> Checkpoint:
    measured = {"greedy_exact": Interval(value, value - 0.02, value + 0.02, 2000)}
    compared = {} if difference is None else {"greedy_exact": Interval(*difference, 2000)}
    return Checkpoint(label, label, 0, 2000, 0, measures=measured, differences=compared)


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        ((0.093, 0.076, 0.11), "(difference +9.3 points, 95 % interval 7.6 to 11.0)"),
        ((0.004, -0.01, 0.018), "(no clear difference: +0.4 points, 95 % interval −1.0 to 1.8)"),
        ((-0.05, -0.07, -0.03), "(worse: difference −5.0 points, 95 % interval −7.0 to −3.0)"),
    ],
)
def test_headline_is_honest(difference: tuple[float, float, float], said: str) -> None:
    sentence, _ = headline([scored("sft", 0.519), scored("context", 0.612, difference)], arms())
    start = "PPO with answers 61.2 % of 2,000 held-out questions exactly, SFT 51.9 % "
    assert sentence.replace("\u00a0", " ") == f"{start}{said}."


def test_headline_takes_the_arm_with_the_narrative_and_tells_the_others() -> None:
    _, notes = headline(
        [scored("sft", 0.5), scored("none", 0.49, (-0.01, -0.03, 0.01)), scored("context", 0.6, (0.1, 0.08, 0.12))],
        arms(),
    )
    assert [note.replace("\u00a0", " ") for note in notes] == [
        "PPO without: 49.0 % (no clear difference: −1.0 points, 95 % interval −3.0 to 1.0)."
    ]


def test_headline_without_sft_or_arm() -> None:
    assert headline([scored("context", 0.6)], arms())[0].endswith("SFT was not scored in this run.")
    assert headline([scored("sft", 0.5)], arms())[0].endswith("this run scored no trained arm.")


def chosen(made: report_lake.Made, count: int = 12) -> list[Any]:
    from models.slots import SlotVocabulary
    from tasks.grading import Grader
    from tasks.report_data import arms_of

    slots = SlotVocabulary(**made.parameters["agreement"]["slots"])
    run = made.results
    judged = made.of("preferences")
    known = arms_of(made.lake, judged, made.parameters)
    return pairs_of(made.lake, known, judged, run["instructions"], run["frames"], Grader(slots), count=count)


def test_pairs_show_mistakes_and_ties_with_the_frames_that_the_judge_saw(made: report_lake.Made) -> None:
    pairs = chosen(made)
    assert len(pairs) == 12
    assert {"wrong", "tie"} <= {pair.category for pair in pairs}
    for pair in pairs:
        assert pair.opinion.arm == "PPO, with narrative"
        assert [other.arm for other in pair.others] == ["PPO, no narrative"]
        assert (pair.category == "wrong") == (
            pair.truth in ("a", "b") and pair.opinion.preferred in ("a", "b") and pair.truth != pair.opinion.preferred
        )
        assert [place for place, picture in enumerate(pair.pictures) if picture.judged] == [2, 6]
        assert [picture.time for picture in pair.pictures] == [0.0625 + 0.25 * k for k in range(8)]
    assert chosen(made) == pairs
    assert len(chosen(made, count=3)) == 3


def test_pairs_without_frames_or_truth_are_shown_and_say_so(made: report_lake.Made, tmp_path: Path) -> None:
    kept = [each for each in made.results.values() if each.stage not in ("frames", "instructions")]
    text = plain(write(made, tmp_path, results=kept)[0])
    assert "The frames of this video are not in the lake." in text
    assert "This instruction has no known answer." in text


def test_frames_keep_their_bytes_unless_they_are_wide() -> None:
    small, wide = (io.BytesIO() for _ in range(2))
    Image.new("RGB", (64, 48), "red").save(small, "PNG")
    Image.new("RGB", (1280, 720), "red").save(wide, "PNG")
    assert base64.b64decode(data_address(small.getvalue()).removeprefix("data:image/png;base64,")) == small.getvalue()
    shrunk = base64.b64decode(data_address(wide.getvalue()).removeprefix("data:image/jpeg;base64,"))
    assert Image.open(io.BytesIO(shrunk)).size == (200, 112)


def test_truncated_candidates_and_a_wide_gap_fail_their_checks(tmp_path: Path) -> None:
    maker = report_lake.Maker(tmp_path / "lake", videos=2, per_video=2, steps=3)
    maker.candidates(finished=False)
    maker.training("policy/a", "policy", {}, 1.0, gap=0.02)
    run = maker.made.results
    checks = {
        each.name: each for each in checks_of(maker.made.lake, {"policy a": run["policy/a"]}, [run["candidates"]])
    }
    assert checks["no_truncation"].passed is False
    assert checks["rollout_trainer_gap"].passed is False
    assert checks["adapter_canary"].passed is True


def test_a_copied_row_is_no_second_decode_but_another_item_key_or_reader_is(tmp_path: Path) -> None:
    maker = report_lake.Maker(tmp_path / "lake", videos=4, per_video=1, steps=3)
    maker.frames()
    maker.visual_tokens()
    lake = maker.made.lake
    rows = [row for row in lake.table("frames").read(maker.made.results["frames"].key).to_pylist() if row["blob"]]
    for row in rows:
        del row["stage_key"], row["shard"]
    lake.table("frames").commit_shard(rows, stage_key="copy", shard=0)
    assert economy_of(lake).decodes_per_video == 1.0
    again = [{**row, "item_key": "other"} for row in rows[:2]]
    lake.table("frames").commit_shard(again, stage_key="again", shard=0)
    assert economy_of(lake).decodes_per_video == 1.5
    twice = [{**rows[0], "item_key": "third", "decodes": 2}]
    lake.table("frames").commit_shard(twice, stage_key="twice", shard=0)
    assert economy_of(lake).decodes_per_video == 2.0
    assert list(economy_of(lake).tower_passes.values()) == [1.0]


def test_a_video_that_was_encoded_twice_and_a_frame_that_was_are_counted(tmp_path: Path) -> None:
    maker = report_lake.Maker(tmp_path / "lake", videos=4, per_video=1, steps=3)
    maker.frames()
    maker.visual_tokens()
    lake = maker.made.lake
    rows = lake.table("visual_tokens").read(maker.made.results["visual_tokens"].key).to_pylist()
    for row in rows:
        del row["stage_key"], row["shard"]
    (tower,) = {row["tower"] for row in rows}
    assert (economy_of(lake).tower_passes, economy_of(lake).tower_frames) == ({tower: 1.0}, {tower: 1.0})
    pairs = [{**row, "tower": "pairs", "n_frames": 12} for row in rows]
    lake.table("visual_tokens").commit_shard(pairs, stage_key="pairs", shard=0)
    again = [{**row, "item_key": "other"} for row in rows[:2]]
    lake.table("visual_tokens").commit_shard(again, stage_key="again", shard=0)
    found = economy_of(lake)
    assert found.tower_passes == {tower: 1.5, "pairs": 1.0}
    assert found.tower_frames == {tower: 1.5, "pairs": 1.5}
