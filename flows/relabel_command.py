"""The command `rlaif relabel`: the flow that the schedule runs, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flows import environment


def run_relabel(preset: str, overrides: Sequence[str]) -> tuple[dict[str, dict[str, int]], Path]:
    """Label what is new or changed.

    Returns:
        By arm, pairs by what became of their label; and the page that shows examples.

    Raises:
        PresetError: the preset or an override is wrong.
    """
    from flows.parameters import Labelling
    from flows.presets import load
    from flows.relabel import relabel
    from tasks.moves_page import PAGE

    parameters = load(preset, overrides)
    environment.before_flows()
    moved = relabel(**{name: getattr(parameters, name) for name in Labelling.model_fields})
    return moved, parameters.run.results / PAGE
