"""Stage `audit`: what is wrong with labels, measured; and the gate that stops a run before it learns from them.

Rows go to table `metrics`, step 0, named `audit_<measure>/<version>/<other>`: `other` is the version that it is
compared with, or "all". `audit_<measure>_low`, `_high` and `_n` are the 95 % interval and the pairs behind it.
tasks/audit_measures.py says what the measures are; `read_audit` gives them back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storage.lake import Lake
from tasks.audit_limits import ALL, LIMITS, AuditConfig, AuditError, Finding, limits_of
from tasks.audit_measures import Judged, blind_effect, measure_between, measure_version, narrative_effect
from tasks.fanout import Outcome
from tasks.intervals import Interval
from tasks.label_versions import LabelVersion, judged_pairs, label_version, truths_of
from tasks.lake_command import lake_command
from tasks.stage import RunContext, Stage, StageRef, StageResult, run_stage

_PREFIX = "audit_"


def audit(
    ctx: RunContext,
    config: AuditConfig,
    labelled: Mapping[str, StageResult],
    instructions: StageResult,
    label: str,
    gate: Sequence[str] = (),
) -> StageResult:
    """Audit versions of the labels.

    Args:
        ctx: the run.
        config: what is measured, and the limits.
        labelled: preferences by the name of the version.
        instructions: the questions, with answers where they are known.
        label: tells the stage from its namesakes.
        gate: the versions that a model is about to learn from: they must keep the limits.

    Raises:
        AuditError: one of them does not, or it could not be measured.
    """
    versions = {name: labelled[name].ref for name in sorted(labelled)}
    stage = Stage(
        name="audit",
        table="metrics",
        config={**config.model_dump(exclude=set(LIMITS), mode="json"), "versions": list(versions)},
        inputs=(instructions.ref, *versions.values()),
        model=None,
        prompts={},
        seed=0,  # The page of `rlaif audit` draws the same resamples.
        shard_size=1,
        label=f"audit {label}",
    )
    settings = AuditSettings(ctx.lake_root, versions, instructions.ref, config)
    items = [{"item_id": name, "key": ref.key} for name, ref in versions.items()]
    result = run_stage(ctx, stage, lambda: items, AuditLabels, settings)
    if config.gated:
        findings = read_audit(ctx.lake, result.ref)
        for name in gate:
            check_limits(ctx.lake, config, findings, label_version(ctx.lake, name, versions[name].key))
    return result


@dataclass(frozen=True)
class AuditSettings:
    """What a worker needs."""

    lake: str
    versions: dict[str, StageRef]
    instructions: StageRef
    config: AuditConfig


class AuditLabels:
    """Measures one version, alone and against those that come after it."""

    def __init__(self, settings: AuditSettings) -> None:
        lake = Lake(settings.lake)
        config = settings.config
        truths = truths_of(lake, [settings.instructions], config.truth_splits, config.slots)
        self._versions = {name: label_version(lake, name, ref.key) for name, ref in settings.versions.items()}
        self._pairs = {name: judged_pairs(lake, ref.key, truths) for name, ref in settings.versions.items()}
        self._config = config

    def process(self, items: list[dict[str, Any]], seed: int) -> list[Outcome]:  # noqa: ARG002 - always the same draw
        return [self._outcome(item["item_id"]) for item in items]

    def _outcome(self, name: str) -> Outcome:
        if not self._pairs[name]:
            return Outcome(name, None, "it has no judged pair; look at its stage preferences")
        findings = measure(self._config, self._versions, self._pairs, name)
        return Outcome(name, [row for finding in findings for row in _rows(finding)])


def measure(
    config: AuditConfig, versions: Mapping[str, LabelVersion], pairs: Mapping[str, Sequence[Judged]], name: str
) -> list[Finding]:
    """Everything about a version with at least one pair: alone, and against those after it in the alphabet.

    The effects of narrative and sight stand with the version that has them, against the one that lacks them.
    """
    own, mine = versions[name], pairs[name]
    alone = measure_version(mine, unit=config.length_unit, resamples=config.resamples)
    findings = [Finding(each, name, ALL, found) for each, found in alone.items()]
    for other, version in versions.items():
        found: dict[str, Interval] = {}
        if other > name:
            found |= measure_between(mine, pairs[other], resamples=config.resamples)
        if own.like(version) and own.narrative and not version.narrative and own.blind == version.blind:
            found |= narrative_effect(mine, pairs[other], resamples=config.resamples)
        if own.like(version) and version.blind and not own.blind:
            found |= blind_effect(mine, pairs[other], resamples=config.resamples)
        findings += [Finding(each, name, other, interval) for each, interval in found.items()]
    return findings


def _rows(finding: Finding) -> list[dict[str, Any]]:
    found = finding.found
    values = {"": found.value, "_low": found.low, "_high": found.high, "_n": found.n}
    place = f"{finding.version}/{finding.other}"
    return [
        {"step": 0, "name": f"{_PREFIX}{finding.measure}{part}/{place}", "value": float(value)}
        for part, value in values.items()
    ]


def read_audit(lake: Lake, ref: StageRef) -> list[Finding]:
    """The stage's result, in the order of the table."""
    values: dict[tuple[str, str, str], float] = {}
    for row in lake.table(ref.table).read(ref.key, columns=["status", "name", "value"]).to_pylist():
        if row["status"] == "ok":
            metric, version, other = row["name"].split("/", 2)
            values[metric.removeprefix(_PREFIX), version, other] = row["value"]
    return [
        Finding(metric, version, other, Interval(value, *_ends(values, metric, version, other)))
        for (metric, version, other), value in values.items()
        if (f"{metric}_n", version, other) in values
    ]


def _ends(values: Mapping[tuple[str, str, str], float], metric: str, version: str, other: str) -> tuple[Any, Any, int]:
    low, high, n = (values[f"{metric}_{part}", version, other] for part in ("low", "high", "n"))
    return low, high, int(n)


def check_limits(lake: Lake, config: AuditConfig, findings: Sequence[Finding], version: LabelVersion) -> None:
    """Raises AuditError where the version breaks a limit, with every limit that it breaks."""
    broken = [str(limit) for limit in limits_of(config, version, findings) if not limit.kept]
    if broken:
        raise AuditError(
            f"The labels {version.name!r} fail the audit: {'; '.join(broken)}. No reward model learns from them. See "
            f"{lake_command('audit', lake.root, '--arm', version.arm)}; then change the judge, its prompt or its "
            "method, or the limit. What is done is kept."
        )
