"""What benchmarks share that rules alone grade."""

from __future__ import annotations

from typing import ClassVar

from benchmarks.grades import Grade
from benchmarks.items import Item


class Unjudged:
    """A benchmark that asks no judge."""

    name: ClassVar[str]

    def judged(self, item: Item, aspect: str, reply: str, protocol: str) -> Grade:
        """Never called by who grades. Raises ValueError."""
        del item, aspect, reply, protocol
        raise ValueError(f"{self.name} asks no judge: rules alone grade it.")
