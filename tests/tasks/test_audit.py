"""The stage `audit` over labels committed by hand, and the limits that stop a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from labels import Said, asked, labelled
from pydantic import ValidationError
from small import committed, small_run

from miniature.lessons import SLOTS
from storage.lake import Lake
from tasks.audit import audit, read_audit
from tasks.audit_limits import AuditConfig, AuditError
from tasks.fanout import WorkerPool
from tasks.intervals import Interval
from tasks.label_versions import ancestors, chosen_labels, label_version, latest_versions, made_from
from tasks.stage import QuarantineError, RunContext, StageError, StageResult

TRUTHS: dict[str, str | None] = {"q1": "it is red.", "q2": "it is blue.", "q3": "it is green.", "q4": None}
CONTEXT: list[Said] = [
    ("q1", "it is red.", "it is blue.", "a", 0.9),
    ("q2", "it is blue.", "red.", "a", 0.8),
    ("q3", "it is a red.", "it is green.", "b", 0.2),
    ("q4", "it is cyan.", "it is red.", "a", 0.7),
]
NO_CONTEXT: list[Said] = [(*pair[:3], "a", 0.6) for pair in CONTEXT]


@pytest.fixture
def ctx(pool: WorkerPool, tmp_path: Path) -> RunContext:
    return small_run(pool, tmp_path / "lake")


def config(**changes: Any) -> AuditConfig:
    words = {name: list(each) for name, each in SLOTS.values.items()}
    return AuditConfig.model_validate({"slots": {"values": words}, "resamples": 100, **changes})


def found(ctx: RunContext, result: StageResult) -> dict[tuple[str, str, str], Interval]:
    return {(each.measure, each.version, each.other): each.found for each in read_audit(ctx.lake, result.ref)}


def test_versions_are_measured_alone_and_against_one_another(ctx: RunContext) -> None:
    instructions = asked(ctx.lake, TRUTHS)
    versions = {
        "context": labelled(ctx.lake, "context", CONTEXT, narrative=True),
        "plain": labelled(ctx.lake, "plain", NO_CONTEXT),
        "plain_blind": labelled(ctx.lake, "plain_blind", NO_CONTEXT[:3], blind=True),
        "other": labelled(ctx.lake, "other", CONTEXT, model="another judge"),
    }
    result = audit(ctx, config(), versions, instructions, "all")
    assert (result.stage, result.table, result.label, result.ok) == ("audit", "metrics", "audit all", 4)
    measured = found(ctx, result)
    assert (measured["truth", "context", "all"].value, measured["truth", "context", "all"].n) == (1.0, 3)
    assert measured["truth", "plain", "all"].value == pytest.approx(2 / 3)
    assert measured["same", "context", "plain"].value == 0.75
    assert measured["kappa", "context", "other"].value == pytest.approx(1)
    assert measured["narrative_gain", "context", "plain"].value == pytest.approx(1 / 3)
    assert measured["narrative_moved", "context", "plain"].value == 0.25
    assert (measured["blind_same", "plain", "plain_blind"].value, measured["blind_same", "plain", "plain_blind"].n) == (
        1.0,
        3,
    )
    assert measured["blind_same", "context", "plain_blind"].value == pytest.approx(2 / 3)
    effects = {key for key in measured if key[0].startswith(("narrative", "blind"))}
    assert not {key for key in effects if "other" in key}, "another judge is no twin"
    assert ("first", "context", "all") not in measured, "a likelihood judge is shown no order"
    assert audit(ctx, config(), versions, instructions, "all").cached


def test_answers_of_other_splits_are_no_truth(ctx: RunContext) -> None:
    instructions = asked(ctx.lake, TRUTHS, split="rl")
    versions = {"context": labelled(ctx.lake, "context", CONTEXT)}
    measured = found(ctx, audit(ctx, config(), versions, instructions, "a"))
    assert not {"truth", "brier", "longer_excess"} & {measure for measure, *_ in measured}
    measured = found(ctx, audit(ctx, config(truth_splits=["rl"]), versions, instructions, "a"))
    assert ("truth", "context", "all") in measured


def test_labels_without_a_pair_are_quarantined(ctx: RunContext) -> None:
    from labels import complete

    lost = {"item_id": "q1", "status": "quarantined", "reason": "cut", "item_key": "k", "run": "r", "seed": 0}
    empty = committed(ctx.lake.table("preferences"), [lost], "empty")
    complete(ctx.lake, empty, {"arm": "empty", "narrative": False, "method": "likelihood"})
    ctx.max_quarantined = 0.0
    with pytest.raises(QuarantineError, match="it has no judged pair"):
        audit(ctx, config(), {"empty": empty}, asked(ctx.lake, TRUTHS), "a")


LEANING = {"q1": (0.9, 0.2), "q2": (0.9, 0.8), "q3": (0.6, 0.3), "q4": (0.7, 0.4)}


def gated(ctx: RunContext, said: list[Said] = CONTEXT, *, limits: dict[str, float], **how: Any) -> None:
    """The audit of labels that a reward model waits for, and of a blind judge's that are the same."""
    versions = {
        "arm": labelled(ctx.lake, "arm", said, **how),
        "blind": labelled(ctx.lake, "blind", said, blind=True, **how),
    }
    audit(ctx, config(**limits), versions, asked(ctx.lake, TRUTHS), "arm", gate=["arm"])


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (
            {"max_position_bias": 0.2},
            r"prefer the answer shown first: 0\.875 \(95 % interval .* 4 pairs\), a bias of 0\.375; "
            r"audit\.max_position_bias allows 0\.2",
        ),
        ({"min_consistency": 0.5}, r"two orders prefer the same answer: 0\.250 .*; audit\.min_consistency allows 0\.5"),
        ({"max_length_bias": 0.1}, r"longer answer .*: 0\.\d+ .*; audit\.max_length_bias allows 0\.1"),
        (
            {"max_blind_agreement": 0.9},
            r"without seeing the video.*: 1\.000 .*; audit\.max_blind.* allows 0\.9",
        ),
    ],
)
def test_a_limit_that_is_broken_stops_and_says_which(ctx: RunContext, limits: dict[str, float], said: str) -> None:
    worse = [("q2", "it is blue.", "it is a small red one.", "b", 0.2), *CONTEXT[2:], CONTEXT[0]]
    with pytest.raises(AuditError, match=said) as caught:
        gated(ctx, worse, limits=limits, method="verdict", orders=LEANING)
    assert "The labels 'arm' fail the audit" in str(caught.value)
    assert f"`rlaif audit {ctx.lake_root} --arm arm`" in str(caught.value)


def test_limits_that_are_kept_stop_nothing(ctx: RunContext) -> None:
    limits = {"max_position_bias": 0.4, "min_consistency": 0.25, "max_length_bias": 0.5, "max_blind_agreement": 1.0}
    gated(ctx, limits=limits, method="verdict", orders=LEANING)


def test_a_limit_that_cannot_be_measured_stops_too(ctx: RunContext) -> None:
    with pytest.raises(AuditError, match=r"min_consistency is 0\.5, but nothing tells the share of"):
        gated(ctx, limits={"min_consistency": 0.5}, method="verdict")


def test_a_judge_without_orders_has_no_limit_of_them(ctx: RunContext) -> None:
    gated(ctx, limits={"min_consistency": 0.5, "max_position_bias": 0.0})


def test_labels_that_nothing_learns_from_are_not_stopped(ctx: RunContext) -> None:
    versions = {"held_out": labelled(ctx.lake, "held_out", CONTEXT, method="verdict", orders=LEANING)}
    audit(ctx, config(max_position_bias=0.0), versions, asked(ctx.lake, TRUTHS), "held out")


def test_a_limit_is_no_part_of_what_is_measured(ctx: RunContext) -> None:
    versions, instructions = {"arm": labelled(ctx.lake, "arm", CONTEXT)}, asked(ctx.lake, TRUTHS)
    first = audit(ctx, config(), versions, instructions, "arm")
    with pytest.raises(AuditError):
        audit(ctx, config(max_blind_agreement=0.1), versions, instructions, "arm", gate=["arm"])
    assert audit(ctx, config(max_length_bias=0.9), versions, instructions, "arm", gate=["arm"]).key == first.key


def test_the_latest_versions_of_arms_and_what_they_were_made_from(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    with pytest.raises(StageError, match="holds no complete labels; label first"):
        latest_versions(lake)
    instructions = asked(lake, TRUTHS)
    labelled(lake, "one", CONTEXT, key="old", inputs=(instructions,))
    labelled(lake, "one", CONTEXT, key="new", inputs=(instructions,), model="another judge")
    labelled(lake, "two", CONTEXT, key="only")
    assert [(each.name, each.key) for each in latest_versions(lake)] == [("one", "new"), ("two", "only")]
    assert [(each.name, each.key, each.arm) for each in latest_versions(lake, ["one"], each=2)] == [
        ("one", "new", "one"),
        ("one old", "old", "one"),
    ]
    with pytest.raises(StageError, match="no complete labels of three; arms with labels: one, two"):
        latest_versions(lake, ["two", "three"])
    assert {name: each.key for name, each in made_from(lake, "new").items()} == {"instructions": instructions.key}
    assert not label_version(lake, "x", "old").like(label_version(lake, "y", "new"))
    with pytest.raises(StageError, match="Labels nowhere are not complete"):
        label_version(lake, "x", "nowhere")
    assert [chosen_labels(lake, "one")] == latest_versions(lake, ["one"]), "what is exported is what is audited"
    assert [row["item_id"] for row in ancestors(lake, "new")] == ["new", instructions.key]


@pytest.mark.parametrize("wrong", [{"max_position_bias": 0.6}, {"length_unit": "tokens"}, {"max_bias": 0.1}])
def test_a_bad_setting_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(**wrong)
