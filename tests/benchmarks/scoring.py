"""Helpers for the tests of benchmarks: grades and metrics of given replies."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.benchmark import Benchmark
from benchmarks.grades import Grade, Graded
from benchmarks.items import Annotations, Prediction
from benchmarks.metrics import Metric


def said(replies: Mapping[str, str]) -> dict[str, Prediction]:
    """Predictions of one reply each, by item."""
    return {id: Prediction((reply,)) for id, reply in replies.items()}


def graded(
    benchmark: Benchmark, annotations: Annotations, predictions: Mapping[str, Prediction], protocol: str
) -> list[Graded]:
    """Every item with the grade that rules give it."""
    out = []
    for item in annotations.items:
        prediction = predictions.get(item.id)
        grade = benchmark.grade(item, "", prediction, protocol)
        assert isinstance(grade, Grade)
        out.append(Graded(item, "", prediction, grade))
    return out


def metrics(
    benchmark: Benchmark, annotations: Annotations, predictions: Mapping[str, Prediction], protocol: str
) -> dict[str, Metric]:
    """The metrics by group."""
    found = benchmark.metrics(graded(benchmark, annotations, predictions, protocol), protocol)
    by_group = {metric.group: metric for metric in found}
    assert len(by_group) == len(found)
    return by_group


def written(path: Path, text: Any) -> Path:
    path.write_text(text)
    return path
