"""Several seeds of one run, compared: means, deviations, paired differences with intervals and p values.

Every seed answers the same questions about the same videos. Both are samples of what one would want to know about, so
the bootstrap draws seeds and videos anew, crossed (https://doi.org/10.1214/12-AOAS547): an interval over seeds alone
would call luck with the questions a finding, one over videos alone luck with the seed.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from storage.lake import Lake
from tasks.benchmark import MEASURES
from tasks.pages import write
from tasks.report_scores import BASE, HEADLINE, SFT

RESAMPLES = 10_000
Floats = npt.NDArray[np.float64]
# Seed -> the label of a scored model -> the key of its stage `benchmark`.
Keys = Mapping[int, Mapping[str, str]]


@dataclass(frozen=True)
class Mean:
    """One model's scores over the seeds: each seed's, their mean and (sample) deviation; of one seed there is none."""

    values: list[float]
    mean: float
    sd: float | None


@dataclass(frozen=True)
class Difference:
    """One model's score minus another's on the same questions, in the same seeds.

    Attributes:
        first: the model.
        second: the other.
        values: each seed's difference.
        mean: over the seeds.
        sd: their sample deviation; None of one seed.
        low: 2.5 % quantile of the bootstrap over seeds and videos.
        high: 97.5 % quantile.
        p: two-sided: twice the share of resamples on the other side of 0, never below 1 / resamples.
        recovery: (first - SFT) / (base - SFT), where the second is SFT and a base was scored.
    """

    first: str
    second: str
    values: list[float]
    mean: float
    sd: float | None
    low: float
    high: float
    p: float
    recovery: float | None


@dataclass(frozen=True)
class Study:
    """What a study found, by one measure of the benchmark.

    Attributes:
        seeds: in their order.
        measure: of MEASURES.
        questions: how many each model answered in each seed.
        scores: by model.
        differences: of every two arms, and of each arm and SFT.
    """

    seeds: list[int]
    measure: str
    questions: int
    scores: dict[str, Mean]
    differences: list[Difference]


def studies_of(lake: Lake, keys: Keys) -> list[Study]:
    """A study by each measure that the benchmark has; raises as `study_of`."""
    return [study for measure in MEASURES if (study := study_of(lake, keys, measure)).questions]


def study_of(lake: Lake, keys: Keys, measure: str = HEADLINE) -> Study:
    """Compare the models that every seed has scored.

    Raises:
        ValueError: the seeds scored other models, or other questions.
    """
    labels = _shared(keys)
    scores = {label: [_by_question(lake, keys[seed][label], measure) for seed in keys] for label in labels}
    first = next(iter(scores.values()))[0]
    for label, each in scores.items():
        if any(found.keys() != first.keys() for found in each):
            raise ValueError(f"{label} was not scored on the same questions in every seed: compare runs of one preset.")
    if not first:
        return Study([*keys], measure, 0, {}, [])
    means = {label: _mean([float(np.mean([*found.values()])) for found in each]) for label, each in scores.items()}
    arms = [label for label in labels if label not in (BASE, SFT)]
    pairs = [(arm, SFT) for arm in arms if SFT in labels]
    pairs += [(one, other) for place, one in enumerate(arms) for other in arms[place + 1 :]]
    differences = [_difference(scores, means, *pair) for pair in pairs]
    return Study([*keys], measure, len(first), means, differences)


Question = tuple[str, str]  # Instruction and video.


def _shared(keys: Keys) -> list[str]:
    labels = [[*of_seed] for of_seed in keys.values()]
    if any(set(each) != set(labels[0]) for each in labels):
        raise ValueError("The seeds scored other models than each other: compare runs of one preset.")
    return labels[0]


def _by_question(lake: Lake, key: str, measure: str) -> dict[Question, float]:
    decoding, column = MEASURES[measure]
    rows = lake.table("scores").read(key, ["status", "instruction", "video", "decoding", column]).to_pylist()
    return {
        (row["instruction"], row["video"]): float(row[column])
        for row in rows
        if row["status"] == "ok" and row["decoding"] == decoding and row[column] is not None
    }


def _mean(values: list[float]) -> Mean:
    return Mean(values, statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def _difference(
    scores: Mapping[str, Sequence[Mapping[Question, float]]], means: Mapping[str, Mean], first: str, second: str
) -> Difference:
    sums, counts = _by_video(scores[first], scores[second])
    resampled = crossed_bootstrap(sums, counts)
    low, high = np.quantile(resampled, [0.025, 0.975])
    found = _mean([float(each) for each in sums.sum(1) / counts.sum()])
    beyond = min(float((resampled <= 0).mean()), float((resampled >= 0).mean()))
    recovery = None
    if second == SFT and BASE in means and means[BASE].mean != means[SFT].mean:
        recovery = found.mean / (means[BASE].mean - means[SFT].mean)
    p = min(1.0, max(2 * beyond, 1 / RESAMPLES))
    return Difference(first, second, found.values, found.mean, found.sd, float(low), float(high), p, recovery)


def _by_video(
    first: Sequence[Mapping[Question, float]], second: Sequence[Mapping[Question, float]]
) -> tuple[Floats, Floats]:
    """Summed differences [seeds, videos], and questions [videos]."""
    videos = {video: place for place, video in enumerate(dict.fromkeys(video for _, video in first[0]))}
    sums, counts = np.zeros((len(first), len(videos))), np.zeros(len(videos))
    for question in first[0]:
        counts[videos[question[1]]] += 1
    for seed, (one, other) in enumerate(zip(first, second, strict=True)):
        for question, score in one.items():
            sums[seed, videos[question[1]]] += score - other[question]
    return sums, counts


def crossed_bootstrap(sums: Floats, counts: Floats, *, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Mean differences [resamples] when seeds and videos are drawn with replacement, crossed.

    Args:
        sums: summed differences [S, V] of S seeds and V videos.
        counts: questions [V] of each video.
        resamples: how many.
        seed: the same arguments give the same resamples.
    """
    rng = np.random.default_rng(seed)
    seeds, videos = sums.shape
    found = np.empty(resamples)
    for place in range(resamples):
        weights = np.bincount(rng.integers(videos, size=videos), minlength=videos)
        drawn = np.bincount(rng.integers(seeds, size=seeds), minlength=seeds)
        found[place] = drawn @ (sums @ weights) / (seeds * (counts @ weights))
    return found


def markdown(study: Study) -> str:
    """The study as two tables."""
    seeds = [f"seed {seed}" for seed in study.seeds]
    scores = [
        [label, *(f"{value:.3f}" for value in each.values), f"{each.mean:.3f}", _sd(each.sd)]
        for label, each in study.scores.items()
    ]
    differences = [
        [
            f"{each.first} - {each.second}",
            *(f"{value:+.3f}" for value in each.values),
            f"{each.mean:+.3f}",
            _sd(each.sd),
            f"[{each.low:+.3f}, {each.high:+.3f}]",
            f"{each.p:.2g}",
            "" if each.recovery is None else f"{each.recovery:.2f}",
        ]
        for each in study.differences
    ]
    head = ["paired", *seeds, "mean", "sd", "95 % interval", "p", "recovery"]
    told = f"{study.measure}, {study.questions:,} questions"
    return f"{markdown_table([told, *seeds, 'mean', 'sd'], scores)}\n\n{markdown_table(head, differences)}\n"


def _sd(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a Markdown page, from cells that need no care."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_study(studies: Sequence[Study], folder: Path) -> Path:
    """Write study.json and study.md, one part a measure; returns the path of the second."""
    folder.mkdir(parents=True, exist_ok=True)
    values: dict[str, Any] = {study.measure: asdict(study) for study in studies}
    write(folder / "study.json", json.dumps(values, indent=2, ensure_ascii=False) + "\n")
    page = folder / "study.md"
    write(page, "\n".join(markdown(study) for study in studies))
    return page
