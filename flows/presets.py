"""Presets: YAML files with the parameters of a run, by name or by path, with the caller's values on top."""

import difflib
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from flows.evaluation_parameters import Evaluation
from flows.parameters import Parameters
from tasks.pages import map_texts, without_places

PROJECT = Path(__file__).resolve().parent.parent
FOLDER = PROJECT / "deployments" / "presets"
EVALUATIONS = PROJECT / "deployments" / "evaluations"
Values = TypeVar("Values", bound=BaseModel)


class PresetError(ValueError):
    """A preset or an override is wrong; the message names the file, the key and what to write instead."""


def load(preset: str, overrides: Sequence[str] = ()) -> Parameters:
    """The parameters of a preset.

    Args:
        preset: a name in deployments/presets, or the path of a YAML file. `${project}` in its strings is the project's
            root folder.
        overrides: "section.key=value", with the value in YAML; list entries by number ("arms.0.name=context").

    Raises:
        PresetError: the preset is missing or no YAML, a key is unknown, or a value is refused.
    """
    return _load(found("preset", preset, FOLDER), overrides, Parameters)


def load_evaluation(preset: str, overrides: Sequence[str] = ()) -> Evaluation:
    """The parameters of an evaluation: as `load`, of a preset in deployments/evaluations.

    Raises:
        PresetError: the preset is missing or no YAML, a key is unknown, or a value is refused.
    """
    return _load(found("evaluation", preset, EVALUATIONS), overrides, Evaluation)


def _load(path: Path, overrides: Sequence[str], kind: type[Values]) -> Values:
    values = sections(path)
    for override in overrides:
        _apply(values, override)
    try:
        return kind.model_validate(_interpolate(values))
    except ValidationError as error:
        raise PresetError(f"Preset {path}:\n" + "\n".join(complaints(error, kind))) from error


def command(parameters: Parameters | Evaluation) -> str:
    """The command line that runs with these parameters: the preset that is nearest to them, and what differs.

    Places are relative to this folder, to `~` or to `${project}`, which presets and overrides understand.
    """
    portable = without_places(Path.cwd())

    def values(of: Parameters | Evaluation) -> Any:
        return map_texts(of.model_dump(mode="json"), portable)

    evaluates = isinstance(parameters, Evaluation)
    known: dict[str, Parameters | Evaluation] = (
        {name: load_evaluation(name) for name in names(EVALUATIONS)}
        if evaluates
        else {name: load(name) for name in names()}
    )
    differences = {name: list(_differences(values(each), values(parameters))) for name, each in known.items()}
    nearest = min(differences, key=lambda name: len(differences[name]))
    verb = "evaluate" if evaluates else "run"
    return shlex.join(["rlaif", verb, "--preset", nearest, *differences[nearest]])


def _differences(here: dict[str, Any], there: dict[str, Any], place: str = "") -> Iterator[str]:
    """The overrides that make `there` of `here`."""
    for key, wanted in there.items():
        given = here.get(key)
        if isinstance(wanted, list) and isinstance(given, list) and len(wanted) == len(given):
            yield from _differences(_numbered(given), _numbered(wanted), f"{place}{key}.")
        elif isinstance(wanted, dict) and isinstance(given, dict) and set(given) <= set(wanted):
            yield from _differences(given, wanted, f"{place}{key}.")
        elif key not in here or given != wanted:
            yield f"{place}{key}={_as_yaml(wanted)}"


def _numbered(items: list[Any]) -> dict[str, Any]:
    return {str(number): item for number, item in enumerate(items)}


def _as_yaml(value: Any) -> str:
    """`value` on one line; a word needs no quotes."""
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z_./][\w./-]*", value) and yaml.safe_load(value) == value
    return str(value) if plain else json.dumps(value)


def names(folder: Path = FOLDER) -> list[str]:
    """The presets that come with the project, or what else a folder has of such files."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def found(what: str, name: str, folder: Path) -> Path:
    """The YAML file of that name in the folder, or of that path.

    Raises:
        PresetError: there is none; `what` says what was looked for.
    """
    known = names(folder)
    if name in known:
        return folder / f"{name}.yaml"
    if Path(name).is_file():
        return Path(name)
    raise PresetError(
        f"There is no {what} {name!r}{nearest(name, known)}. Give the path of a YAML file or one of: "
        f"{', '.join(known)}."
    )


def sections(path: Path) -> dict[str, Any]:
    """What a YAML file holds by its first keys.

    Raises:
        PresetError: it cannot be read, or holds something else.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise PresetError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise PresetError(f"{path} must hold sections (such as run, data, models), not {type(values).__name__}.")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise PresetError(f"Override {override!r} must read section.key=value, for example ppo.training.iterations=10.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise PresetError(f"Override {override!r}: the value is no YAML: {error}") from error
    place: Any = values
    for key, after in zip(keys, [*keys[1:], None], strict=True):
        index = _index(place, key, override)
        if after is None:
            place[index] = value
        else:
            if isinstance(place, dict) and place.get(key) is None:
                place[key] = {}
            place = place[index]


def _index(place: Any, key: str, override: str) -> str | int:
    """`key` as it indexes `place`."""
    if isinstance(place, dict):
        return key
    if isinstance(place, list) and key.isdecimal() and int(key) < len(place):
        return int(key)
    what = f"a list with entries 0 to {len(place) - 1}" if isinstance(place, list) else f"the value {place!r}"
    raise PresetError(f"Override {override!r}: before {key!r} stands {what}.")


def _interpolate(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("${project}", str(PROJECT))
    if isinstance(value, dict):
        return {key: _interpolate(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_interpolate(item) for item in value]
    return value


def complaints(error: ValidationError, model: type[BaseModel]) -> Iterator[str]:
    """What is wrong with the values of a model, one line each, unknown keys with the nearest known one."""
    schema = model.model_json_schema()
    for problem in error.errors(include_url=False):
        place = ".".join(map(str, problem["loc"]))
        if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            known = _keys(schema, schema, problem["loc"][:-1])
            yield f"  {place}: unknown key{nearest(str(problem['loc'][-1]), known)}; known: {', '.join(known)}"
        elif problem["type"] == "missing":
            yield f"  {place}: is missing"
        else:
            message = problem["msg"].removeprefix("Value error, ")
            yield f"  {place or 'whole'}: {message} (given: {repr(problem['input'])[:80]})"


def nearest(word: str, known: Sequence[str]) -> str:
    """The end of a message that names what comes nearest to the word; empty where nothing does."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}" if close else ""


def _keys(root: dict[str, Any], node: dict[str, Any], place: Sequence[int | str]) -> list[str]:
    """The keys that the JSON schema `node` allows at `place`."""
    if "$ref" in node:
        return _keys(root, root["$defs"][node["$ref"].rsplit("/", 1)[-1]], place)
    branches = node.get("anyOf", []) + node.get("oneOf", [])
    if branches:
        return list(dict.fromkeys(key for branch in branches for key in _keys(root, branch, place)))
    if not place:
        return list(node.get("properties", {}))
    entries = node.get("additionalProperties")
    below = (
        node.get("properties", {}).get(place[0]) or node.get("items") or (entries if isinstance(entries, dict) else {})
    )
    return _keys(root, below, place[1:])
