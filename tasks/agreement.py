"""Stage `agreement`: how often each way of judging agrees with the ground truth, on pairs that it tells apart.

The judge never saw the ground truth; it enters here alone, to measure the judge. Rows go to table `metrics`, step 0,
named `<measure>/<condition>/<kind>` (kind "all": all questions); `read_agreement` gives them back. Measures:

- agreement: share of pairs where the judge prefers the answer that is truly better; a tie counts 0.5;
- agreement_low, agreement_high: its 95 % bootstrap interval, instructions resampled;
- agreement_n: pairs; agreement_ties: share of them that the judge calls a tie;
- agreement_choice: agreement by p_a alone, so that orders of a verdict that disagree still choose (0.5 counts 0.5);
- agreement_consistent, agreement_first (verdict): share of pairs whose two orders prefer the same answer, and share of
  showings that prefer the answer shown first: 0.5 is without position bias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from models.slots import SlotVocabulary
from storage.lake import Lake
from tasks.fanout import Outcome
from tasks.grading import Truths
from tasks.intervals import RESAMPLES, bootstrap_mean
from tasks.preferences import JudgingConfig
from tasks.stage import RunContext, Stage, StageRef, StageResult, run_stage

ALL = "all"


class AgreementConfig(BaseModel):
    """How judges are measured: candidates of held-out instructions, judged under each condition."""

    model_config = ConfigDict(extra="forbid")

    split: str = Field("benchmark", description="Split of the held-out instructions that are answered and judged.")
    limit: int | None = Field(None, ge=1, description="Take only this many of them, always the same; null: all.")
    conditions: list[JudgingConfig] = Field(
        default_factory=list, description="The ways to judge that are compared; none: agreement is not measured."
    )
    slots: SlotVocabulary | None = Field(
        None, description="Words of the slot score that says which answer is better; null: exact match says it."
    )
    resamples: int = Field(RESAMPLES, ge=100, description="Bootstrap samples of the intervals.")

    @field_validator("conditions")
    @classmethod
    def _names_differ(cls, conditions: list[JudgingConfig]) -> list[JudgingConfig]:
        names = [condition.name for condition in conditions]
        if len(set(names)) < len(names):
            raise ValueError(f"the names {names} must differ")
        return conditions


@dataclass(frozen=True)
class Agreement:
    """A judge against the ground truth, under one condition and for one kind of question; see the module's text."""

    agreement: float
    low: float
    high: float
    n: int
    ties: float
    choice: float
    consistent: float | None = None
    first: float | None = None


def agreement(
    ctx: RunContext, config: AgreementConfig, judged: Mapping[str, StageResult], instructions: StageResult
) -> StageResult:
    """Measure the judges.

    Pairs whose answers the ground truth grades alike, and instructions that cannot be graded, do not count. A condition
    without a pair that counts is quarantined.

    Args:
        ctx: the run.
        config: what is graded and how.
        judged: the preferences by condition, all over the same candidates.
        instructions: the instructions with their answers.
    """
    conditions = {name: judged[name].ref for name in sorted(judged)}
    stage = Stage(
        name="agreement",
        table="metrics",
        config={**config.model_dump(include={"slots", "resamples"}, mode="json"), "conditions": list(conditions)},
        inputs=(instructions.ref, *conditions.values()),
        model=None,
        prompts={},
        seed=ctx.seed,
        shard_size=1,
    )
    settings = AgreementSettings(ctx.lake_root, conditions, instructions.ref, config)
    items = [{"item_id": name, "key": ref.key} for name, ref in conditions.items()]
    return run_stage(ctx, stage, lambda: items, CompareWithTruth, settings)


@dataclass(frozen=True)
class AgreementSettings:
    """What a worker needs."""

    lake: str
    conditions: dict[str, StageRef]
    instructions: StageRef
    config: AgreementConfig


class CompareWithTruth:
    """Grades both answers of each pair and compares that with the judge's preference."""

    def __init__(self, settings: AgreementSettings) -> None:
        self._lake = Lake(settings.lake)
        self._conditions = settings.conditions
        self._resamples = settings.config.resamples
        ref = settings.instructions
        rows = self._lake.table(ref.table).read(ref.key, columns=["item_id", "status", "answer", "kind"]).to_pylist()
        self._truths = Truths(rows, settings.config.slots)
        self._kinds = {row["item_id"]: row["kind"] for row in rows}

    def process(self, items: list[dict[str, Any]], seed: int) -> list[Outcome]:
        return [self._measure(item["item_id"], seed) for item in items]

    def _measure(self, condition: str, seed: int) -> Outcome:
        ref = self._conditions[condition]
        rows = self._lake.table(ref.table).read(ref.key).to_pylist()
        pairs = [pair for row in rows if row["status"] == "ok" and (pair := self._pair(row)) is not None]
        if not pairs:
            return Outcome(
                condition, None, "no pair has answers that the ground truth grades differently; raise agreement.limit"
            )
        kinds: dict[str, list[GradedPair]] = {}
        for pair in pairs:
            kinds.setdefault(pair.kind, []).append(pair)
        kinds[ALL] = pairs
        rows = []
        for kind in sorted(kinds):
            found = asdict(measure(kinds[kind], resamples=self._resamples, seed=seed))
            rows += [
                {"step": 0, "name": f"{_metric(name)}/{condition}/{kind}", "value": float(value)}
                for name, value in found.items()
                if value is not None
            ]
        return Outcome(condition, rows)

    def _pair(self, row: dict[str, Any]) -> GradedPair | None:
        """The row with its truth; None where the truth does not tell the answers apart."""
        better = self._truths.better(row["instruction"], (row["answer_a"], row["answer_b"]))
        if better is None or better == "tie":
            return None
        return GradedPair(
            instruction=row["instruction"],
            kind=self._kinds[row["instruction"]] or "other",
            a_is_better=better == "a",
            preferred=row["preferred"],
            p_a=row["p_a"],
            p_a_first=row["p_a_first"],
            p_a_second=row["p_a_second"],
            consistent=row["consistent"],
        )


@dataclass(frozen=True)
class GradedPair:
    """A judged pair of which one answer is truly better. The last five fields are those of table `preferences`."""

    instruction: str
    kind: str
    a_is_better: bool
    preferred: str
    p_a: float
    p_a_first: float | None
    p_a_second: float | None
    consistent: bool | None


def measure(pairs: Sequence[GradedPair], *, resamples: int = RESAMPLES, seed: int = 0) -> Agreement:
    """How well the judgements of at least one pair agree with the truth."""
    hits = [0.5 if pair.preferred == "tie" else float((pair.preferred == "a") == pair.a_is_better) for pair in pairs]
    choices = [0.5 if pair.p_a == 0.5 else float((pair.p_a > 0.5) == pair.a_is_better) for pair in pairs]
    interval = bootstrap_mean(hits, [pair.instruction for pair in pairs], resamples=resamples, seed=seed)
    firsts = [float(p > 0.5) for pair in pairs if (p := pair.p_a_first) is not None]
    firsts += [float(p < 0.5) for pair in pairs if (p := pair.p_a_second) is not None]
    consistent = [float(pair.consistent) for pair in pairs if pair.consistent is not None]
    return Agreement(
        agreement=interval.value,
        low=interval.low,
        high=interval.high,
        n=interval.n,
        ties=_mean([float(pair.preferred == "tie") for pair in pairs]),
        choice=_mean(choices),
        consistent=_mean(consistent) if consistent else None,
        first=_mean(firsts) if firsts else None,
    )


def read_agreement(lake: Lake, ref: StageRef) -> dict[str, dict[str, Agreement]]:
    """The stage's result: condition -> kind of question ("all": all of them) -> agreement."""
    measures = {_metric(each.name): each.name for each in fields(Agreement)}
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in lake.table(ref.table).read(ref.key, columns=["status", "name", "value"]).to_pylist():
        if row["status"] == "ok":
            metric, condition, kind = row["name"].split("/", 2)
            found.setdefault(condition, {}).setdefault(kind, {})[measures[metric]] = row["value"]
    return {
        condition: {kind: Agreement(**{**values, "n": int(values["n"])}) for kind, values in kinds.items()}
        for condition, kinds in found.items()
    }


def _metric(name: str) -> str:
    return name if name == "agreement" else f"agreement_{name}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
