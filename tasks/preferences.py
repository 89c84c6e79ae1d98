"""Stage `preferences`: a model judges which of an instruction's candidates is better. Ground truth is never read."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from models.comparisons import Comparison, NoVerdict, Verdict
from storage.lake import Lake
from tasks.fanout import Outcome
from tasks.judge_prompts import JudgePrompts
from tasks.model_ref import ModelRef
from tasks.stage import RunContext, Stage, StageRef, StageResult, run_stage
from tasks.tokens import MissingTokensError, VisualTokens

if TYPE_CHECKING:
    from torch import Tensor

    from models.comparisons import Judge
    from models.video_lm import VideoLM

Method = Literal["likelihood", "verdict"]
Candidate = tuple[int, str]


class JudgingConfig(BaseModel):
    """One way to judge."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9_]+$", description="Its name in tables and in the report.")
    narrative: bool = Field(description="Whether the judge reads the narrative of the video.")
    frame_set: str = Field(description="Which of frames.sets the judge is shown.")
    method: Method = Field(
        description="likelihood: log-probability of each answer; verdict: of A and B after a prompt that shows both."
    )
    blind: bool = Field(
        False,
        description="Black frames in the video's place, to check the judge: a label that needs no video is suspicious.",
    )

    def blinded(self) -> JudgingConfig:
        """The same way without the video: neither its frames nor what the narrative tells of them."""
        return self.model_copy(update={"name": f"{self.name}_blind", "blind": True, "narrative": False})


class PreferencesConfig(BaseModel):
    """How the judge compares answers. Arms override method, frame_set, narrative and blind."""

    model_config = ConfigDict(extra="forbid")

    method: Method = Field(
        "verdict",
        description="likelihood: log-probability of each answer; verdict: of A and B after a prompt that shows both.",
    )
    frame_set: str = Field("policy", description="Frame set that the judge is shown.")
    narrative: bool = Field(True, description="Whether the judge reads the narrative of the video.")
    blind: bool = Field(False, description="Black frames in the video's place, to check the judge.")
    prompts: JudgePrompts = Field(default=JudgePrompts(), description="What the judge is asked.")
    max_pairs: int | None = Field(
        None, ge=1, description="Judge only this many pairs of an instruction, always the same ones; null: all."
    )
    tie_margin: float = Field(1e-3, ge=0, description="Scores (likelihood) or log-odds (verdict) this close tie, nats.")
    reduction: Literal["sum", "mean"] = Field(
        "sum", description="Method likelihood: score an answer by the sum or the mean over its tokens."
    )
    min_choice_mass: float = Field(
        0.2, ge=0, le=1, description="Method verdict: least probability of A and B together; below, it is no verdict."
    )
    batch_size: int = Field(16, ge=1, description="Answers (likelihood) or prompts (verdict) judged together.")
    shard_size: int = Field(64, ge=1, description="Instructions that are committed together.")

    @property
    def prompt_name(self) -> str:
        """Which of the prompts is used."""
        return f"{self.method}_context" if self.narrative else self.method

    def decisive(self) -> dict[str, Any]:
        """What decides a verdict besides prompt and model; the other method's settings do not."""
        other = "min_choice_mass" if self.method == "likelihood" else "reduction"
        # Left out where the judge sees, so that labels made before there were blind judges keep their keys.
        sighted = set() if self.blind else {"blind"}
        return self.model_dump(mode="json", exclude={"prompts", "shard_size", other} | sighted)


def preferences(
    ctx: RunContext,
    config: PreferencesConfig,
    candidates: StageResult,
    tokens: StageResult,
    captions: StageResult | None,
    model: ModelRef,
    arm: str,
) -> StageResult:
    """Judge the pairs of each instruction's candidates, one row a pair; equal candidates are ties and are kept.

    An instruction is quarantined when a candidate was cut by the token limit, when its video has no narrative but the
    judge is to read one, and when the judge gives no verdict on one of its pairs.

    Raises:
        ValueError: the judge is to read narratives, but there are no captions.
    """
    if config.narrative and captions is None:
        raise ValueError(f"Arm {arm!r} judges with the narrative, but no captions were made; run the captions stage.")
    inputs = (candidates.ref, tokens.ref, *([captions.ref] if captions is not None and config.narrative else []))
    stage = Stage(
        name="preferences",
        table="preferences",
        config={**config.decisive(), "arm": arm},
        inputs=inputs,
        model=model.identity,
        prompts={config.prompt_name: getattr(config.prompts, config.prompt_name)},
        seed=0,  # Nothing is drawn.
        shard_size=config.shard_size,
        reuse=True,
        label=f"preferences {arm}",
    )
    settings = JudgeSettings(ctx.lake_root, tokens.ref, model, config, arm)
    return run_stage(ctx, stage, lambda: _items(ctx.lake, config, *inputs), JudgePairs, settings)


def _items(
    lake: Lake, config: PreferencesConfig, candidates: StageRef, tokens: StageRef, captions: StageRef | None = None
) -> list[dict[str, Any]]:
    columns = ["item_id", "status", "video", "question", "candidate", "text", "finished"]
    groups: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in lake.table(candidates.table).read(candidates.key, columns=columns).to_pylist():
        if row["status"] == "ok":
            groups[row["item_id"]].append(row)
    shown = lake.table(tokens.table).read(tokens.key, columns=["item_id", "item_key"]).to_pylist()
    tokens_of = {row["item_id"]: row["item_key"] for row in shown}
    narratives = _narratives(lake, captions)
    items = []
    for item_id, rows in groups.items():
        video = rows[0]["video"]
        narrative, fault = narratives.get(video, (None, "was not captioned")) if config.narrative else (None, None)
        items.append(
            {
                "item_id": item_id,
                "video": video,
                "question": rows[0]["question"],
                "tokens": tokens_of.get(video),
                "candidates": [[row["candidate"], row["text"]] for row in rows],
                "narrative": narrative,
                "fault": _cut(rows) or (fault and f"no narrative of video {video} for the judge: {fault}"),
            }
        )
    return items


def _narratives(lake: Lake, captions: StageRef | None) -> dict[str, tuple[str | None, str | None]]:
    """By video: its narrative, or None and why there is none."""
    if captions is None:
        return {}
    rows = lake.table(captions.table).read(captions.key, columns=["item_id", "narrative", "reason"]).to_pylist()
    return {row["item_id"]: (row["narrative"], None if row["narrative"] else row["reason"] or "empty") for row in rows}


def _cut(rows: list[dict[str, Any]]) -> str | None:
    cut = sum(not row["finished"] for row in rows)
    if not cut:
        return None
    return f"{cut} of its {len(rows)} candidates were cut by the token limit; raise candidates.sampling.max_new_tokens"


@dataclass(frozen=True)
class JudgeSettings:
    """What a worker needs."""

    lake: str
    tokens: StageRef
    model: ModelRef
    config: PreferencesConfig
    arm: str


class JudgePairs:
    """Judges all pairs of a shard's instructions together, so that batches are full."""

    def __init__(self, settings: JudgeSettings) -> None:
        lake = Lake(settings.lake)
        self._tokens = VisualTokens(lake, settings.tokens)
        self._lm = settings.model.load(lake)
        self._judge = new_judge(self._lm, settings.config)
        self._black: dict[int, Tensor] = {}
        self._config = settings.config
        self._arm = settings.arm

    def process(self, items: list[dict[str, Any]], seed: int) -> list[Outcome]:  # noqa: ARG002 - nothing is drawn
        asked = [self._comparisons(item) for item in items]
        verdicts = iter(self._judge.judge([pair for each in asked if not isinstance(each, str) for pair in each]))
        return [
            Outcome(item["item_id"], None, each)
            if isinstance(each, str)
            else self._outcome(item, [next(verdicts) for _ in each])
            for item, each in zip(items, asked, strict=True)
        ]

    def _comparisons(self, item: dict[str, Any]) -> list[Comparison] | str:
        """What is asked about an instruction, or why nothing can be."""
        if item["fault"]:
            return str(item["fault"])
        if len(item["candidates"]) < 2:
            return "it has one candidate, and a pair needs two; raise candidates.n"
        try:
            frames = self._frames(item["video"])
        except MissingTokensError as error:
            return str(error)
        return [
            Comparison(item["question"], frames, text_a, text_b, item["narrative"])
            for (_, text_a), (_, text_b) in pairs_of(item, self._config.max_pairs)
        ]

    def _frames(self, video: str) -> Tensor:
        """Visual tokens [F, P, D] of what the judge is shown: as many black frames where it is blind."""
        shown = self._tokens.frames(video, self._config.frame_set)
        if not self._config.blind:
            return shown
        from models.canaries import blank_tokens

        if len(shown) not in self._black:
            self._black[len(shown)] = blank_tokens(self._lm, len(shown))
        return self._black[len(shown)]

    def _outcome(self, item: dict[str, Any], verdicts: list[Verdict | NoVerdict]) -> Outcome:
        pairs = pairs_of(item, self._config.max_pairs)
        rows = []
        for ((a, text_a), (b, text_b)), verdict in zip(pairs, verdicts, strict=True):
            if isinstance(verdict, NoVerdict):
                return Outcome(item["item_id"], None, f"candidates {a} and {b}: {verdict.reason}")
            rows.append({**self._about(item), "a": a, "b": b, "answer_a": text_a, "answer_b": text_b, **vars(verdict)})
        return Outcome(item["item_id"], rows)

    def _about(self, item: dict[str, Any]) -> dict[str, Any]:
        config = self._config
        return {
            "instruction": item["item_id"],
            "video": item["video"],
            "question": item["question"],
            "method": config.method,
            "frame_set": config.frame_set,
            "with_narrative": config.narrative,
            "narrative": item["narrative"],
            "arm": self._arm,
        }


def pairs_of(item: dict[str, Any], most: int | None) -> list[tuple[Candidate, Candidate]]:
    """The pairs of an item's candidates, a < b; at most `most`, drawn by the instruction alone and kept in order."""
    pairs = list(combinations(sorted((number, text) for number, text in item["candidates"]), 2))
    if most is None or most >= len(pairs):
        return pairs
    return [pairs[i] for i in sorted(random.Random(item["item_id"]).sample(range(len(pairs)), most))]


def new_judge(lm: VideoLM, config: PreferencesConfig) -> Judge:
    """The judge that a configuration describes."""
    from models.judge import LikelihoodJudge, VerdictJudge

    shared: dict[str, Any] = {
        "text": getattr(config.prompts, config.method),
        "context_text": getattr(config.prompts, f"{config.method}_context"),
        "tie_margin": config.tie_margin,
        "batch_size": config.batch_size,
    }
    if config.method == "likelihood":
        return LikelihoodJudge(lm, reduction=config.reduction, **shared)
    return VerdictJudge(lm, min_choice_mass=config.min_choice_mass, **shared)
