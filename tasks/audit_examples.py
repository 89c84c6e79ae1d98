"""A few pairs for each kind of trouble that an audit finds, with their frames; the same ones every time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from models.slots import SlotVocabulary
from tasks.audit_measures import Judged, LengthUnit, length_difference
from tasks.grading import Grader, Truths
from tasks.label_versions import LabelVersion, judged_pair
from tasks.report_data import Arm
from tasks.report_pairs import Pair, PairKey, Row, asked_rows, judged_rows, lot, pair_of, with_pictures

if TYPE_CHECKING:
    from storage.lake import Lake
    from tasks.stage import StageResult

EACH = 2  # Examples of a kind.

_Seen = Mapping[str, Judged]
_Trouble = Callable[[Judged, _Seen], bool]


def examples(
    lake: Lake,
    versions: Sequence[LabelVersion],
    sources: Mapping[str, Mapping[str, StageResult]],
    truths: Truths,
    slots: SlotVocabulary | None,
    unit: LengthUnit,
) -> list[Pair]:
    """Up to EACH pairs a kind of trouble, of the first versions that have it; `sources` are the stages behind each."""
    judged = {version.name: judged_rows(lake, version.key) for version in versions}
    seen = {name: {key: judged_pair(row, truths) for key, row in rows.items()} for name, rows in judged.items()}
    arms = {version.name: _arm(version, place) for place, version in enumerate(versions)}
    found: list[Pair] = []
    for version in versions:
        if version.blind:
            continue
        behind = sources[version.name]
        asked = asked_rows(lake, behind["instructions"]) if "instructions" in behind else {}
        others = [arms[other.name] for other in versions if other is not version]
        blind = [other.name for other in versions if other.blind and other.like(version)]
        for category, is_trouble in _troubles(version.name, list(judged), blind, unit).items():
            wanted = EACH - sum(pair.category == category for pair in found)
            own = judged[version.name].items()
            rows = [row for key, row in own if is_trouble(seen[version.name][key], _at(seen, key))]
            line = sorted((row for row in rows if not _shown(row, found)), key=_lot)[:wanted]
            pairs = [pair_of(row, arms[version.name], others, judged, asked, Grader(slots), category) for row in line]
            found += with_pictures(lake, behind.get("frames"), pairs, arms[version.name].frame_set)
    return found


def _lot(row: Row) -> str:
    return lot(row["video"], row["question"], (row["answer_a"], row["answer_b"]))


def _troubles(name: str, names: Sequence[str], blind: Sequence[str], unit: LengthUnit) -> dict[str, _Trouble]:
    """By what is said of it."""

    def orders_disagree(pair: Judged, _: _Seen) -> bool:
        return pair.orders is not None and (pair.orders[0] - 0.5) * (pair.orders[1] - 0.5) < 0

    def sure_and_wrong(pair: Judged, _: _Seen) -> bool:
        return pair.truth in ("a", "b") and pair.preferred != pair.truth and abs(pair.p_a - 0.5) > 0.4

    def longer_and_worse(pair: Judged, _: _Seen) -> bool:
        difference = length_difference(pair, unit)
        longer, shorter = ("a", "b") if difference > 0 else ("b", "a")
        return difference != 0 and pair.preferred == longer and pair.truth == shorter

    def needs_no_video(pair: Judged, seen: _Seen) -> bool:
        unseen = [seen[other].preferred for other in blind if other in seen]
        return pair.preferred != "tie" and pair.preferred in unseen

    def judges_disagree(pair: Judged, seen: _Seen) -> bool:
        opposite = {"a": "b", "b": "a"}.get(pair.preferred)
        others = [each for each in names if each not in (name, *blind)]
        return any(other in seen and seen[other].preferred == opposite for other in others)

    return {
        "the order decides": orders_disagree,
        "sure and wrong": sure_and_wrong,
        "longer and worse": longer_and_worse,
        "needs no video": needs_no_video,
        "judges disagree": judges_disagree,
    }


def _at(seen: Mapping[str, Mapping[PairKey, Judged]], key: PairKey) -> dict[str, Judged]:
    """What each version says of a pair."""
    return {name: pairs[key] for name, pairs in seen.items() if key in pairs}


def _shown(row: Row, found: Sequence[Pair]) -> bool:
    place = (row["video"], row["question"])
    return any((each.video, each.question) == place for each in found)


def _arm(version: LabelVersion, place: int) -> Arm:
    config = version.config
    shown = (config["frame_set"], config["method"], version.name, version.name)
    return Arm(version.name, place, version.narrative, *shown)
