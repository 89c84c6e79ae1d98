"""How an arm's policy comes to learn: by which stages, from the labels to the adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flows.material import Material
from flows.parameters import Arm, Parameters
from flows.self_dpo import rounds
from flows.steps import Pending, Rewarded, Steps, Trained
from tasks.audit import audit
from tasks.group_policy import policy_by_ranks, policy_by_rewards
from tasks.model_ref import ModelRef
from tasks.policy import policy
from tasks.preferences import preferences
from tasks.reward_model import reward_model


@dataclass(frozen=True)
class Taught:
    """What an arm's route made; `audited` by what was audited, `rewarded` None where no reward model was trained."""

    judged: Pending
    audited: Mapping[str, Pending]
    rewarded: Pending | None
    learned: Pending


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
    name = arm.name
    if arm.route == "self_dpo":
        done = rounds(step, p, shown, answered, start, arm)
        return Taught(done[-1].judged, {each.name: each.audited for each in done}, None, done[-1].learned)
    way, learner = p.judging(arm), (shown.asked, shown.seen, start, name)
    judged = step(preferences, way, answered, *shown.judge(way, start), name, label=name)
    audited = step(audit, p.audit, {name: judged, **blind}, shown.asked, name, gate=[name], label=name)
    checked = [audited] if p.audit.gated else []
    if arm.route == "grpo_rank":
        seen_by_ranker, narrated, model = shown.judge(way, start)
        ranker = (way, model, seen_by_ranker, narrated)
        learned = step(policy_by_ranks, p.grpo, *ranker, *learner, label=name, after=checked)
        return Taught(judged, {name: audited}, None, learned)
    captions = shown.narrated if p.reward.reads_narrative else None
    base, seen = critic
    rewarded = step(reward_model, p.reward, judged, captions, shown.asked, seen, base, name, label=name, after=checked)
    reward = Rewarded(rewarded, p.reward, captions, seen, base)
    if arm.route == "grpo":
        learned = step(policy_by_rewards, p.grpo, reward, *learner, label=name)
    else:
        learned = step(policy, p.ppo, reward, *learner, label=name)
    return Taught(judged, {name: audited}, rewarded, learned)
