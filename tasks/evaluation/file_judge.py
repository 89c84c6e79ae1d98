"""A judge behind an endpoint that grades the answers of prediction files, as the stage `grades` has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.benchmark import Benchmark
from benchmarks.grades import Grade
from models.endpoint_settings import JudgeEndpoint
from models.meter import METER
from tasks.evaluation.config import GradingConfig
from tasks.evaluation.file_scores import Undecided
from tasks.evaluation.grades import GradeAnswers, GradesSettings
from tasks.evaluation.items import grade_of
from tasks.evaluation.judges import model_name, with_version
from tasks.judge_endpoint import answered_otherwise

_AT_ONCE = 1000  # Answers whose calls are put to the endpoint together; its own limits hold among them.


class EndpointDecides:
    """Asks an endpoint about what rules leave open; what it was paid for once is not asked again.

    Attributes:
        name: model and version, as results say it; who answered in its place the last time, where someone did.
        calls: made so far; replies that were kept are none.
        cost: of these, in the currency of the endpoint's prices; 0 where it has none.
    """

    def __init__(self, endpoint: JudgeEndpoint, ledger: Path) -> None:
        """`ledger`: folder that keeps what was asked, answered and paid."""
        ledger.mkdir(parents=True, exist_ok=True)
        self.name = self._asked = model_name(endpoint)
        self.calls, self.cost = 0, 0.0
        self._endpoint = endpoint
        self._ledger = str(ledger)

    def decide(self, benchmark: Benchmark, protocol: str, undecided: Sequence[Undecided]) -> list[Grade]:
        """A grade for each, in their order. Raises StageFailure when no call can go on, whatever it asks."""
        settings = GradesSettings(self._ledger, benchmark, protocol, self._endpoint, GradingConfig(), workers=1)
        worker = GradeAnswers(settings)
        found: dict[tuple[str, str], Grade] = {}
        named = set[str | None]()
        items = _items(undecided)
        before = replace(METER)
        try:
            for begin in range(0, len(items), _AT_ONCE):
                for outcome in worker.process(items[begin : begin + _AT_ONCE], seed=0):
                    found |= {(outcome.item_id, row["aspect"]): grade_of(row) for row in outcome.rows or []}
                    named |= {row["answered_by"] for row in outcome.rows or []}
        finally:
            worker.close()
            made = METER.since(before)
            self.calls, self.cost = self.calls + made.calls, self.cost + made.cost
        self.name = with_version(self._asked, answered_otherwise(self._endpoint.model, named))
        return [found[each.item.id, each.aspect] for each in undecided]


def _items(undecided: Sequence[Undecided]) -> list[dict[str, Any]]:
    """What is open, once an item; it has its aspects one behind the other."""
    return [
        {"item_id": item.id, "item": item, "prediction": prediction, "video": item.video}
        for (item, prediction), _ in groupby(undecided, key=lambda each: (each.item, each.prediction))
    ]
