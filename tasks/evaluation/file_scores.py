"""Scores of prediction files, ours or in the official form, without any model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from benchmarks.benchmark import Benchmark
from benchmarks.grades import Call, Grade, Graded
from benchmarks.items import Fault, Item, Prediction
from tasks.evaluation.decisive import own_settings, prompt_hash
from tasks.evaluation.measured import Measured, measured


class NoJudgeError(ValueError):
    """Some grades need a judge and none was given."""


@dataclass(frozen=True, slots=True)
class Undecided:
    """A prediction that rules do not grade: what a judge is to be asked about it."""

    item: Item
    aspect: str
    prediction: Prediction | None
    call: Call


class Judge(Protocol):
    """Decides where rules do not. `name`: model and version, as results say it."""

    name: str

    def decide(self, benchmark: Benchmark, protocol: str, undecided: Sequence[Undecided]) -> list[Grade]:
        """A grade for each, in their order."""
        ...


@dataclass(frozen=True)
class FileScores:
    """What prediction files are worth by one protocol.

    Attributes:
        split: of the annotation files, as the caller calls it; "" where nobody says.
        judge: who decided where rules did not, model and version; "" where rules decided all.
        prompt_hash: of the benchmark's texts. Those for the judge decided; whether the model was asked by the others,
            with which frames and decoding, no prediction file says.
        settings: of the benchmark, those that are not its own.
        graded: every item in every aspect.
        measured: in the order of the official table.
        predictions: how many items have one.
        faults: of the annotation files, then of the prediction files.
    """

    benchmark: str
    split: str
    protocol: str
    judge: str
    prompt_hash: str
    settings: dict[str, Any]
    graded: Sequence[Graded]
    measured: Sequence[Measured]
    predictions: int
    faults: Sequence[Fault]

    @property
    def statuses(self) -> Counter[str]:
        """Grades by status."""
        return Counter(each.grade.status for each in self.graded)


def score_files(
    benchmark: Benchmark,
    annotations: Mapping[str, Path],
    predictions: Sequence[Path],
    protocol: str,
    judge: Judge | None = None,
    split: str = "",
) -> FileScores:
    """Score prediction files.

    Args:
        benchmark: that they answer.
        annotations: its annotation files, by the names of `benchmark.files`.
        predictions: in the official form.
        protocol: of the benchmark's.
        judge: who decides where rules do not; None: no one.
        split: what the annotation files are called.

    Raises:
        FormatError: a file cannot be read at all, or is no file of this benchmark.
        NoJudgeError: some grades need a judge and there is none.
        ValueError: the benchmark does not know the protocol.
    """
    asked = benchmark.read(annotations)
    given = benchmark.read_predictions(predictions, asked.items)
    graded = grades_of(benchmark, asked.items, given.by_id, protocol, judge)
    return FileScores(
        benchmark=benchmark.name,
        split=split,
        protocol=protocol,
        judge=judge.name if judge is not None and any(each.grade.judged for each in graded) else "",
        prompt_hash=prompt_hash(benchmark.texts),
        settings=own_settings(benchmark),
        graded=graded,
        measured=[measured(metric) for metric in benchmark.metrics(graded, protocol)],
        predictions=len(given.by_id),
        faults=[*asked.faults, *given.faults],
    )


def grades_of(
    benchmark: Benchmark,
    items: Sequence[Item],
    predictions: Mapping[str, Prediction],
    protocol: str,
    judge: Judge | None = None,
) -> list[Graded]:
    """The grade of every item in every aspect; errors as `score_files`."""
    if protocol not in benchmark.protocols:
        known = ", ".join(benchmark.protocols)
        raise ValueError(f"{benchmark.name} knows no protocol {protocol!r}; known: {known}.")
    graded: list[Graded] = []
    undecided: dict[int, Undecided] = {}
    for item in items:
        prediction = predictions.get(item.id)
        for aspect in item.aspects:
            found = benchmark.grade(item, aspect, prediction, protocol)
            if isinstance(found, Call):
                undecided[len(graded)] = Undecided(item, aspect, prediction, found)
                found = Grade("no verdict", judged=True)
            graded.append(Graded(item, aspect, prediction, found))
    if not undecided:
        return graded
    if judge is None:
        raise NoJudgeError(
            f"{len(undecided):,} of {len(graded):,} grades of {benchmark.name} by protocol {protocol!r} are a judge's, "
            f"and none was given: name one with --judge, or take another protocol of {', '.join(benchmark.protocols)}."
        )
    decided = judge.decide(benchmark, protocol, [*undecided.values()])
    for place, grade in zip(undecided, decided, strict=True):
        graded[place] = replace(graded[place], grade=grade)
    return graded
