"""Stage `comparisons`: which of an item's two answers a model says is better, for benchmarks of pairs of answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from models.endpoint_settings import JudgeEndpoint
from storage.lake import Lake
from tasks.evaluation.answers import asked_about
from tasks.evaluation.comparers import Compared, Comparing, attempts, new_comparer
from tasks.evaluation.config import AnswersConfig, GradingConfig, ScoredBenchmark
from tasks.evaluation.reward_ref import RewardRef
from tasks.fanout import Outcome, StageFailure
from tasks.judge_endpoint import AGAIN, say_whose_rows
from tasks.model_ref import ModelRef
from tasks.pictures import Pictures
from tasks.stage import RunContext, Stage, StageRef, StageResult, run_stage
from tasks.tokens import VisualTokens, keys_of

if TYPE_CHECKING:
    from models.comparisons import Comparison


def comparisons(
    ctx: RunContext,
    config: AnswersConfig,
    scored: ScoredBenchmark,
    questions: StageResult,
    frames: StageResult,
    shown: StageResult,
    model: Comparing,
    checkpoint: str,
    label: str,
    grading: GradingConfig,
) -> StageResult:
    """One row an item of two options: the probability that the first is better, shown first and shown second.

    A judge or ranker sees both answers, in both orders; a reward model sees one at a time, so that there is one number.
    Where no verdict is given, the row has no probabilities (a ranker's that gave an order once: NaN for the other), and
    the reason in the place of a reply.

    Args:
        ctx: what all stages of the run share.
        config: how many prompts go together.
        scored: the benchmark.
        questions: its items.
        frames: the frames of their videos.
        shown: what the model sees: visual tokens, or for an endpoint the frames again.
        model: a judge or a ranker, as the benchmark's `pairs` says, or a reward model.
        checkpoint: what it is called in the results.
        label: what the benchmark is called there; shown only.
        grading: what judges and rankers are asked, and how rankers reply.

    Raises:
        StageFailure: the endpoint.
    """
    own, asked = _decisive(config, scored, model, grading), asked_texts(scored, model, grading)
    drawn = own.get("sampling", {}).get("temperature", 0) > 0
    stage = Stage(
        name="comparisons",
        table="predictions",
        config={
            **own,
            "benchmark": scored.benchmark,
            "checkpoint": checkpoint,
            "frame_set": scored.frame_set,
        },
        inputs=(questions.ref, shown.ref, *(() if isinstance(model, JudgeEndpoint) else model.stages)),
        model=model.identity,
        prompts=asked,
        seed=ctx.seed if drawn else 0,
        shard_size=config.shard_size,
        reuse=not drawn,
        label=f"comparisons {label} {checkpoint}",
    )
    about = (ctx.lake_root, shown.ref, model, config, scored, grading, checkpoint, ctx.pool.workers)
    items = partial(_items, ctx, scored, questions.ref, frames.ref, shown.ref)
    result = run_stage(ctx, stage, items, ComparePairs, ComparisonsSettings(*about))
    if isinstance(model, JudgeEndpoint) and not ctx.looks_only:
        say_whose_rows(ctx.lake, result.ref, model.model)
    return result


def asked_texts(scored: ScoredBenchmark, model: Comparing, grading: GradingConfig) -> dict[str, str]:
    """The texts that a model is asked with which of two answers is better. A reward model's are its own."""
    if isinstance(model, RewardRef):
        return {}
    if scored.pairs == "listwise":
        return {"listwise": grading.ranking.listwise}
    prompts = grading.prompts
    if isinstance(model, JudgeEndpoint):
        return {"endpoint": prompts.endpoint, "again": AGAIN}
    return {"verdict": prompts.verdict}


def compared_by(scored: ScoredBenchmark, model: Comparing, grading: GradingConfig) -> dict[str, float]:
    """How its reply is drawn, as scores say it; nothing where none is: a reward model and a judge here give scores."""
    if isinstance(model, JudgeEndpoint):
        return {"temperature": model.temperature, "max_new_tokens": model.max_tokens, "reasks": model.reasks}
    return grading.decoding if isinstance(model, ModelRef) and scored.pairs == "listwise" else {}


def _decisive(
    config: AnswersConfig, scored: ScoredBenchmark, model: Comparing, grading: GradingConfig
) -> dict[str, Any]:
    """The settings that decide a comparison besides model, item and texts."""
    limits = config.model_dump(include={"batch_size", "forward_tokens"})
    remote = isinstance(model, JudgeEndpoint)
    if isinstance(model, RewardRef):
        return {**limits, "by": "reward"}
    if scored.pairs == "listwise":
        replied = {} if remote else {"batch_size": config.batch_size, "sampling": asdict(grading.sampling)}
        return {**replied, "by": "listwise", "attempts": attempts(model, grading)}
    return {} if remote else limits


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
    model: Comparing
    config: AnswersConfig
    scored: ScoredBenchmark
    grading: GradingConfig
    checkpoint: str
    workers: int


class ComparePairs:
    """Compares a shard's pairs together."""

    def __init__(self, settings: ComparisonsSettings) -> None:
        lake, model = Lake(settings.lake), settings.model
        self._settings = settings
        self._shown: Pictures | VisualTokens
        if isinstance(model, JudgeEndpoint):
            self._shown = Pictures(lake, settings.shown, model.max_side, model.jpeg_quality)
        else:
            self._shown = VisualTokens(lake, settings.shown)
        how = (settings.config, settings.grading, settings.workers)
        self._comparer = new_comparer(lake, model, settings.scored.pairs, *how)

    def process(self, items: list[dict[str, Any]], seed: int) -> list[Outcome]:
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
            said = dict(zip(pairs, self._comparer.compare([*pairs.values()], seed), strict=True))
        except EndpointError as error:
            raise StageFailure(str(error)) from None
        return [
            Outcome(item["item_id"], None, faults[item["item_id"]])
            if item["item_id"] in faults
            else Outcome(item["item_id"], [self._row(item, said[item["item_id"]])])
            for item in items
        ]

    def _row(self, item: dict[str, Any], said: Compared) -> dict[str, Any]:
        return {
            "benchmark": self._settings.scored.benchmark,
            "checkpoint": self._settings.checkpoint,
            "question": item["item_id"],
            "video": item["video"],
            "frame_set": item["frame_set"],
            "n_frames": item["n_frames"],
            "requests": [item["question"]],
            "replies": said.replies,
            "finished": [True] * len(said.replies),
            "scores": [],
            "n_tokens": [],
            "preferred": said.preferred,
            "answered_by": said.answered_by,
        }
