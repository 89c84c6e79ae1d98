"""The flow `rlaif`: videos and questions in, a tuned policy and its report out (https://arxiv.org/abs/2402.03746)."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ThreadPoolTaskRunner

from flows.artifacts import show_report, show_scores
from flows.evaluation import How, Model, Scored, scoring, write_results
from flows.hooks import log_cancelled, log_failed
from flows.material import critic_base, material
from flows.parameters import Arms, DataConfig, ModelsConfig, Parameters, RunConfig
from flows.presets import command, load
from flows.routes import taught
from flows.steps import Pending, Steps, Trained, opened
from tasks.agreement import AgreementConfig, agreement
from tasks.audit import audit
from tasks.audit_limits import AuditConfig
from tasks.benchmark import BenchmarkConfig, benchmark
from tasks.candidates import CandidatesConfig, candidates
from tasks.captions import CaptionsConfig
from tasks.dpo import SelfDpoConfig
from tasks.evaluation.entries import read_scores
from tasks.evaluation.sections import EvaluationConfig, check_places, endpoints_of
from tasks.frames import FramesConfig
from tasks.group_policy import GrpoConfig
from tasks.model_ref import ModelRef
from tasks.policy import PpoConfig
from tasks.preferences import JudgesConfig, preferences
from tasks.report import SUMMARY, ReportConfig, report
from tasks.report_data import Graph
from tasks.reward_model import RewardConfig
from tasks.sft import SftConfig, sft
from tasks.stage import StageResult
from tasks.visual_tokens import VisualTokensConfig

# The UI's form shows these; the command line takes its values from the preset it is given.
DEFAULT = load("miniature")


@flow(
    name="rlaif",
    task_runner=ThreadPoolTaskRunner(),  # type: ignore[arg-type]
    result_serializer="json",
    on_failure=[log_failed],
    on_crashed=[log_failed],
    on_cancellation=[log_cancelled],
)
def rlaif(
    run: RunConfig = DEFAULT.run,
    data: DataConfig = DEFAULT.data,
    models: ModelsConfig = DEFAULT.models,
    frames: FramesConfig = DEFAULT.frames,
    visual_tokens: VisualTokensConfig = DEFAULT.visual_tokens,
    sft: SftConfig = DEFAULT.sft,
    captions: CaptionsConfig = DEFAULT.captions,
    candidates: CandidatesConfig = DEFAULT.candidates,
    preferences: JudgesConfig = DEFAULT.preferences,
    reward: RewardConfig = DEFAULT.reward,
    ppo: PpoConfig = DEFAULT.ppo,
    grpo: GrpoConfig = DEFAULT.grpo,
    self_dpo: SelfDpoConfig = DEFAULT.self_dpo,
    agreement: AgreementConfig = DEFAULT.agreement,
    audit: AuditConfig = DEFAULT.audit,
    benchmark: BenchmarkConfig = DEFAULT.benchmark,
    evaluate: EvaluationConfig | None = DEFAULT.evaluate,
    report: ReportConfig = DEFAULT.report,
    arms: Arms = DEFAULT.arms,
) -> dict[str, Any]:
    """Tunes a video model on the preferences of an AI judge.

    Args:
        run: What the run is called, where its results go and how many processes work on it.
        data: The videos and the questions about them.
        models: The model that is tuned and the one that labels.
        frames: Which frames are sampled.
        visual_tokens: How frames go through the vision tower.
        sft: Supervised fine-tuning, where the policy starts.
        captions: The narratives that the judge reads.
        candidates: The answers that are judged.
        preferences: How pairs of answers are judged.
        reward: The reward model's training.
        ppo: The policy's training, for arms of route ppo.
        grpo: The policy's training on groups of its answers, for arms of routes grpo and grpo_rank.
        self_dpo: The policy's training by rounds of its own verdicts, for arms of route self_dpo.
        agreement: The judge against ground truth.
        audit: What is wrong with the labels, and when that stops the run.
        benchmark: The scores on held-out questions.
        evaluate: Benchmarks on which the models are scored at the end; empty: none.
        report: The page at the end.
        arms: Ways to label and to learn from it; each has its own preferences and policy.
    """
    parameters = Parameters.model_validate(dict(locals()))
    asked = [
        *preferences.endpoints.values(),
        *(endpoints_of(evaluate.benchmarks, evaluate.grading) if evaluate else []),
    ]
    with opened("rlaif", run, data.prepare, asked) as step:
        if evaluate:
            check_places(evaluate.benchmarks)
        graph, tuned = tuning(step, parameters)
        evaluated = evaluation(step, parameters, tuned) if evaluate else []
        done = step.results()
        if evaluated:
            written = write_results(step, evaluated, run.results, command(parameters))
            show_scores(run.name, read_scores(written).entries)
        page = write_report(step, parameters, graph, done)
        scores = {label: scored.result().key for label, scored in graph.scores.items()}
    return {"report": str(page), "lake": run.lake_root, "scores": scores}


@dataclass(frozen=True)
class Tuned:
    """What a run has models of: by name, what they are shown, and the labeler."""

    models: dict[str, Model]
    sampled: Pending
    labeler: ModelRef


def figure(step: Steps, p: Parameters) -> Graph[Pending]:
    """The graph up to the scores on held-out questions."""
    return tuning(step, p)[0]


def evaluation(step: Steps, p: Parameters, tuned: Tuned) -> list[Scored]:
    """The models on the benchmarks of the section `evaluate`."""
    assert p.evaluate is not None
    how = How(p.evaluate.benchmarks, p.frames, p.visual_tokens, p.evaluate.answers, p.evaluate.grading, tuned.labeler)
    # The benchmarks' videos may be the run's own, whose frames are then kept already.
    return scoring(step, how, tuned.models, after=[tuned.sampled])


def tuning(step: Steps, p: Parameters) -> tuple[Graph[Pending], Tuned]:
    """The graph, and the models in it. A stage begins as soon as the results that it is handed are there."""
    shown = material(step, p)
    base, asked, seen = shown.base, shown.asked, shown.seen
    supervised = step(sft, p.sft, asked, seen, base)
    start = Trained(base, merged=supervised)
    critic = critic_base(step, p, shown, start)
    answered = step(candidates, p.candidates, asked, seen, start)

    blind = {}
    for twin in p.blind_twins():
        way = p.judging(twin)
        blind[twin.name] = step(preferences, way, answered, *shown.judge(way, start), twin.name, label=twin.name)
    arms = {arm.name: taught(step, p, arm, shown, answered, start, critic, blind) for arm in p.arms}

    models: dict[str, Model] = {"base": base, "sft": start}
    models |= {name: Trained(base, merged=supervised, adapter=arm.learned) for name, arm in arms.items()}
    scored = {
        name: step(benchmark, p.benchmark, asked, seen, name, model, label=name) for name, model in models.items()
    }
    audited = {what: each for arm in arms.values() for what, each in arm.audited.items()}
    agreed = None
    if p.agreement.conditions:
        held_out = p.candidates.model_copy(update={"split": p.agreement.split, "limit": p.agreement.limit})
        tried = step(candidates, held_out, asked, seen, start, label="held out")
        compared = {}
        for condition in p.agreement.conditions:
            name, way = condition.name, p.judging(condition)
            compared[name] = step(preferences, way, tried, *shown.judge(way, start), name, label=name)
        agreed = step(agreement, p.agreement, compared, asked)
        audited["held out"] = step(audit, p.audit, compared, asked, "held out", label="held out")
    judged = {name: arm.judged for name, arm in arms.items()}
    learned = {name: arm.learned for name, arm in arms.items()}
    rewarded = {name: each for arm in arms.values() for name, each in arm.rewarded.items()}
    segments = {name: arm.segments for name, arm in arms.items() if arm.segments}
    graph = Graph(supervised, judged, rewarded, learned, scored, agreed, audited, segments)
    return graph, Tuned(models, shown.sampled, shown.labeler)


@task(name="report", cache_policy=NO_CACHE, persist_result=False)
def write_report(step: Steps, p: Parameters, graph: Any, results: list[StageResult]) -> Path:
    """Writes the report and shows the way to it. Prefect puts results in the place of the futures in `graph`."""
    usage, values = step.usage.usage(), p.model_dump(mode="json")
    bar = step.ctx.progress.start("report", 1)
    try:
        page = report(step.ctx, p.report, results, graph, usage, command(p), values)
        bar.advance()
    finally:
        bar.finish()
    show_report(p.run.name, page, json.loads((page.parent / SUMMARY).read_text()))
    return page
