"""Judged pairs against the ground truth, with preferences and instructions committed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from small import committed, rows_of

from miniature.lessons import SLOTS
from tasks.agreement import (
    AgreementConfig,
    AgreementSettings,
    CompareWithTruth,
    GradedPair,
    agreement,
    measure,
    read_agreement,
)
from tasks.fanout import WorkerPool
from tasks.intervals import bootstrap_mean
from tasks.progress import SilentProgress
from tasks.stage import RunContext, StageResult

SLOT_WORDS = {"values": {name: list(words) for name, words in SLOTS.values.items()}}
TRUTHS = {
    "shape1": ("shape", "it is a circle."),
    "shape2": ("shape", "it is a square."),
    "event1": ("event", "a red circle moves left."),
    "unscorable": ("color", "it is vermilion."),
    "unanswered": ("color", None),
}


def config(**changes: Any) -> AgreementConfig:
    return AgreementConfig.model_validate({"slots": SLOT_WORDS, **changes})


def row(item: str, **content: Any) -> dict[str, Any]:
    return {"item_id": item, "status": "ok", "item_key": f"key of {item}", "run": "test", "seed": 0, **content}


def judged(item: str, answer_a: str, answer_b: str, p_a: float, preferred: str | None = None, **more: Any) -> Any:
    about: dict[str, Any] = {
        "instruction": item,
        "video": f"{item}.mp4",
        "question": "?",
        "method": "likelihood",
        "arm": "x",
    }
    about |= {"frame_set": "judge_2", "with_narrative": False, "a": 0, "b": 1, **more}
    said = preferred or ("a" if p_a > 0.5 else "b")
    return row(item, answer_a=answer_a, answer_b=answer_b, p_a=p_a, preferred=said, **about)


@pytest.fixture
def ctx(pool: WorkerPool, tmp_path: Path) -> RunContext:
    return RunContext(str(tmp_path / "lake"), "test", pool, SilentProgress(), max_quarantined=0.9, seed=0)


@pytest.fixture
def instructions(ctx: RunContext) -> StageResult:
    rows = [
        row(item, video=f"{item}.mp4", question="?", answer=answer, kind=kind, split="benchmark")
        for item, (kind, answer) in TRUTHS.items()
    ]
    return committed(ctx.lake.table("instructions"), rows, "instructions0")


def preferred(ctx: RunContext, rows: list[Any], key: str) -> StageResult:
    return committed(ctx.lake.table("preferences"), rows, key)


def test_agreement_is_measured_on_the_pairs_that_the_truth_tells_apart(
    ctx: RunContext, instructions: StageResult
) -> None:
    wrong_pair = judged("shape2", "it is a cross.", "it is a square.", 0.9, b=2)
    rows = [
        judged("shape1", "it is a circle.", "it is a square.", 0.9),
        judged("shape2", "it is a square.", "it is a square.", 0.5, "tie"),  # the truth does not tell these apart
        wrong_pair,
        judged("event1", "a red circle moves left.", "a red circle grows.", 0.6, "tie"),
        judged("event1", "a blue circle grows.", "a blue circle moves left.", 0.2, b=2),
        judged("unscorable", "it is red.", "it is blue.", 0.9),
        judged("unanswered", "it is red.", "it is blue.", 0.9),
        {**row("lost"), "status": "quarantined", "reason": "cut"},
    ]
    conditions = {"context_2": preferred(ctx, rows, "p0"), "no_context_2": preferred(ctx, [wrong_pair], "p1")}
    result = agreement(ctx, config(), conditions, instructions)
    assert (result.stage, result.table, result.ok, result.quarantined) == ("agreement", "metrics", 2, 0)
    found = read_agreement(ctx.lake, result.ref)
    overall = found["context_2"]["all"]
    assert (overall.n, overall.ties) == (4, 0.25)
    assert overall.agreement == pytest.approx((1 + 0 + 0.5 + 1) / 4)
    assert overall.choice == pytest.approx(3 / 4)
    assert overall.low <= overall.agreement <= overall.high
    assert (overall.consistent, overall.first) == (None, None)
    assert found["context_2"]["event"].agreement == pytest.approx(0.75)
    assert found["context_2"]["shape"].agreement == pytest.approx(0.5)
    assert sorted(found["context_2"]) == ["all", "event", "shape"]
    assert (found["no_context_2"]["all"].agreement, found["no_context_2"]["all"].n) == (0, 1)
    named = {each["name"]: each["value"] for each in rows_of(ctx.lake, result)["context_2"]}
    assert named["agreement/context_2/all"] == overall.agreement
    assert named["agreement_n/context_2/event"] == 2
    assert agreement(ctx, config(), conditions, instructions).cached


def test_without_slots_exact_match_tells_the_better_answer(ctx: RunContext, instructions: StageResult) -> None:
    rows = [
        judged("event1", "a red circle moves left.", "a red circle grows.", 0.9),
        judged("event1", "a red circle grows.", "a blue cross grows.", 0.9, b=2),  # both are not it
        judged("unscorable", "it is red.", "it is vermilion.", 0.9),
    ]
    result = agreement(ctx, config(slots=None), {"only": preferred(ctx, rows, "p0")}, instructions)
    found = read_agreement(ctx.lake, result.ref)["only"]
    assert {kind: (each.agreement, each.n) for kind, each in found.items()} == {
        "all": (0.5, 2),
        "event": (1, 1),
        "color": (0, 1),
    }


def test_a_condition_without_a_pair_that_counts_is_quarantined(ctx: RunContext, instructions: StageResult) -> None:
    same = preferred(ctx, [judged("shape1", "it is a circle.", "it is a circle.", 0.5, "tie")], "p0")
    settings = AgreementSettings(ctx.lake_root, {"same": same.ref}, instructions.ref, config())
    (outcome,) = CompareWithTruth(settings).process([{"item_id": "same"}], 0)
    assert outcome.rows is None
    assert "no pair has answers that the ground truth grades differently" in (outcome.reason or "")


def pair(a_is_better: bool, first: float, second: float, instruction: str = "i") -> GradedPair:
    """A verdict judge's pair from p_a when a was shown first and second."""
    consistent = (first > 0.5) == (second > 0.5)
    p_a = (first + second) / 2
    said = ("a" if p_a > 0.5 else "b") if consistent else "tie"
    return GradedPair(instruction, "event", a_is_better, said, p_a, first, second, consistent)


def test_position_bias_and_consistency_of_verdicts() -> None:
    found = measure([pair(True, 0.9, 0.8), pair(True, 0.9, 0.3), pair(False, 0.8, 0.4), pair(False, 0.2, 0.3)])
    assert found.agreement == pytest.approx((1 + 0.5 + 0.5 + 1) / 4)
    assert found.choice == pytest.approx((1 + 1 + 0 + 1) / 4)
    assert found.ties == 0.5
    assert found.consistent == 0.5
    # Shown first, a is preferred in 3 of 4; shown second, b (then first) is preferred in 3 of 4.
    assert found.first == pytest.approx(6 / 8)
    always_first = measure([pair(bool(n % 2), 0.9, 0.1) for n in range(10)])
    assert (always_first.first, always_first.consistent, always_first.agreement) == (1, 0, 0.5)


def test_pairs_of_one_instruction_are_resampled_together() -> None:
    same = [pair(n % 2 == 0, 0.9, 0.9, f"instruction {n}") for n in range(20) for _ in range(10)]
    apart = [pair(n % 2 == 0, 0.9, 0.9, f"instruction {n}-{m}") for n in range(20) for m in range(10)]
    grouped, single = measure(same), measure(apart)
    assert grouped.agreement == single.agreement == 0.5
    assert grouped.high - grouped.low > 2 * (single.high - single.low)
    assert measure(same) == grouped
    assert measure(same, seed=1) != grouped


def test_the_interval_of_independent_values_is_that_of_a_mean() -> None:
    values = [float(n % 4 == 0) for n in range(1000)]
    found = bootstrap_mean(values, list(range(1000)))
    half = 1.96 * (0.25 * 0.75 / 1000) ** 0.5
    assert (found.value, found.n) == (0.25, 1000)
    assert found.low == pytest.approx(0.25 - half, abs=0.005)
    assert found.high == pytest.approx(0.25 + half, abs=0.005)
    with pytest.raises(ValueError, match="nothing to average"):
        bootstrap_mean([], [])


def test_conditions_need_names_of_their_own() -> None:
    condition = {"name": "context_2", "narrative": True, "frame_set": "judge_2", "method": "likelihood"}
    assert config(conditions=[condition]).conditions[0].method == "likelihood"
    for wrong in ([condition, condition], [{**condition, "name": "a/b"}], [{**condition, "method": "guess"}]):
        with pytest.raises(ValidationError):
            config(conditions=wrong)
