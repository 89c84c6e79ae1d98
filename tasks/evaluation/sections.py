"""The sections of an evaluation that the flows `rlaif` and `evaluate` share, and what must hold between them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from models.endpoint_settings import JudgeEndpoint
from tasks.evaluation.checkpoints import LABEL
from tasks.evaluation.config import AnswersConfig, GradingConfig, ScoredBenchmark
from tasks.frames import FramesConfig

Label = Annotated[str, StringConstraints(pattern=LABEL)]
# What is scored, by what it is called in the results: two may be of one benchmark, with other frames, files or judges.
Benchmarks = Annotated[dict[Label, ScoredBenchmark], Field(min_length=1)]


class EvaluationConfig(BaseModel):
    """Benchmarks on which the models of a run are scored at its end."""

    model_config = ConfigDict(extra="forbid")

    benchmarks: Benchmarks = Field(description="What is scored, by what it is called in the results.")
    answers: AnswersConfig = Field(default=AnswersConfig(), description="How the models' answers are computed.")
    grading: GradingConfig = Field(
        default=GradingConfig(), description="Who grades where rules cannot; local is the labeler, models.labeler."
    )

    @model_validator(mode="after")
    def _knows_the_judges(self) -> Self:
        check_judges(self.benchmarks, self.grading)
        return self


def check_judges(benchmarks: Benchmarks, grading: GradingConfig) -> None:
    """Raises ValueError where a benchmark's judge is none that is known."""
    for label, each in benchmarks.items():
        try:
            grading.check_judge(each.judge)
        except ValueError as error:
            raise ValueError(f"benchmark {label!r}: {error}") from None


def check_frames(benchmarks: Benchmarks, frames: FramesConfig) -> None:
    """Raises ValueError where a benchmark asks for a frame set that there is not, or that has several clips."""
    sets = {one.name: one for one in frames.sets}
    for label, each in benchmarks.items():
        if each.frame_set not in sets:
            raise ValueError(
                f"benchmark {label!r}: frame_set {each.frame_set!r} is none of frames.sets ({', '.join(sets)})"
            )
        if sets[each.frame_set].clips > 1:
            raise ValueError(f"benchmark {label!r}: frame_set {each.frame_set!r} has several clips; a prompt shows one")


def check_places(benchmarks: Benchmarks) -> None:
    """Raises ValueError where a benchmark's files or videos are not there, or its folder has two rates: sooner than
    after the run before it.
    """
    for folder in dict.fromkeys(each.folder for each in benchmarks.values()):
        folder_rate({label: each for label, each in benchmarks.items() if each.folder == folder})
    for label, each in benchmarks.items():
        wanted = [("videos", Path(each.folder)), *((f"files {name!r}", place) for name, place in each.places.items())]
        for key, place in wanted:
            if not place.exists():
                raise ValueError(
                    f"benchmark {label!r}: there is no {place}: correct its {key}, or leave the benchmark out"
                )


def folder_rate(benchmarks: Mapping[str, ScoredBenchmark]) -> float | None:
    """Frames a second of the folders of frames that these benchmarks share; None where none of them says.

    Raises:
        ValueError: they say different things.
    """
    said = {label: each.rate for label, each in benchmarks.items() if each.rate is not None}
    if len(set(said.values())) > 1:
        told = ", ".join(f"{label} {rate:g}" for label, rate in said.items())
        raise ValueError(f"benchmarks of one folder of videos have different folder_fps ({told}): make them equal")
    return next(iter(said.values()), None)


def endpoints_of(benchmarks: Benchmarks, grading: GradingConfig) -> list[JudgeEndpoint]:
    """The endpoints that will be asked."""
    return [each for name, each in grading.endpoints.items() if name in {one.judge for one in benchmarks.values()}]
