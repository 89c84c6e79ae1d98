"""The commands `rlaif score` and `rlaif compare`: what prediction files are worth, without any model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

if TYPE_CHECKING:
    from benchmarks.benchmark import Benchmark
    from models.endpoint_settings import JudgeEndpoint
    from tasks.evaluation.file_judge import EndpointDecides

Name = Annotated[str, typer.Argument(metavar="BENCHMARK", help="Its name, such as nextqa; a wrong one lists all.")]
Annotated_ = Annotated[
    list[str],
    typer.Option("--annotations", metavar="[NAME=]FILE", help="Annotation file; of several, each with its name."),
]
Protocol = Annotated[
    str | None, typer.Option("--protocol", help="official, strict, ...; by default the benchmark's first.")
]
JudgeOption = Annotated[
    str | None,
    typer.Option(
        "--judge",
        metavar="FILE|PRESET[:NAME]",
        help="Who decides where rules do not: a YAML file with an endpoint's settings (base_url, model, ...), or a "
        "preset and the name of one of its endpoints.",
    ),
]
Ledger = Annotated[
    Path | None,
    typer.Option(help="Folder that keeps what the judge was asked and paid; by default one in the user's cache."),
]
Split = Annotated[str, typer.Option("--split", help="What the annotation files are called, such as test or val.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the benchmark's own, in YAML.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def score(
    name: Name,
    annotations: Annotated_,
    predictions: Annotated[
        list[Path], typer.Option("--predictions", metavar="FILE", help="Prediction file, ours or in the official form.")
    ],
    protocol: Protocol = None,
    judge: JudgeOption = None,
    ledger: Ledger = None,
    settings: Settings = None,
    split: Split = "",
    faults: Annotated[str, typer.Option("--faults", metavar="N|all", help="How many faults are listed.")] = "5",
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say how many calls --judge will be asked and what they cost.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Scores prediction files of a benchmark; no model is run."""
    from flows.score_views import as_text, paid_as_json, paid_in_words, scores_as_json, scores_in_words
    from tasks.evaluation.file_scores import score_files

    made = _benchmark(name, settings)
    if plan:
        _say_price(made, _files(made, annotations), predictions, _protocol(made, protocol), judge, ledger, as_json)
        return
    by = _judge(judge, ledger)
    found = score_files(made, _files(made, annotations), predictions, _protocol(made, protocol), by, split)
    if as_json:
        _say(as_text({**scores_as_json(found), **paid_as_json(by)}))
    else:
        for line in [*scores_in_words(found, made, _count(faults)), *paid_in_words(by)]:
            _say(line)


def compare(
    name: Name,
    annotations: Annotated_,
    first: Annotated[list[Path], typer.Option("--first", metavar="FILE", help="Prediction file of one model.")],
    second: Annotated[list[Path], typer.Option("--second", metavar="FILE", help="That of another.")],
    protocol: Protocol = None,
    judge: JudgeOption = None,
    ledger: Ledger = None,
    settings: Settings = None,
    split: Split = "",
    flips: Annotated[int, typer.Option(min=0, help="How many flipped answers are listed, each way.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Compares the prediction files of two models question by question; no model is run."""
    from flows.score_views import as_text, comparison_as_json, comparison_in_words, paid_as_json, paid_in_words
    from tasks.evaluation.comparison import compare as paired
    from tasks.evaluation.file_scores import score_files

    made, by = _benchmark(name, settings), _judge(judge, ledger)
    asked, rules = _files(made, annotations), _protocol(made, protocol)
    one, other = (score_files(made, asked, files, rules, by, split) for files in (first, second))
    if one.judge and other.judge and one.judge != other.judge:
        raise ValueError(
            f"Two versions of the judge decided, and their grades are not compared: {one.judge}; {other.judge}. Name "
            "one version in the judge's `model`, or have both graded anew with an empty --ledger folder."
        )
    found = paired(_names(first, second), made, rules, one.graded, other.graded)
    if as_json:
        _say(as_text({**comparison_as_json(found, one), **paid_as_json(by)}))
    else:
        for line in [*comparison_in_words(found, one, made, flips), *paid_in_words(by)]:
            _say(line)


def _say_price(
    made: Benchmark,
    annotations: dict[str, Path],
    predictions: Sequence[Path],
    protocol: str,
    judge: str | None,
    ledger: Path | None,
    as_json: bool,
) -> None:
    """What grading the files will take; no call is made and nothing is written."""
    from flows.score_views import as_text, price_as_json, price_in_words
    from tasks.evaluation.price import price_of_files

    if judge is None:
        raise ValueError("--plan says what a judge costs: name one with --judge.")
    found = price_of_files(made, annotations, predictions, protocol, endpoint_of(judge), _kept_in(ledger))
    for line in [as_text(price_as_json(found))] if as_json else price_in_words(found):
        _say(line)


def _names(first: Sequence[Path], second: Sequence[Path]) -> tuple[str, str]:
    """What the two are called: their files, with folders where those alone tell them apart."""
    one, other = (" ".join(path.name for path in files) for files in (first, second))
    return (one, other) if one != other else (" ".join(map(str, first)), " ".join(map(str, second)))


def _benchmark(name: str, settings: Sequence[str] | None) -> Benchmark:
    from benchmarks.registry import benchmark

    given = {}
    for each in settings or []:
        key, equals, value = each.partition("=")
        if not equals:
            raise ValueError(f"--set {each!r} must read KEY=VALUE.")
        given[key] = yaml.safe_load(value)
    return benchmark(name, **given)


def _protocol(made: Benchmark, protocol: str | None) -> str:
    return protocol or made.protocols[0]


def _count(faults: str) -> int | None:
    """How many faults are listed; None: all."""
    if faults == "all":
        return None
    if not faults.isdecimal():
        raise ValueError(f"--faults {faults!r} must be a number or all.")
    return int(faults)


def _files(made: Benchmark, annotations: Sequence[str]) -> dict[str, Path]:
    """Annotation files by their names; those without one are the benchmark's others, in its order.

    Some benchmarks can do without some of theirs, so it is for the benchmark to say what is missing.

    Raises:
        ValueError: there are too many.
    """
    found: dict[str, Path] = {}
    unnamed: list[str] = []
    for each in annotations:
        key, equals, place = each.partition("=")
        if equals and key in made.files:
            found[key] = Path(place).expanduser()
        else:
            unnamed.append(each)
    free = [key for key in made.files if key not in found]
    if len(unnamed) > len(free):
        raise ValueError(f"{made.name} takes {_wanted(made)}; given: {', '.join(annotations)}.")
    found |= {key: Path(place).expanduser() for key, place in zip(free, unnamed, strict=False)}
    return found


def _wanted(made: Benchmark) -> str:
    if len(made.files) == 1:
        return "one annotation file"
    return "these annotation files: " + ", ".join(f"{key}=FILE ({what})" for key, what in made.files.items())


def _judge(given: str | None, ledger: Path | None) -> EndpointDecides | None:
    if given is None:
        return None
    from tasks.evaluation.file_judge import EndpointDecides

    endpoint = endpoint_of(given)
    if endpoint.api_key_block is not None:
        from flows.secrets import put_keys  # It imports Prefect.

        put_keys([endpoint])
    return EndpointDecides(endpoint, _kept_in(ledger))


def _kept_in(ledger: Path | None) -> Path:
    """The folder of the ledger."""
    return ledger or Path(os.environ.get("RLAIF_CACHE") or Path.home() / ".cache" / "rlaif") / "scores"


def endpoint_of(given: str) -> JudgeEndpoint:
    """The endpoint that `--judge` names.

    Raises:
        PresetError: there is no such file, it has no endpoint, or several and none is named, or a value is refused.
    """
    from flows.presets import FOLDER, PresetError, found, sections

    place, _, name = (given, "", "") if Path(given).is_file() else given.partition(":")
    path = found("judge's file or preset", place, FOLDER)
    values = sections(path)
    if "base_url" in values:
        return _endpoint(path, values)
    known: dict[str, Any] = {}
    for section in ("grading", "preferences"):
        known |= (values.get(section) or {}).get("endpoints") or {}
    if not known:
        raise PresetError(f"{path} has no endpoint: give a file with base_url and model, or a preset with endpoints.")
    first = next(iter(known))
    if (name or first) not in known or (not name and len(known) > 1):
        raise PresetError(f"{path} has the endpoints {', '.join(known)}: name one of them, as {place}:{first}.")
    return _endpoint(path, known[name or first])


def _endpoint(path: Path, values: dict[str, Any]) -> JudgeEndpoint:
    from pydantic import TypeAdapter, ValidationError

    from flows.presets import PresetError
    from models.endpoint_settings import JudgeEndpoint

    try:
        return TypeAdapter(JudgeEndpoint).validate_python(values)
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise PresetError(f"{path}: no settings of an endpoint: {said}.") from error


def _say(text: str) -> None:
    from flows import cli

    cli.out.print(text, markup=False, soft_wrap=True)
