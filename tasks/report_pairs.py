"""Preference pairs for the report: a few, chosen the same way every time, with their frames and the ground truth."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from storage.errors import LakeError
from tasks.grading import Grader, UnscorableError

if TYPE_CHECKING:
    from storage.lake import Lake
    from tasks.report_data import Arm
    from tasks.stage import StageResult

MAX_FRAMES = 8
MAX_WIDTH = 200  # Pixels; wider frames are made smaller, so that the page stays light.
# Kinds of pair in their order on the page, and how many of a dozen each gives.
_SHARES = {"only the narrative got it": 3, "wrong": 3, "tie": 2, "right": 4}
# What a pair's tag says of its category, and its tone; a category that is not here says it itself.
_TAGS = {
    "wrong": ("judge is wrong", "down"),
    "right": ("judge is right", "up"),
    "tie": ("judge sees a tie", ""),
    "only the narrative got it": ("right only with the narrative", "up"),
    "equally right": ("both equally right", ""),
    "no ground truth": ("no ground truth", ""),
}


@dataclass(frozen=True)
class Picture:
    """A frame as a data address, its time in seconds, and whether the judge saw it."""

    source: str
    time: float
    judged: bool


@dataclass(frozen=True)
class Opinion:
    """What a judge, with the narrative or without, said of a pair: probability that answer A is the better one."""

    arm: str
    narrative: bool
    preferred: str
    p_a: float


@dataclass(frozen=True)
class Pair:
    """A judged pair. `grades` and `truth` ("a", "b", "tie") come from the true answer, which no judge sees.

    `orders` are p(A) with answer A shown first and second, where the judge was shown both orders; `told_before` is the
    narrative of an earlier version of the labels, where it was another.
    """

    video: str
    question: str
    kind: str | None
    narrative: str | None
    answers: tuple[str, str]
    scores: tuple[float | None, float | None]
    method: str
    opinion: Opinion
    others: tuple[Opinion, ...]
    true_answer: str | None
    grades: tuple[float, float] | None
    truth: str | None
    category: str
    orders: tuple[float, float] | None = None
    told_before: str | None = None
    pictures: tuple[Picture, ...] = ()

    @property
    def tag(self) -> tuple[str, str]:
        """What is said of the category, and in which tone ("up", "down" or "")."""
        return _TAGS.get(self.category, (self.category, ""))


def pairs_of(
    lake: Lake,
    arms: Sequence[Arm],
    preferences: Mapping[str, StageResult],
    instructions: StageResult | None,
    frames: StageResult | None,
    grader: Grader,
    *,
    count: int,
) -> list[Pair]:
    """Up to `count` pairs of the first arm with a narrative (else of the first arm), the instructive ones first."""
    known = [arm for arm in sorted(arms, key=lambda arm: not arm.narrative) if arm.name in preferences]
    if not known:
        return []
    judged = {arm.name: judged_rows(lake, preferences[arm.name].key) for arm in known}
    asked = {} if instructions is None else asked_rows(lake, instructions)
    main = known[0]
    pairs = [pair_of(row, main, known[1:], judged, asked, grader) for row in judged[main.name].values()]
    chosen = _choose(pairs, count)
    return with_pictures(lake, frames, chosen, main.frame_set)


PairKey = tuple[str, int, int, str, str]
Row = dict[str, Any]


def judged_rows(lake: Lake, key: str) -> dict[PairKey, Row]:
    """The ok pairs of a version of the labels, by instruction, candidates and answers."""
    columns = ["status", "instruction", "video", "question", "a", "b", "answer_a", "answer_b", "preferred", "p_a"]
    columns += ["score_a", "score_b", "p_a_first", "p_a_second", "narrative", "method"]
    rows = lake.table("preferences").read(key, columns).to_pylist()
    return {
        _key(row): row
        for row in rows
        if row["status"] == "ok" and row["preferred"] is not None and row["p_a"] is not None
    }


def _key(row: Row) -> PairKey:
    return row["instruction"], row["a"], row["b"], row["answer_a"], row["answer_b"]


def asked_rows(lake: Lake, result: StageResult) -> dict[str, Row]:
    """The ok instructions by id."""
    rows = lake.table("instructions").read(result.key, ["item_id", "status", "answer", "kind"]).to_pylist()
    return {row["item_id"]: row for row in rows if row["status"] == "ok"}


def pair_of(
    row: Row,
    main: Arm,
    others: Iterable[Arm],
    judged: Mapping[str, Mapping[PairKey, Row]],
    asked: Mapping[str, Row],
    grader: Grader,
    category: str | None = None,
) -> Pair:
    """A row of the labels of `main`, with what the others said of the same pair; its category may be given."""
    key = _key(row)
    asking = asked.get(row["instruction"], {})
    answers = (row["answer_a"], row["answer_b"])
    grades, truth = truth_of(asking.get("answer"), answers, grader)
    own = Opinion(main.title, main.narrative, row["preferred"], row["p_a"])
    opinions = tuple(
        Opinion(arm.title, arm.narrative, judged[arm.name][key]["preferred"], judged[arm.name][key]["p_a"])
        for arm in others
        if key in judged[arm.name]
    )
    return Pair(
        video=row["video"],
        question=row["question"],
        kind=asking.get("kind"),
        narrative=row["narrative"],
        answers=answers,
        scores=(row["score_a"], row["score_b"]),
        method=row["method"],
        opinion=own,
        others=opinions,
        true_answer=asking.get("answer"),
        grades=grades,
        truth=truth,
        category=category or _category(own, truth, opinions),
        orders=None if None in (row["p_a_first"], row["p_a_second"]) else (row["p_a_first"], row["p_a_second"]),
    )


def truth_of(
    answer: str | None, answers: tuple[str, str], grader: Grader
) -> tuple[tuple[float, float] | None, str | None]:
    try:
        first, second = (grader.grade(answer, each).best for each in answers)
    except UnscorableError:
        return None, None
    return (first, second), "tie" if first == second else "a" if first > second else "b"


def _category(own: Opinion, truth: str | None, others: tuple[Opinion, ...]) -> str:
    if own.preferred == "tie":
        return "tie"
    if truth is None or truth == "tie":
        return "no ground truth" if truth is None else "equally right"
    if own.preferred != truth:
        return "wrong"
    lost = [each for each in others if each.preferred != truth and not each.narrative]
    return "only the narrative got it" if own.narrative and lost else "right"


def _choose(pairs: list[Pair], count: int) -> list[Pair]:
    """Each category gives its share, the kinds of question in turn and new videos first; what is left fills up."""
    chosen: list[Pair] = []
    for category, share in _SHARES.items():
        wanted = min(max(1, share * count // 12), count - len(chosen))
        chosen += _new_videos_first(_line(pairs, {category}), chosen)[:wanted]
    rest = _new_videos_first(_line(pairs, {pair.category for pair in pairs}), chosen)
    return chosen + rest[: count - len(chosen)]


def _new_videos_first(line: list[Pair], chosen: list[Pair]) -> list[Pair]:
    """The pairs that are not chosen yet: those whose video stands in no earlier one, then the others."""
    shown = {pair.video for pair in chosen}
    new: list[Pair] = []
    others: list[Pair] = []
    for pair in line:
        if pair in chosen:
            continue
        (others if pair.video in shown else new).append(pair)
        shown.add(pair.video)
    return new + others


def _line(pairs: list[Pair], categories: set[str]) -> list[Pair]:
    """The pairs of some categories, the kinds of question in turn, each kind in the order of the lot."""
    ranks: dict[str | None, int] = {}
    line = []
    for pair in sorted((each for each in pairs if each.category in categories), key=_lot):
        ranks[pair.kind] = ranks.get(pair.kind, 0) + 1
        # Two equal answers are a tie for every judge: they come last.
        line.append((pair.answers[0] == pair.answers[1], ranks[pair.kind], _lot(pair), pair))
    return [pair for *_, pair in sorted(line, key=lambda item: item[:3])]


def lot(video: str, question: str, answers: tuple[str, str]) -> str:
    """A place in a line that depends on the pair alone: neither on the order of the rows nor on how many there are."""
    return hashlib.sha256("\n".join((video, question, *answers)).encode()).hexdigest()


def _lot(pair: Pair) -> str:
    return lot(pair.video, pair.question, pair.answers)


def with_pictures(lake: Lake, frames: StageResult | None, pairs: Sequence[Pair], frame_set: str) -> list[Pair]:
    """The pairs with the frames of their videos; those of the set are marked as seen by the judge."""
    pictures = pictures_of(lake, frames, {pair.video for pair in pairs}, frame_set)
    return [replace(pair, pictures=pictures.get(pair.video, ())) for pair in pairs]


def pictures_of(
    lake: Lake, frames: StageResult | None, videos: set[str], frame_set: str
) -> dict[str, tuple[Picture, ...]]:
    """The frames of videos, those of the set marked; nothing for a video that has none."""
    if frames is None or not videos:
        return {}
    columns = ["video", "status", "blob", "row", "timestamps", "sets"]
    rows = lake.table("frames").read(frames.key, columns).to_pylist()
    return {row["video"]: _strip(lake, row, frame_set) for row in rows if row["video"] in videos and row["blob"]}


def _strip(lake: Lake, row: dict[str, Any], frame_set: str) -> tuple[Picture, ...]:
    """The frames that the judge saw, and others between them up to MAX_FRAMES, in order of time."""
    judged = {place for each in row["sets"] or () if each["name"] == frame_set for place in each["indices"]}
    total = len(row["timestamps"])
    spread = [round(place * (total - 1) / max(1, MAX_FRAMES - 1)) for place in range(MAX_FRAMES)]
    shown = list(dict.fromkeys([*sorted(judged), *spread]))[:MAX_FRAMES]
    try:
        images = lake.blobs.open_arrow(row["blob"])["frames"][row["row"]].as_py()
    except LakeError:
        return ()  # Old frames may have been removed to save space; the words of the pair still stand.
    return tuple(
        Picture(data_address(images[place]), row["timestamps"][place], place in judged) for place in sorted(shown)
    )


def data_address(image: bytes) -> str:
    """An encoded image as a `data:` address, made smaller where it is wider than MAX_WIDTH."""
    from PIL import Image

    with Image.open(io.BytesIO(image)) as opened:
        form = opened.format or "PNG"
        if opened.width > MAX_WIDTH:
            smaller = opened.convert("RGB").resize((MAX_WIDTH, max(1, opened.height * MAX_WIDTH // opened.width)))
            buffer = io.BytesIO()
            smaller.save(buffer, format="JPEG", quality=82)
            image, form = buffer.getvalue(), "JPEG"
    return f"data:image/{form.lower()};base64,{base64.b64encode(image).decode()}"
