"""A command about a lake, as a stage's message names it."""

from __future__ import annotations

import shlex

from storage.places import is_s3


def lake_command(verb: str, root: str, *options: str) -> str:
    """What to type, in backticks. Whether the run has a block only the flow knows, so a bucket's names the option."""
    typed = f"`{shlex.join(['rlaif', verb, root, *options])}`"
    return f"{typed} (with `--s3-block NAME` where the run has run.s3_block)" if is_s3(root) else typed
