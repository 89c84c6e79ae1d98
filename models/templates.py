"""Prompt texts with placeholders: the ones that ship with the product, and a check of anybody's."""

from __future__ import annotations

import string
from importlib.resources import files


def shipped(name: str) -> str:
    """The prompt text of that name in models/prompts, without its last newline."""
    return files("models.prompts").joinpath(f"{name}.txt").read_text(encoding="utf-8").removesuffix("\n")


def placeholders(text: str) -> set[str]:
    """The names of a text's placeholders.

    Raises:
        ValueError: a brace stands alone.
    """
    try:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
    except ValueError as error:
        raise ValueError(f"Prompt text {text!r}: {error}; write {{{{ or }}}} for a brace that is text.") from error


def checked(text: str, *slots: str) -> str:
    """The text, if its placeholders are exactly `slots` ("question" for {question}).

    Raises:
        ValueError: one is missing or unknown, or a brace stands alone.
    """
    if (found := placeholders(text)) != set(slots):
        raise ValueError(f"Prompt text {text!r} needs the placeholders {_listed(slots)}, not {_listed(found)}.")
    return text


def _listed(names: set[str] | tuple[str, ...]) -> str:
    return ", ".join(f"{{{name}}}" for name in sorted(names)) or "none"
