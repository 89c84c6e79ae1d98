"""Grades predictions as an evaluation does: the benchmark first, then a judge that says what the test tells it to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from benchmarks.benchmark import Benchmark
from benchmarks.grades import Call, Graded
from benchmarks.items import Item, Prediction
from benchmarks.metrics import Metric

Judge = Callable[[Item, str, Call], str]


def graded(
    benchmark: Benchmark,
    items: Iterable[Item],
    predictions: Mapping[str, Prediction],
    protocol: str,
    judge: Judge,
) -> list[Graded]:
    """Every item in every aspect. The judge is asked once."""
    found = []
    for item in items:
        for aspect in item.aspects:
            prediction = predictions.get(item.id)
            grade = benchmark.grade(item, aspect, prediction, protocol)
            if isinstance(grade, Call):
                grade = benchmark.judged(item, aspect, judge(item, aspect, grade), protocol)
            found.append(Graded(item, aspect, prediction, grade))
    return found


def numbers(metrics: Iterable[Metric]) -> dict[tuple[str, str], float]:
    """Values by name and group."""
    return {(metric.name, metric.group): metric.value for metric in metrics}
