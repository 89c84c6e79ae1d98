"""Stage `benchmark`: every checkpoint answers the same held-out questions, greedily and sampled, and is scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.settings import Sampling
from models.slots import SlotVocabulary
from storage.lake import Lake
from tasks.answering import answers_in_batches, forward_tokens_field
from tasks.candidates import choose
from tasks.fanout import Outcome, derive_seed
from tasks.grading import Grader, UnscorableError
from tasks.intervals import Interval, bootstrap_mean
from tasks.model_ref import ModelRef
from tasks.stage import RunContext, Stage, StageRef, StageResult, run_stage
from tasks.tokens import MissingTokensError, VisualTokens

if TYPE_CHECKING:
    from models.sequences import Prompt, Response

Row = Mapping[str, Any]

MEASURES = {
    "greedy_exact": ("greedy", "exact"),
    "greedy_slot": ("greedy", "slot"),
    "sampled_exact": ("sampled", "exact"),
    "sampled_slot": ("sampled", "slot"),
}


class BenchmarkConfig(BaseModel):
    """Which questions are asked, and how answers are drawn and scored."""

    model_config = ConfigDict(extra="forbid")

    split: str = Field("benchmark", description="Split of the instructions to ask.")
    limit: int | None = Field(None, ge=1, description="Ask only this many, always the same ones; null: all.")
    frame_set: str = Field("policy", description="Frame set that the model is shown.")
    greedy: Sampling = Field(Sampling(temperature=0.0), description="The likeliest answer; temperature 0.")
    sampled: Sampling = Field(Sampling(), description="How the sampled answer is drawn.")
    slots: SlotVocabulary | None = Field(None, description="Words of the slot score; null: exact match alone.")
    batch_size: int = Field(16, ge=1, description="Answers drawn together.")
    forward_tokens: int | None = forward_tokens_field()
    shard_size: int = Field(512, ge=1, description="Questions that are committed together.")

    @model_validator(mode="after")
    def _decodings_differ(self) -> Self:
        if self.greedy.temperature != 0 or self.sampled.temperature == 0:
            raise ValueError("greedy.temperature must be 0 and sampled.temperature above 0")
        return self


def benchmark(
    ctx: RunContext,
    config: BenchmarkConfig,
    instructions: StageResult,
    tokens: StageResult,
    label: str,
    model: ModelRef,
) -> StageResult:
    """Score one model: two rows an instruction, one greedy and one sampled.

    An instruction without an answer, or without slot words where slots are scored, is quarantined.

    Raises:
        ValueError: the split holds no instruction.
    """
    stage = Stage(
        name="benchmark",
        table="scores",
        config={**config.model_dump(exclude={"shard_size"}, mode="json"), "checkpoint": label},
        inputs=(instructions.ref, tokens.ref, *model.stages),
        model=model.identity,
        prompts={},
        seed=ctx.seed,
        shard_size=config.shard_size,
        label=f"benchmark {label}",
    )
    settings = BenchmarkSettings(ctx.lake_root, tokens.ref, model, config, label)
    return run_stage(ctx, stage, lambda: _items(ctx.lake, config, instructions.ref), AnswerAndScore, settings)


def _items(lake: Lake, config: BenchmarkConfig, instructions: StageRef) -> list[dict[str, Any]]:
    columns = ["item_id", "status", "split", "video", "question", "answer", "kind"]
    rows = lake.table(instructions.table).read(instructions.key, columns=columns).to_pylist()
    chosen = [row for row in rows if row["status"] == "ok" and row["split"] == config.split]
    if not chosen:
        known = ", ".join(sorted({row["split"] for row in rows if row["status"] == "ok"})) or "none"
        raise ValueError(f"benchmark.split {config.split!r} holds no usable instruction; splits that do: {known}.")
    return choose(chosen, config.limit)


@dataclass(frozen=True)
class BenchmarkSettings:
    """What a worker needs."""

    lake: str
    tokens: StageRef
    model: ModelRef
    config: BenchmarkConfig
    label: str


class AnswerAndScore:
    """Answers a shard's questions in both ways and scores the answers."""

    def __init__(self, settings: BenchmarkSettings) -> None:
        lake, model = Lake(settings.lake), settings.model
        if model.adapter is not None:  # Nothing is trained here, and merged weights answer faster.
            model = replace(model, merged=(*model.merged, model.adapter), adapter=None)
        self._tokens = VisualTokens(lake, settings.tokens)
        self._lm = model.load(lake)
        self._config = settings.config
        self._label = settings.label
        self._grader = Grader(settings.config.slots)

    def process(self, items: list[dict[str, Any]], seed: int) -> list[Outcome]:
        faults: dict[str, str] = {}
        prompts: dict[str, Prompt] = {}
        for item in items:
            try:
                self._grader.grade(item["answer"], "")
                frames = self._tokens.frames(item["video"], self._config.frame_set)
                prompts[item["item_id"]] = self._lm.prompt(item["question"], frames)
            except (MissingTokensError, UnscorableError) as error:
                faults[item["item_id"]] = str(error)
        said = {
            decoding: dict(zip(prompts, self._answers(list(prompts.values()), decoding, seed), strict=True))
            for decoding in ("greedy", "sampled")
        }
        return [
            Outcome(item["item_id"], None, faults[item["item_id"]])
            if item["item_id"] in faults
            else Outcome(item["item_id"], [self._row(item, how, said[how][item["item_id"]]) for how in said])
            for item in items
        ]

    def _answers(self, prompts: list[Prompt], decoding: str, seed: int) -> list[Response]:
        sampling: Sampling = getattr(self._config, decoding)
        seeds = partial(derive_seed, seed, decoding)
        how = (sampling, self._config.batch_size, seeds)
        answers = answers_in_batches(self._lm, prompts, *how, forward_tokens=self._config.forward_tokens)
        return [said for (said,) in answers]

    def _row(self, item: dict[str, Any], decoding: str, response: Response) -> dict[str, Any]:
        grade = self._grader.grade(item["answer"], response.text)
        return {
            "checkpoint": self._label,
            "instruction": item["item_id"],
            "video": item["video"],
            "question": item["question"],
            "kind": item["kind"] or "other",
            "answer": item["answer"],
            "decoding": decoding,
            "response": response.text,
            "n_tokens": len(response.ids),
            "finished": response.finished,
            "exact": grade.exact,
            "slot": grade.slot,
        }


def summarise(rows: Sequence[Row], *, seed: int = 0) -> dict[str, Any]:
    """One checkpoint's scores from its rows of table `scores`.

    Returns:
        {measure of MEASURES: mean or None, "n": questions, "cut": responses cut by the token limit,
        "intervals": {measure: [low, high]}, "kinds": {kind: {measure: mean or None, "n": questions}}}.
        Intervals are 95 %, videos resampled.
    """
    rows = [row for row in rows if row.get("status", "ok") == "ok"]
    kinds = Counter(row["kind"] for row in rows if row["decoding"] == "greedy")
    means = {name: mean_of(rows, name, seed=seed) for name in MEASURES}
    of_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in sorted(kinds)}
    return {
        **{name: None if each is None else each.value for name, each in means.items()},
        "n": kinds.total(),
        "cut": sum(not row["finished"] for row in rows),
        "intervals": {name: [each.low, each.high] for name, each in means.items() if each is not None},
        "kinds": {
            kind: {**{name: _plain_mean(each, name) for name in MEASURES}, "n": kinds[kind]}
            for kind, each in of_kind.items()
        },
    }


def mean_of(rows: Sequence[Row], measure: str, *, seed: int = 0) -> Interval | None:
    """The mean of a measure with its 95 % interval, videos resampled; None where no row has it."""
    scored = _scored(rows, measure)
    column = MEASURES[measure][1]
    values, videos = [row[column] for row in scored], [row["video"] for row in scored]
    return bootstrap_mean(values, videos, seed=seed) if scored else None


def _plain_mean(rows: Sequence[Row], measure: str) -> float | None:
    values = [row[MEASURES[measure][1]] for row in _scored(rows, measure)]
    return float(np.mean(values)) if values else None


def _scored(rows: Sequence[Row], measure: str) -> list[Row]:
    decoding, column = MEASURES[measure]
    return [row for row in rows if row["decoding"] == decoding and row[column] is not None]


def paired_difference(rows: Sequence[Row], others: Sequence[Row], measure: str, *, seed: int = 0) -> Interval:
    """How much higher the first checkpoint scores than the second on the questions that both answered.

    Raises:
        ValueError: they share none.
    """
    decoding, column = MEASURES[measure]
    theirs = {row["instruction"]: row[column] for row in others if row["decoding"] == decoding}
    shared = [
        (row[column] - theirs[row["instruction"]], row["video"])
        for row in rows
        if row["decoding"] == decoding and row[column] is not None and theirs.get(row["instruction"]) is not None
    ]
    return bootstrap_mean([value for value, _ in shared], [video for _, video in shared], seed=seed)
