"""Counts what the models of this process do. A worker tells it with every reply, so that a run knows its own price."""

from __future__ import annotations

from dataclasses import astuple, dataclass


@dataclass
class Meter:
    """What was done since the process began.

    Attributes:
        calls: frames encoded, answers sampled, sequences scored or learned from, and calls of an endpoint.
        input_tokens: of prompts, and of answers that were given to be scored; visual tokens included.
        output_tokens: that were sampled.
        cost: of calls of an endpoint that were paid, in the currency of its prices.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0

    def count(self, calls: int, input_tokens: int, output_tokens: int = 0, cost: float = 0.0) -> None:
        """Adds to what was done."""
        self.calls += calls
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens
        self.cost += cost

    def since(self, before: Meter) -> Meter:
        """What was done after `before`, an earlier copy."""
        return Meter(*(now - then for now, then in zip(astuple(self), astuple(before), strict=True)))


# One a process: who loads models does not know who will ask what they did.
METER = Meter()
