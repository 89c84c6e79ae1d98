"""A flow's graph without its work: which stages there are, and what each is handed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flows.walk import Visit, visits_in
from tasks.progress import SilentProgress


class Sketch:
    """Stands where a flow has its Steps: `figure(Sketch(), parameters)`. It only writes down what it is handed.

    Attributes:
        visits: every stage in order, with the arguments of its function by name. Results are other stages' visits.
    """

    def __init__(self) -> None:
        self.ctx = SimpleNamespace(progress=SilentProgress(), looks_only=True)
        self.visits: list[tuple[Visit, dict[str, Any]]] = []

    def __call__(
        self,
        stage: Callable[..., Any],
        *inputs: Any,
        label: str | None = None,
        after: Sequence[Visit] = (),
        **named: Any,
    ) -> Visit:
        needs = tuple(dict.fromkeys(visit.name for visit in visits_in([*inputs, *named.values(), *after])))
        seen = Visit(stage.__name__ if label is None else f"{stage.__name__} {label}", stage.__name__, needs=needs)
        self.visits.append((seen, dict(signature(stage).bind(None, *inputs, **named).arguments)))
        return seen


def named_folder(folder: Path, name: str, model_type: str) -> str:
    """A folder that stands for a model while the graph is sketched: its files hold nothing, its content is the name."""
    from safetensors.numpy import save_file

    folder.mkdir()
    save_file({}, folder / "model.safetensors")
    (folder / "processor_config.json").write_text("{}")
    for file in ("tokenizer.json", "chat_template.jinja"):
        (folder / file).touch()
    (folder / "config.json").write_text(json.dumps({"name": name, "model_type": model_type}))
    return str(folder)
