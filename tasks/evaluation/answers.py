"""Stage `answers`: what one checkpoint says to the questions of a benchmark, from the visual tokens that are kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.items import Request, Shown
from models.settings import Sampling
from storage.lake import Lake
from tasks.answering import answers_in_batches
from tasks.evaluation.config import AnswersConfig, ScoredBenchmark
from tasks.evaluation.items import asked_rows, item_of
from tasks.evaluation.timeline import NotShownError, Timeline
from tasks.fanout import Outcome, derive_seed
from tasks.model_ref import ModelRef
from tasks.stage import RunContext, Stage, StageError, StageRef, StageResult, run_stage
from tasks.tokens import VisualTokens, keys_of
from tasks.windows import window_set

if TYPE_CHECKING:
    from models.sequences import Footage, Prompt, Response


def answers(
    ctx: RunContext,
    config: AnswersConfig,
    scored: ScoredBenchmark,
    questions: StageResult,
    frames: StageResult,
    tokens: StageResult,
    model: ModelRef,
    checkpoint: str,
    label: str,
) -> StageResult:
    """One row an item: the replies to its questions, or the log-probability of each of its choices.

    An item that cannot be asked (no video, a window outside of it, a prompt that the model cannot hold) is quarantined.
    Requests of a shard that are equal are answered once; what stands in the lake for the same request is kept.

    Args:
        ctx: what all stages of the run share.
        config: how answers are computed.
        scored: the benchmark.
        questions: its items.
        frames: the frames of their videos.
        tokens: what the model's tower made of them.
        model: the checkpoint.
        checkpoint: what it is called in the results.
        label: what the benchmark is called there; shown only.

    Raises:
        StageError: the benchmark asks a model nothing.
    """
    sampling = scored.sampling
    stage = Stage(
        name="answers",
        table="predictions",
        config={
            **config.model_dump(exclude={"shard_size"}, mode="json"),
            "benchmark": scored.benchmark,
            "frame_set": scored.frame_set,
            "sampling": asdict(sampling),
        },
        stamp={"checkpoint": checkpoint},
        inputs=(questions.ref, tokens.ref, *model.stages),
        model=model.identity,
        prompts={},  # What is asked stands in the items; the questions' rows carry the hash of the benchmark's texts.
        seed=ctx.seed,
        shard_size=config.shard_size,
        reuse=True,
        label=f"answers {label} {checkpoint}",
    )
    settings = AnswersSettings(ctx.lake_root, tokens.ref, model, config, sampling, scored.benchmark)
    items = partial(_items, ctx, scored, questions.ref, frames.ref, tokens.ref)
    return run_stage(ctx, stage, items, AnswerQuestions, settings)


def asked_about(
    lake: Lake, scored: ScoredBenchmark, questions: StageRef, frames: StageRef
) -> Iterator[tuple[dict[str, Any], dict[str, Any], Shown]]:
    """Each question's row, what a worker has to know of it, and what is shown with it.

    A question that cannot be asked has its reason as `fault`.
    """
    timeline = Timeline(lake, frames, scored.subtitles)
    for row in asked_rows(lake, questions):
        frame_set, fault = window_set(scored.frame_set, row["start"], row["end"]), row["reason"]
        shown, n_frames = Shown(), 0
        if fault is None:
            try:
                shown, n_frames = timeline.shown(row["video"], frame_set, row["named"])
            except NotShownError as error:
                fault = str(error)
        about = {"item_id": row["item_id"], "video": row["video"], "frame_set": frame_set, "n_frames": n_frames}
        yield row, {**about, "fault": fault}, shown


def _items(
    ctx: RunContext, scored: ScoredBenchmark, questions: StageRef, frames: StageRef, tokens: StageRef
) -> Iterator[dict[str, Any]]:
    tokens_of = keys_of(ctx.lake, tokens)
    for row, about, shown in asked_about(ctx.lake, scored, questions, frames):
        requests = () if about["fault"] else scored.made.ask(item_of(row), shown)
        if not requests and not about["fault"]:
            raise StageError(f"{scored.benchmark} asks a model nothing: it compares what is given.")
        asked = [list(asdict(request).values()) for request in requests]
        said = [tokens_of.get(row["video"]), row["video"], about["frame_set"], asked, about["fault"], ctx.seed]
        yield {**about, "requests": requests, "identity": said}


@dataclass(frozen=True)
class AnswersSettings:
    """What a worker needs."""

    lake: str
    tokens: StageRef
    model: ModelRef
    config: AnswersConfig
    sampling: Sampling
    benchmark: str


class _Asked(NamedTuple):
    """A request about the frames of a set of a video."""

    video: str
    frame_set: str
    request: Request


class _Scored(NamedTuple):
    """Log-probability, in nats, and number of tokens of each choice."""

    scores: list[float]
    n_tokens: list[int]


class AnswerQuestions:
    """Answers a shard's questions, those of like length together."""

    def __init__(self, settings: AnswersSettings) -> None:
        lake, model = Lake(settings.lake), settings.model
        if model.adapter is not None:  # Nothing is trained here, and merged weights answer faster.
            model = replace(model, merged=(*model.merged, model.adapter), adapter=None)
        self._tokens = VisualTokens(lake, settings.tokens)
        self._lm = model.load(lake)
        self._engine = self._lm.engine(settings.config.engine)
        self._settings = settings

    def process(self, items: list[dict[str, Any]], seed: int) -> list[Outcome]:
        faults: dict[str, str] = {item["item_id"]: item["fault"] for item in items if item["fault"]}
        prompts: dict[_Asked, Prompt] = {}
        footage: dict[tuple[str, str], Footage] = {}
        for item in items:
            if item["item_id"] in faults:
                continue
            try:
                for asked in _asked(item):
                    if asked not in prompts:
                        prompts[asked] = self._prompt(asked, footage)
            except ValueError as error:  # no tokens of this video, or a question that cannot be asked
                faults[item["item_id"]] = f"not asked: {error}"
        spoken = self._speak([asked for asked in prompts if not asked.request.choices], prompts, seed)
        scored = self._score([asked for asked in prompts if asked.request.choices], prompts)
        return [
            Outcome(item["item_id"], None, faults[item["item_id"]])
            if item["item_id"] in faults
            else Outcome(item["item_id"], [self._row(item, spoken, scored)])
            for item in items
        ]

    def _prompt(self, asked: _Asked, footage: dict[tuple[str, str], Footage]) -> Prompt:
        from models.prompting import check_room

        place, request = (asked.video, asked.frame_set), asked.request
        if place not in footage:
            footage[place] = self._tokens.frames(*place)
        prompt = self._lm.prompt(request.text, footage[place], system=request.system, begin=request.begin)
        if not request.choices:
            check_room(self._lm, [prompt], self._settings.sampling.max_new_tokens)
        return prompt

    def _speak(self, asked: Sequence[_Asked], prompts: Mapping[_Asked, Prompt], seed: int) -> dict[_Asked, Response]:
        config = self._settings.config
        said = answers_in_batches(
            self._engine,
            [prompts[each] for each in asked],
            self._settings.sampling,
            config.batch_size,
            partial(derive_seed, seed),
            forward_tokens=config.forward_tokens,
        )
        return {each: response for each, (response,) in zip(asked, said, strict=True)}

    def _score(self, asked: Sequence[_Asked], prompts: Mapping[_Asked, Prompt]) -> dict[_Asked, _Scored]:
        from models.choices import choice_logprobs

        config = self._settings.config
        choices = [
            [self._lm.response_ids(choice, each.request.begin) for choice in each.request.choices] for each in asked
        ]
        found = choice_logprobs(
            self._lm, [prompts[each] for each in asked], choices, config.batch_size, config.forward_tokens
        )
        return {
            each: _Scored(scores, [len(ids) for ids in answers])
            for each, scores, answers in zip(asked, found, choices, strict=True)
        }

    def _row(
        self, item: dict[str, Any], spoken: Mapping[_Asked, Response], scored: Mapping[_Asked, _Scored]
    ) -> dict[str, Any]:
        asked = _asked(item)
        said = [spoken[each] for each in asked if each in spoken]
        weighed = [scored[each] for each in asked if each in scored]
        return {
            "benchmark": self._settings.benchmark,
            "question": item["item_id"],
            "video": item["video"],
            "frame_set": item["frame_set"],
            "n_frames": item["n_frames"],
            "requests": [_written(each.request) for each in asked],
            "replies": [each.text for each in said],
            "finished": [each.finished for each in said],
            "scores": [score for each in weighed for score in each.scores],
            "n_tokens": [n for each in weighed for n in each.n_tokens] or [len(each.ids) for each in said],
            "preferred": [],
        }


def _asked(item: dict[str, Any]) -> list[_Asked]:
    return [_Asked(item["video"], item["frame_set"], request) for request in item["requests"]]


def _written(request: Request) -> str:
    """What a model was asked, as a text."""
    return "\n\n".join(part for part in (request.system, request.text, request.begin) if part)
