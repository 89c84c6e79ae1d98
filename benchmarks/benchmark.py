"""What every benchmark gives: its items, its questions, its grades and its metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from benchmarks.grades import Call, Grade, Graded
from benchmarks.items import Annotations, Item, Prediction, Predictions, Request, Shown
from benchmarks.metrics import Metric


@runtime_checkable
class Benchmark(Protocol):
    """A benchmark. Instances hold settings alone and can be pickled.

    Attributes:
        name: by which the registry and the lake know it.
        source: the paper or repository whose protocol it is (URL).
        protocols: that it knows, "official" (where there is an official script) and "strict" among them.
        files: names of the annotation files that `read` wants, each with what it holds ("" where one is enough).
        max_new_tokens: of an answer, as its protocol asks.
        temperature: of sampling, likewise; 0 takes the likeliest token.
        revision: of its code. Raise it when `read`, `grade` or `judged` begins to give something else for the same
            files, replies and settings: questions and grades that are kept are then made anew.
        texts: every prompt text that decides an answer or a grade, by name: they enter the results' names.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    protocols: ClassVar[tuple[str, ...]]
    files: ClassVar[Mapping[str, str]]
    max_new_tokens: ClassVar[int]
    temperature: ClassVar[float]
    revision: ClassVar[int] = 1

    @property
    def texts(self) -> Mapping[str, str]: ...

    def read(self, files: Mapping[str, Path]) -> Annotations:
        """The items of annotation files, zipped or not. A row that is no item is a fault and costs no other row.

        Raises:
            FormatError: a file cannot be read at all, or is no file of this benchmark.
        """
        ...

    def ask(self, item: Item, shown: Shown) -> tuple[Request, ...]:
        """What a model is asked: one request a question of the item."""
        ...

    def grade(self, item: Item, aspect: str, prediction: Prediction | None, protocol: str) -> Grade | Call:
        """The grade by rules, or what a judge is to be asked.

        Raises:
            ValueError: the benchmark does not know the protocol.
        """
        ...

    def judged(self, item: Item, aspect: str, reply: str, protocol: str) -> Grade:
        """The grade in a judge's reply; of status "no verdict" or "out of range" where the protocol would ask again
        or stop. Who calls asks again, as often as is allowed.
        """
        ...

    def metrics(self, graded: Sequence[Graded], protocol: str) -> list[Metric]:
        """The numbers of a result, in the order of the official table. `graded` holds every item in every aspect, those
        without a prediction too; a protocol that leaves some out does so here.
        """
        ...

    def write(self, folder: Path, items: Sequence[Item], predictions: Mapping[str, Prediction]) -> list[Path]:
        """Writes predictions as the official script reads them; returns the files."""
        ...

    def read_predictions(self, files: Sequence[Path], items: Sequence[Item]) -> Predictions:
        """Predictions from files in the official form. Those of unknown items, duplicates (the first counts) and rows
        that cannot be read are faults, and so is each item without a prediction.

        Raises:
            FormatError: a file cannot be read at all.
        """
        ...


def check_protocol(of: Benchmark, protocol: str) -> None:
    """Raises ValueError where a benchmark does not know the protocol."""
    if protocol not in of.protocols:
        raise ValueError(f"{of.name} has no protocol {protocol!r}; it has {', '.join(of.protocols)}.")


class ByRules:
    """A benchmark that no judge is asked for."""

    name: ClassVar[str]
    revision: ClassVar[int] = 1

    def judged(self, item: Item, aspect: str, reply: str, protocol: str) -> Grade:
        """Raises ValueError: there is no judge's reply to read."""
        del aspect, reply
        raise ValueError(f"{self.name}: rules alone grade {item.id!r} by {protocol!r}; no judge is asked.")
