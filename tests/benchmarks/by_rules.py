"""What the tests of benchmarks with files of our own share."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.benchmark import Benchmark
from benchmarks.grades import Grade, Graded
from benchmarks.items import Annotations, Fault, Item, Prediction
from benchmarks.metrics import Metric


def lines(path: Path, *rows: Mapping[str, Any] | str) -> Path:
    """Writes JSON lines; a text is written as it is."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def graded(
    benchmark: Benchmark, items: Sequence[Item], predictions: Mapping[str, Prediction], protocol: str = "strict"
) -> list[Graded]:
    """Every item in every aspect, graded by rules."""
    found = []
    for item in items:
        for aspect in item.aspects:
            prediction = predictions.get(item.id)
            grade = benchmark.grade(item, aspect, prediction, protocol)
            assert isinstance(grade, Grade)
            found.append(Graded(item, aspect, prediction, grade))
    return found


def metrics(
    benchmark: Benchmark, items: Sequence[Item], predictions: Mapping[str, Prediction], protocol: str = "strict"
) -> dict[tuple[str, str], Metric]:
    """The metrics by name and group."""
    found = benchmark.metrics(graded(benchmark, items, predictions, protocol), protocol)
    return {(metric.name, metric.group): metric for metric in found}


def values(
    benchmark: Benchmark, items: Sequence[Item], predictions: Mapping[str, Prediction], protocol: str = "strict"
) -> dict[tuple[str, str], float]:
    """The values of the metrics by name and group."""
    return {key: metric.value for key, metric in metrics(benchmark, items, predictions, protocol).items()}


def kinds(faults: Sequence[Fault]) -> list[str]:
    return [fault.kind for fault in faults]


def by_id(annotations: Annotations) -> dict[str, Item]:
    return {item.id: item for item in annotations.items}
