"""Stage `candidates`: several answers of one model to each instruction, to be compared later."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from models.settings import EngineName, Sampling
from storage.lake import Lake
from storage.rows import one_by_one
from tasks.answering import answers_in_batches, engine_field, forward_tokens_field
from tasks.fanout import Outcome, derive_seed
from tasks.model_ref import ModelRef
from tasks.stage import RunContext, Stage, StageRef, StageResult, run_stage
from tasks.tokens import VisualTokens, keys_of

if TYPE_CHECKING:
    from models.sequences import Prompt, Response

logger = logging.getLogger(__name__)
ADAPTED = "policy"  # What VideoLM.load calls the adapter that it switches on.


class CandidatesConfig(BaseModel):
    """Which instructions are answered, how often and how."""

    model_config = ConfigDict(extra="forbid")

    split: str = Field(default="rl", description="Split of the instructions to answer.")
    limit: int | None = Field(
        default=None,
        ge=1,
        description="Answer only this many instructions, always the same ones for a split; null: all.",
    )
    n: int = Field(default=2, ge=1, description="Answers sampled to each instruction.")
    sampling: Sampling = Field(default=Sampling(), description="How answers are drawn.")
    frame_set: str = Field(default="policy", description="Frame set that the model is shown.")
    batch_size: int = Field(default=16, ge=1, description="Answers sampled together.")
    forward_tokens: int | None = forward_tokens_field()
    engine: EngineName = engine_field()
    shard_size: int = Field(default=256, ge=1, description="Instructions that are committed together.")
    reuse: bool = Field(
        default=False,
        description="Keep the answers that the lake holds for an instruction under the same model, settings and seed, "
        "instead of sampling all again when instructions were added.",
    )


def candidates(
    ctx: RunContext,
    config: CandidatesConfig,
    instructions: StageResult,
    tokens: StageResult,
    model: ModelRef,
    label: str | None = None,
) -> StageResult:
    """Sample `n` answers to each instruction of a split.

    An answer that the token limit cut is kept with `finished` false, and the number of them is logged. `label` tells
    the stage from its namesakes; None: the split does.

    Raises:
        ValueError: the split holds no instruction.
    """
    stage = Stage(
        name="candidates",
        table="candidates",
        config=config.model_dump(exclude={"shard_size", "reuse", "split", "limit"}, mode="json"),
        selection=config.model_dump(include={"split", "limit"}),
        inputs=(instructions.ref, tokens.ref, *model.stages),
        model=model.identity,
        prompts={},
        seed=ctx.seed,
        shard_size=config.shard_size,
        reuse=config.reuse,
        label=f"candidates {label or config.split}",
    )
    settings = CandidateSettings(ctx.lake_root, tokens.ref, model, config)
    result = run_stage(ctx, stage, lambda: _items(ctx, config, instructions.ref, tokens.ref), SampleAnswers, settings)
    if not result.cached:
        _report_cut(ctx.lake, result.ref, config.sampling.max_new_tokens)
    return result


def _items(
    ctx: RunContext, config: CandidatesConfig, instructions: StageRef, tokens: StageRef
) -> Iterator[dict[str, Any]]:
    columns = ["item_id", "status", "split", "video", "question"]
    rows = ctx.lake.table(instructions.table).read(instructions.key, columns=columns)
    usable = rows.filter(pc.equal(rows["status"], "ok"))
    asked = usable.filter(pc.equal(usable["split"], config.split))
    if not len(asked):
        known = ", ".join(sorted(usable["split"].unique().to_pylist())) or "none"
        raise ValueError(f"candidates.split {config.split!r} holds no usable instruction; splits that do: {known}.")
    tokens_of = keys_of(ctx.lake, tokens)
    for row in one_by_one(asked) if config.limit is None else choose(asked.to_pylist(), config.limit):
        yield {
            "item_id": row["item_id"],
            "video": row["video"],
            "question": row["question"],
            "tokens": tokens_of.get(row["video"]),
            "seed": ctx.seed,
        }


def choose(rows: list[dict[str, Any]], limit: int | None) -> list[dict[str, Any]]:
    """The first `limit` rows in the order of a hash of their item_id: the same ones each time, spread over all."""
    return sorted(rows, key=lambda row: hashlib.sha256(row["item_id"].encode()).digest())[:limit]


def _report_cut(lake: Lake, ref: StageRef, limit: int) -> None:
    def gather(batches: Iterator[pa.RecordBatch]) -> tuple[int, int]:
        counts = [(batch["finished"].false_count, len(batch) - batch["finished"].null_count) for batch in batches]
        return sum(cut for cut, _ in counts), sum(answers for _, answers in counts)

    cut, answers = lake.table(ref.table).scan(ref.key, ["finished"], gather)
    level = logging.WARNING if cut else logging.INFO
    logger.log(
        level,
        "candidates: %d of %d answers were cut at %d tokens%s",
        cut,
        answers,
        limit,
        "; raise candidates.sampling.max_new_tokens" if cut else "",
    )


@dataclass(frozen=True)
class CandidateSettings:
    """What a worker needs."""

    lake: str
    tokens: StageRef
    model: ModelRef
    config: CandidatesConfig


class SampleAnswers:
    """Samples the answers to a shard's instructions, prompts of like length together."""

    def __init__(self, settings: CandidateSettings) -> None:
        lake = Lake(settings.lake)
        self._tokens = VisualTokens(lake, settings.tokens)
        self._lm = settings.model.load(lake)
        self._config = settings.config
        self._engine = self._lm.engine(settings.config.engine)
        if settings.config.engine != "transformers" and settings.model.adapter is not None:
            self._engine.refresh(ADAPTED)  # transformers draws with the adapter that is on.

    def process(self, items: list[dict[str, Any]], seed: int) -> list[Outcome]:
        outcomes: dict[str, Outcome] = {}
        asked: list[tuple[dict[str, Any], Prompt]] = []
        for item in items:
            try:
                frames = self._tokens.frames(item["video"], self._config.frame_set)
                asked.append((item, self._lm.prompt(item["question"], frames)))
            except ValueError as error:  # no tokens of this video, or a question that cannot be asked
                outcomes[item["item_id"]] = Outcome(item["item_id"], None, str(error))
        answers = self._generate([prompt for _, prompt in asked], seed)
        for (item, _), responses in zip(asked, answers, strict=True):
            outcomes[item["item_id"]] = Outcome(item["item_id"], [_row(item, n, r) for n, r in enumerate(responses)])
        return [outcomes[item["item_id"]] for item in items]

    def _generate(self, prompts: list[Prompt], seed: int) -> list[list[Response]]:
        config = self._config
        return answers_in_batches(
            self._engine,
            prompts,
            config.sampling,
            max(1, config.batch_size // config.n),
            partial(derive_seed, seed),
            n=config.n,
            forward_tokens=config.forward_tokens,
            logprobs=True,
        )


def _row(item: dict[str, Any], candidate: int, response: Response) -> dict[str, Any]:
    return {
        "instruction": item["item_id"],
        "video": item["video"],
        "question": item["question"],
        "candidate": candidate,
        "text": response.text,
        "n_tokens": len(response.ids),
        "finished": response.finished,
        "logprob": sum(response.logprobs),
    }
