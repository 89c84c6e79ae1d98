"""The stages that score models on benchmarks: the end of the flow `rlaif`, and the whole of the flow `evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.steps import Pending, Steps, Trained
from models.endpoint_settings import JudgeEndpoint
from tasks.evaluation.answers import answers
from tasks.evaluation.comparisons import comparisons
from tasks.evaluation.config import LOCAL, AnswersConfig, GradingConfig, ScoredBenchmark
from tasks.evaluation.entries import read_scores
from tasks.evaluation.grades import grades
from tasks.evaluation.page import evaluation_page
from tasks.evaluation.questions import questions
from tasks.evaluation.results import Evaluated, results
from tasks.evaluation.reward_ref import RewardRef
from tasks.evaluation.sections import Benchmarks, folder_rate
from tasks.frames import FramesConfig, frames
from tasks.model_ref import ModelRef
from tasks.stage import StageResult
from tasks.videos import VideosConfig, videos
from tasks.visual_tokens import VisualTokensConfig, visual_tokens

Model = ModelRef | RewardRef | Trained | JudgeEndpoint


@dataclass(frozen=True)
class How:
    """How models are scored.

    Attributes:
        benchmarks: on what, by label.
        frames, visual_tokens: what the models are shown of the videos.
        answers: how they answer.
        grading: how their answers are graded.
        judge: the model that grades where a benchmark's judge is local.
    """

    benchmarks: Benchmarks
    frames: FramesConfig
    visual_tokens: VisualTokensConfig
    answers: AnswersConfig
    grading: GradingConfig
    judge: ModelRef | None

    def decides(self, scored: ScoredBenchmark) -> ModelRef | JudgeEndpoint | None:
        """Who grades a benchmark's answers where rules cannot."""
        if scored.judge is None:
            return None
        return self.judge if scored.judge == LOCAL else self.grading.endpoints[scored.judge]

    def n_frames(self, scored: ScoredBenchmark) -> int:
        """How many frames of a video a benchmark shows."""
        return next(one.n for one in self.frames.sets if one.name == scored.frame_set)


class _Twins:
    """The stages that do the same under several labels: the later of them wait, and use what the first kept."""

    def __init__(self, step: Steps) -> None:
        self._step = step
        self._begun: list[tuple[Any, Pending]] = []

    def __call__(
        self, same: Any, stage: Callable[..., StageResult], *inputs: Any, label: str, after: Sequence[Pending] = ()
    ) -> Pending:
        """Begins a stage behind those of `after` and the first with an equal `same`, which says what it does."""
        same = (stage.__name__, same)
        first = [future for known, future in self._begun if known == same]
        future = self._step(stage, *inputs, label=label, after=[*after, *first])
        if not first:
            self._begun.append((same, future))
        return future


@dataclass(frozen=True)
class _Seen:
    """What is kept of a folder of videos: its frames, and the visual tokens of each tower."""

    asked: Mapping[str, Pending]
    sampled: Pending
    tokens: Mapping[str, Pending]


@dataclass(frozen=True)
class Scored:
    """A model's grades on a benchmark by one protocol, some of it yet to come; `about`: the rest of Evaluated."""

    about: dict[str, Any]
    model: Any
    questions: Any
    predictions: Any
    grades: Any

    def done(self, step: Steps) -> Evaluated:
        """The same, now that its stages are complete."""
        stages = {name: getattr(self, name).ref for name in ("questions", "predictions", "grades")}
        return Evaluated(model=step.unpack(self.model), **self.about, **stages)


def scoring(step: Steps, how: How, models: Mapping[str, Model], after: Sequence[Pending] = ()) -> list[Scored]:
    """The graph. Models with one vision tower share visual tokens, benchmarks with one folder its frames.

    Args:
        step: hands over the stages.
        how: models are scored.
        models: by what they are called in the results.
        after: stages that are waited for, because they may keep the frames of the same videos.
    """
    found = []
    twins = _Twins(step)
    folders = dict.fromkeys(each.folder for each in how.benchmarks.values())
    for folder in folders:
        here = {label: each for label, each in how.benchmarks.items() if each.folder == folder}
        seen = _seen(step, twins, how, folder, here, models, after)
        for label, scored in here.items():
            for checkpoint, model in models.items():
                found += _scored(twins, how, label, scored, seen, checkpoint, model)
    return found


def _seen(
    step: Steps,
    twins: _Twins,
    how: How,
    folder: str,
    here: Mapping[str, ScoredBenchmark],
    models: Mapping[str, Model],
    after: Sequence[Pending],
) -> _Seen:
    source, name = VideosConfig(folder=folder), Path(folder).name
    listed = step(videos, source, label=name, after=after)
    asked = {
        label: twins(_asks(scored), questions, scored, listed, label, label=label) for label, scored in here.items()
    }
    asking: dict[str, list[Pending]] = {}
    for label, scored in here.items():
        asking.setdefault(scored.frame_set, []).append(asked[label])
    sampled = step(frames, how.frames, listed, source, asking, folder_rate(here), label=name)
    towers = {base.tower: base for model in models.values() if (base := _base(model)) is not None}
    tokens = {
        tower: step(visual_tokens, how.visual_tokens, sampled, model, label=f"{name} {model.label}")
        for tower, model in towers.items()
    }
    return _Seen(asked, sampled, tokens)


def _asks(scored: ScoredBenchmark) -> dict[str, Any]:
    """What decides which questions a benchmark asks, and what is shown with them."""
    named = {"benchmark", "settings", "video_prefix", "subtitles", "limit"}
    return {**scored.model_dump(include=named), "files": scored.places, "folder": scored.folder}


def _scored(
    twins: _Twins, how: How, label: str, scored: ScoredBenchmark, seen: _Seen, checkpoint: str, model: Model
) -> list[Scored]:
    """One model's answers to one benchmark, and their grades by each protocol."""
    asked, judge = seen.asked[label], how.decides(scored)
    base = _base(model)
    shown = (asked, seen.sampled, seen.sampled if base is None else seen.tokens[base.tower])
    given, named = (how.answers, scored, *shown, model, checkpoint, label), f"{label} {checkpoint}"
    same = (_asks(scored), scored.frame_set, scored.sampling, scored.pairs, model)
    if scored.pairs != "likelihood":
        said = twins(same, comparisons, *given, how.grading, label=named)
    else:
        said = twins(same, answers, *given, label=named)
    found = list[Scored]()
    before: list[Pending] = []
    for protocol in scored.scored_by:
        about = (asked, said, judge, protocol, checkpoint, label)
        decides = (same, judge, protocol)
        graded = twins(decides, grades, how.grading, scored, *about, label=f"{named} {protocol}", after=before)
        # The protocols of a benchmark mostly ask an endpoint the same: what one was answered, the next finds kept.
        before = [graded] if isinstance(judge, JudgeEndpoint) else []
        names = {"label": label, "scored": scored, "checkpoint": checkpoint, "protocol": protocol, "judge": judge}
        shown_how = {"n_frames": how.n_frames(scored), "grading": how.grading}
        found.append(Scored({**names, **shown_how}, model, asked, said, graded))
    return found


def _base(model: Model) -> ModelRef | None:
    """Whose tower looks; None for an endpoint, which is sent pictures."""
    if isinstance(model, JudgeEndpoint):
        return None
    return model if isinstance(model, ModelRef) else model.base


@task(name="results", cache_policy=NO_CACHE, persist_result=False)
def write_results(step: Steps, evaluated: list[Any], folder: Path, command: str) -> Path:
    """Writes scores, prediction files and the page, which says the command that makes the run again.

    Prefect puts results in the place of the futures in `evaluated`.
    """
    done = [each.done(step) for each in evaluated]
    scores = results(step.ctx.lake, step.ctx.run, done, folder, step.ctx.progress)
    evaluation_page(step.ctx.lake, read_scores(scores), folder, command=command)
    return scores
