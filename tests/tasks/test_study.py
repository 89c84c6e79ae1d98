"""Studies over seeds: what is compared, and that the interval holds both kinds of chance."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from storage.lake import Lake
from tasks.expense import Expense
from tasks.study import crossed_bootstrap, studies_of, study_of
from tasks.study_cost import Cost, costs_of_arms, decided_labels
from tasks.study_page import ArmTold, Curve, Findings, markdown, write_study

VIDEOS, QUESTIONS = 30, 4


def scored(lake: Lake, key: str, right: Any, questions: int = QUESTIONS) -> str:
    """A benchmark's rows; `right(video, question)` says which answers are exact."""
    rows = [
        {
            "item_id": f"{video}-{question}", "status": "ok", "item_key": key, "run": "test", "seed": 0,
            "checkpoint": "m", "instruction": f"{video}-{question}", "video": f"{video}.mp4", "kind": "any",
            "question": "?", "answer": "x",
            "decoding": decoding, "exact": float(right(video, question)), "slot": None, "finished": True,
        }
        for video in range(VIDEOS)
        for question in range(questions)
        for decoding in ("greedy", "sampled")
    ]  # fmt: skip
    lake.table("scores").commit_shard(rows, stage_key=key, shard=0)
    return key


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Lake, dict[int, dict[str, str]]]:
    """Base right always, SFT on even questions, the arm on all but one video in seed 0 and all but two in seed 1."""
    lake = Lake(tmp_path / "lake")
    base = scored(lake, "base", lambda _video, _question: True)
    return lake, {
        seed: {
            "base": base,
            "sft": scored(lake, f"sft-{seed}", lambda _video, question: question % 2 == 0),
            "arm": scored(lake, f"arm-{seed}", lambda video, _question, seed=seed: video > seed),
        }
        for seed in (0, 1)
    }


def test_means_differences_and_recovery(keys: tuple[Lake, dict[int, dict[str, str]]], tmp_path: Path) -> None:
    found = study_of(*keys)
    assert (found.seeds, found.questions) == ([0, 1], VIDEOS * QUESTIONS)
    assert found.scores["base"].values == [1.0, 1.0]
    assert found.scores["arm"].values == pytest.approx([29 / 30, 28 / 30])
    (difference,) = found.differences
    assert (difference.first, difference.second) == ("arm", "sft")
    assert difference.values == pytest.approx([29 / 30 - 0.5, 28 / 30 - 0.5])
    assert difference.mean == pytest.approx(0.45)
    assert difference.low < 0.45 < difference.high
    assert difference.p <= 1e-3
    assert difference.recovery is not None
    assert difference.recovery.value == pytest.approx(0.9)
    assert difference.recovery.low < 0.9 < difference.recovery.high
    assert found.scores["arm"].low < 0.95 < found.scores["arm"].high
    page = write_study(Findings("Arms", studies_of(*keys)), tmp_path / "study")
    assert "| arm - sft | +0.467 | +0.433 | +0.450 | 0.024 |" in page.read_text()
    assert [study.measure for study in studies_of(*keys)] == ["greedy_exact", "sampled_exact"], "no slots were scored"
    assert markdown(found) in page.read_text()


def test_one_seed_has_no_deviation(keys: tuple[Lake, dict[int, dict[str, str]]]) -> None:
    lake, by_seed = keys
    found = study_of(lake, {0: by_seed[0]})
    assert found.scores["arm"].sd is None
    assert found.differences[0].sd is None


def test_the_page_shows_the_figures_that_stand_beside_it(
    keys: tuple[Lake, dict[int, dict[str, str]]], tmp_path: Path
) -> None:
    curves = [
        Curve("noise", "Against noise", "share turned round", {"arm": 0.3, "sft": 0.3, "base": 0.1, "never_run": 0.1})
    ]
    arms = {"arm": ArmTold("an arm | of two", ["arms=[x]"], Cost(12.0, 65.0), 2780.0)}
    findings = Findings("Arms", studies_of(*keys), arms, curves, ["arm seed 2 failed, log run.log"])
    page = write_study(findings, tmp_path).read_text()
    figures = {"study_greedy_exact.svg": "greedy_exact by arm", "study_noise.svg": "Against noise"}
    for name, title in figures.items():
        assert f"![{title}]({name})" in page
        said = "".join(ElementTree.fromstring((tmp_path / name).read_text()).itertext())
        assert "sft 50.0" in said
        assert "base 100.0" in said
    assert "Missing: arm seed 2 failed, log run.log." in page
    assert "| arm | an arm \\| of two | 2,780 | 12 s | 1 min 05 s | `arms=[x]` |" in page
    values = json.loads((tmp_path / "study.json").read_text())
    assert values["arms"]["arm"]["cost"] == {"own": 12.0, "whole": 65.0}
    (difference,) = values["measures"]["greedy_exact"]["differences"]
    assert difference["recovery"]["value"] == pytest.approx(0.9)
    assert write_study(findings, tmp_path / "again").read_text() == page
    assert (tmp_path / "again" / "study_noise.svg").read_text() == (tmp_path / "study_noise.svg").read_text()


def test_a_stage_costs_the_arm_that_alone_needs_it(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    for key, seconds in {"shared": 10.0, "own": 4.0, "other": 6.0}.items():
        detail = json.dumps({"expense": asdict(Expense(seconds=seconds, load_seconds=9.0))})
        row = {"run": "r", "event_id": key, "at": datetime.now(UTC), "event": "stage_finished", "stage": "s"}
        lake.log([{**row, "stage_key": key, "cached": False, "seconds": 99.0, "detail": detail}])
    stages = {0: {"one": {"sft": "shared", "policy one": "own"}, "two": {"sft": "shared", "policy two": "other"}}}
    assert costs_of_arms(lake, stages) == {"one": Cost(4.0, 14.0), "two": Cost(6.0, 16.0)}


def test_the_labels_of_an_arm_are_those_of_its_own_judge(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    for key, preferred in {"arm": "abt", "blind": "aaa", "first": "ab", "second": "b"}.items():
        how = {"method": "verdict", "arm": key, "video": "v", "question": "?", "answer_a": "x", "answer_b": "y"}
        rows = [
            {"item_id": str(place), "status": "ok", "item_key": key, "run": "r", "seed": 0, "instruction": str(place)}
            | {"preferred": "tie" if each == "t" else each, "a": 0, "b": 1, **how}
            for place, each in enumerate(preferred)
        ]
        lake.table("preferences").commit_shard(rows, stage_key=key, shard=0)
    rounds = {f"preferences dpo_round_{number}": key for number, key in enumerate(("first", "second"), 1)}
    stages = {0: {"arm": {"preferences arm": "arm", "preferences arm_blind": "blind", "sft": "x"}, "dpo": rounds}}
    assert decided_labels(lake, stages) == {"arm": 2, "dpo": 3}


def test_only_the_pairs_that_are_asked_for_are_compared(keys: tuple[Lake, dict[int, dict[str, str]]]) -> None:
    lake, by_seed = keys
    more = {seed: {**labels, "twin": labels["arm"], "third": labels["sft"]} for seed, labels in by_seed.items()}

    def pairs(*asked: tuple[str, str]) -> list[tuple[str, str]]:
        return [(each.first, each.second) for each in study_of(lake, more, pairs=asked or None).differences]

    every = [("arm", "sft"), ("twin", "sft"), ("third", "sft")]
    assert pairs(("twin", "arm"), ("arm", "sft")) == [*every, ("twin", "arm")]
    assert pairs() == [*every, ("arm", "twin"), ("arm", "third"), ("twin", "third")]
    (twins,) = [each for each in study_of(lake, more).differences if (each.first, each.second) == ("arm", "twin")]
    assert (twins.mean, twins.low, twins.high, twins.p) == (0, 0, 0, 1)


def test_an_arm_that_lacks_a_seed_is_compared_over_those_it_has(keys: tuple[Lake, dict[int, dict[str, str]]]) -> None:
    lake, by_seed = keys
    found = study_of(lake, {0: {**by_seed[0], "late": by_seed[0]["arm"]}, 1: by_seed[1]})
    assert found.scores["late"].values == [pytest.approx(29 / 30), None]
    assert found.scores["late"].sd is None
    late = {each.second: each for each in found.differences if each.first == "late"}
    (arm,) = [each for each in found.differences if (each.first, each.second) == ("arm", "late")]
    assert late["sft"].values == [pytest.approx(29 / 30 - 0.5), None]
    assert arm.values == [0, None]
    assert "| late | 0.967 |  | 0.967 |  |" in markdown(found)


def test_other_questions_are_refused(keys: tuple[Lake, dict[int, dict[str, str]]]) -> None:
    lake, by_seed = keys
    fewer = scored(lake, "fewer", lambda *_: True, questions=2)
    with pytest.raises(ValueError, match="arm was not scored on the same questions"):
        study_of(lake, {0: by_seed[0], 1: {**by_seed[1], "arm": fewer}})


def test_the_interval_holds_the_chance_of_seeds_and_of_videos() -> None:
    rng = np.random.default_rng(0)
    counts = np.full(200, 3.0)
    by_seed = rng.normal(0, 0.1, (5, 1)) * counts * np.ones((5, 200))
    by_video = np.ones((5, 1)) * rng.normal(0, 1.0, 200) * counts
    assert crossed_bootstrap(by_seed, counts).std() == pytest.approx((by_seed[:, 0] / 3).std() / 5**0.5, rel=0.1)
    assert crossed_bootstrap(by_video, counts).std() == pytest.approx((by_video[0] / 3).std() / 200**0.5, rel=0.1)


def test_no_difference_is_no_finding() -> None:
    found = crossed_bootstrap(np.zeros((3, 10)), np.ones(10))
    assert not found.any()
