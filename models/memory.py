"""What goes through a model at once, and whether an error says that there was no memory for it. Needs no torch."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

# What pydantic is told of the field `forward_tokens`. Where it is off it is no part of a stage's key, so that what was
# made before there was such a thing keeps its name.
FORWARD_TOKENS: dict[str, Any] = {
    "description": "Most tokens of a pass of the model, padding included: prompts with their visual tokens, and "
    "answers (those yet to be sampled at their longest). Items of like length then go together, and fewer long ones. "
    "Null: only their number counts.",
    "exclude_if": lambda value: value is None,
}


@dataclass(frozen=True)
class Pass:
    """One pass of a model: a rectangle of `rows` of `length` tokens, padding included, or `rows` frames.

    Attributes:
        what: "a forward pass over", "sampling from", "encoding".
        unit: what a row is.
        rows: how many.
        length: tokens of the longest, with those that are yet to be sampled; None: rows have no tokens.
    """

    what: str
    unit: str
    rows: int
    length: int | None = None

    @property
    def tokens(self) -> int:
        return self.rows * (self.length or 0)

    def __str__(self) -> str:
        text = f"{self.what} {self.rows} {self.unit}"
        if self.length is None:
            return text
        return f"{text} of up to {self.length:,} tokens ({self.tokens:,} with padding)"


class Latest:
    """The pass that this process began last: where memory runs out, it is the one that was too large."""

    def __init__(self) -> None:
        self.tried: Pass | None = None

    def begin(self, what: str, unit: str, rows: int, length: int | None = None) -> None:
        """A pass begins; arguments as of `Pass`."""
        self.tried = Pass(what, unit, rows, length)


# One a process, as the METER: who meets the error (a backward pass, a worker) did not begin the pass.
LATEST = Latest()


def ran_out(error: BaseException) -> bool:
    """Whether torch had no memory for what was asked, on a GPU or on the CPU.

    Python's own MemoryError is not meant: one huge video causes it, and is then to blame.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    if isinstance(error, torch.OutOfMemoryError):
        return True
    # On the CPU torch raises a RuntimeError with no type of its own (c10/core/impl/alloc_cpu.cpp).
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
