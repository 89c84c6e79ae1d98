"""The parameters of an evaluation: one section a stage, as in flows.parameters."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from flows.parameters import Place, RunConfig
from models.endpoint_settings import JudgeEndpoint
from tasks.evaluation.checkpoints import Checkpoint
from tasks.evaluation.config import LOCAL, AnswersConfig, GradingConfig
from tasks.evaluation.sections import Benchmarks, check_frames, check_judges
from tasks.frames import FramesConfig
from tasks.prepare import PrepareConfig
from tasks.visual_tokens import VisualTokensConfig


def _differ(checkpoints: list[Checkpoint]) -> list[Checkpoint]:
    names = [each.name for each in checkpoints]
    if len(set(names)) < len(names):
        raise ValueError(f"the names of checkpoints must differ: {', '.join(names)}")
    return checkpoints


class EvaluatedModels(BaseModel):
    """The models that are scored, and the one that grades."""

    model_config = ConfigDict(extra="forbid")

    checkpoints: Annotated[list[Checkpoint], AfterValidator(_differ)] = Field(
        min_length=1, description="What is scored; those with one vision tower share its visual tokens."
    )
    judge: Place | None = Field(
        None, description="Model that grades where a benchmark's judge is local: a local folder or a Hub id."
    )
    device: str = Field("cpu", description="Torch device of all.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Torch dtype of all; trained adapters keep the one that they were trained with."
    )
    quantization: Literal["none", "nf4"] = Field(
        "none", description="nf4: keep the weights of the language models in four bits; needs CUDA and bitsandbytes."
    )

    @property
    def how(self) -> dict[str, Any]:
        """How each of the models is loaded (ModelRef.of)."""
        return self.model_dump(include={"device", "dtype", "quantization"})


class Evaluation(BaseModel):
    """All sections of an evaluation."""

    model_config = ConfigDict(extra="forbid")

    run: RunConfig
    models: EvaluatedModels
    frames: FramesConfig
    visual_tokens: VisualTokensConfig = VisualTokensConfig()
    benchmarks: Benchmarks
    answers: AnswersConfig = AnswersConfig()
    grading: GradingConfig = GradingConfig()
    prepare: PrepareConfig | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_judges(self.benchmarks, self.grading)
        check_frames(self.benchmarks, self.frames)
        wanting = [label for label, each in self.benchmarks.items() if each.judge == LOCAL]
        if wanting and self.models.judge is None:
            raise ValueError(f"benchmark {wanting[0]!r} has judge local, but models.judge names no model")
        for each in self.models.checkpoints:
            if each.endpoint is not None and each.endpoint not in self.grading.endpoints:
                raise ValueError(f"checkpoint {each.name!r}: endpoint {each.endpoint!r} is none of grading.endpoints")
            if each.only_compares:
                self._check_pairs(each)
        return self

    def _check_pairs(self, judge: Checkpoint) -> None:
        answering = [label for label, each in self.benchmarks.items() if each.pairs == "likelihood"]
        if answering:
            what = "a reward model" if judge.endpoint is None else "behind an endpoint"
            raise ValueError(
                f"checkpoint {judge.name!r} is {what} and only compares pairs of answers: benchmark {answering[0]!r} "
                "asks for more; set its pairs to verdict or listwise, or leave one of them out"
            )

    @property
    def asked(self) -> list[JudgeEndpoint]:
        """The endpoints that will be asked."""
        judges = {each.endpoint for each in self.models.checkpoints} | {each.judge for each in self.benchmarks.values()}
        return [each for name, each in self.grading.endpoints.items() if name in judges]
