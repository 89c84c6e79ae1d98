"""What decides a number besides answers and rules, in the form in which scores say it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from benchmarks.benchmark import Benchmark


def prompt_hash(texts: Mapping[str, str]) -> str:
    """16 hex digits of the texts that models and judges are given, by name."""
    return hashlib.sha256(json.dumps(dict(texts), sort_keys=True).encode()).hexdigest()[:16]


def own_settings(made: Benchmark) -> dict[str, Any]:
    """The settings of a benchmark that are not those that it has by itself, as JSON holds them."""
    of: Any = made  # A dataclass, which a Protocol cannot say.
    usual = type(of)()
    chosen = {
        each.name: getattr(of, each.name)
        for each in fields(of)
        if each.init and getattr(of, each.name) != getattr(usual, each.name)
    }
    plain: dict[str, Any] = json.loads(json.dumps(chosen, sort_keys=True, default=str))
    return plain
