"""How an arm's policy comes to learn: by which stages, from the labels to the adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flows.material import Material
from flows.parameters import Arm, Parameters
from flows.refreshed import Labels, course
from flows.self_dpo import rounds
from flows.steps import Pending, Steps, Trained
from tasks.audit import audit
from tasks.group_policy import policy_by_ranks
from tasks.model_ref import ModelRef
from tasks.preferences import preferences


@dataclass(frozen=True)
class Taught:
    """What an arm's route made.

    Attributes:
        judged: its labels; of rounds the last ones, of a refreshed reward model the first.
        audited: audits by what was audited.
        rewarded: reward models by the name of the labels that they were trained at, the arm's first.
        learned: the policy.
        segments: the stages in which it learned before that one, in order.
    """

    judged: Pending
    audited: Mapping[str, Pending]
    rewarded: Mapping[str, Pending]
    learned: Pending
    segments: tuple[Pending, ...] = ()


def taught(
    step: Steps,
    p: Parameters,
    arm: Arm,
    shown: Material,
    answered: Pending,
    start: Trained,
    critic: tuple[Trained | ModelRef, Pending],
    blind: Mapping[str, Pending],
) -> Taught:
    """The stages of an arm.

    Args:
        step: hands them over.
        p: the parameters of the run.
        arm: how it is judged, and its route.
        shown: videos, questions, visual tokens and narratives.
        answered: what `start` answered: what is judged.
        start: the policy before.
        critic: the base of reward model and critic, and its visual tokens.
        blind: labels of the same pairs by judges that see nothing, for the audit.
    """
    if arm.route == "self_dpo":
        each_round = rounds(step, p, shown, answered, start, arm)
        audits = {each.name: each.audited for each in each_round}
        return Taught(each_round[-1].judged, audits, {}, each_round[-1].learned)
    name, way = arm.name, p.judging(arm)
    judged = step(preferences, way, answered, *shown.judge(way, start), name, label=name)
    audited = step(audit, p.audit, {name: judged, **blind}, shown.asked, name, gate=[name], label=name)
    if arm.route == "grpo_rank":
        checked = [audited] if p.audit.gated else []
        seen_by_ranker, narrated, model = shown.judge(way, start)
        ranker = (way, model, seen_by_ranker, narrated)
        learner = (shown.asked, shown.seen, start, name)
        learned = step(policy_by_ranks, p.grpo, *ranker, *learner, label=name, after=checked)
        return Taught(judged, {name: audited}, {}, learned)
    done = course(step, p, arm, shown, start, critic, Labels(name, judged, audited))
    rewarded = {each.name: model for each, model in zip(done.labels, done.rewarded, strict=True)}
    *segments, learned = done.segments
    return Taught(judged, {each.name: each.audited for each in done.labels}, rewarded, learned, tuple(segments))
