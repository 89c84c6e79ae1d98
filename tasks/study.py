"""Several seeds of several arms, compared: means, deviations, paired differences with intervals and p values.

Every seed answers the same questions about the same videos. Both are samples of what one would want to know about, so
the bootstrap draws seeds and videos anew, crossed (https://doi.org/10.1214/12-AOAS547): an interval over seeds alone
would call luck with the questions a finding, one over videos alone luck with the seed.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from storage.lake import Lake
from tasks.benchmark import MEASURES
from tasks.report_scores import BASE, HEADLINE, SFT

RESAMPLES = 10_000
Floats = npt.NDArray[np.float64]
# Seed -> the label of a scored model -> the key of its stage `benchmark`. A model may lack seeds.
Keys = Mapping[int, Mapping[str, str]]
Pair = tuple[str, str]


@dataclass(frozen=True)
class Mean:
    """One model's scores over the seeds.

    Attributes:
        values: by the study's seeds; None where the model was not scored.
        mean: of those that there are.
        sd: their sample deviation; None of one seed.
        low: 2.5 % quantile of the bootstrap over seeds and videos.
        high: 97.5 % quantile.
    """

    values: list[float | None]
    mean: float
    sd: float | None
    low: float
    high: float


@dataclass(frozen=True)
class Recovery:
    """(arm - SFT) / (base - SFT): the share of what SFT had lost that an arm won back, with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Mean):
    """One model's score minus another's on the same questions, in the seeds that scored both.

    Attributes:
        first: the model.
        second: the other.
        p: two-sided: twice the share of resamples on the other side of 0, never below 1 / resamples.
        recovery: where the second is SFT, and SFT lost to the base what its interval can tell; else None.
    """

    first: str
    second: str
    p: float
    recovery: Recovery | None


@dataclass(frozen=True)
class Study:
    """What a study found, by one measure of the benchmark.

    Attributes:
        seeds: in their order.
        measure: of MEASURES.
        questions: how many each model answered in each seed.
        scores: by model.
        differences: of each arm and SFT, and of the pairs that were asked for.
    """

    seeds: list[int]
    measure: str
    questions: int
    scores: dict[str, Mean]
    differences: list[Difference]


def studies_of(lake: Lake, keys: Keys, pairs: Sequence[Pair] | None = None) -> list[Study]:
    """A study by each measure that the benchmark has; arguments and errors as of `study_of`."""
    return [study for measure in MEASURES if (study := study_of(lake, keys, measure, pairs)).questions]


def study_of(lake: Lake, keys: Keys, measure: str = HEADLINE, pairs: Sequence[Pair] | None = None) -> Study:
    """Compare the models that the seeds have scored.

    Args:
        lake: where their rows are.
        keys: which rows.
        measure: of MEASURES.
        pairs: what is compared beside every arm with SFT; None: every two arms.

    Raises:
        ValueError: some model or seed was scored on other questions.
    """
    answers = {label: _answers(lake, keys, label, measure) for label in _labels(keys)}
    answers = {label: each for label, each in answers.items() if each}
    questions = _same_questions(answers)
    if not questions:
        return Study([*keys], measure, 0, {}, [])
    compared = _Compared([*keys], answers)
    arms = [label for label in answers if label not in (BASE, SFT)]
    if pairs is None:
        pairs = [(one, other) for place, one in enumerate(arms) for other in arms[place + 1 :]]
    wanted = [*((arm, SFT) for arm in arms), *pairs]
    differences = [compared.difference(*pair) for pair in dict.fromkeys(wanted) if compared.common(*pair)]
    return Study([*keys], measure, len(questions), {label: compared.mean(label) for label in answers}, differences)


Question = tuple[str, str]  # Instruction and video.
Answers = Mapping[int, Mapping[Question, float]]  # By seed.


def _labels(keys: Keys) -> list[str]:
    return [*dict.fromkeys(label for of_seed in keys.values() for label in of_seed)]


def _answers(lake: Lake, keys: Keys, label: str, measure: str) -> Answers:
    return {seed: _by_question(lake, of_seed[label], measure) for seed, of_seed in keys.items() if label in of_seed}


def _by_question(lake: Lake, key: str, measure: str) -> dict[Question, float]:
    decoding, column = MEASURES[measure]
    rows = lake.table("scores").read(key, ["status", "instruction", "video", "decoding", column]).to_pylist()
    return {
        (row["instruction"], row["video"]): float(row[column])
        for row in rows
        if row["status"] == "ok" and row["decoding"] == decoding and row[column] is not None
    }


def _same_questions(answers: Mapping[str, Answers]) -> set[Question]:
    """The questions; raises where a model was asked others in some seed."""
    asked = [(label, {*found}) for label, by_seed in answers.items() for found in by_seed.values()]
    for label, questions in asked:
        if questions != asked[0][1]:
            raise ValueError(f"{label} was not scored on the same questions in every seed: compare runs of one preset.")
    return asked[0][1] if asked else set()


class _Compared:
    """Models on the same questions. All are resampled by the same draws, so that resamples may be subtracted."""

    def __init__(self, seeds: Sequence[int], answers: Mapping[str, Answers]) -> None:
        self._seeds = seeds
        first = next(found for by_seed in answers.values() for found in by_seed.values())
        videos = {video: place for place, video in enumerate(dict.fromkeys(video for _, video in first))}
        self._counts = _by_video(dict.fromkeys(first, 1.0), videos)
        self._sums = {
            label: {seed: _by_video(found, videos) for seed, found in by_seed.items()}
            for label, by_seed in answers.items()
        }
        self._resampled: dict[tuple[int, ...], dict[str, Floats]] = {}

    def common(self, *labels: str) -> tuple[int, ...]:
        """The seeds that scored all of these models."""
        return tuple(seed for seed in self._seeds if all(seed in self._sums.get(label, {}) for label in labels))

    def mean(self, label: str) -> Mean:
        seeds = self.common(label)
        return Mean(*self._told(seeds, [self._score(label, seed) for seed in seeds]), *_span(self._draws(seeds, label)))

    def difference(self, first: str, second: str) -> Difference:
        seeds = self.common(first, second)
        values = [self._score(first, seed) - self._score(second, seed) for seed in seeds]
        resampled = self._draws(seeds, first) - self._draws(seeds, second)
        beyond = min(float((resampled <= 0).mean()), float((resampled >= 0).mean()))
        p = min(1.0, max(2 * beyond, 1 / RESAMPLES))
        recovery = self._recovery(first) if second == SFT else None
        return Difference(*self._told(seeds, values), *_span(resampled), first, second, p, recovery)

    def _recovery(self, arm: str) -> Recovery | None:
        seeds = self.common(arm, SFT, BASE)
        if not seeds:
            return None
        lost = self._draws(seeds, BASE) - self._draws(seeds, SFT)
        if _span(lost)[0] <= 0:
            return None
        won = statistics.fmean(self._score(arm, seed) - self._score(SFT, seed) for seed in seeds)
        whole = statistics.fmean(self._score(BASE, seed) - self._score(SFT, seed) for seed in seeds)
        return Recovery(won / whole, *_span((self._draws(seeds, arm) - self._draws(seeds, SFT)) / lost))

    def _score(self, label: str, seed: int) -> float:
        return float(self._sums[label][seed].sum() / self._counts.sum())

    def _told(self, seeds: Sequence[int], values: Sequence[float]) -> tuple[list[float | None], float, float | None]:
        """Values by all seeds of the study, their mean and deviation."""
        by_seed = dict(zip(seeds, values, strict=True))
        sd = statistics.stdev(values) if len(values) > 1 else None
        return [by_seed.get(seed) for seed in self._seeds], statistics.fmean(values), sd

    def _draws(self, seeds: tuple[int, ...], label: str) -> Floats:
        """The model's resampled means [RESAMPLES] over some seeds."""
        if seeds not in self._resampled:
            labels = [each for each in self._sums if {*seeds} <= self._sums[each].keys()]
            stacked = np.stack([[self._sums[each][seed] for seed in seeds] for each in labels])
            drawn = crossed_bootstrap(stacked, self._counts)
            self._resampled[seeds] = dict(zip(labels, drawn, strict=True))
        return self._resampled[seeds][label]


def _by_video(scores: Mapping[Question, float], videos: Mapping[str, int]) -> Floats:
    """Summed scores [V]."""
    sums = np.zeros(len(videos))
    for (_, video), score in scores.items():
        sums[videos[video]] += score
    return sums


def _span(resampled: Floats) -> tuple[float, float]:
    """The 95 % interval of resamples."""
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(low), float(high)


def crossed_bootstrap(sums: Floats, counts: Floats, *, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Means [..., resamples] when seeds and videos are drawn with replacement, crossed.

    Args:
        sums: summed scores, or differences, [..., S, V] of S seeds and V videos; all are resampled alike.
        counts: questions [V] of each video.
        resamples: how many.
        seed: the same arguments give the same resamples.
    """
    rng = np.random.default_rng(seed)
    *models, seeds, videos = sums.shape
    found = np.empty((*models, resamples))
    for place in range(resamples):
        weights = np.bincount(rng.integers(videos, size=videos), minlength=videos)
        drawn = np.bincount(rng.integers(seeds, size=seeds), minlength=seeds)
        found[..., place] = (sums @ weights) @ drawn / (seeds * (counts @ weights))
    return found
