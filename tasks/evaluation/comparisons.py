"""Stage `comparisons`: which of an item's two answers a judge prefers, in both orders, for benchmarks of judges."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from models.endpoint_settings import JudgeEndpoint
from storage.lake import Lake
from tasks.evaluation.answers import asked_about
from tasks.evaluation.config import AnswersConfig, ScoredBenchmark
from tasks.fanout import Outcome, StageFailure
from tasks.judge_endpoint import AGAIN, endpoint_judge
from tasks.judge_prompts import JudgePrompts
from tasks.model_ref import ModelRef
from tasks.pictures import Pictures
from tasks.stage import RunContext, Stage, StageRef, StageResult, run_stage
from tasks.tokens import VisualTokens, keys_of

if TYPE_CHECKING:
    from models.comparisons import Judge, NoVerdict, Verdict


def comparisons(
    ctx: RunContext,
    config: AnswersConfig,
    scored: ScoredBenchmark,
    questions: StageResult,
    frames: StageResult,
    shown: StageResult,
    model: ModelRef | JudgeEndpoint,
    checkpoint: str,
    label: str,
    prompts: JudgePrompts,
) -> StageResult:
    """One row an item of two options: the probability that the first is better, shown first and shown second.

    A judge that gives no verdict leaves a row without probabilities, its reason in the place of a reply.

    Args:
        ctx: what all stages of the run share.
        config: how many prompts go together.
        scored: the benchmark.
        questions: its items.
        frames: the frames of their videos.
        shown: what the judge sees: visual tokens, or for an endpoint the frames again.
        model: the judge.
        checkpoint: what it is called in the results.
        label: what the benchmark is called there; shown only.
        prompts: what the judge is asked.

    Raises:
        StageFailure: the endpoint.
    """
    remote = isinstance(model, JudgeEndpoint)
    asked = {"endpoint": prompts.endpoint, "again": AGAIN} if remote else {"verdict": prompts.verdict}
    local = {} if remote else config.model_dump(include={"batch_size", "forward_tokens"})
    stage = Stage(
        name="comparisons",
        table="predictions",
        config={
            **local,
            "benchmark": scored.benchmark,
            "checkpoint": checkpoint,
            "frame_set": scored.frame_set,
        },
        inputs=(questions.ref, shown.ref, *(model.stages if isinstance(model, ModelRef) else ())),
        model=model.identity,
        prompts=asked,
        seed=0,  # nothing is drawn
        shard_size=config.shard_size,
        reuse=True,
        label=f"comparisons {label} {checkpoint}",
    )
    about = (ctx.lake_root, shown.ref, model, config, prompts, scored.benchmark, checkpoint, ctx.pool.workers)
    items = partial(_items, ctx, scored, questions.ref, frames.ref, shown.ref)
    return run_stage(ctx, stage, items, ComparePairs, ComparisonsSettings(*about))


def _items(
    ctx: RunContext, scored: ScoredBenchmark, questions: StageRef, frames: StageRef, shown: StageRef
) -> Iterator[dict[str, Any]]:
    known = keys_of(ctx.lake, shown)
    for row, about, _ in asked_about(ctx.lake, scored, questions, frames):
        fault = about["fault"] or (None if len(row["options"]) == 2 else "not asked: it has not two options to compare")
        pair = {"question": row["questions"][0], "options": row["options"], "fault": fault}
        identity = [known.get(row["video"]), row["video"], about["frame_set"], *pair.values()]
        yield {**about, **pair, "identity": identity}


@dataclass(frozen=True)
class ComparisonsSettings:
    """What a worker needs."""

    lake: str
    shown: StageRef
    model: ModelRef | JudgeEndpoint
    config: AnswersConfig
    prompts: JudgePrompts
    benchmark: str
    checkpoint: str
    workers: int


class ComparePairs:
    """Judges a shard's pairs together."""

    def __init__(self, settings: ComparisonsSettings) -> None:
        lake, model = Lake(settings.lake), settings.model
        self._settings = settings
        self._shown: Pictures | VisualTokens
        self._judge: Judge
        if isinstance(model, JudgeEndpoint):
            self._shown = Pictures(lake, settings.shown, model.max_side, model.jpeg_quality)
            self._judge = endpoint_judge(
                model,
                lake=settings.lake,
                workers=settings.workers,
                text=settings.prompts.endpoint,
                context_text=settings.prompts.endpoint_context,
                tie_margin=0.0,
            )
            return
        from models.judge import VerdictJudge

        self._shown = VisualTokens(lake, settings.shown)
        self._judge = VerdictJudge(
            model.load(lake),
            text=settings.prompts.verdict,
            context_text=settings.prompts.verdict_context,
            batch_size=settings.config.batch_size,
            forward_tokens=settings.config.forward_tokens,
        )

    def process(self, items: list[dict[str, Any]], seed: int) -> list[Outcome]:  # noqa: ARG002 - nothing is drawn
        from models.comparisons import Comparison
        from models.endpoint import EndpointError

        faults = {item["item_id"]: item["fault"] for item in items if item["fault"]}
        pairs: dict[str, Comparison[Any]] = {}
        for item in items:
            if item["item_id"] not in faults:
                try:
                    shown = self._shown.frames(item["video"], item["frame_set"])
                except ValueError as error:  # no frames of this video
                    faults[item["item_id"]] = f"no frames: {error}"
                else:
                    pairs[item["item_id"]] = Comparison(item["question"], shown, *item["options"])
        try:
            said = dict(zip(pairs, self._judge.judge([*pairs.values()]), strict=True))
        except EndpointError as error:
            raise StageFailure(str(error)) from None
        return [
            Outcome(item["item_id"], None, faults[item["item_id"]])
            if item["item_id"] in faults
            else Outcome(item["item_id"], [self._row(item, said[item["item_id"]])])
            for item in items
        ]

    def _row(self, item: dict[str, Any], verdict: Verdict | NoVerdict) -> dict[str, Any]:
        from models.comparisons import NoVerdict

        if isinstance(verdict, NoVerdict):
            preferred, replies = [], [verdict.reason]
        else:  # Two answers that are equal are compared by nobody.
            orders = (verdict.p_a_first, verdict.p_a_second)
            preferred = [verdict.p_a if order is None else order for order in orders]
            replies = [reply for reply in (verdict.reply_first, verdict.reply_second) if reply is not None]
        return {
            "benchmark": self._settings.benchmark,
            "checkpoint": self._settings.checkpoint,
            "question": item["item_id"],
            "video": item["video"],
            "frame_set": item["frame_set"],
            "n_frames": item["n_frames"],
            "requests": [item["question"]],
            "replies": replies,
            "finished": [True] * len(replies),
            "scores": [],
            "n_tokens": [],
            "preferred": preferred,
        }
