"""What the cards of exported labels and of pushed adapters share."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

if TYPE_CHECKING:
    import pyarrow as pa

    from storage.lake import Lake

ABOUT = [
    "status",
    "model",
    "prompt_hash",
    "method",
    "frame_set",
    "with_narrative",
    "preferred",
    "consistent",
    "item_id",
]


def labels(rows: pa.Table) -> list[str]:
    """Who judged, and how; `rows` of table `preferences` with the columns of ABOUT."""
    ok = rows.filter(pc.equal(rows["status"], "ok"))
    preferred = {name: pc.sum(pc.equal(ok["preferred"], name)).as_py() or 0 for name in ("a", "b", "tie")}
    facts = [
        ["judge", _values(ok, "model")],
        ["hash of its prompts", _values(ok, "prompt_hash")],
        ["method", _values(ok, "method")],
        ["frame set that it saw", _values(ok, "frame_set")],
        ["read the narrative", _values(ok, "with_narrative")],
        ["verdicts", f"a {preferred['a']}, b {preferred['b']}, tie {preferred['tie']}"],
    ]
    asked = ok.filter(pc.is_valid(ok["consistent"]))
    if len(asked):
        same = pc.sum(asked["consistent"]).as_py()
        facts.append(["both orders agree", f"{same} of {len(asked)}"])
    return [table(["", ""], facts)]


def _values(rows: pa.Table, column: str) -> str:
    found = sorted({"not told" if value is None else str(value) for value in rows[column].unique().to_pylist()})
    return ", ".join(found).replace("True", "yes").replace("False", "no") if found else "not told"


def origin(lake: Lake, stages: list[dict[str, Any]]) -> list[str]:
    """Every stage that went into something, with its key, its settings and the versions of the tables."""
    tables = sorted({stage["output_table"] for stage in stages})
    versions = ", ".join(f"{name} {lake.table(name).version()}" for name in tables)
    rows = [
        [
            stage["stage"],
            f"`{stage['item_id']}`",
            stage["output_table"],
            f"{stage['ok']} ok, {stage['quarantined']} quarantined",
            stage["run"],
            f"`{stage['model'] or ''}`",
            f"`{json.dumps(json.loads(stage['config']), ensure_ascii=False)}`",
        ]
        for stage in stages
    ]
    heads = ["stage", "key", "table", "items", "run", "model", "settings"]
    return [table(heads, rows), "", f"Versions of the tables when this was written: {versions}."]


def table(heads: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    text = " ".join(text.split()).replace("|", "\\|")
    return text if text.startswith("`") else text.replace("<", "&lt;")
