"""The command `rlaif audit`: one page about versions of the labels in a lake. Needs no workers and writes no rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flows.lake_option import command
from storage.places import is_s3
from tasks.audit_limits import AuditConfig

if TYPE_CHECKING:
    from storage.lake import Lake


def run_audit(
    lake: Lake,
    arms: Sequence[str],
    versions: int,
    target: Path | None,
    preset: str | None,
    s3_block: str | None = None,
) -> Path:
    """Write the page and return its path.

    Args:
        lake: where the labels are.
        arms: whose labels; none: those of every arm.
        versions: how many versions of each arm, the latest first.
        target: the page; None: audit.html beside a lake in a folder, or here for one in a bucket.
        preset: whose section `audit` says what is measured; None: as the last audit in this lake, else the defaults.
        s3_block: the block that the lake was opened with, for the page to name.

    Raises:
        StageError: there are no such labels.
        PresetError: the preset is wrong.
    """
    from tasks.audit_page import audit_page
    from tasks.label_versions import latest_versions

    page = target or (Path() if is_s3(lake.root) else Path(lake.root).parent) / "audit.html"
    options = [f"--arm={arm}" for arm in arms] + ([] if versions == 1 else [f"--versions={versions}"])
    options += [f"--preset={preset}"] if preset else []
    again = command("audit", lake.root, s3_block, *options)
    return audit_page(lake, _config(lake, preset), latest_versions(lake, arms, versions), page.absolute(), again)


def _config(lake: Lake, preset: str | None) -> AuditConfig:
    if preset is not None:
        from flows.presets import load

        return load(preset).audit
    from tasks.label_versions import stages_by_use

    for row in stages_by_use(lake, "audit"):
        values = json.loads(row["config"])
        values.pop("versions")
        return AuditConfig.model_validate(values)
    return AuditConfig()
