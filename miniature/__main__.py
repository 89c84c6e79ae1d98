"""`python -m miniature build` trains the shipped weights again from nothing; `render` writes the world's data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, help=__doc__)

SHIPPED = Path(__file__).parent / "weights"


@app.command()
def build(
    folder: Annotated[Path, typer.Argument(help="Where to write base/, labeler/ and build.json.")] = Path(
        "runs/weights"
    ),
    seed: Annotated[int, typer.Option(help="Seed of weights and lessons.")] = 0,
) -> None:
    """Train base and labeler (about 40 CPU minutes on one core) and print how close they came to the shipped ones."""
    from miniature.build import Recipe
    from miniature.build import build as train

    made = train(folder, Recipe(seed=seed))
    shipped = json.loads((SHIPPED / "build.json").read_text())
    typer.echo(f"{'':10}{'':20}{'built':>8}{'shipped':>9}")
    for model in ("base", "labeler"):
        for name, value in made[model].items():
            typer.echo(f"{model:10}{name:20}{value:8.3f}{shipped[model][name]:9.3f}")


@app.command()
def render(
    folder: Annotated[Path, typer.Argument(help="Where to write videos/ and the instruction files.")],
    sft: Annotated[int, typer.Option(help="Videos with answers to learn from.")] = 500,
    rl: Annotated[int, typer.Option(help="Videos to label and to practise on.")] = 900,
    benchmark: Annotated[int, typer.Option(help="Held-out videos.")] = 240,
    seed: Annotated[int, typer.Option(help="Seed of the world.")] = 0,
) -> None:
    """Write mp4 files and instruction files."""
    from miniature.dataset import write

    write(folder, sft=sft, rl=rl, benchmark=benchmark, seed=seed)


if __name__ == "__main__":
    app()
