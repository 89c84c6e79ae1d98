"""`scores.json` of a run of `evaluate`: every number with all that it depends on.

Scores by different judges, protocols or frames are entries of their own and are never averaged or set in one column.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SCORES = "scores.json"


@dataclass(frozen=True)
class Entry:
    """One number of one checkpoint on one benchmark.

    Attributes:
        benchmark: the key under which the run's parameters have it (`registry` is what it is of); two keys may be of
            one benchmark, with other frames, files or judges.
        registry: name of the benchmark in benchmarks.registry.
        split: of the annotation files, as the parameters call it; "" where they do not say.
        checkpoint: label of the checkpoint in the run.
        model: name of the model, with what identifies its weights: "<label>@<identity>".
        protocol: by which it was graded.
        judge: who decides where rules cannot: model, version and settings, and "answered by" with the models that an
            endpoint's replies named, where it was not the one that was asked for alone; "" where there is none or the
            protocol asks none. An endpoint's version holds its settings.
        prompt_hash: of the texts that the model and the judge were given.
        frames: frame set that the model was shown.
        n_frames: of that set; a video may have fewer.
        decoding: temperature, top_p and max_new_tokens; of a judge or ranker that is scored, as it replied to pairs,
            and nothing where it wrote no reply.
        settings: of the benchmark, those that are not its own; "pairs" and "subtitles" among them, as in
            ScoredBenchmark.
        limit: most items that were asked; None: all.
        metric: name of the number, such as "accuracy".
        group: what part of the items it is about: "overall", or "duration: short".
        value: the number; None where no item counts, unless the official script prints a number then too.
        low, high: 95 % bootstrap interval, videos resampled; None likewise, and where the items are of one video.
        n: items in the number.
        left_out: items that the protocol leaves out of it.
        printed: as the official script prints it.
        scale, digits: as of benchmarks.metrics.Metric: how it prints it.
        statuses: of all grades of the benchmark by status (benchmarks.grades.Status).
        faults: rows of the annotation files that are no items, and items that could not be asked, or graded (kinds
            "not graded: ..."), by kind; where subtitles are shown, also the videos without any, and their files' blocks
            that are none.
        stages: keys of the stages "questions", "predictions" and "grades" in the lake.
    """

    benchmark: str
    registry: str
    split: str
    checkpoint: str
    model: str
    protocol: str
    judge: str
    prompt_hash: str
    frames: str
    n_frames: int
    decoding: dict[str, float]
    settings: dict[str, Any]
    limit: int | None
    metric: str
    group: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    left_out: int
    printed: str
    scale: float
    digits: int | None
    statuses: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    stages: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Scores:
    """The numbers of a run, in the order of its parameters and of the official tables."""

    run: str
    entries: tuple[Entry, ...]


def finite(number: float) -> float | None:
    """The number as JSON has it: None for what is none."""
    return number if math.isfinite(number) else None


def write_scores(path: Path, scores: Scores) -> None:
    """Writes the file, whole or not at all."""
    fresh = path.with_suffix(".part")
    text = json.dumps(asdict(scores), indent=1, ensure_ascii=False, allow_nan=False)
    fresh.write_text(text + "\n", encoding="utf-8")
    fresh.replace(path)


def read_scores(path: Path) -> Scores:
    """The numbers in a file that `write_scores` wrote.

    Raises:
        ValueError: it is no such file, or one from before numbers said all that they say now.
    """
    try:
        said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Scores(said["run"], tuple(Entry(**each) for each in said["entries"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no file of scores ({error}); `rlaif evaluate` writes one. One of an older version is written "
            "anew when its run is started again, which takes answers and grades from the lake."
        ) from error
