"""What the grades of an evaluation come to: metrics with intervals, and prediction files for the official scripts."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.grades import Graded
from benchmarks.items import Prediction
from models.endpoint_settings import JudgeEndpoint
from storage.lake import Lake
from tasks.evaluation.comparisons import asked_texts, compared_by
from tasks.evaluation.config import GradingConfig, ScoredBenchmark
from tasks.evaluation.decisive import own_settings, prompt_hash
from tasks.evaluation.entries import SCORES, Entry, Scores, finite, write_scores
from tasks.evaluation.items import Row, graded_items, item_of, predictions_by_question
from tasks.evaluation.judges import asks_judge, judge_name, model_name, with_version
from tasks.evaluation.measured import measured
from tasks.evaluation.reward_ref import RewardRef
from tasks.evaluation.spoken import subtitle_faults
from tasks.evaluation.versions import named_in, versions_of, with_versions
from tasks.intervals import RESAMPLES
from tasks.model_ref import ModelRef
from tasks.progress import Progress
from tasks.stage import StageRef

logger = logging.getLogger(__name__)
PREDICTIONS = "predictions"


@dataclass(frozen=True)
class Evaluated:
    """A checkpoint's answers to a benchmark's questions, and their grades by one protocol.

    Attributes:
        label: key of the benchmark in the run's parameters.
        scored: the benchmark.
        checkpoint: what it is called in the run.
        model: the model.
        protocol: by which was graded.
        judge: who decided where rules did not.
        questions, predictions, grades: the stages.
        n_frames: of its frame set; 0: not known.
        grading: how a local judge replied, and with what texts a judge or ranker that is scored was asked.
    """

    label: str
    scored: ScoredBenchmark
    checkpoint: str
    model: ModelRef | RewardRef | JudgeEndpoint
    protocol: str
    judge: ModelRef | JudgeEndpoint | None
    questions: StageRef
    predictions: StageRef
    grades: StageRef
    n_frames: int = 0
    grading: GradingConfig = field(default_factory=GradingConfig)


def results(
    lake: Lake,
    run: str,
    evaluated: Sequence[Evaluated],
    folder: Path,
    progress: Progress,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Path:
    """Writes `scores.json` into the folder, and predictions/<benchmark>/<checkpoint>/ in the official form.

    Args:
        lake: holds the stages.
        run: name of the run.
        evaluated: what is in the result, in its order.
        folder: of the run's results.
        progress: shows how far it is.
        resamples: of the 95 % intervals, in which the questions of a video are drawn together.
        seed: of the resamples.

    Returns:
        The file of the scores.
    """
    folder.mkdir(parents=True, exist_ok=True)
    bar = progress.start("results", len(evaluated))
    entries: list[Entry] = []
    written = set[tuple[str, str]]()
    named = dict[str, set[str] | None]()
    spoken = cache(subtitle_faults)  # All checkpoints and protocols of a benchmark have the same.
    try:
        for each in evaluated:
            asked = _Asked.of(lake, each, spoken)
            entries += asked.entries(resamples, seed)
            named[each.grades.key] = named_in(asked.grades)
            if (each.label, each.checkpoint) not in written:
                written.add((each.label, each.checkpoint))
                asked.write(folder / PREDICTIONS / each.label / each.checkpoint)
            bar.advance()
    finally:
        bar.finish()
    write_scores(folder / SCORES, Scores(run, tuple(with_versions(entries, named))))
    return folder / SCORES


@dataclass(frozen=True)
class _Asked:
    """The rows of an evaluation."""

    about: Evaluated
    questions: list[Row]
    predictions: dict[str, Prediction]
    graded: list[Graded]
    grades: list[Row]
    faults: dict[str, int]
    answered: tuple[str, ...]

    @classmethod
    def of(cls, lake: Lake, about: Evaluated, spoken: Callable[[Path, tuple[str, ...]], dict[str, int]]) -> _Asked:
        table = lake.table(about.questions.table)
        rows = table.read(about.questions.key).to_pylist()
        items = sorted((row for row in rows if row["status"] == "ok"), key=lambda row: int(row["place"]))
        predictions = predictions_by_question(lake, about.predictions)
        columns = ["status", "reason", "answered_by"]
        said = lake.table(about.predictions.table).read(about.predictions.key, columns=columns).to_pylist()
        grades = lake.table(about.grades.table).read(about.grades.key).to_pylist()
        graded = graded_items(map(item_of, items), predictions, grades, about.protocol)
        # An item without a video is among the questions and among what was not answered: it counts once.
        unasked = [row["reason"] for row in rows if row["status"] != "ok"]
        unasked += [row["reason"] for row in said if row["status"] != "ok"]
        faults: dict[str, int] = Counter(map(_kind, unasked))
        faults |= Counter(f"not graded: {_kind(row['reason'])}" for row in grades if row["status"] != "ok")
        if (folder := about.scored.spoken) is not None:
            faults |= spoken(folder, tuple(dict.fromkeys(row["named"] for row in items if not row["reason"])))
        answered = versions_of(about.model, said)
        return cls(about, items, predictions, graded, grades, faults, answered)

    def entries(self, resamples: int, seed: int) -> Iterator[Entry]:
        """The numbers, in the order of the official table."""
        plain = self._plain()
        for metric in self.about.scored.made.metrics(self.graded, self.about.protocol):
            found = measured(metric, resamples, seed)
            interval = found.interval
            yield replace(
                plain,
                metric=metric.name,
                group=metric.group,
                value=found.value,
                low=None if interval is None else finite(interval.low),
                high=None if interval is None else finite(interval.high),
                n=metric.n,
                left_out=metric.left_out,
                printed=metric.printed,
                scale=metric.scale,
                digits=metric.digits,
            )

    def _plain(self) -> Entry:
        """What all numbers share."""
        about, scored = self.about, self.about.scored
        texts, decoding = self._asked()
        return Entry(
            benchmark=about.label,
            registry=scored.benchmark,
            split=scored.split,
            checkpoint=about.checkpoint,
            model=with_version(model_name(about.model), self.answered),
            protocol=about.protocol,
            judge=self._judge(),
            prompt_hash=prompt_hash(texts),
            frames=scored.frame_set,
            n_frames=about.n_frames,
            decoding=decoding,
            settings=_settings(scored),
            limit=scored.limit,
            metric="",
            group="",
            value=None,
            low=None,
            high=None,
            n=0,
            left_out=0,
            printed="",
            scale=1.0,
            digits=None,
            statuses=dict(sorted(Counter(each.grade.status for each in self.graded).items())),
            faults=dict(sorted(self.faults.items())),
            stages={
                "questions": about.questions.key,
                "predictions": about.predictions.key,
                "grades": about.grades.key,
            },
        )

    def _asked(self) -> tuple[dict[str, str], dict[str, float]]:
        """The texts that model and judge were given, and how the model's replies were drawn."""
        about, scored = self.about, self.about.scored
        texts = dict(scored.made.texts)
        if scored.pairs == "likelihood":
            return texts, asdict(scored.sampling)
        asked = asked_texts(scored, about.model, about.grading)
        return texts | asked, compared_by(scored, about.model, about.grading)

    def _judge(self) -> str:
        """The judge that may be asked, though none need have been: numbers of one condition stay side by side."""
        about = self.about
        if about.judge is None:
            return ""
        asked = any(each.grade.judged for each in self.graded) or any(
            asks_judge(about.scored.made, item_of(row), about.protocol) for row in self.questions
        )
        return judge_name(about.judge, about.grading) if asked else ""

    def write(self, folder: Path) -> None:
        """The predictions as the official script reads them."""
        folder.mkdir(parents=True, exist_ok=True)
        items = [item_of(row) for row in self.questions]
        files = self.about.scored.made.write(folder, items, self.predictions)
        logger.info("predictions of %s: %s", self.about.checkpoint, ", ".join(map(str, files)))


def _settings(scored: ScoredBenchmark) -> dict[str, Any]:
    """What decides the numbers beside texts, frames and decoding, where it is not the benchmark's own."""
    chosen = own_settings(scored.made)
    chosen |= {"pairs": scored.pairs} if scored.pairs != "likelihood" else {}
    chosen |= {"subtitles": True} if scored.subtitles is not None else {}
    return chosen


def _kind(reason: str) -> str:
    """The kind of a reason for which an item is quarantined."""
    return reason.partition(": ")[0]
