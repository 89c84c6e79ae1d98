"""Numbers that others published, with their sources, to stand beside ours: never in one column with other judges'."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from storage.errors import FormatError

Kind = Literal["published", "re-run"]

NOT_SAID = "not said"  # By the source of a number.
SUBTITLES = ("with", "without", NOT_SAID)
DEFAULT = Path(__file__).parent / "published.yaml"


@dataclass(frozen=True)
class Published:
    """One published number.

    Attributes:
        benchmark: as the registry names it.
        metric: as the benchmark names it.
        group: "overall", or the part of the items it is about.
        model: whose answers (or preferences) were scored.
        value: of `metric` as we print it: shares in [0, 1], scores of a judge in their own points.
        kind: "published" by the authors of the model's method or of the benchmark, or "re-run" by others.
        source: URL of what says so; of a secondary source without one, what it is.
        paper: URL of where a secondary source has the number from, which was not looked at.
        secondary: the source repeats somebody else's number.
        judge: model that judged; "": the benchmark has none.
        snapshot: of the judge, "0613"; "": not said.
        scorer: script or protocol: "official" is the benchmark's own.
        split: whose questions they are; "": the benchmark has but one set of them.
        subtitles: whether the models were given them, as in SUBTITLES; "": the benchmark has none.
        frames: that the models were shown.
        note: what else one must know.
    """

    benchmark: str
    metric: str
    model: str
    value: float
    kind: Kind
    source: str
    group: str = "overall"
    paper: str = ""
    secondary: bool = False
    judge: str = ""
    snapshot: str = ""
    scorer: str = NOT_SAID
    split: str = ""
    subtitles: str = ""
    frames: str = NOT_SAID
    note: str = ""

    @property
    def complete(self) -> bool:
        """Whether all is said that decides which numbers of other sources it can be compared with: the same answers
        got 81, 72 and 75 % under three snapshots of one model.
        """
        unsaid = NOT_SAID in (self.scorer, self.split, self.subtitles)
        return not unsaid and bool(self.snapshot or not self.judge)


def read_published(path: Path = DEFAULT) -> list[Published]:
    """The numbers of a file: a list of sections {benchmark, source, kind, ..., values: {model: {metric: value}}}.

    What a section says holds for all its values; its scorer it must say. A metric is "name" or "name | group".

    Raises:
        FormatError: the file is no such list, a number has no source or scorer, is none, or stands there twice.
    """
    try:
        sections = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise FormatError(f"{path}: cannot be read: {error}.") from error
    if not isinstance(sections, list):
        raise FormatError(f"{path}: is no list of sections.")
    found: dict[tuple[object, ...], Published] = {}
    for number, section in enumerate(sections, start=1):
        for one in _numbers(f"{path.name} section {number}", section):
            key = tuple(getattr(one, field.name) for field in fields(one) if field.name not in {"value", "note"})
            if key in found:
                raise FormatError(f"{path.name} section {number}: {one.model} {one.metric} stands there twice.")
            found[key] = one
    return list(found.values())


def _numbers(where: str, section: Any) -> list[Published]:
    if not isinstance(section, dict) or not isinstance(section.get("values"), dict) or not section["values"]:
        raise FormatError(f"{where}: has no values {{model: {{metric: number}}}}.")
    shared = {name: value for name, value in section.items() if name != "values"}
    unknown = sorted(set(shared) - {field.name for field in fields(Published)})
    if unknown:
        raise FormatError(f"{where}: does not know {', '.join(unknown)}.")
    return [
        _number(f"{where}, {model}", shared, str(model), str(metric), value)
        for model, by_metric in section["values"].items()
        for metric, value in _mapping(f"{where}, {model}", by_metric).items()
    ]


def _mapping(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict) or not value:
        raise FormatError(f"{where}: has no {{metric: number}}.")
    return value


def _number(where: str, shared: Mapping[str, Any], model: str, metric: str, value: Any) -> Published:
    name, _, group = (part.strip() for part in metric.partition("|"))
    for needed in ("benchmark", "source", "kind", "scorer"):
        if not shared.get(needed):
            raise FormatError(
                f"{where}: has no {needed}; where the source does not say the scorer, it is {NOT_SAID!r}."
            )
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise FormatError(f"{where}: {metric} is no number but {value!r}.")
    if shared["kind"] not in get_args(Kind):
        raise FormatError(f"{where}: kind is one of {', '.join(get_args(Kind))}, not {shared['kind']!r}.")
    if not isinstance(shared.get("secondary", False), bool):
        raise FormatError(f"{where}: secondary is true or false, not {shared['secondary']!r}.")
    _check_source(where, shared)
    if shared.get("subtitles") and shared["subtitles"] not in SUBTITLES:
        raise FormatError(f"{where}: subtitles is one of {', '.join(SUBTITLES)}, not {shared['subtitles']!r}.")
    if shared.get("snapshot") and not shared.get("judge"):
        raise FormatError(f"{where}: names the snapshot of no judge.")
    texts: dict[str, Any] = {key: one if isinstance(one, bool) else str(one) for key, one in shared.items()}
    texts |= {"model": model, "metric": name} | ({"group": group} if group else {})
    return Published(**texts, value=float(value))


def _check_source(where: str, shared: Mapping[str, Any]) -> None:
    """Only what repeats a paper that is named can be without an address of its own."""
    paper = str(shared.get("paper") or "")
    if paper and (not paper.startswith("https://") or not shared.get("secondary")):
        raise FormatError(f"{where}: paper is the https address of what a secondary source repeats, not {paper!r}.")
    if not paper and not str(shared["source"]).startswith("https://"):
        raise FormatError(f"{where}: the source is no https address: {shared['source']!r}.")
