"""The command `rlaif study`: one preset over several seeds, and what of it can be believed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flows import environment


def run_study(preset: str, overrides: Sequence[str], count: int) -> tuple[str, Path]:
    """Run the preset with `count` seeds, from its own on, in one lake, and compare its models over the seeds.

    What no seed moves (frames, captions, the base's scores) is computed once; a study that was stopped goes on where it
    was, and one more seed or arm adds its own part only.

    Returns:
        The tables, and the file that keeps them (study.json beside it).

    Raises:
        PresetError: the preset or an override is wrong.
    """
    from flows.presets import load

    plan = load(preset, overrides)
    from flows.parameters import Parameters
    from flows.rlaif import rlaif
    from flows.s3_block import s3_environment
    from storage.lake import Lake
    from tasks.study import markdown, studies_of, write_study

    environment.keep_terminal_clear()
    folder, root = plan.run.results, plan.run.lake_root
    keys = {}
    for seed in range(plan.run.seed, plan.run.seed + count):
        own = [f"run.seed={seed}", f"run.name={plan.run.name}-seed{seed}"]
        parameters = load(preset, [*overrides, *own, f"run.lake={root}", f"run.folder={folder / f'seed{seed}'}"])
        done = rlaif(**{name: getattr(parameters, name) for name in Parameters.model_fields})
        keys[seed] = done["scores"]
    with s3_environment(plan.run.s3_block):
        studies = studies_of(Lake(root), keys)
    return markdown(studies[0]), write_study(studies, folder)
