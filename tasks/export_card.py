"""The data card of an export: README.md, in the form of a data set card of the Hugging Face Hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.cards import ABOUT, labels, origin, table
from tasks.troubles import troubles_of

if TYPE_CHECKING:
    from storage.lake import Lake
    from tasks.export import Exported, Format
    from tasks.export_config import ExportConfig


def card(lake: Lake, config: ExportConfig, done: Exported, stages: list[dict[str, Any]], form: Format) -> str:
    """The page: what, how many, labelled by whom and how, what was left out and why, and how to load it."""
    rows = lake.table("preferences").read(done.labels.key, ABOUT)
    return "\n".join(
        [
            *_head(form),
            "",
            f"# Preferences of the arm {done.labels.arm}",
            "",
            f"{done.pairs} pairs of answers to questions about {len(done.videos)} videos, each with the one that a "
            f"judge prefers, for {config.format}. Labelled by an AI judge; written by video-rlaif.",
            "",
            "## Contents",
            "",
            *_contents(config, done, form),
            "",
            "## Labels",
            "",
            *labels(rows),
            "",
            "## Left out",
            "",
            *_left_out(lake, config, done),
            "",
            "## Where it comes from",
            "",
            *origin(lake, stages),
            "",
            "## How to load",
            "",
            form.LOAD,
            "## To fill in",
            "",
            "- Licence (also at the top of this page): the videos', the questions' and the answering model's decide.",
            "- Names of the judge and of the model that answered: the lake keeps hashes of their weights.",
            "- Whom the videos show, and whether they agreed.",
            "",
        ]
    )


def _head(form: Format) -> list[str]:
    """What `datasets` reads: which file is the data, so that rows.parquet is not taken for it."""
    files = ["configs:", "- config_name: default", "  data_files:", "  - split: train", f"    path: {form.FILE}"]
    return ["---", "license:  # fill in", "tags: [preference, video, rlaif]", *files, "---"]


def _contents(config: ExportConfig, done: Exported, form: Format) -> list[str]:
    videos = f"the files of the videos, below their folder, {config.prefix or 'without anything'} before their names"
    frames = f"the frame set `{config.frame_set}`" + (
        f", inside {form.FILE}" if config.format == "trl" else ", as files in frames/"
    )
    return [
        table(
            ["what", "is"],
            [
                [f"`{form.FILE}`", f"{done.pairs} pairs out of {done.labelled} labelled rows"],
                [
                    "`rows.parquet`",
                    f"all {done.rows} rows of the lake; `pairs` has the ids in `{form.FILE}`, `left_out` why not",
                ],
                ["videos", videos if config.videos is not None else frames],
            ],
        ),
        "",
        "A pair's id is `instruction#chosen-rejected`, by the numbers of the candidates. `rows.parquet` holds what the "
        "format has no room for: the probability that the judge gives (`p_a`), both orders, the narrative, and what "
        "made each row (run, stage, model, prompt, seed).",
    ]


def _left_out(lake: Lake, config: ExportConfig, done: Exported) -> list[str]:
    rule = "left out" if config.ties == "leave-out" else "written both ways, unless both answers say the same"
    lines = [f"Ties: {done.ties}, {rule}. Of {done.rows} rows {sum(done.left_out.values())} are left out:", ""]
    lines.append(table(["rows", "why"], [[str(count), why] for why, count in done.left_out.most_common()]))
    troubles = troubles_of(lake, "preferences", done.labels.key)
    if troubles:
        lines += ["", "Quarantined when they were labelled:", ""]
        lines.append(table(["items", "reason", "such as"], [[str(t.count), t.reason, t.examples[0]] for t in troubles]))
    return lines
