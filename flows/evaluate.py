"""The flow `evaluate`: any checkpoints on any benchmarks, by the official rules and by strict ones."""

import logging
from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows.artifacts import show_scores
from flows.evaluation import How, Model, scoring, write_results
from flows.evaluation_parameters import EvaluatedModels, Evaluation
from flows.hooks import log_cancelled, log_failed
from flows.parameters import RunConfig
from flows.presets import command, load_evaluation
from flows.steps import Steps, opened
from tasks.evaluation.config import AnswersConfig, GradingConfig
from tasks.evaluation.entries import read_scores
from tasks.evaluation.sections import Benchmarks, check_places
from tasks.frames import FramesConfig
from tasks.model_ref import ModelRef
from tasks.prepare import PrepareConfig
from tasks.visual_tokens import VisualTokensConfig

logger = logging.getLogger(__name__)

DEFAULT = load_evaluation("miniature")


@flow(
    name="evaluate",
    task_runner=ThreadPoolTaskRunner(),  # type: ignore[arg-type]
    result_serializer="json",
    on_failure=[log_failed],
    on_crashed=[log_failed],
    on_cancellation=[log_cancelled],
)
def evaluate(
    run: RunConfig = DEFAULT.run,
    models: EvaluatedModels = DEFAULT.models,
    frames: FramesConfig = DEFAULT.frames,
    visual_tokens: VisualTokensConfig = DEFAULT.visual_tokens,
    benchmarks: Benchmarks = DEFAULT.benchmarks,
    answers: AnswersConfig = DEFAULT.answers,
    grading: GradingConfig = DEFAULT.grading,
    prepare: PrepareConfig | None = DEFAULT.prepare,
) -> dict[str, Any]:
    """Scores checkpoints on benchmarks.

    Args:
        run: What the run is called, where its results go and how many processes work on it.
        models: The models that are scored, and the one that grades.
        frames: Which frames are sampled of the benchmarks' videos.
        visual_tokens: How frames go through the vision tower.
        benchmarks: What is scored, by what it is called in the results.
        answers: How the models' answers are computed.
        grading: Who grades where rules cannot.
        prepare: What writes the data when it is not there yet.
    """
    parameters = Evaluation.model_validate(dict(locals()))
    with opened("evaluate", run, prepare, parameters.asked) as step:
        check_places(benchmarks)
        scored, judge = plain_models(step, parameters)
        how = How(benchmarks, frames, visual_tokens, answers, grading, judge)
        evaluated = scoring(step, how, scored)
        step.results()
        page = write_results(step, evaluated, run.results, command(parameters))
        show_scores(run.name, read_scores(page).entries)
        logger.info("scores: %s", page)
    return {"scores": str(page), "lake": run.lake_root}


def plain_models(step: Steps, p: Evaluation) -> tuple[dict[str, Model], ModelRef | None]:
    """The checkpoints, and the local judge; to hash a large checkpoint takes a while."""
    bar = step.ctx.progress.start("models: hashing", len(p.models.checkpoints) + (p.models.judge is not None))
    try:
        found: dict[str, Model] = {}
        for each in p.models.checkpoints:
            found[each.name] = (
                each.resolve(step.ctx.lake, p.models.how)
                if each.endpoint is None
                else p.grading.endpoints[each.endpoint]
            )
            bar.advance()
        judge = None if p.models.judge is None else ModelRef.of(p.models.judge, **p.models.how)
        return found, judge
    finally:
        bar.finish()
