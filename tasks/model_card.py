"""An adapter's cards on the Hub: README.md says what it is and how to load it, DATA_CARD.md what it learned from."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from tasks.benchmark import MEASURES, summarise
from tasks.cards import ABOUT, labels, origin, table
from tasks.label_versions import ancestors, stages_by_use
from tasks.troubles import troubles_of

if TYPE_CHECKING:
    from storage.lake import Lake
    from tasks.trained import TrainedAdapter

_WHAT = {
    "policy": "A LoRA adapter of a video language model that was tuned on the feedback of an AI judge",
    "reward": "A LoRA adapter and a scalar head that score answers about videos, after the preferences of an AI judge",
    "sft": "A LoRA adapter of a video language model after supervised fine-tuning",
}


def model_card(lake: Lake, adapter: TrainedAdapter, below: list[str], heads: list[str], repo: str) -> str:
    """README.md.

    Args:
        lake: of the adapter.
        adapter: which.
        below: folders of the adapters that are to be merged before it, in order.
        heads: files of a scalar head.
        repo: where it goes: owner/name.
    """
    return "\n".join(
        [
            *_head(adapter),
            "",
            f"# {repo.rpartition('/')[2]}",
            "",
            f"{_WHAT[adapter.role]}; arm `{adapter.name}`. Written by video-rlaif.",
            "",
            "## How to load",
            "",
            *_loading(adapter, below, heads, repo),
            "",
            "## Scores",
            "",
            *_scores(lake, adapter),
            "",
            "## Training",
            "",
            table(["", ""], [*_measured(adapter), ["settings", f"`{adapter.config}`"]]),
            "",
            "What it learned from: [DATA_CARD.md](DATA_CARD.md).",
            "",
            "## Licence",
            "",
            f"To be filled in, here and at the top. It must be one that the base ({adapter.base}), the videos and the "
            "questions allow; an adapter holds no weight of the base.",
            "",
            "## Where it comes from",
            "",
            *origin(lake, ancestors(lake, adapter.key)),
            "",
        ]
    )


def data_card(lake: Lake, adapter: TrainedAdapter) -> str:
    """DATA_CARD.md: videos, questions and labels that went into the adapter, by version."""
    stages = ancestors(lake, adapter.key)
    judged = [stage for stage in stages if stage["output_table"] == "preferences"]
    lines = ["# What the adapter learned from", ""]
    lines += _material(lake, stages)
    for stage in judged:
        lines += ["", f"## Labels {stage['item_id']}", ""]
        lines += labels(lake.table("preferences").read(stage["item_id"], ABOUT))
    if not judged and adapter.role != "sft":
        lines += ["", "No labels stand in the lake: a ranker put the policy's own answers in order while it learned."]
    lines += ["", "## To fill in", "", "- Where the videos come from, their licence, and whom they show."]
    return "\n".join([*lines, ""])


def _head(adapter: TrainedAdapter) -> list[str]:
    """What the Hub reads. A folder's name is no model of the Hub, and is left out there."""
    base = [f"base_model: {adapter.base}"] if "/" in adapter.base else []
    return ["---", "license:  # fill in", "library_name: peft", *base, "tags: [lora, video, rlaif]", "---"]


def _loading(adapter: TrainedAdapter, below: list[str], heads: list[str], repo: str) -> list[str]:
    lines = [
        "```python",
        "from peft import PeftModel",
        "from transformers import AutoModelForImageTextToText, AutoProcessor",
        "",
        f'base, adapter = "{adapter.base}", "{repo}"',
        "model = AutoModelForImageTextToText.from_pretrained(base)",
        "processor = AutoProcessor.from_pretrained(base)",
        *(
            f'model = PeftModel.from_pretrained(model, adapter, subfolder="{folder}").merge_and_unload()'
            for folder in below
        ),
        "model = PeftModel.from_pretrained(model, adapter)",
        "```",
    ]
    if below:
        lines += ["", f"It was trained on the base with what lies beside it, {', '.join(below)}, merged."]
    if heads:
        files = ", ".join(f"`{name}`" for name in heads)
        lines += ["", f"Its score is read from the last hidden state by a linear layer: {files}."]
    return lines


def _measured(adapter: TrainedAdapter) -> list[list[str]]:
    return [[name, f"{value:.4g}"] for name, value in sorted(json.loads(adapter.metrics).items())]


def _scores(lake: Lake, adapter: TrainedAdapter) -> list[str]:
    """The benchmark of the adapter, and of the others on the same questions, the last used of each."""
    stages = stages_by_use(lake, "benchmark")
    own = [stage for stage in stages if adapter.key in _inputs(stage).values()]
    if not own:
        return ["It was not scored."]
    questions = _inputs(own[0]).get("instructions")
    rows: dict[str, list[str]] = {}
    for stage in [*own, *stages]:
        name = json.loads(stage["config"])["checkpoint"]
        if name not in rows and _inputs(stage).get("instructions") == questions:
            rows[name] = _score(lake, name, stage["item_id"], this=stage in own)
    lines = [table(["model", *(name.replace("_", " ") for name in MEASURES), "questions"], [*rows.values()])]
    return [*lines, "", "Means over held-out questions, with 95 % intervals over videos."]


def _score(lake: Lake, name: str, key: str, *, this: bool) -> list[str]:
    found = summarise(lake.table("scores").read(key).to_pylist())
    cells = []
    for measure in MEASURES:
        value, interval = found[measure], found["intervals"].get(measure)
        cells.append("" if value is None else f"{value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})")
    return [f"{name} (this)" if this else name, *cells, str(found["n"])]


def _inputs(stage: dict[str, Any]) -> dict[str, str]:
    """Keys of what went into a stage; of namesakes the last."""
    return {each["stage"]: each["key"] for each in json.loads(stage["inputs"])}


def _material(lake: Lake, stages: list[dict[str, Any]]) -> list[str]:
    facts = []
    for stage in stages:
        if stage["output_table"] in ("videos", "frames", "instructions", "captions", "candidates", "preferences"):
            counts = f"{stage['ok']} ok, {stage['quarantined']} quarantined"
            facts.append([stage["stage"], f"`{stage['item_id']}`", counts, _detail(lake, stage)])
    heads = ["stage", "version", "items", ""]
    return [table(heads, facts), "", "A version is the stage's key in the lake: a hash of what it did, and to what."]


def _detail(lake: Lake, stage: dict[str, Any]) -> str:
    key, name = stage["item_id"], stage["output_table"]
    if name == "instructions":
        rows = lake.table(name).read(key, columns=["status", "split"]).to_pylist()
        splits = Counter(row["split"] for row in rows if row["status"] == "ok")
        return ", ".join(f"{count} {split}" for split, count in sorted(splits.items()))
    troubles = troubles_of(lake, name, key) if stage["quarantined"] else ()
    return "; ".join(f"{trouble.count} x {trouble.reason}" for trouble in troubles[:3])
