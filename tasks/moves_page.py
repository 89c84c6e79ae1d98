"""The page of a relabelling: which labels moved between the version before and the new one, with examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.grading import Grader
from tasks.label_moves import moved_examples, moves
from tasks.label_versions import LabelVersion, label_version, made_from
from tasks.pages import render, without_places, write
from tasks.report_pairs import Opinion, Pair, asked_rows, truth_of, with_pictures
from tasks.report_scores import points

if TYPE_CHECKING:
    from storage.lake import Lake
    from tasks.stage import StageResult

PAGE = "moves.html"
EACH = 4  # Examples of a kind of move.
STAYED, NEW, GONE = "the same", "new", "gone"
_MOVED = ("turned round", "now a tie", "no longer a tie")


@dataclass(frozen=True)
class Kind:
    """One kind of move: its pairs, their share of all, and some of them."""

    label: str
    pairs: int
    share: float
    examples: list[Pair]


@dataclass(frozen=True)
class ArmMoves:
    """What became of one arm's labels. `changes` says what differs in how they were made; empty: nothing."""

    arm: str
    headline: str
    before: LabelVersion | None
    after: LabelVersion
    changes: list[str]
    kinds: list[Kind]


@dataclass(frozen=True)
class MovesPage:
    """Everything on the page."""

    name: str
    headline: str
    notes: list[str]
    lake: str
    arms: list[ArmMoves]


def moves_page(
    lake: Lake, run: str, versions: Mapping[str, tuple[StageResult | None, StageResult]], folder: Path
) -> Path:
    """Write moves.html.

    Args:
        lake: where the labels are.
        run: the run's name.
        versions: by arm, the labels before (None: there were none) and the new ones.
        folder: the run's folder.
    """
    arms = [_arm(lake, name, before, after) for name, (before, after) in versions.items()]
    said, *notes = [f"{each.arm}: {each.headline}" for each in arms]
    page = MovesPage(run, said, notes, lake.root, arms)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / PAGE, render("moves.html.j2", without_places(Path.cwd()), page=page))
    return folder / PAGE


def _arm(lake: Lake, name: str, before: StageResult | None, after: StageResult) -> ArmMoves:
    keys = (before.key if before else "", after.key)
    rows = moves(lake, *keys)
    old = None if before is None else label_version(lake, f"{name} before", before.key)
    new = label_version(lake, name, after.key)
    total = sum(row["pairs"] for row in rows)
    examples = _examples(lake, *keys, new)
    kinds = [
        Kind(
            row["label"],
            row["pairs"],
            row["pairs"] / total,
            [] if row["label"] == STAYED else [pair for pair in examples if pair.category == row["label"]],
        )
        for row in rows
    ]
    return ArmMoves(name, _headline(rows, old), old, new, _changes(old, new), kinds)


def _headline(rows: Sequence[Mapping[str, Any]], before: LabelVersion | None) -> str:
    pairs = {row["label"]: row["pairs"] for row in rows}
    if before is None:
        return f"{pairs.get(NEW, 0):,} pairs were labelled for the first time."
    moved = sum(pairs.get(label, 0) for label in _MOVED)
    both = moved + pairs.get(STAYED, 0)
    said = f"{moved:,} of {both:,} labels moved" + (f" ({points(moved / both)}\u00a0%)" if both else "")
    more = [
        f"{pairs[label]:,} {'pair is' if pairs[label] == 1 else 'pairs are'} {label}"
        for label in (NEW, GONE)
        if label in pairs
    ]
    return "; ".join([said, *more]) + "."


def _changes(before: LabelVersion | None, after: LabelVersion) -> list[str]:
    """What differs in how two versions were made."""
    if before is None:
        return []
    said = []
    if before.model != after.model:
        said.append(f"another judge ({before.model} before, {after.model} now)")
    if before.prompt != after.prompt:
        said.append(f"another prompt (hash {before.prompt} before, {after.prompt} now)")
    for key in sorted({*before.config, *after.config}):
        old, new = before.config.get(key), after.config.get(key)
        if old != new:
            said.append(f"{key} {old} before, {new} now")
    for stage in sorted({*before.sources, *after.sources}):
        if before.sources.get(stage) != after.sources.get(stage):
            said.append(f"other {stage.replace('_', ' ')}")
    return said


def _examples(lake: Lake, before: str, after: str, version: LabelVersion) -> list[Pair]:
    sources = made_from(lake, after)
    asked = asked_rows(lake, sources["instructions"]) if "instructions" in sources else {}
    pairs = [_pair(row, asked) for row in moved_examples(lake, before, after, EACH) if row["label"] != STAYED]
    return with_pictures(lake, sources.get("frames"), pairs, version.config["frame_set"])


def _pair(row: Mapping[str, Any], asked: Mapping[str, Mapping[str, Any]]) -> Pair:
    asking = asked.get(row["instruction"], {})
    answers = (row["one"], row["other"])
    # Without the words of a slot score: whether an answer is the true one, no more.
    grades, truth = truth_of(asking.get("answer"), answers, Grader(None))
    verdicts = [
        Opinion(f"Judge, {when}", row[f"narrative_{when}"] is not None, row[f"label_{when}"], row[f"p_{when}"])
        for when in ("after", "before")
        if row[f"label_{when}"] is not None
    ]
    told = [row["narrative_after"], row["narrative_before"]]
    return Pair(
        video=row["video"],
        question=row["question"],
        kind=asking.get("kind"),
        narrative=told[0] or told[1],
        answers=answers,
        scores=(None, None),
        method=row["method"],
        opinion=verdicts[0],
        others=tuple(verdicts[1:]),
        true_answer=asking.get("answer"),
        grades=grades,
        truth=truth,
        category=row["label"],
        told_before=told[1] if told[0] and told[1] != told[0] else None,
    )
