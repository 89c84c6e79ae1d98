"""The reward model's routes, with a reward model that is refreshed while the policy learns.

Segment t of the policy's training, with the policy pi_t as the segment before left it, and the labels D_1 of before:

    answers        y ~ pi_t(video, question)
    labels         D_t by the arm's judge, audited as any
    reward model   r_t from its base on D_1, ..., D_t
    pi_{t+1}       the training goes on from where it stood, against r_t
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flows.material import Material
from flows.parameters import Arm, Parameters
from flows.steps import Pending, Rewarded, Steps, Trained
from tasks.audit import audit
from tasks.candidates import candidates
from tasks.group_policy import policy_by_rewards
from tasks.model_ref import ModelRef
from tasks.policy import policy
from tasks.preferences import preferences
from tasks.reward_model import RewardConfig, reward_model
from tasks.segments import refresh_name, segment_name
from tasks.stage import StageResult

Learned = Callable[..., StageResult]


@dataclass(frozen=True)
class Labels:
    """A version of an arm's labels, and its audit."""

    name: str
    judged: Pending
    audited: Pending


@dataclass(frozen=True)
class Course:
    """How a policy learned: its labels, the reward model that was trained at each of them, and the segments."""

    labels: list[Labels]
    rewarded: list[Pending]
    segments: list[Pending]


def course(
    step: Steps,
    p: Parameters,
    arm: Arm,
    shown: Material,
    start: Trained,
    critic: tuple[Trained | ModelRef, Pending],
    first: Labels,
) -> Course:
    """Reward models and policy of an arm; where nothing is refreshed, one of each.

    Args:
        step: hands over the stages.
        p: the parameters of the run.
        arm: how it is judged, and its route.
        shown: videos, questions, visual tokens and narratives.
        start: the policy before.
        critic: the base of reward model and critic, and its visual tokens.
        first: the labels of what `start` answers.
    """
    done, read = Course([], [], []), p.reward if arm.narrative else p.reward.without_narrative()
    *begun, last = p.segments(arm)
    for number, iterations in enumerate([*begun, last]):
        done.labels.append(first if number == 0 else _labels(step, p, arm, shown, start, done.segments))
        done.rewarded.append(reward := _reward(step, read, p.audit.gated, shown, critic, done.labels))
        rewarded = Rewarded(reward, read, _captions(read, shown), critic[1], critic[0])
        learn: tuple[Learned, object] = (policy_by_rewards, p.grpo) if arm.route == "grpo" else (policy, p.ppo)
        given = (rewarded, shown.asked, shown.seen, start, arm.name)
        label = arm.name if iterations == last else segment_name(arm.name, number + 1)
        made = iterations if begun else None
        done.segments.append(step(*learn, *given, label=label, iterations=made, before=[*done.segments]))
    return done


def _reward(
    step: Steps,
    read: RewardConfig,
    gated: bool,
    shown: Material,
    critic: tuple[Trained | ModelRef, Pending],
    labels: Sequence[Labels],
) -> Pending:
    """A reward model on all of the labels, as soon as the last of them have passed the audit."""
    name, base, seen = labels[-1].name, *critic
    checked = [labels[-1].audited] if gated else []
    judged = [each.judged for each in labels]
    about = (judged, _captions(read, shown), shown.asked, seen, base, name)
    return step(reward_model, read, *about, label=name, after=checked)


def _captions(read: RewardConfig, shown: Material) -> Pending | None:
    return shown.narrated if read.reads_narrative else None


def _labels(
    step: Steps, p: Parameters, arm: Arm, shown: Material, start: Trained, segments: Sequence[Pending]
) -> Labels:
    """What the arm's judge says of the policy's own answers, as it stands after these segments."""
    name, way = refresh_name(arm.name, len(segments)), p.judging(arm)
    now = Trained(start.base, merged=start.merged, adapter=segments[-1])
    answered = step(candidates, p.candidates, shown.asked, shown.seen, now, name, label=name)
    judged = step(preferences, way, answered, *shown.judge(way, start), name, label=name)
    labels = {name: judged}
    if p.audit.max_blind_agreement is not None and not arm.blind:
        twin, blind = p.judging(arm.blinded()), f"{name}_blind"
        labels[blind] = step(preferences, twin, answered, *shown.judge(twin, start), blind, label=blind)
    audited = step(audit, p.audit, labels, shown.asked, name, gate=[name], label=name)
    return Labels(name, judged, audited)
