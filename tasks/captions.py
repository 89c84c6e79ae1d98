"""Stage `captions`: what a model sees in each clip of a video; the clips' captions in order are its narrative.

Clips are described each by itself, or each with the caption before it in view, or with the caption that an earlier
narrative gave of it; for the video, or for every question about it; and the captions are joined, or summarised by the
same model without frames.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from models.settings import Sampling
from models.templates import shipped
from storage.lake import Lake
from tasks.answering import answers_in_batches, forward_tokens_field
from tasks.caption_prompts import CaptionPrompts
from tasks.fanout import Outcome, derive_seed
from tasks.model_ref import ModelRef
from tasks.stage import RunContext, Stage, StageRef, StageResult, run_stage
from tasks.tokens import MissingTokensError, VisualTokens

if TYPE_CHECKING:
    from models.sequences import Footage, Prompt, Response


class CaptionsConfig(BaseModel):
    """How clips are described and what becomes of their captions."""

    model_config = ConfigDict(extra="forbid")

    frame_set: str = Field(
        default="clips", description="Frame set whose clips are captioned, one caption a clip; three clips are usual."
    )
    max_frames: int = Field(
        default=20, ge=1, description="Most frames that a clip of the frame set may have; a run with more is refused."
    )
    mode: Literal["independent", "dependent"] = Field(
        default="independent",
        description="dependent: the caption of the clip before is part of what is asked about a clip.",
    )
    condition_on_question: bool = Field(
        default=False, description="Write a narrative for each instruction, with its question in view, not each video."
    )
    splits: tuple[str, ...] = Field(
        default=("rl", "benchmark"),
        min_length=1,
        description="With condition_on_question: splits whose instructions get a narrative.",
    )
    aggregate: Literal["concat", "summarise"] = Field(
        default="concat",
        description="concat: join the captions; summarise: let the model make one text of them, without frames.",
    )
    prompt: str = Field(
        default=shipped("clip_caption"), min_length=1, description="What the captioner is asked about each clip."
    )
    prompts: CaptionPrompts = Field(default=CaptionPrompts(), description="What it is asked in the other ways.")
    sampling: Sampling = Field(
        default=Sampling(temperature=0.0, max_new_tokens=512),
        description="How captions and summaries are drawn; temperature 0 takes the likeliest words.",
    )
    batch_size: int = Field(default=16, ge=1, description="Clips captioned together.")
    forward_tokens: int | None = forward_tokens_field()
    separator: str = Field(default=" ", description="What stands between two captions of a narrative.")
    timestamps: bool = Field(
        default=False, description="Write each clip's time before its caption: [0.0-2.5 s]. The rows have it always."
    )
    shard_size: int = Field(default=64, ge=1, description="Videos, or instructions, that are committed together.")

    def asked(self, *, refines: bool = False) -> dict[str, str]:
        """The prompts that are used: "clip", and "next" and "summary" where there is such a thing.

        A narrative that `refines` an earlier one has "refine" in the place of the first two.
        """
        prompts, by_question = self.prompts, self.condition_on_question
        used = {"clip": prompts.question if by_question else self.prompt}
        if refines:
            used = {"refine": prompts.question_refine if by_question else prompts.refine}
        elif self.mode == "dependent":
            used["next"] = prompts.question_next if by_question else prompts.next
        if self.aggregate == "summarise":
            used["summary"] = prompts.question_summary if by_question else prompts.summary
        return used

    def decisive(self) -> dict[str, Any]:
        """What decides a narrative besides prompts and model."""
        return self.model_dump(exclude={"shard_size", "prompt", "prompts", "max_frames", "splits"}, mode="json")


def captions(
    ctx: RunContext,
    config: CaptionsConfig,
    tokens: StageResult,
    model: ModelRef,
    instructions: StageResult | None = None,
    previous: StageResult | None = None,
    arm: str | None = None,
) -> StageResult:
    """Caption every video clip by clip and make one narrative of the captions.

    With `previous`, narratives of the same videos or instructions in the same clips, each clip is asked about with the
    caption that it has there in view; an item without one is quarantined. `arm` tells the stage from its namesakes.

    With `condition_on_question` an item is an instruction, not a video, and its row says which. An item is quarantined
    when a caption or the summary was cut by the token limit (the cut part would be missing from everything that is
    judged by the narrative, and nobody would see it) or is empty, and when a text holds the video placeholder. Control
    characters but line break and tab are removed; the row's reason then says so.

    Raises:
        ValueError: questions are to be in view, but there are no instructions, or a split holds none.
    """
    if config.condition_on_question and instructions is None:
        raise ValueError("captions.condition_on_question needs the instructions; hand their stage to captions.")
    questions = instructions.ref if instructions is not None and config.condition_on_question else None
    stage = Stage(
        name="captions",
        table="captions",
        config=config.decisive(),
        selection={"splits": list(config.splits)} if config.condition_on_question else {},
        inputs=(tokens.ref, *([questions] if questions else []), *([previous.ref] if previous else [])),
        model=model.identity,
        prompts=config.asked(refines=previous is not None),
        seed=ctx.seed if config.sampling.temperature else 0,  # greedy captions are shared by all seeds
        shard_size=config.shard_size,
        reuse=True,
        label=arm and f"captions {arm}",
    )
    settings = CaptionSettings(ctx.lake_root, tokens.ref, model, config, refines=previous is not None)

    def items() -> list[dict[str, Any]]:
        found = [{**item, "seed": stage.seed} for item in _items(ctx.lake, tokens.ref, questions, config)]
        return found if previous is None else _with_previous(ctx.lake, previous.ref, found)

    return run_stage(ctx, stage, items, CaptionClips, settings)


def _items(lake: Lake, tokens: StageRef, questions: StageRef | None, config: CaptionsConfig) -> list[dict[str, Any]]:
    rows = lake.table(tokens.table).read(tokens.key, columns=["item_id", "status", "item_key", "sets"]).to_pylist()
    seen = {
        row["item_id"]: {"tokens": row["item_key"], "clips": _windows(row["sets"], config.frame_set)}
        for row in rows
        if row["status"] == "ok"
    }
    if questions is None:
        return [{"item_id": video, "video": video, "question": None, **shown} for video, shown in seen.items()]
    unseen: dict[str, Any] = {"tokens": None, "clips": []}
    return [
        {
            "item_id": row["item_id"],
            "video": row["video"],
            "question": row["question"],
            **seen.get(row["video"], unseen),
        }
        for row in _asked(lake, questions, config.splits)
    ]


def _asked(lake: Lake, questions: StageRef, splits: Sequence[str]) -> list[dict[str, Any]]:
    columns = ["item_id", "status", "split", "video", "question"]
    rows = lake.table(questions.table).read(questions.key, columns=columns).to_pylist()
    rows = [row for row in rows if row["status"] == "ok"]
    known = {row["split"] for row in rows}
    for split in splits:
        if split not in known:
            raise ValueError(
                f"captions.splits: {split!r} holds no usable instruction; splits that do: "
                f"{', '.join(sorted(known)) or 'none'}."
            )
    return [row for row in rows if row["split"] in splits]


def _windows(sets: list[dict[str, Any]], frame_set: str) -> list[dict[str, Any]]:
    """Number, start and end (s) of a set's clips, in order."""
    clips = sorted((each for each in sets if each["name"] == frame_set), key=lambda each: int(each["clip"]))
    return [{key: each[key] for key in ("clip", "start", "end")} for each in clips]


def _with_previous(lake: Lake, previous: StageRef, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items with the texts of their clips in an earlier narrative, or with `fault`: why there are none."""
    rows = lake.table(previous.table).read(previous.key, columns=["item_id", "status", "reason", "clips"]).to_pylist()
    told = {row["item_id"]: row for row in rows}

    def refined(item: dict[str, Any]) -> dict[str, Any]:
        row = told.get(item["item_id"]) or {"status": "missing", "reason": "it was not captioned"}
        if row["status"] != "ok":
            return {**item, "fault": f"there is no earlier narrative to refine: {row['reason']}"}
        texts = {clip["clip"]: clip["text"] for clip in row["clips"]}
        if missing := [clip["clip"] for clip in item["clips"] if clip["clip"] not in texts]:
            return {**item, "fault": f"the earlier narrative was written from other clips and lacks clip {missing[0]}"}
        return {**item, "previous": [texts[clip["clip"]] for clip in item["clips"]]}

    return [refined(item) for item in items]


@dataclass(frozen=True)
class CaptionSettings:
    """What a worker needs."""

    lake: str
    tokens: StageRef
    model: ModelRef
    config: CaptionsConfig
    refines: bool = False


@dataclass
class _Narrative:
    """An item's narrative in the making. `removed`: control characters taken out of its texts."""

    item: dict[str, Any]
    frames: list[Footage] = field(default_factory=list)
    captions: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] | None = None
    fault: str | None = None
    removed: int = 0


class CaptionClips:
    """Asks the captioner about every clip of a shard, clips of like length together."""

    def __init__(self, settings: CaptionSettings) -> None:
        lake = Lake(settings.lake)
        self._tokens = VisualTokens(lake, settings.tokens)
        self._lm = settings.model.load(lake)
        self._config = settings.config
        self._refines = settings.refines
        self._asked = settings.config.asked(refines=settings.refines)

    def process(self, items: list[dict[str, Any]], seed: int) -> list[Outcome]:
        told = [self._begin(item) for item in items]
        for number, turns in enumerate(self._rounds(told)):
            self._caption(turns, derive_seed(seed, "clip", number) if number else seed)
        if "summary" in self._asked:
            self._summarise([each for each in told if not each.fault], derive_seed(seed, "summary"))
        return [self._outcome(each) for each in told]

    def _begin(self, item: dict[str, Any]) -> _Narrative:
        if "fault" in item:
            return _Narrative(item, fault=item["fault"])
        try:
            return _Narrative(item, self._tokens.clips(item["video"], self._config.frame_set))
        except MissingTokensError as error:
            return _Narrative(item, fault=str(error))

    def _rounds(self, told: list[_Narrative]) -> Iterator[list[tuple[_Narrative, int]]]:
        """The clips that can be asked about together: all at once, or one a video where each needs the one before."""
        turns = [(each, number) for each in told for number in range(len(each.frames))]
        if self._refines or self._config.mode == "independent":
            yield turns
            return
        for clip in range(max((len(each.frames) for each in told), default=0)):
            yield [(each, number) for each, number in turns if number == clip and not each.fault]

    def _caption(self, turns: list[tuple[_Narrative, int]], seed: int) -> None:
        asked: list[tuple[_Narrative, int, Prompt]] = []
        for each, number in turns:
            try:
                asked.append((each, number, self._lm.prompt(self._question(each, number), each.frames[number])))
            except ValueError as error:  # a text that holds the video placeholder
                each.fault = each.fault or str(error)
        for (each, number, _), said in zip(asked, self._generate([ask[2] for ask in asked], seed), strict=True):
            window = each.item["clips"][number]
            each.captions.append({**window, **self._accept(each, said, f"the caption of clip {window['clip']}")})

    def _question(self, told: _Narrative, number: int) -> str:
        if self._refines:
            return self._asked["refine"].format(previous=told.item["previous"][number], question=told.item["question"])
        if self._config.mode == "dependent" and number:
            previous = told.captions[number - 1]["text"]
            return self._asked["next"].format(previous=previous, question=told.item["question"])
        if self._config.condition_on_question:
            return self._asked["clip"].format(question=told.item["question"])
        return self._asked["clip"]

    def _summarise(self, told: list[_Narrative], seed: int) -> None:
        asked: list[tuple[_Narrative, Prompt]] = []
        for each in told:
            text = self._asked["summary"].format(captions=self._joined(each), question=each.item["question"])
            try:
                asked.append((each, self._lm.prompt(text)))
            except ValueError as error:
                each.fault = str(error)
        for (each, _), said in zip(asked, self._generate([prompt for _, prompt in asked], seed), strict=True):
            each.summary = self._accept(each, said, "the summary of its captions")

    def _generate(self, prompts: list[Prompt], seed: int) -> list[Response]:
        config, seeds = self._config, partial(derive_seed, seed)
        how = (config.sampling, config.batch_size, seeds)
        answers = answers_in_batches(self._lm, prompts, *how, forward_tokens=config.forward_tokens)
        return [said for (said,) in answers]

    def _accept(self, told: _Narrative, said: Response, what: str) -> dict[str, Any]:
        """A caption's or summary's text and tokens; what is wrong with it is noted in `told`, the first fault only."""
        text = without_controls(said.text)
        told.removed += len(said.text) - len(text)
        limit = self._config.sampling.max_new_tokens
        if not said.finished:
            told.fault = told.fault or f"{what} was cut at {limit} tokens; raise captions.sampling.max_new_tokens"
        elif not text.strip():
            told.fault = told.fault or f"{what} is empty; change captions.prompt or captions.sampling"
        return {"text": text, "n_tokens": len(said.ids)}

    def _joined(self, told: _Narrative) -> str:
        def shown(clip: dict[str, Any]) -> str:
            time = f"[{clip['start']:.1f}-{clip['end']:.1f} s] " if self._config.timestamps else ""
            return f"{time}{clip['text']}"

        return self._config.separator.join(map(shown, told.captions))

    def _outcome(self, told: _Narrative) -> Outcome:
        item, summary = told.item, told.summary
        if told.fault:
            return Outcome(item["item_id"], None, told.fault)
        row = {
            "video": item["video"],
            "instruction": item["item_id"] if self._config.condition_on_question else None,
            "question": item["question"],
            "narrative": self._joined(told) if summary is None else summary["text"],
            "clips": told.captions,
            "summary_tokens": None if summary is None else summary["n_tokens"],
        }
        note = f"{told.removed} control characters were removed from its captions" if told.removed else None
        return Outcome(item["item_id"], [row], note)


def without_controls(text: str) -> str:
    """The text without control characters (Unicode Cc) and lone surrogates (Cs); line breaks and tabs stay."""
    return "".join(each for each in text if each in "\n\t" or unicodedata.category(each) not in ("Cc", "Cs"))
