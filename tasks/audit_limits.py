"""Settings of the audit, and the limits that stop a run before a reward model learns from bad labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from models.slots import SlotVocabulary
from tasks.audit_measures import BETWEEN, MEASURES, LengthUnit
from tasks.intervals import RESAMPLES, Interval
from tasks.label_versions import LabelVersion
from tasks.stage import StageError

ALL = "all"
LIMITS = ("max_position_bias", "max_length_bias", "min_consistency", "max_blind_agreement")


class AuditError(StageError):
    """Labels that a run was about to learn from fail a limit of the audit."""


class AuditConfig(BaseModel):
    """How labels are audited, and the limits that stop a run before a reward model learns from them; null: no limit."""

    model_config = ConfigDict(extra="forbid")

    length_unit: LengthUnit = Field(default="words", description="What the length of an answer is counted in.")
    truth_splits: list[str] = Field(
        default=["benchmark"],
        description="Splits whose answers count as ground truth; it is measured against them and nothing learns it.",
    )
    slots: SlotVocabulary | None = Field(
        default=None,
        description="Words of the slot score that says which answer is truly better; null: exact match says it.",
    )
    resamples: int = Field(default=RESAMPLES, ge=100, description="Bootstrap samples of the intervals.")
    max_position_bias: float | None = Field(
        default=None,
        ge=0,
        le=0.5,
        description="Largest distance of the share that prefers the answer shown first from 0.5.",
    )
    max_length_bias: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="By how much more (or less) often than the truth the longer answer may be preferred; than half, "
        "where there is no truth.",
    )
    min_consistency: float | None = Field(
        default=None, ge=0, le=1, description="Least share of pairs whose two orders prefer the same answer."
    )
    max_blind_agreement: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Largest share of labels that the judge may give without frames and narrative too. Each way to "
        "judge then labels its pairs once more, blind.",
    )

    @property
    def gated(self) -> bool:
        """Whether there is a limit."""
        return any(getattr(self, name) is not None for name in LIMITS)


@dataclass(frozen=True)
class Finding:
    """One measure of one version, or of two."""

    measure: str
    version: str
    other: str
    found: Interval


@dataclass(frozen=True)
class Limit:
    """A limit as it was measured.

    Attributes:
        setting: its name in the configuration.
        measure: what it is about.
        found: the measure; None where there was nothing to measure.
        value: what is compared with the limit.
        limit: the limit.
    """

    setting: str
    measure: str
    found: Interval | None
    value: float | None
    limit: float

    @property
    def kept(self) -> bool:
        if self.value is None:
            return False
        return self.value >= self.limit if self.setting.startswith("min_") else self.value <= self.limit

    def __str__(self) -> str:
        what = {**MEASURES, **BETWEEN}[self.measure].partition(";")[0]
        if self.found is None or self.value is None:
            return f"audit.{self.setting} is {self.limit:g}, but nothing tells the share of {what}"
        interval = f"95 % interval {self.found.low:.3f} to {self.found.high:.3f}, {self.found.n:,} pairs"
        bias = "" if self.value == self.found.value else f", a bias of {self.value:.3f}"
        return f"{what}: {self.found.value:.3f} ({interval}){bias}; audit.{self.setting} allows {self.limit:g}"


def limits_of(config: AuditConfig, version: LabelVersion, findings: Sequence[Finding]) -> Iterator[Limit]:
    """The limits that are set, as this version keeps or breaks them."""
    alone = {each.measure: each.found for each in findings if each.version == version.name and each.other == ALL}
    blind = [each.found for each in findings if each.version == version.name and each.measure == "blind_same"]
    # Without truth half is the measure of bias; with it, longer answers may be preferred as often as they are better.
    length = ("longer_excess", 0.0) if "longer_excess" in alone else ("longer", 0.5)
    wanted: dict[str, tuple[str, float, Interval | None]] = {
        "max_position_bias": ("first", 0.5, alone.get("first")),
        "max_length_bias": (*length, alone.get(length[0])),
        "min_consistency": ("consistent", 0.0, alone.get("consistent")),
        # Of several blind versions, the one that gives the most away.
        "max_blind_agreement": ("blind_same", 0.0, max(blind, key=lambda each: each.value, default=None)),
    }
    for setting, (measure, unbiased, found) in wanted.items():
        limit = getattr(config, setting)
        # A likelihood judge scores each answer alone: it is shown no order that could sway it.
        if limit is None or (measure in ("first", "consistent") and version.config["method"] == "likelihood"):
            continue
        yield Limit(setting, measure, found, None if found is None else abs(found.value - unbiased), limit)
