"""What a reward model learns from about 2,500 labels of the miniature, by its form, its base and what it reads.

    python -m perf.reward_models runs/reward_models [--only NAME ...] [section.key=value ...]

Labels the candidates of the preset's first arm in the folder's lake (done again, all of it is there), trains each
reward model in this process, and prints a table as Markdown: CPU seconds of the training, how often the reward is
higher for the truer of two held-out answers before and after it, the same by kind of question, and how often the true
action has the highest reward of all six. The last is asked because a policy that learns goes where its first answers
seldom were. The held-out answers are the SFT model's to the benchmark's questions. Exits with 1 where no scalar head
reaches 0.83 within 60 CPU seconds.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from flows.material import material
from flows.parameters import Parameters
from flows.steps import Trained
from miniature.world import ACTIONS
from models.batches import Limits
from models.reward_model import RewardModel
from models.reward_training import new_reward_model, train_reward_model
from models.settings import RewardForm, RewardSettings
from models.training import Metrics
from perf.rankers import AtOnce, stages_of_miniature
from storage.lake import Lake
from tasks.candidates import candidates
from tasks.decided import decided, pairs_to_learn
from tasks.grading import Grader
from tasks.model_ref import ModelRef
from tasks.narratives import Narratives
from tasks.preferences import preferences
from tasks.reward_model import Reading
from tasks.sft import sft
from tasks.stage import StageResult
from tasks.study_page import markdown_table
from tasks.tokens import VisualTokens

ACCURACY, CPU_SECONDS = 0.83, 60.0
SIX = [f"it {action}." for action in ACTIONS]
Pair = tuple[dict[str, Any], str, str]  # Question, truer answer and the other.


@dataclass(frozen=True)
class Variant:
    """A reward model: on which base, of which form, and how long it learns."""

    base: str
    form: RewardForm
    steps: int = 200


def variants() -> dict[str, Variant]:
    texts: dict[str, Any] = {"question": "{context} {question}", "context": "context: {narrative}"}
    likelihood = RewardForm(kind="likelihood", prompt="", **texts)
    head = RewardForm(kind="head", prompt="is this answer correct?", **texts)
    words = replace(head, words=("yes", "no"))
    seeing: dict[str, Any] = {"rm_context": "narrative"}
    return {
        "likelihood, policy": Variant("policy", likelihood),
        "likelihood, policy, narrative": Variant("policy", replace(likelihood, **seeing)),
        "likelihood, labeler": Variant("labeler", likelihood),
        "likelihood, labeler, narrative": Variant("labeler", replace(likelihood, **seeing)),
        "head from zero, policy": Variant("policy", head, 100),
        "head from zero, labeler": Variant("labeler", head, 100),
        "head from words, labeler": Variant("labeler", words, 100),
        "head from words, labeler, narrative": Variant("labeler", replace(words, **seeing), 100),
    }


@dataclass(frozen=True)
class Labelled:
    """What is learned from and measured on."""

    lake: Lake
    models: dict[str, ModelRef]
    tokens: dict[str, StageResult]
    captions: StageResult
    rows: list[dict[str, Any]]
    held_out: list[Pair]
    actions: list[dict[str, Any]]


def labelled(step: AtOnce, p: Parameters) -> Labelled:
    """Stages up to the labels, and the held-out pairs that differ in truth."""
    lake, shown, way = step.ctx.lake, material(step, p), p.judging(p.arms[0])  # type: ignore[arg-type]
    start = Trained(shown.base, merged=step(sft, p.sft, shown.asked, shown.seen, shown.base))
    answered = step(candidates, p.candidates, shown.asked, shown.seen, start)
    judged = step(preferences, way, answered, *shown.judge(way, start), p.arms[0].name)  # type: ignore[arg-type]
    tried = p.candidates.model_copy(update={"split": p.agreement.split, "limit": p.agreement.limit})
    held_out = step(candidates, tried, shown.asked, shown.seen, start)
    asked = {row["item_id"]: row for row in lake.table("instructions").read(shown.asked.key).to_pylist()}  # type: ignore[attr-defined]
    answers = lake.table("candidates").read(held_out.key).to_pylist()
    return Labelled(
        lake,
        {"policy": start.resolve(lake), "labeler": shown.labeler},
        {"policy": shown.seen, "labeler": shown.seen_by_labeler},  # type: ignore[dict-item]
        shown.narrated,  # type: ignore[arg-type]
        decided(lake, judged.ref),
        _differing(asked, answers, Grader(p.agreement.slots)),
        [row for row in asked.values() if row["split"] == p.agreement.split and row["kind"] == "action"][:200],
    )


def _differing(asked: dict[str, dict[str, Any]], answers: list[dict[str, Any]], grader: Grader) -> list[Pair]:
    groups: dict[str, set[str]] = defaultdict(set)
    for row in answers:
        groups[row["item_id"]].add(row["text"])
    pairs = []
    for name, texts in groups.items():
        truth = asked[name]["answer"]
        graded = {text: grader.grade(truth, text).best for text in sorted(texts)}
        for one, other in combinations(graded, 2):
            if graded[one] != graded[other]:
                better, worse = sorted((one, other), key=lambda text: -graded[text])
                pairs.append((asked[name], better, worse))
    return pairs


class _Silent:
    """A journal that keeps nothing."""

    def resume(self) -> None:
        return None

    def save(self, step: int, folder: Path) -> None: ...

    def log(self, step: int, metrics: Metrics) -> None: ...


def measure(labels: Labelled, variant: Variant, settings: RewardSettings, frame_set: str) -> dict[str, Any]:
    """One row of the table."""
    lake, lm = labels.lake, labels.models[variant.base].load(labels.lake)
    settings = replace(settings, form=variant.form, steps=variant.steps)
    reward = new_reward_model(lm, settings, 0)
    tokens = VisualTokens(lake, labels.tokens[variant.base].ref)
    read = Reading(reward, tokens, frame_set, Narratives(lake, labels.captions.ref))
    kept, _ = pairs_to_learn(read.usable(labels.rows, "pairs"), settings.held_out, lm, read.prompt)
    before = _right(reward, read, labels.held_out)
    began = time.process_time()
    train_reward_model(reward, kept, settings, 0, _Silent())
    seconds = time.process_time() - began
    return {
        "pairs": len(kept),
        "seconds": seconds,
        "before": before["all"],
        **_right(reward, read, labels.held_out),
        "six": _six(reward, read, labels.actions),
    }


def _right(reward: RewardModel, read: Reading, pairs: Sequence[Pair]) -> dict[str, float]:
    """How often the truer answer has the higher reward, in all and by kind of question."""
    prompts = [prompt for row, *_ in pairs for prompt in [read.prompt(row)] * 2]
    texts = [text for _, *both in pairs for text in both]
    scores = reward.score_all(prompts, [reward.lm.response_ids(text) for text in texts], Limits(96)).view(-1, 2)
    found: dict[str, list[bool]] = defaultdict(list)
    for (row, *_), (better, worse) in zip(pairs, scores.tolist(), strict=True):
        for kind in ("all", row["kind"]):
            found[kind].append(better > worse)
    return {kind: sum(right) / len(right) for kind, right in found.items()}


def _six(reward: RewardModel, read: Reading, questions: Sequence[dict[str, Any]]) -> float:
    prompts = [prompt for row in questions for prompt in [read.prompt(row)] * len(SIX)]
    scores = reward.score_all(prompts, [reward.lm.response_ids(text) for text in SIX] * len(questions), Limits(96))
    best = scores.view(-1, len(SIX)).argmax(1).tolist()
    return float(sum(SIX[at] == row["answer"] for at, row in zip(best, questions, strict=True)) / len(questions))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Where data and lake are written, and found again.")
    parser.add_argument("overrides", nargs="*", help="section.key=value on top of the preset miniature.")
    parser.add_argument("--only", action="append", help="A name of the first column; may be given again.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with stages_of_miniature(options.folder, options.overrides) as (step, p):
        labels = labelled(step, p)
    chosen = {name: each for name, each in variants().items() if name in (options.only or variants())}
    rows = {name: measure(labels, each, p.reward.training, p.reward.frame_set) for name, each in chosen.items()}
    columns = ["before", "all", "action", "event", "describe", "six"]
    head = ["reward model", "pairs", "CPU s", "before", "truth", "action", "event", "describe", "true action of six"]
    shown = [
        [
            name,
            str(row["pairs"]),
            f"{row['seconds']:.0f}",
            *(f"{row.get(column, float('nan')):.3f}" for column in columns),
        ]
        for name, row in rows.items()
    ]
    print(f"{len(labels.held_out)} held-out pairs, {len(labels.actions)} questions for an action\n")
    print(markdown_table(head, shown))
    heads = [row for name, row in rows.items() if name.startswith("head")]
    return int(bool(heads) and not any(row["all"] >= ACCURACY and row["seconds"] <= CPU_SECONDS for row in heads))


if __name__ == "__main__":
    sys.exit(main())
