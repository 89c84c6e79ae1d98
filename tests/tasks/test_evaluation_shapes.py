"""Two benchmarks from annotation files and real clips to scores.json, by numbers that were worked out by hand.

The clips of the hand-made annotation files go through all stages, a tiny model answers, a judge replies over HTTP by
the tables below, and what comes out is compared with sums that stand beside those tables.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import Call, FakeEndpoint, Said, completion
from small import BASE, base_model, rows_of, small_run
from toy_benchmark import answered, looked_at

from models.endpoint_settings import JudgeEndpoint
from tasks.evaluation.config import GradingConfig, ScoredBenchmark
from tasks.evaluation.entries import Entry, Scores, read_scores
from tasks.evaluation.grades import grades
from tasks.evaluation.items import asked_rows, item_of, predictions_by_question
from tasks.evaluation.page import evaluation_page
from tasks.evaluation.results import Evaluated, results
from tasks.fanout import WorkerPool
from tasks.frames import FrameSet
from tasks.model_ref import ModelRef
from tasks.progress import SilentProgress
from tasks.stage import RunContext, StageResult

CLIPS = ("askanything_yoga.mp4", "decord_flipping_a_pancake.mkv", "torchcodec_h265_video.mp4")
YOGA, PANCAKE, FRAMES = (Path(clip).stem for clip in CLIPS)
ABSENT = "decord_video_0"  # Asked about in the annotation files; its clip is not in the folder.
FOUR_FRAMES = (FrameSet(name="policy", n=4),)


@pytest.fixture(scope="module")
def ctx(pool: WorkerPool, tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    return small_run(pool, tmp_path_factory.mktemp("run") / "lake")


@pytest.fixture(scope="module")
def clips(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for clip in CLIPS:
        shutil.copy(test_data / "clips" / clip, folder)
    return folder


def cut(test_data: Path, name: str, folder: Path) -> list[dict[str, Any]]:
    """Writes the rows of an annotation file that are about the videos of this test into `folder`; returns them."""
    rows = json.loads((test_data / "annotations" / "shapes" / name).read_text())
    about = {YOGA, PANCAKE, FRAMES, ABSENT}
    kept = [row for row in rows if Path(row.get("video_name") or row["video"]).stem in about]
    (folder / name).write_text(json.dumps(kept))
    return kept


@dataclass(frozen=True)
class Run:
    """What an evaluation of one model left."""

    scored: ScoredBenchmark
    asked: StageResult
    said: StageResult
    graded: dict[str, StageResult]
    entries: tuple[Entry, ...]
    files: tuple[Path, ...]

    def numbers(self, protocol: str) -> dict[str, tuple[float | None, int, int]]:
        """By group: the value, of how many, and how many were left out."""
        return {
            each.group: (None if each.value is None else round(each.value, 9), each.n, each.left_out)
            for each in self.entries
            if each.protocol == protocol
        }

    def entry(self, protocol: str) -> Entry:
        """The number over all."""
        (entry,) = (each for each in self.entries if (each.protocol, each.group) == (protocol, "overall"))
        return entry


def evaluated(
    ctx: RunContext, scored: ScoredBenchmark, model: ModelRef, folder: Path, judge: JudgeEndpoint | None = None
) -> Run:
    """All stages, up to the files."""
    seen = looked_at(ctx, scored, model, FOUR_FRAMES)
    said = answered(ctx, seen, model)
    graded, done = dict[str, StageResult](), []
    for protocol in scored.scored_by:
        graded[protocol] = grades(ctx, GradingConfig(), scored, seen.asked, said, judge, protocol, "base", "mine")
        stages = (seen.asked.ref, said.ref, graded[protocol].ref)
        done.append(Evaluated("mine", scored, "base", model, protocol, judge, *stages))
    scores = read_scores(results(ctx.lake, "r", done, folder, SilentProgress()))
    files = tuple(sorted((folder / "predictions" / "mine" / "base").iterdir()))
    return Run(scored, seen.asked, said, graded, scores.entries, files)


def check_file_is_read_back(ctx: RunContext, run: Run) -> None:
    """The prediction files, in the official form, say what the lake says, and what is not in them is counted."""
    items = [item_of(row) for row in asked_rows(ctx.lake, run.asked.ref)]
    read = run.scored.made.read_predictions(run.files, items)
    kept = predictions_by_question(ctx.lake, run.said.ref)
    assert {item: each.replies for item, each in read.by_id.items()} == {
        item: each.replies for item, each in kept.items()
    }
    absent = [item.id for item in items if Path(item.video).stem == ABSENT]
    assert [fault.kind for fault in read.faults] == ["missing"] * len(absent)
    assert sorted(kept) == sorted(item.id for item in items if item.id not in absent)


# What the judge replies, by aspect and question; what each script makes of it stands behind it: official | strict.
JUDGED = {
    "correctness": {
        f"generic/{YOGA}_0": "{'score': 4}",  # 4 | 4
        f"generic/{PANCAKE}_0": "{'score': 4.8}",  # cut to 4 | 4.8
        f"generic/{FRAMES}_0": "I would give it a 3 out of 5.",  # asked again, left out | no verdict: 0
    },
    "detail": {
        f"generic/{YOGA}_0": '{"score": 3}',  # 3 | 3
        f"generic/{PANCAKE}_0": "{'score': 7}",  # 7, not clipped | out of range: 0
        f"generic/{FRAMES}_0": "",  # asked again, left out | no verdict: 0
    },
    "context": {
        f"generic/{YOGA}_0": 'Sure: {"score": 2}',  # asked again, left out | 2
        f"generic/{PANCAKE}_0": "{'score': '5'}",  # 5 | 5
        f"generic/{FRAMES}_0": "{'score': 1}",  # 1 | 1
    },
    "temporal": {
        f"temporal/{YOGA}_0": "{'score': 0}",  # 0 | 0
        f"temporal/{YOGA}_1": "```python\n{'score': 3}\n```",  # asked again, left out | 3
        f"temporal/{PANCAKE}_0": "{'score': 2}",  # 2 | 2
    },
    "consistency": {
        f"consistency/{YOGA}_0": "{'score': 5}",  # 5 | 5
        f"consistency/{PANCAKE}_0": "{'score': 1}",  # 1 | 1
        f"consistency/{FRAMES}_0": "score: 4",  # asked again, left out | no verdict: 0
    },
}
# The video that is not there: one question of generic (three aspects), one of consistency, none of temporal.
BY_HAND: dict[str, dict[str, tuple[float | None, int, int]]] = {
    "official": {
        "aspect: correctness": ((4 + 4) / 2, 2, 2),
        "aspect: detail": ((3 + 7) / 2, 2, 2),
        "aspect: context": ((5 + 1) / 2, 2, 2),
        "aspect: temporal": ((0 + 2) / 2, 2, 1),
        "aspect: consistency": ((5 + 1) / 2, 2, 2),
        "overall": (3.2, 10, 9),  # (4 + 5 + 3 + 1 + 3) / 5
    },
    "strict": {
        "aspect: correctness": (2.2, 4, 0),  # (4 + 4.8 + 0 + 0) / 4
        "aspect: detail": (0.75, 4, 0),  # (3 + 0 + 0 + 0) / 4
        "aspect: context": (2.0, 4, 0),  # (2 + 5 + 1 + 0) / 4
        "aspect: temporal": (1.666666667, 3, 0),  # (0 + 3 + 2) / 3
        "aspect: consistency": (1.5, 4, 0),  # (5 + 1 + 0 + 0) / 4
        "overall": (1.623333333, 19, 0),  # (2.2 + 0.75 + 2 + 5/3 + 1.5) / 5
    },
}
CALLED = {
    "factual accuracy": "correctness",
    "detail orientation": "detail",
    "contextual understanding": "context",
    "temporal accuracy": "temporal",
    "consistency": "consistency",
}


@pytest.fixture
def server() -> Iterator[FakeEndpoint]:
    with FakeEndpoint() as server:
        yield server


def judge_of(rows: Mapping[str, list[dict[str, Any]]]) -> Callable[[Call], Said]:
    """Replies as JUDGED says: the aspect and the correct answer of a call tell which question it is about."""
    known: dict[tuple[str, str], str] = {}
    for kind, of_kind in rows.items():
        number: dict[str, int] = {}
        for row in of_kind:
            place = number[row["video_name"]] = number.get(row["video_name"], -1) + 1
            known[kind, row["A"]] = f"{kind}/{row['video_name']}_{place}"

    def reply(call: Call) -> Said:
        text = str(call.body["messages"][-1]["content"])
        asked = re.search(r"Correct Answer: (.*?)\nPredicted Answer.*Give a ([a-z ]+) score", text, re.DOTALL)
        assert asked, text
        answer, aspect = asked[1], CALLED[asked[2]]
        kind = aspect if aspect in rows else "generic"
        return Said(completion(JUDGED[aspect][known[kind, answer]]))

    return reply


def test_video_chatgpt_from_annotations_to_scores(
    ctx: RunContext, clips: Path, test_data: Path, server: FakeEndpoint, tmp_path: Path
) -> None:
    kinds = ("generic", "temporal", "consistency")
    rows = {kind: cut(test_data, f"videochatgpt_style_{kind}_qa.json", tmp_path) for kind in kinds}
    server.reply = judge_of(rows)
    scored = ScoredBenchmark(
        benchmark="video_chatgpt",
        files={kind: str(tmp_path / f"videochatgpt_style_{kind}_qa.json") for kind in kinds},
        videos=str(clips),
        protocols=("official", "strict"),
        temperature=0.0,
        max_new_tokens=6,
        judge="fake",
    )
    judge = JudgeEndpoint(base_url=server.url, model="judge-1", retries=0, reasks=1, timeout_s=30)
    run = evaluated(ctx, scored, base_model(), tmp_path / "out", judge)
    assert (run.said.ok, run.said.quarantined) == (9, 2)
    assert {protocol: run.numbers(protocol) for protocol in BY_HAND} == BY_HAND
    official, strict = map(run.entry, BY_HAND)
    assert official.statuses == {"missing": 4, "no verdict": 5, "off the scale": 1, "ok": 9}
    assert strict.statuses == {"missing": 4, "no verdict": 3, "ok": 11, "out of range": 1}
    assert official.judge == strict.judge == f"judge-1@{judge.identity}"
    assert official.faults == strict.faults == {"no video": 2}
    # Each of the 15 grades is one call; five replies are unusable to one script, and a sixth, the 7, to the other.
    assert len(server.calls) == 15 + 5 + 1
    alone = tuple(each for each in run.entries if each.protocol == "official")
    page = evaluation_page(ctx.lake, Scores("r", alone), tmp_path / "page").read_text()
    assert "1 off the scale" in page
    assert "a score that is none, and the protocol counts it as it stands" in page
    check_file_is_read_back(ctx, run)


# The tiny model's words, spelt as letters, so that what it says to real clips is as odd as what large models say.
SPELT = {
    "is": "A",
    "blue": "B",
    "cyan": "D",
    "first": "The best answer is D",
    "it": "Answer: C",
    "a": "Option B",
    "shrinks": "d",
}
# What it says to each question; the right letter; whether that is right: official (None: left out), strict.
LETTERS: dict[str, tuple[str, str, bool | None, bool]] = {
    "002-1": (".", "A", None, False),
    "002-2": ("The best answer is D", "D", True, True),
    "002-3": ("Answer: C", "A", True, False),  # The official script takes the A of "Answer".
    "002-4": ("Option B", "A", False, False),
    "002-5": (".", "C", None, False),
    "007-1": ("A", "D", False, False),
    "007-2": (".", "A", None, False),
    "007-5": ("", "B", None, False),
    "030-1": ("d", "D", None, True),  # It knows no small letters.
    "030-2": ("Option B", "B", True, True),
    "030-3": ("Option B", "B", True, True),
}
# 042-1 and 042-2 are about the clip that is not there.
ACCURACY: dict[str, dict[str, tuple[float | None, int, int]]] = {
    "official": {
        "overall": (0.666666667, 6, 7),  # 4 of the 6 that it reads a letter from
        "sub_category: Exercise": (0.666666667, 3, 2),  # 002: 2 of 3
        "sub_category: Food": (0.0, 1, 2),  # 007: none of 1
        "sub_category: Daily Life": (1.0, 2, 3),  # 030 and 042: 2 of 2
        "task_type: Temporal Reasoning": (1.0, 2, 0),  # 002-2, 002-3
    },
    "strict": {
        "overall": (0.307692308, 13, 0),  # 4 of 13
        "sub_category: Exercise": (0.2, 5, 0),
        "sub_category: Food": (0.0, 3, 0),
        "sub_category: Daily Life": (0.6, 5, 0),
        "task_type: Temporal Reasoning": (0.5, 2, 0),
    },
}


def spelling_model(folder: Path) -> ModelRef:
    """The base with another spelling of some of its words; its weights are the same."""
    shutil.copytree(BASE, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    for word, spelling in SPELT.items():
        number = vocabulary.pop(word)
        if spelling in vocabulary:
            vocabulary[word] = vocabulary[spelling]
        vocabulary[spelling] = number
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return ModelRef.of(str(folder))


def test_videomme_from_annotations_to_scores(ctx: RunContext, clips: Path, test_data: Path, tmp_path: Path) -> None:
    rows = cut(test_data, "videomme_style.json", tmp_path)
    for row in rows:  # Two questions are left out, between whose answers the model nearly wavers.
        row["questions"] = [each for each in row["questions"] if each["question_id"] not in ("007-3", "007-4")]
    (tmp_path / "videomme_style.json").write_text(json.dumps(rows))
    scored = ScoredBenchmark(
        benchmark="videomme",
        files={"": str(tmp_path / "videomme_style.json")},
        videos=str(clips),
        protocols=("official", "strict"),
        max_new_tokens=1,
    )
    run = evaluated(ctx, scored, spelling_model(tmp_path / "model"), tmp_path / "out")
    replies = {item: row["replies"] for item, (row,) in rows_of(ctx.lake, run.said).items() if row["status"] == "ok"}
    assert replies == {item: [reply] for item, (reply, *_) in LETTERS.items()}
    for place, protocol in enumerate(ACCURACY, start=2):
        graded = {item: row["correct"] for item, (row,) in rows_of(ctx.lake, run.graded[protocol]).items()}
        absent = dict.fromkeys(("042-1", "042-2"), None if protocol == "official" else False)
        assert graded == {item: about[place] for item, about in LETTERS.items()} | absent
        found = run.numbers(protocol)
        assert {group: found[group] for group in ACCURACY[protocol]} == ACCURACY[protocol]
        overall = run.entry(protocol)
        assert (overall.judge, overall.faults) == ("", {"no video": 2}), "rules alone grade it"
    assert run.entry("official").printed == "66.7"
    assert run.entry("official").statuses == {"empty": 1, "missing": 2, "ok": 6, "unparsed": 4}
    assert run.entry("strict").statuses == {"empty": 1, "missing": 2, "ok": 7, "unparsed": 3}
    check_file_is_read_back(ctx, run)
