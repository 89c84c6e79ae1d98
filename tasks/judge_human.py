"""People as the judge of a stage: what waits for them is queued, and what they said becomes rows.

The driver alone sees their desk. What they said travels to the workers in the items, so that these may be anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from models.comparisons import Comparison, NoVerdict, Verdict
from models.human_judge import HumanJudge, Showing, Strip, Unsaid
from tasks.human_desk import Desk, desk_path
from tasks.judged_pairs import comparisons_of, pairs_of, pairs_outcome
from tasks.lake_command import lake_command
from tasks.pictures import Pictures
from tasks.shards import Item
from tasks.stage import RunContext, StageError, StageRef
from tasks.worker import Outcome

if TYPE_CHECKING:
    from storage.lake import Lake
    from tasks.preferences import JudgeSettings, PreferencesConfig

# Of the pictures on the page. They are hashed as the lake keeps them, so that these may change.
MAX_SIDE = 960
JPEG_QUALITY = 90


def heard(
    ctx: RunContext, groups: Callable[[], Iterable[Item]], shown: StageRef, config: PreferencesConfig, arm: str
) -> list[Item]:
    """The items of a stage that people judge: those of `groups`, each with its verdicts or its fault.

    Where the run only looks, nothing is queued or raised.

    Raises:
        StageError: somebody has still to be asked; that is then queued.
    """
    text, context_text = config.prompts.human, config.prompts.human_context
    path = desk_path(ctx.lake_root)
    said = Desk(path).said() if path.exists() else {}
    judge = HumanJudge(said, text=text, context_text=context_text)
    frames = lru_cache(maxsize=None)(Strips(ctx.lake, shown, config).of)
    items: list[Item] = []
    wanted: list[tuple[str, tuple[Showing, Showing]]] = []
    waiting = 0
    for item in groups():
        asked = comparisons_of(item, config.max_pairs, frames)
        if isinstance(asked, str):
            items.append({**item, "fault": asked})
            continue
        verdicts = judge.judge(asked)
        wanted += [(item["item_id"], judge.showings(each)) for each in asked if not each.same]
        items.append(_decided(item, asked, verdicts, config))
        waiting += 0 if items[-1]["fault"] else sum(isinstance(each, Unsaid) for each in verdicts)
    if ctx.looks_only:
        return items
    Desk(path).want(ctx.run, arm, wanted)
    if waiting:
        raise StageError(_waits(ctx, arm, waiting))
    return items


def _decided(
    item: Item, asked: list[Comparison[Any]], verdicts: list[Verdict | NoVerdict], config: PreferencesConfig
) -> Item:
    """The item with its verdicts, and with the frames that they are about: those decide its rows too."""
    for ((a, _), (b, _)), verdict in zip(pairs_of(item, config.max_pairs), verdicts, strict=True):
        if isinstance(verdict, NoVerdict) and not isinstance(verdict, Unsaid):
            return {**item, "fault": f"candidates {a} and {b}: {verdict.reason}"}
    return {**item, "frames": asked[0].frames.digest, "verdicts": [vars(each) for each in verdicts]}


def _waits(ctx: RunContext, arm: str, pairs: int) -> str:
    return (
        f"Stage preferences: {pairs} {'pair waits' if pairs == 1 else 'pairs wait'} for a person, in arm {arm!r}. "
        f"Judge them with {lake_command('judge', ctx.lake_root)}; then the same command again goes on. What is done is "
        "kept."
    )


class Strips:
    """Frames as the page shows them to people, named by what they are."""

    def __init__(self, lake: Lake, shown: StageRef, config: PreferencesConfig) -> None:
        self._pictures = Pictures(lake, shown, MAX_SIDE, JPEG_QUALITY)
        self._shown = shown
        self._config = config

    def of(self, video: str) -> Strip:
        """Those of a video. Raises MissingFramesError when it has none."""
        config = self._config
        digest = self._pictures.digest(video, config.frame_set)
        place = {"table": self._shown.table, "key": self._shown.key, "video": video, "frame_set": config.frame_set}
        return Strip(f"black {digest}" if config.blind else digest, json.dumps({**place, "blind": config.blind}))


class SaidPairs:
    """Writes down what people said of a shard's instructions."""

    def __init__(self, settings: JudgeSettings) -> None:
        self._config = settings.config
        self._arm = settings.arm

    def process(self, items: list[dict[str, Any]], seed: int) -> list[Outcome]:  # noqa: ARG002 - nothing is drawn
        return [self._outcome(item) for item in items]

    def _outcome(self, item: dict[str, Any]) -> Outcome:
        if item["fault"]:
            return Outcome(item["item_id"], None, str(item["fault"]))
        return pairs_outcome(item, [Verdict(**each) for each in item["verdicts"]], self._config, self._arm)
