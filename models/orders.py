"""Reads the order of labelled answers from a model's reply. Strict: what is not plainly an order is refused."""

from __future__ import annotations

import re
import string

LABELS = string.ascii_uppercase

# "B", "2. B", "Answer B", "(B)", "**B**.", '["B"': a label with nothing but marks and its number around it.
_PART = re.compile(r"""(?:([0-9]{1,2})[.)]\s*)?[("'\[*]*(?:answer\s+)?([a-z])[)"'\]*.]*""", re.IGNORECASE | re.ASCII)
_FENCED = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)
_LONGEST = 2000


class OrderError(ValueError):
    """A reply is no order of the answers; the text says why."""


def parse_order(text: str, n: int) -> tuple[int, ...]:
    """The answers in the order of a reply, best first: numbers from 0 of the labels A, B, ...

    Every label must stand there exactly once, and nothing else: "B > A > C", "B, A, C", one a line (numbered from 1 or
    not), or a JSON list of them, which may stand in a code block.

    Raises:
        OrderError: it is no such order.
        ValueError: there are not as many labels.
    """
    if not 1 <= n <= len(LABELS):
        raise ValueError(f"There are labels for 1 to {len(LABELS)} answers, not for {n}.")
    parts = _parts(_bare(text.strip()))
    found = [_PART.fullmatch(part) for part in parts]
    for part, match in zip(parts, found, strict=True):
        if match is None:
            raise OrderError(f"the reply is no order of labels: it holds {_short(part)}")
    matches = [match for match in found if match is not None]
    labels = [match[2].upper() for match in matches]
    _check_labels(labels, LABELS[:n])
    numbers = [match[1] for match in matches]
    if any(numbers) and numbers != [str(number) for number in range(1, n + 1)]:
        raise OrderError("the reply numbers the labels, but not from 1 upwards: it could mean two orders")
    return tuple(LABELS.index(label) for label in labels)


def _bare(text: str) -> str:
    """The text without the marks of a code block and of a list around it."""
    fenced = _FENCED.fullmatch(text)
    inner = fenced[1] if fenced else text
    return inner[1:-1].strip() if inner.startswith("[") and inner.endswith("]") else inner


def _parts(text: str) -> list[str]:
    if not text:
        raise OrderError("the reply is empty")
    if len(text) > _LONGEST:
        raise OrderError(f"the reply is no order of labels: it is {len(text)} characters long")
    marks = [mark for mark in (">", ",") if mark in text]
    if len(marks) > 1:
        raise OrderError("the reply separates labels by '>' and by ',': it could mean two orders")
    return [part.strip() for part in (text.split(marks[0]) if marks else text.splitlines()) if marks or part.strip()]


def _check_labels(labels: list[str], expected: str) -> None:
    for label in labels:
        if label not in expected:
            raise OrderError(f"the reply names {label}, which is none of {', '.join(expected)}")
    for label in expected:
        count = labels.count(label)
        if count != 1:
            raise OrderError(f"the reply names {label} {count} times" if count else f"the reply leaves out {label}")


def _short(part: str) -> str:
    return repr(part if len(part) <= 60 else f"{part[:60]}...")
