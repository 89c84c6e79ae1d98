"""Stage `grades`: what each answer is worth by one protocol, by rules first and by a judge where they cannot say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.benchmark import Benchmark
from benchmarks.grades import Call, Grade
from models.endpoint_settings import JudgeEndpoint
from storage.lake import Lake
from tasks.evaluation.config import GradingConfig, ScoredBenchmark
from tasks.evaluation.items import asked_rows, item_of, predictions_by_question
from tasks.evaluation.judges import EndpointGradingJudge, GradingJudge, LocalGradingJudge, judge_name
from tasks.fanout import Outcome, StageFailure
from tasks.judge_endpoint import say_what_the_budget_counts
from tasks.model_ref import ModelRef
from tasks.stage import RunContext, Stage, StageRef, StageResult, run_stage

if TYPE_CHECKING:
    from models.listwise import Reply

ASKED_AGAIN = ("no verdict", "out of range")


def grades(
    ctx: RunContext,
    config: GradingConfig,
    scored: ScoredBenchmark,
    questions: StageResult,
    predictions: StageResult,
    judge: ModelRef | JudgeEndpoint | None,
    protocol: str,
    checkpoint: str,
    label: str,
) -> StageResult:
    """One row an aspect of every question, those that were not answered too.

    A judge that says nothing usable is asked again, as often as its settings allow; what it has not decided then stays
    so, and its row says it. An endpoint that answers nobody, or has used up its budget, ends the stage; what it said is
    in its ledger, and the same stage goes on from there.

    Args:
        ctx: what all stages of the run share.
        config: how a local judge replies.
        scored: the benchmark.
        questions: its items.
        predictions: what the checkpoint said to them.
        judge: who decides where rules cannot; None: nobody.
        protocol: by which is graded.
        checkpoint: what it is called in the results.
        label: what the benchmark is called there; shown only.

    Raises:
        StageFailure: the endpoint; or rules cannot decide, and there is no judge.
    """
    local = config.model_dump(include={"sampling", "reasks", "batch_size"}, mode="json")
    stage = Stage(
        name="grades",
        table="grades",
        config={
            "benchmark": scored.benchmark,
            "settings": scored.settings,
            "protocol": protocol,
            **(local if isinstance(judge, ModelRef) else {}),
        },
        stamp={"checkpoint": checkpoint},
        inputs=(questions.ref, predictions.ref),
        model=None if judge is None else judge.identity,
        prompts=dict(scored.made.texts),
        seed=ctx.seed,
        shard_size=config.shard_size,
        revision=scored.made.revision,
        reuse=judge is not None,  # Rules are sooner asked again than looked up.
        label=f"grades {label} {checkpoint} {protocol}",
    )
    if isinstance(judge, JudgeEndpoint) and judge.budget is not None and not ctx.looks_only:
        say_what_the_budget_counts(ctx.lake_root, judge.model)
    settings = GradesSettings(ctx.lake_root, scored.made, protocol, judge, config, ctx.pool.workers)
    items = partial(_items, ctx.lake, questions.ref, predictions.ref)
    return run_stage(ctx, stage, items, GradeAnswers, settings)


def _items(lake: Lake, questions: StageRef, predictions: StageRef) -> Iterator[dict[str, Any]]:
    said = predictions_by_question(lake, predictions)
    for row in asked_rows(lake, questions):
        item, prediction = item_of(row), said.get(row["item_id"])
        yield {
            "item_id": item.id,
            "item": item,
            "prediction": prediction,
            "video": row["video"],
            "identity": [repr(item), repr(prediction)],
        }


@dataclass(frozen=True)
class GradesSettings:
    """What a worker needs."""

    lake: str
    benchmark: Benchmark
    protocol: str
    judge: ModelRef | JudgeEndpoint | None
    config: GradingConfig
    workers: int


@dataclass
class _Decided:
    """An aspect's grade, and what a judge was asked and said for it; `grade` is None while it is not decided."""

    grade: Grade | None
    call: Call | None = None
    replies: list[Reply] = field(default_factory=list)
    cost: float = 0.0


class GradeAnswers:
    """Grades a shard's answers; a judge is asked about all of them together."""

    def __init__(self, settings: GradesSettings) -> None:
        self._settings = settings
        self._judge: GradingJudge | None = None

    def process(self, items: list[dict[str, Any]], seed: int) -> list[Outcome]:
        decided = {
            (item["item_id"], aspect): self._by_rules(item, aspect) for item in items for aspect in item["item"].aspects
        }
        by_id = {item["item_id"]: item for item in items}
        waiting = {key: each for key, each in decided.items() if each.grade is None}
        if waiting:
            self._by_judge(by_id, waiting, seed)
        return [
            Outcome(
                item["item_id"],
                [self._row(item, aspect, decided[item["item_id"], aspect]) for aspect in item["item"].aspects],
            )
            for item in items
        ]

    def close(self) -> None:
        """Closes the judge, if one was asked."""
        if self._judge is not None:
            self._judge.close()
            self._judge = None

    def _by_rules(self, item: dict[str, Any], aspect: str) -> _Decided:
        settings = self._settings
        found = settings.benchmark.grade(item["item"], aspect, item["prediction"], settings.protocol)
        return _Decided(None, found) if isinstance(found, Call) else _Decided(found)

    def _by_judge(
        self, items: Mapping[str, dict[str, Any]], waiting: Mapping[tuple[str, str], _Decided], seed: int
    ) -> None:
        """Asks until every one has a usable verdict, or was asked as often as allowed."""
        judge = self._judge = self._judge or self._new_judge()
        for again in range(judge.reasks + 1):
            open_ones = {
                key: each for key, each in waiting.items() if each.grade is None or each.grade.status in ASKED_AGAIN
            }
            if not open_ones:
                return
            self._ask(judge, list(open_ones.values()), again, seed)
            for (item_id, aspect), each in open_ones.items():
                each.grade = self._settings.benchmark.judged(
                    items[item_id]["item"], aspect, each.replies[-1].text, self._settings.protocol
                )

    def _ask(self, judge: GradingJudge, asked: Sequence[_Decided], again: int, seed: int) -> None:
        """Calls that are equal are made once; the first of them bears the cost."""
        calls = list(dict.fromkeys(each.call for each in asked if each.call is not None))
        replies = dict(zip(calls, judge.ask(calls, again, seed), strict=True))
        paid = set[Call]()
        for each in asked:
            assert each.call is not None
            reply = replies[each.call]
            each.replies.append(reply)
            each.cost += 0.0 if each.call in paid else reply.cost
            paid.add(each.call)

    def _new_judge(self) -> GradingJudge:
        settings = self._settings
        if settings.judge is None:
            raise StageFailure(
                f"Protocol {settings.protocol!r} of {settings.benchmark.name} asks a judge for what its rules cannot "
                "decide, and none is named: set the benchmark's judge, or leave the protocol out."
            )
        if isinstance(settings.judge, JudgeEndpoint):
            return EndpointGradingJudge(settings.judge, settings.lake, settings.workers)
        return LocalGradingJudge(settings.judge, Lake(settings.lake), settings.config)

    def _row(self, item: dict[str, Any], aspect: str, decided: _Decided) -> dict[str, Any]:
        grade, last = decided.grade, decided.replies[-1] if decided.replies else None
        assert grade is not None
        judge = self._settings.judge if last is not None else None
        return {
            "benchmark": self._settings.benchmark.name,
            "question": item["item_id"],
            "video": item["video"],
            "aspect": aspect,
            "protocol": self._settings.protocol,
            "judge": None if judge is None else judge_name(judge, self._settings.config),
            "outcome": grade.status,
            "correct": grade.correct,
            "score": grade.score,
            "parsed": grade.parsed,
            "reply": None if last is None else last.text or last.fault,
            "attempts": len(decided.replies),
            "cost": decided.cost if last is not None else None,
            "answered_by": None if last is None else last.model or None,
        }
