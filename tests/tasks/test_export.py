"""A lake's labels to the formats of other libraries and back."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import pyarrow.parquet as pq
import pytest
import yaml
from report_lake import Maker

from storage.errors import FormatError
from storage.formats import rm, trl
from storage.lake import Lake
from tasks.export import FORMATS, ExportError, export, read_back
from tasks.export_config import ExportConfig, FormatName
from tasks.label_versions import LabelsError, chosen_labels

NAMES = get_args(FormatName)
ARM = "context"


class LabelMaker(Maker):
    """The lake of the report's tests, with stages that name their inputs and with odd rows among the labels."""

    def stage(self, name: str, inputs: list[str], config: dict[str, Any] | None = None) -> None:
        result = self.made.results[name]
        refs = [
            {"stage": each, "table": self.made.results[each].table, "key": self.made.results[each].key}
            for each in inputs
        ]
        row = {
            "item_id": result.key,
            "status": "ok",
            "item_key": result.key,
            "run": "demo",
            "seed": 0,
            "model": "m" * 16,
        }
        row |= {"stage": result.stage, "config": json.dumps(config or {}), "inputs": json.dumps(refs)}
        row |= {"output_table": result.table, "items": result.items, "ok": result.ok, "quarantined": result.quarantined}
        self.made.lake.table("stages").commit_shard([row], stage_key=result.key, shard=-1)

    def odd_labels(self, key: str, arm: str) -> None:
        """Labels that say the same, hold a placeholder, have an odd video, or are none."""
        video = next(iter(self.scenes))
        odd = {
            "same": ("It is red.", "it is  red", "a", video),
            "marked": ("It is <video>.", "It is red.", "b", video),
            "blank": (" ", "It is red.", "b", video),
            "tied": ("It is red.", "It is blue.", "tie", video),
            "gone": ("It is red.", "It is blue.", "b", "clips/broken0.mp4"),
            "outside": ("It is red.", "It is blue.", "b", "../elsewhere.mp4"),
            "unicode": ("  ça\u2028 \x00<b>|", "蝶々\n- a", "b", video),
        }
        rows = [
            {
                "item_id": f"odd/{name}",
                "instruction": f"odd/{name}",
                "video": shown,
                "question": "Which color?",
                "a": 0,
                "b": 1,
                "answer_a": a,
                "answer_b": b,
                "preferred": preferred,
                "method": "verdict",
                "frame_set": "judge_2",
                "with_narrative": False,
                "arm": arm,
            }
            for name, (a, b, preferred, shown) in odd.items()
        ]
        rows.append({"item_id": "odd/none", "status": "quarantined", "reason": "candidates 0 and 1: no verdict"})
        full = [
            {"status": "ok", "item_key": "k", "run": "demo", "seed": 0, "prompt_hash": "p" * 16, **row} for row in rows
        ]
        self.made.lake.table("preferences").commit_shard(full, stage_key=key, shard=1)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    maker = LabelMaker(tmp_path_factory.mktemp("lake"), videos=3, per_video=7, steps=2)
    maker.videos()
    maker.frames()
    maker.preferences(ARM, narrative=True)
    name = f"preferences/{ARM}"
    maker.odd_labels(maker.made.results[name].key, ARM)
    counts = maker.made.lake.table("preferences").count(maker.made.results[name].key)
    maker.made.results[name] = maker.made.results[name].model_copy(update=counts)
    maker.stage("videos", [])
    maker.stage("frames", ["videos"])
    maker.stage(name, ["frames"], {"arm": ARM, "method": "likelihood"})
    return maker.made.lake


@pytest.fixture(scope="module")
def rows(lake: Lake) -> list[dict[str, Any]]:
    return lake.table("preferences").read(chosen_labels(lake).key).to_pylist()


def config(name: FormatName, to: Path, **changes: Any) -> ExportConfig:
    return ExportConfig(**{"format": name, "to": to, **changes})


@pytest.mark.parametrize("name", NAMES)
def test_an_export_read_back_is_the_lakes_rows(
    name: FormatName, lake: Lake, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    done = export(lake, config(name, tmp_path / "out"))
    assert read_back(tmp_path / "out", name) == rows
    decided = [row for row in rows if row["preferred"] in ("a", "b") and not row["item_id"].startswith("odd/")]
    assert done.rows == len(rows)
    assert done.pairs == done.labelled == len(decided) + 1
    assert done.left_out == {
        "a tie": sum(row["preferred"] == "tie" for row in rows),
        "quarantined": 1,
        "both answers say the same": 1,
        "its answer holds <video>, which loaders take for a picture": 1,
        "its answer is blank": 1,
        "its video cannot be exported": 2,
    }
    assert done.rows == done.labelled + sum(done.left_out.values())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", NAMES)
def test_chosen_is_never_rejected(name: FormatName, lake: Lake, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """distilabel's formatter writes the same answer twice where its judge ties."""
    by_id = {row["item_id"]: row for row in rows}
    for ties in ("leave-out", "both-ways"):
        export(lake, config(name, tmp_path / ties, ties=ties))
        pairs = list(FORMATS[name].read(tmp_path / ties))
        assert pairs
        for pair in pairs:
            row = by_id[pair.id.rpartition("#")[0]]
            assert pair.chosen != pair.rejected
            assert ties == "both-ways" or row["preferred"] != "tie"
            assert row["preferred"] == "tie" or pair.chosen == row[f"answer_{row['preferred']}"]


def test_ties_both_ways_pull_neither_way(lake: Lake, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """A tie between answers that differ is two pairs, one each way; what says the same stays out."""
    without, both = (
        export(lake, config("vlm-rlaif", tmp_path / ties, ties=ties)) for ties in ("leave-out", "both-ways")
    )
    pairs = [pair for pair in rm.read(tmp_path / "both-ways") if pair.id.startswith("odd/tied#")]
    assert [(pair.id, pair.chosen_second) for pair in pairs] == [("odd/tied#0-1", False), ("odd/tied#1-0", True)]
    assert Counter(pair.chosen for pair in pairs) == Counter(pair.rejected for pair in pairs)
    assert (both.pairs, both.labelled) == (without.pairs + 2, without.labelled + 1)
    equal = [row for row in rows if row["preferred"] == "tie" and row["item_id"] != "odd/tied"]
    assert both.left_out["both answers say the same"] == len(equal) + 1  # odd/same is no tie.
    assert read_back(tmp_path / "both-ways", "vlm-rlaif") == rows


def test_frames_are_those_of_the_set_in_order(lake: Lake, tmp_path: Path) -> None:
    export(lake, config("verl", tmp_path / "out", frame_set="judge_2", prefix="/data/set"))
    (row, *_) = pq.read_table(tmp_path / "out" / "train.parquet").to_pylist()
    frames = row["videos"][0]["video"]
    assert len(frames) == 2
    assert frames == sorted(frames)
    assert all(frame.startswith("/data/set/frames/clips/") for frame in frames)
    kept = {each["item_id"]: each for each in lake.table("frames").read().to_pylist()}
    video = "/".join(frames[0].removeprefix("/data/set/frames/").split("/")[:-1])
    stored = lake.blobs.open_arrow(kept[video]["blob"])["frames"][kept[video]["row"]].as_py()
    written = [(tmp_path / "out" / frame.removeprefix("/data/set/")).read_bytes() for frame in frames]
    assert written == [stored[2], stored[6]]


def test_trl_holds_the_frames_and_writes_none(lake: Lake, tmp_path: Path) -> None:
    export(lake, config("trl", tmp_path / "out"))
    pair = next(trl.read(tmp_path / "out"))
    assert len(pair.pictures) == len(pair.media) == 8
    assert all(data.startswith(b"\x89PNG") for data in pair.pictures)
    assert not (tmp_path / "out" / "frames").exists()


def test_the_card_says_what_made_the_labels_and_what_is_left_out(lake: Lake, tmp_path: Path) -> None:
    done = export(lake, config("llamafactory", tmp_path / "out"))
    card = (tmp_path / "out" / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["license"] is None
    assert head["configs"][0]["data_files"] == [{"split": "train", "path": "train.json"}]
    for said in (
        f"{done.pairs} pairs of answers to questions about 3 videos",
        f"`{done.labels.key}`",
        "p" * 16,
        "read the narrative | no, yes",
        "frame set `policy`",
        "candidates 0 and 1: no verdict",
        f"| {done.left_out['a tie']} | a tie |",
        f"preferences {lake.table('preferences').version()}",
        "llamafactory-cli train",
    ):
        assert said in card, said
    assert "None" not in card


def test_the_same_labels_are_written_the_same(lake: Lake, tmp_path: Path) -> None:
    for name in ("one", "two"):
        export(lake, config("hound", tmp_path / name))
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) == 3 + 3 * 8
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)


def test_a_file_that_was_changed_does_not_read_back(lake: Lake, tmp_path: Path) -> None:
    export(lake, config("hound", tmp_path / "out"))
    path = tmp_path / "out" / "train.jsonl"
    lines = path.read_text().split("\n")
    path.write_text("\n".join(lines[1:]))
    with pytest.raises(FormatError, match="lacks 1 pairs"):
        read_back(tmp_path / "out", "hound")
    path.write_text("\n".join([lines[0].replace('"chosen": "', '"chosen": "not '), *lines[1:]]))
    with pytest.raises(FormatError, match=r"is not as rows\.parquet has it"):
        read_back(tmp_path / "out", "hound")


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(ExportError, match="holds something already"):
        export(lake, config("trl", tmp_path / "used"))
    with pytest.raises(ValueError, match=r"no frame set 'judge_9'.*it holds judge_2, policy"):
        export(lake, config("trl", tmp_path / "out", frame_set="judge_9"))
    with pytest.raises(ExportError, match="TRL reads pictures"):
        export(lake, config("trl", tmp_path / "out", videos=tmp_path))
    with pytest.raises(ExportError, match=r"No pair of .* can be exported: .* x its video cannot be exported"):
        export(lake, config("hound", tmp_path / "out", videos=tmp_path))
    with pytest.raises(LabelsError, match=r"no complete labels of arm 'other'.*There are:\n .*context"):
        export(lake, config("trl", tmp_path / "out", arm="other"))
    with pytest.raises(LabelsError, match="none; label some with"):
        export(Lake(tmp_path / "empty"), config("trl", tmp_path / "out"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "used"]
