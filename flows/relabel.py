"""The flow `relabel`, for every night: labels what is new or changed, and says how the labels moved."""

import json
import logging
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows.artifacts import show_moves
from flows.hooks import log_cancelled, log_failed
from flows.material import material
from flows.parameters import Arms, DataConfig, Labelling, ModelsConfig, RunConfig
from flows.presets import load
from flows.steps import Pending, Steps, Trained, opened
from storage.lake import event
from tasks.candidates import CandidatesConfig, candidates
from tasks.captions import CaptionsConfig
from tasks.frames import FramesConfig
from tasks.label_moves import BEGAN, TOLD, latest, moves, standing
from tasks.moves_page import moves_page
from tasks.preferences import JudgesConfig, preferences
from tasks.sft import SftConfig, sft
from tasks.stage import StageResult
from tasks.visual_tokens import VisualTokensConfig

logger = logging.getLogger(__name__)

DEFAULT = load("miniature", ["candidates.limit=null"])


@flow(
    name="relabel",
    task_runner=ThreadPoolTaskRunner(),  # type: ignore[arg-type]
    result_serializer="json",
    on_failure=[log_failed],
    on_crashed=[log_failed],
    on_cancellation=[log_cancelled],
)
def relabel(
    run: RunConfig = DEFAULT.run,
    data: DataConfig = DEFAULT.data,
    models: ModelsConfig = DEFAULT.models,
    frames: FramesConfig = DEFAULT.frames,
    visual_tokens: VisualTokensConfig = DEFAULT.visual_tokens,
    sft: SftConfig = DEFAULT.sft,
    captions: CaptionsConfig = DEFAULT.captions,
    candidates: CandidatesConfig = DEFAULT.candidates,
    preferences: JudgesConfig = DEFAULT.preferences,
    arms: Arms = DEFAULT.arms,
) -> dict[str, Any]:
    """Labels the videos and questions that are new or changed since the last labelling in the same lake.

    Args:
        run: What the run is called, which lake it labels in and how many processes work on it.
        data: The videos and the questions about them.
        models: The model whose answers are judged and the one that judges.
        frames: Which frames are sampled.
        visual_tokens: How frames go through the vision tower.
        sft: Supervised fine-tuning, only where the lake holds none of this model.
        captions: The narratives that the judge reads.
        candidates: The answers that are judged; with a limit, new questions push old ones out.
        preferences: How pairs of answers are judged.
        arms: Ways to label; each has its own preferences. Those of route self_dpo label in their own rounds, not here.
    """
    parameters = Labelling.model_validate(dict(locals()))
    if not parameters.labelled:
        raise ValueError("Every arm has route self_dpo and labels in its own rounds: there is nothing to label here.")
    with opened("relabel", run, data.prepare, preferences.endpoints.values()) as step:
        lake = step.ctx.lake
        before = {arm.name: standing(lake, arm.name) for arm in parameters.labelled}
        # Where this run is killed before it has told how the labels moved, the next one tells it.
        lake.log([event(run.name, BEGAN, detail=json.dumps({arm: old and old.key for arm, old in before.items()}))])
        labelled = labelling(step, parameters)
        step.results()
        versions = {arm: (before[arm], done.result()) for arm, done in labelled.items()}
        page = moves_page(lake, run.name, versions, run.results)
        logger.info("how the labels moved: %s", page)
        moved = {arm: _moved(step, arm, *keys, page) for arm, keys in versions.items()}
        lake.log([event(run.name, TOLD, detail=json.dumps({arm: new.key for arm, (_, new) in versions.items()}))])
        return moved


def labelling(step: Steps, p: Labelling) -> dict[str, Pending]:
    """The stages that bring each arm's labels up to date."""
    shown = material(step, p)
    base = shown.base
    # Retrained for each new question, the model would answer all questions anew, and nothing could be kept.
    supervised = latest(step.ctx.lake, "sft", model=base.identity) or step(sft, p.sft, shown.asked, shown.seen, base)
    answering = p.candidates.model_copy(update={"reuse": True})
    start = Trained(base, merged=supervised)
    answered = step(candidates, answering, shown.asked, shown.seen, start)

    labelled = {}
    for arm in p.labelled:
        way = p.judging(arm)
        labelled[arm.name] = step(preferences, way, answered, *shown.judge(way, start), arm.name, label=arm.name)
    return labelled


def _moved(step: Steps, arm: str, before: StageResult | None, after: StageResult, page: Path) -> dict[str, int]:
    """Pairs by what became of their label; shown as a table too, and linked to the page."""
    rows = moves(step.ctx.lake, before.key if before else "", after.key)
    show_moves(step.ctx.run, arm, rows, page)
    counts = {row["label"]: row["pairs"] for row in rows}
    logger.info("%s: %s", arm, ", ".join(f"{pairs} {label}" for label, pairs in counts.items()))
    return counts
