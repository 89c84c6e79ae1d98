"""Study files: named arms on one preset, and what of them is compared and drawn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from flows.parameters import RESERVED, Parameters
from flows.presets import PROJECT, PresetError, complaints, found, load, nearest, sections

FOLDER = PROJECT / "deployments" / "studies"
# Base and SFT are scored once a seed and stand beside every arm, so nothing may move them from arm to arm.
SHARED = ("data", "frames", "visual_tokens", "sft", "benchmark")
SHARED_MODELS = ("policy", "device", "dtype")


class StudyError(ValueError):
    """A study file is wrong; the message names the file, the place in it and what to write instead."""


class StudyArm(BaseModel):
    """One arm."""

    model_config = ConfigDict(extra="forbid")

    description: str = Field("", description="What it is, for the page.")
    arm: dict[str, Any] = Field({}, description="Its entry of the preset's arms, on top of the study's.")
    overrides: list[str] = Field(
        [], description="section.key=value on top of the preset's; a mapping of keys to values does as well."
    )

    @field_validator("overrides", mode="before")
    @classmethod
    def _as_list(cls, given: Any) -> Any:
        return [f"{key}={json.dumps(value)}" for key, value in given.items()] if isinstance(given, dict) else given


class StudyCurve(BaseModel):
    """Arms that differ in one number alone, drawn over it."""

    model_config = ConfigDict(extra="forbid")

    title: str = Field(description="Above the figure.")
    axis: str = Field(description="What the number is.")
    points: dict[str, float] | list[str] = Field(
        description="The number of each arm; a list of arms stands over how many decided labels each learned from."
    )


class StudyFile(BaseModel):
    """What a study file holds."""

    model_config = ConfigDict(extra="forbid")

    title: str = Field(description="Of the page.")
    preset: str = Field("miniature", description="A preset's name, or the path of a YAML file.")
    overrides: list[str] = Field([], description="section.key=value on top of the preset's, in every arm.")
    arm: dict[str, Any] = Field({}, description="What the arms' entries of the preset's arms have in common.")
    arms: dict[str, StudyArm] = Field(min_length=1, description="By name.")
    compare: list[tuple[str, str]] = Field([], description="Pairs of arms to compare, beside every arm with sft.")
    curves: dict[str, StudyCurve] = Field({}, description="Figures over a number, by the name of their file.")

    @property
    def named(self) -> list[tuple[str, str]]:
        """Every arm that is named outside `arms`, with its place."""
        pairs = [(f"compare.{place}", arm) for place, pair in enumerate(self.compare) for arm in pair]
        return pairs + [(f"curves.{name}", arm) for name, curve in self.curves.items() for arm in curve.points]


@dataclass(frozen=True)
class Plan:
    """A study as it will be run.

    Attributes:
        file: what the study file holds.
        preset: on which the runs stand.
        overrides: of each arm, all that makes its runs but seed, names and places.
        parameters: of each arm, with the preset's seed; `run` says where the study's own results go.
    """

    file: StudyFile
    preset: str
    overrides: dict[str, list[str]]
    parameters: dict[str, Parameters]

    @property
    def first(self) -> Parameters:
        return next(iter(self.parameters.values()))

    def own(self, arm: str) -> list[str]:
        """What makes an arm, beside what all share."""
        return own_overrides(self.file, arm)


def read_study(path: Path) -> StudyFile:
    """A study file.

    Raises:
        StudyError: a key or an arm is unknown, or a value is refused.
        PresetError: the file cannot be read.
    """
    try:
        study = StudyFile.model_validate(sections(path))
    except ValidationError as error:
        raise StudyError(f"Study {path}:\n" + "\n".join(complaints(error, StudyFile))) from error
    known = [*study.arms, *RESERVED]
    unknown = [
        f"  {place}: there is no arm {arm!r}{nearest(arm, known)}" for place, arm in study.named if arm not in known
    ]
    if unknown:
        raise StudyError(f"Study {path}:\n" + "\n".join(unknown) + f"\nArms: {', '.join(study.arms)}.")
    return study


def plan_study(name: str, preset: str | None, overrides: Sequence[str]) -> Plan:
    """A study whose every arm was checked.

    Args:
        name: a name in deployments/studies, or the path of a YAML file.
        preset: in place of the one that the file names.
        overrides: on top of the preset in every arm; what makes an arm goes above them.

    Raises:
        StudyError: the file is wrong, an arm's parameters are, or arms differ in what all share.
        PresetError: there is no such file.
    """
    path = found("study", name, FOLDER)
    study = read_study(path)
    on = preset or study.preset
    alone = ["run.workers=1", "run.training_workers=1", "run.strategy=ddp"]
    shared = [f"run.name=study-{path.stem}", *alone, *study.overrides, *overrides, "agreement.conditions=[]"]
    made = {arm: [*shared, *own_overrides(study, arm)] for arm in study.arms}
    parameters = {}
    for arm, each in made.items():
        try:
            parameters[arm] = load(on, each)
        except PresetError as error:
            raise StudyError(f"Study {path}, arm {arm!r}: {error}") from error
    _check_shared(path, parameters)
    return Plan(study, on, made, parameters)


def own_overrides(study: StudyFile, name: str) -> list[str]:
    """What makes an arm."""
    arm = study.arms[name]
    return [*arm.overrides, f"arms={json.dumps([{**study.arm, **arm.arm, 'name': name}])}"]


def _check_shared(path: Path, parameters: dict[str, Parameters]) -> None:
    (first, one), *others = parameters.items()
    for name, other in others:
        differing = [section for section in SHARED if getattr(one, section) != getattr(other, section)]
        differing += [
            f"models.{key}" for key in SHARED_MODELS if getattr(one.models, key) != getattr(other.models, key)
        ]
        if differing:
            raise StudyError(
                f"Study {path}: arms {first!r} and {name!r} differ in {', '.join(differing)}, so that they would not "
                "begin with the same SFT model or answer the same questions. Set it in the study's own overrides, or "
                "make two studies."
            )
