"""What an evaluation asks, how answers are drawn, and who decides what they are worth."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from benchmarks.benchmark import Benchmark
from benchmarks.registry import KNOWN, benchmark
from models.bounds import NotNegative
from models.endpoint_settings import JudgeEndpoint
from models.settings import EngineName, Sampling
from storage.errors import FormatError
from tasks.answering import engine_field, forward_tokens_field
from tasks.judge_prompts import JudgePrompts, RankPrompts

LOCAL = "local"
PairsBy = Literal["likelihood", "verdict", "listwise"]


class ScoredBenchmark(BaseModel):
    """A benchmark: its files, what of them is asked, how the model answers and by which rules it is scored."""

    model_config = ConfigDict(extra="forbid")

    benchmark: str = Field(description=f"Which one: {', '.join(KNOWN)}.")
    files: dict[str, str] = Field(
        min_length=1, description='Its annotation files by what they hold; the one of most benchmarks is called "".'
    )
    videos: str = Field(description="Folder with its videos, files or folders of frames; its sub-folders count too.")
    video_prefix: str = Field(
        default="",
        description="What the videos' files have before the names in the annotation file: v_ for ActivityNet's.",
    )
    folder_fps: float | None = Field(
        default=None,
        gt=0,
        description="Frames a second of videos that are folders of frames, for questions about a part of one and for "
        "subtitles; null: the benchmark's, if it has one.",
    )
    subtitles: str | None = Field(
        default=None,
        description="Folder with subtitles, one .srt file called as its video; empty: the model is shown none.",
    )
    split: str = Field(default="", description="What these files are called in the results, such as test or val.")
    settings: dict[str, Any] = Field(default={}, description="The benchmark's own settings, such as a prompt.")
    limit: int | None = Field(
        default=None, ge=1, description="Ask only this many items, always the same ones; null: all."
    )
    frame_set: str = Field("policy", description="Frame set that the model is shown; one of frames.sets.")
    max_new_tokens: int | None = Field(
        default=None, ge=1, description="Longest answer in tokens; null: the benchmark's."
    )
    temperature: NotNegative | None = Field(
        default=None, description="Of sampling; 0: the likeliest; null: the benchmark's."
    )
    top_p: float = Field(default=1.0, gt=0, le=1, description="Share of the likeliest tokens that are drawn from.")
    pairs: PairsBy = Field(
        default="likelihood",
        description="Benchmarks of pairs of answers. likelihood: which one the model would itself sooner give; "
        "verdict: which one it says is better, shown both in both orders (grading.prompts); listwise: which one it "
        "puts first, as a ranker that is shown both, in both orders (grading.ranking). A reward model scores each "
        "answer alone, by verdict as by listwise.",
    )
    protocols: tuple[str, ...] = Field(default=(), description="By which it is scored; none named: all that it knows.")
    judge: str | None = Field(
        default=None,
        description="Who decides where rules cannot: local (models.judge), or one of grading.endpoints; null: nobody, "
        "for benchmarks that need none.",
    )

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        known = self.made
        if unknown := sorted(set(self.protocols) - set(known.protocols)):
            raise ValueError(f"{self.benchmark} has no protocol {unknown[0]!r}; it knows {', '.join(known.protocols)}")
        if strange := sorted(set(self.files) - set(known.files)):
            told = "; ".join(f"{name!r}: {what}" for name, what in known.files.items())
            raise ValueError(f"{self.benchmark} has no file {strange[0]!r}; it reads {told}")
        if getattr(known, "subtitles", self.subtitles is not None) != (self.subtitles is not None):
            raise ValueError(
                f"{self.benchmark} shows subtitles where both are set: their folder (subtitles) and settings.subtitles"
            )
        return self

    @cached_property
    def made(self) -> Benchmark:
        """The benchmark. Raises ValueError where there is none of that name or with such settings."""
        return benchmark(self.benchmark, **self.settings)

    @property
    def scored_by(self) -> tuple[str, ...]:
        """The protocols."""
        return self.protocols or tuple(self.made.protocols)

    @property
    def spoken(self) -> Path | None:
        """The folder of the subtitles."""
        return None if self.subtitles is None else Path(self.subtitles).expanduser()

    @property
    def rate(self) -> float | None:
        """Frames a second of videos that are folders of frames; None where nobody says."""
        known: float | None = getattr(self.made, "folder_fps", None)
        return known if self.folder_fps is None else self.folder_fps

    @property
    def sampling(self) -> Sampling:
        """How answers are drawn."""
        made = self.made
        temperature = made.temperature if self.temperature is None else self.temperature
        return Sampling(
            temperature=temperature,
            top_p=self.top_p,
            max_new_tokens=self.max_new_tokens or max(1, made.max_new_tokens),  # 0 where nothing is generated
        )

    @property
    def places(self) -> dict[str, Path]:
        """The annotation files."""
        return {name: Path(place).expanduser() for name, place in self.files.items()}

    @property
    def folder(self) -> str:
        """The videos' folder, absolute."""
        return str(Path(self.videos).expanduser().absolute())


class AnswersConfig(BaseModel):
    """How a model's answers are computed; what is asked, and how it is drawn, the benchmark says."""

    model_config = ConfigDict(extra="forbid")

    batch_size: int = Field(default=16, ge=1, description="Answers drawn, or choices scored, together.")
    forward_tokens: int | None = forward_tokens_field()
    engine: EngineName = engine_field()
    shard_size: int = Field(default=64, ge=1, description="Questions that are committed together.")


class GradingConfig(BaseModel):
    """Who decides what an answer is worth where rules cannot."""

    model_config = ConfigDict(extra="forbid")

    endpoints: dict[str, JudgeEndpoint] = Field(
        default={}, description="Judges behind OpenAI-compatible endpoints, by the name that a benchmark asks for."
    )
    prompts: JudgePrompts = Field(
        default=JudgePrompts(), description="What is asked about pairs of answers, where a benchmark is of such."
    )
    ranking: RankPrompts = Field(
        default=RankPrompts(), description="What a ranker is asked about pairs of answers (pairs: listwise)."
    )
    sampling: Sampling = Field(
        default=Sampling(temperature=0.0, max_new_tokens=64),
        description="How a local judge or ranker replies; temperature 0: likeliest.",
    )
    reasks: int = Field(
        default=2,
        ge=0,
        description="How often a local judge that gave no verdict is asked again, by other draws; never at temperature "
        "0, where it would say the same. An endpoint has its own reasks.",
    )
    batch_size: int = Field(default=16, ge=1, description="Questions that a local judge is asked together.")
    shard_size: int = Field(default=256, ge=1, description="Answers whose grades are committed together.")

    @model_validator(mode="after")
    def _free_name(self) -> Self:
        if LOCAL in self.endpoints:
            raise ValueError(f"an endpoint cannot be called {LOCAL!r}, which is the judge whose weights are here")
        return self

    @property
    def decoding(self) -> dict[str, float]:
        """How a local judge or ranker replies, as scores say it; at temperature 0 the rest of it decides nothing."""
        how = self.sampling
        drawn = {"top_p": how.top_p, "reasks": self.reasks} if how.temperature > 0 else {}
        return {"temperature": how.temperature, "max_new_tokens": how.max_new_tokens, **drawn}

    def check_judge(self, judge: str | None) -> None:
        """Raises ValueError when no judge has that name."""
        if judge is not None and judge != LOCAL and judge not in self.endpoints:
            known = ", ".join([LOCAL, *self.endpoints])
            raise ValueError(f"judge {judge!r} is none of grading.endpoints; known: {known}")


def place_digest(place: Path, what: str) -> str:
    """SHA-256 of a file's bytes; of a folder's files, names and bytes.

    Raises:
        FormatError: it cannot be read; `what` says which it is.
    """
    try:
        if place.is_dir():
            files = sorted(path for path in place.rglob("*") if path.is_file())
            digests = [f"{path.relative_to(place).as_posix()} {_digest(path)}" for path in files]
            return hashlib.sha256("\n".join(digests).encode()).hexdigest()
        return _digest(place)
    except OSError as error:
        raise FormatError(
            f"{place}: cannot be read ({error.strerror}); correct {what}, or make it readable."
        ) from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
