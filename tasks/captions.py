"""Stage `captions`: what a model sees in each clip of a video; the clips' captions in order are its narrative."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from models.settings import Sampling
from models.templates import shipped
from storage.lake import Lake
from tasks.fanout import Outcome, derive_seed
from tasks.model_ref import ModelRef
from tasks.stage import RunContext, Stage, StageRef, StageResult, run_stage
from tasks.tokens import MissingTokensError, VisualTokens

if TYPE_CHECKING:
    from models.sequences import Prompt, Response


class CaptionsConfig(BaseModel):
    """How clips are described."""

    model_config = ConfigDict(extra="forbid")

    frame_set: str = Field(default="clips", description="Frame set whose clips are captioned, one caption a clip.")
    prompt: str = Field(
        default=shipped("clip_caption"), min_length=1, description="What the captioner is asked about each clip."
    )
    sampling: Sampling = Field(
        default=Sampling(temperature=0.0, max_new_tokens=512),
        description="How captions are drawn; temperature 0 takes the likeliest words.",
    )
    batch_size: int = Field(default=16, ge=1, description="Clips captioned together.")
    separator: str = Field(default=" ", description="What stands between two captions of a narrative.")
    shard_size: int = Field(default=64, ge=1, description="Videos that are committed together.")


def captions(ctx: RunContext, config: CaptionsConfig, tokens: StageResult, model: ModelRef) -> StageResult:
    """Caption every video clip by clip and join the captions to its narrative.

    A video with a caption that the token limit cut is quarantined: the cut part would be missing from everything that
    is judged by the narrative, and nobody would see it.
    """
    stage = Stage(
        name="captions",
        table="captions",
        config=config.model_dump(exclude={"shard_size", "prompt"}, mode="json"),
        inputs=(tokens.ref,),
        model=model.identity,
        prompts={"clip": config.prompt},
        seed=ctx.seed if config.sampling.temperature else 0,  # greedy captions are shared by all seeds
        shard_size=config.shard_size,
        reuse=True,
    )
    settings = CaptionSettings(ctx.lake_root, tokens.ref, model, config)
    return run_stage(ctx, stage, lambda: _items(ctx.lake, tokens.ref, config, stage.seed), CaptionClips, settings)


def _items(lake: Lake, tokens: StageRef, config: CaptionsConfig, seed: int) -> list[dict[str, Any]]:
    rows = lake.table(tokens.table).read(tokens.key, columns=["item_id", "status", "item_key", "sets"]).to_pylist()
    return [
        {
            "item_id": row["item_id"],
            "tokens": row["item_key"],
            "clips": _windows(row["sets"], config.frame_set),
            "seed": seed,
        }
        for row in rows
        if row["status"] == "ok"
    ]


def _windows(sets: list[dict[str, Any]], frame_set: str) -> list[dict[str, Any]]:
    """Number, start and end (s) of a set's clips, in order."""
    clips = sorted((each for each in sets if each["name"] == frame_set), key=lambda each: int(each["clip"]))
    return [{key: each[key] for key in ("clip", "start", "end")} for each in clips]


@dataclass(frozen=True)
class CaptionSettings:
    """What a worker needs."""

    lake: str
    tokens: StageRef
    model: ModelRef
    config: CaptionsConfig


class CaptionClips:
    """Asks the captioner about every clip of a shard, clips of like length together."""

    def __init__(self, settings: CaptionSettings) -> None:
        lake = Lake(settings.lake)
        self._tokens = VisualTokens(lake, settings.tokens)
        self._lm = settings.model.load(lake)
        self._config = settings.config

    def process(self, items: list[dict[str, Any]], seed: int) -> list[Outcome]:
        outcomes: dict[str, Outcome] = {}
        asked: list[tuple[dict[str, Any], list[Prompt]]] = []
        for item in items:
            try:
                asked.append((item, self._prompts(item["item_id"])))
            except MissingTokensError as error:
                outcomes[item["item_id"]] = Outcome(item["item_id"], None, str(error))
        said = iter(self._generate([prompt for _, prompts in asked for prompt in prompts], seed))
        for item, prompts in asked:
            outcomes[item["item_id"]] = self._outcome(item, [next(said) for _ in prompts])
        return [outcomes[item["item_id"]] for item in items]

    def _prompts(self, video: str) -> list[Prompt]:
        clips = self._tokens.clips(video, self._config.frame_set)
        return [self._lm.prompt(self._config.prompt, clip) for clip in clips]

    def _generate(self, prompts: list[Prompt], seed: int) -> list[Response]:
        from models.training import batches_by_length

        said: dict[int, Response] = {}
        lengths = [len(prompt.ids) for prompt in prompts]
        for number, batch in enumerate(batches_by_length(lengths, self._config.batch_size)):
            answers = self._lm.generate(
                [prompts[i] for i in batch], self._config.sampling, seed=derive_seed(seed, number)
            )
            said.update(zip(batch, (answer for (answer,) in answers), strict=True))
        return [said[i] for i in range(len(prompts))]

    def _outcome(self, item: dict[str, Any], said: list[Response]) -> Outcome:
        limit = self._config.sampling.max_new_tokens
        clips = [
            {**window, "text": caption.text, "n_tokens": len(caption.ids)}
            for window, caption in zip(item["clips"], said, strict=True)
        ]
        cut = [clip["clip"] for clip, caption in zip(clips, said, strict=True) if not caption.finished]
        if cut:
            return Outcome(
                item["item_id"],
                None,
                f"the caption of clip {cut[0]} was cut at {limit} tokens; raise captions.sampling.max_new_tokens",
            )
        narrative = self._config.separator.join(clip["text"] for clip in clips)
        return Outcome(item["item_id"], [{"video": item["item_id"], "narrative": narrative, "clips": clips}])
