"""Self-retrospective DPO: rounds in which the policy narrates, answers, judges itself and learns from its own verdicts.

Round t, with the policy pi_t as it came out of the round before (https://arxiv.org/abs/2406.11280):

    narrative  c_t ~ pi_t(video, c_{t-1})
    answers    y ~ pi_t(video, question)
    verdicts   by pi_t, which reads c_t
    pi_{t+1}   DPO on the verdicts; reference and start are pi_t
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flows.material import Material
from flows.parameters import Parameters
from flows.steps import Pending, Steps, Trained
from tasks.audit import audit
from tasks.candidates import candidates
from tasks.captions import captions
from tasks.dpo import policy_by_pairs, round_name
from tasks.preferences import LOCAL, JudgingConfig, preferences


@dataclass(frozen=True)
class Round:
    """One round. `narrated` is None where the arm judges without a narrative."""

    name: str
    narrated: Pending | None
    answered: Pending
    judged: Pending
    audited: Pending
    learned: Pending


def rounds(
    step: Steps, p: Parameters, shown: Material, answered: Pending, start: Trained, arm: JudgingConfig
) -> list[Round]:
    """The rounds of an arm, in order; the last one's `learned` is the arm's policy.

    Args:
        step: hands over the stages.
        p: the parameters of the run.
        shown: videos, questions and visual tokens. The labeler's narratives are not read.
        answered: what `start` answers by `p.candidates`: the first round's answers, unless rounds sample otherwise.
        start: the policy before the first round.
        arm: how the policy judges: method, frame set, and whether it reads its narrative.

    Raises:
        ValueError: the arm names another judge.
    """
    if arm.judge != LOCAL:
        raise ValueError(
            f"arm {arm.name!r} is judged by {arm.judge!r}, but in self-DPO the policy judges: use {LOCAL!r}"
        )
    done: list[Round] = []
    for number in range(1, p.self_dpo.rounds + 1):
        policy = Trained(start.base, merged=done[-1].learned) if done else start
        first = None if done or p.self_dpo.candidates(p.candidates) != p.candidates else answered
        done.append(_round(step, p, shown, policy, arm, round_name(arm.name, number), first, done))
    return done


def _round(
    step: Steps,
    p: Parameters,
    shown: Material,
    policy: Trained,
    arm: JudgingConfig,
    name: str,
    answered: Pending | None,
    before: Sequence[Round],
) -> Round:
    if answered is None:
        sampling = p.self_dpo.candidates(p.candidates)
        answered = step(candidates, sampling, shown.asked, shown.seen, policy, label=name)
    narrated = _narrated(step, p, shown, policy, name, before) if arm.narrative else None
    judged = step(preferences, p.judging(arm), answered, shown.seen, narrated, policy, name, label=name)
    labels = {name: judged}
    if p.audit.max_blind_agreement is not None and not arm.blind:
        twin = arm.blinded()
        blind = f"{name}_blind"
        labels[blind] = step(preferences, p.judging(twin), answered, shown.seen, None, policy, blind, label=blind)
    audited = step(audit, p.audit, labels, shown.asked, name, gate=[name], label=name)
    checked = [audited] if p.audit.gated else []
    learned = step(
        policy_by_pairs, p.self_dpo.learning(), judged, shown.asked, shown.seen, policy, name, label=name, after=checked
    )
    return Round(name, narrated, answered, judged, audited, learned)


def _narrated(
    step: Steps, p: Parameters, shown: Material, policy: Trained, name: str, before: Sequence[Round]
) -> Pending:
    """The policy's narrative; after the first round it refines the one of the round before."""
    config = p.self_dpo.narrative.model_copy(update={"splits": (p.candidates.split,)})
    questions = shown.asked if config.condition_on_question else None
    previous = before[-1].narrated if before else None
    return step(captions, config, shown.seen, policy, questions, previous, name, label=name)
