"""A benchmark's own settings as YAML or a command line gives them, checked against the fields of its class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def checked(name: str, kind: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, lists made tuples where those are wanted.

    Nothing is turned into another type: "false" is a text, and a text is no list of its letters.

    Args:
        name: of the benchmark, for the error.
        kind: its class, a dataclass.
        given: values by name.

    Raises:
        ValueError: there is no such setting, or its value is of another type than its field.
    """
    hints = get_type_hints(kind)
    known = {each.name: hints[each.name] for each in fields(kind) if each.init}
    for key in given:
        if key not in known:
            raise ValueError(f"Benchmark {name!r} has no setting {key!r}{_instead(key, known)}")
    return {key: _checked(f"Benchmark {name!r}: {key}", value, known[key]) for key, value in given.items()}


def _instead(key: str, known: Mapping[str, Any]) -> str:
    if not known:
        return ": it has none."
    near = get_close_matches(key, known, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else "."
    return f"{meant} It has: {', '.join(f'{name} ({_told(hint)})' for name, hint in known.items())}."


def _checked(what: str, value: Any, hint: Any) -> Any:
    if isinstance(value, list) and get_origin(hint) is tuple:
        value = tuple(value)
    if not _fits(value, hint):
        near = get_close_matches(value, [str(one) for one in get_args(hint)], n=1) if isinstance(value, str) else []
        meant = f" Did you mean {near[0]!r}?" if near and get_origin(hint) is Literal else ""
        raise ValueError(f"{what} must be {_told(hint)}, not {value!r:.80}.{meant}")
    return value


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a field's type. A truth value is no number; a whole number is one with a fraction too."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin is Literal:
        return any(value == one and type(value) is type(one) for one in inside)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inside)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(one, inside[0]) for one in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


_WORDS = {bool: "true or false", str: "a text", int: "a whole number", float: "a number", NoneType: "null"}


def _told(hint: Any) -> str:
    """A field's type in words."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(repr(one) for one in inside)
    if origin in (Union, UnionType):
        return " or ".join(_told(one) for one in inside)
    if origin is tuple:
        return "a list, each " + _told(inside[0])
    return _WORDS.get(hint, f"a {getattr(hint, '__name__', hint)}")
