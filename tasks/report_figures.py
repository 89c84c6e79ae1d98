"""Which figures the report has, and what they say: scores, judges and training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tasks.report_plots import NARROW_IN, WIDE_IN, Line, Panel, Point, lines, points
from tasks.report_scores import HEADLINE, SFT
from tasks.segments import refreshed_arm

if TYPE_CHECKING:
    from tasks.intervals import Interval
    from tasks.report_data import Arm, Curve
    from tasks.report_scores import Checkpoint, Condition

MEASURE_TITLES = {
    "greedy_exact": ("Greedy, exact", "The likeliest answer says the true answer word for word."),
    "greedy_slot": ("Greedy, facts", "Share of the true answer's facts that the likeliest answer states."),
    "sampled_exact": ("Sampled, exact", "One answer drawn at random, as in training."),
    "sampled_slot": ("Sampled, facts", "The same, by facts."),
}
POLICY_CURVES = {
    "reward": ("Proxy reward", "What is maximised: the reward model's opinion of the rollouts."),
    "reward_true": (
        "Ground truth of the same rollouts",
        "Share of true facts in them. Watched only: nothing learns from it.",
    ),
    "kl": ("KL from the reference", "Nats an answer. How far the policy has moved."),
    "response_length": ("Response length", "Tokens an answer."),
    "unique_share": ("Unique share", "Distinct answers in a rollout. It falls when the policy repeats itself."),
    "entropy": ("Entropy", "Nats a token."),
}


def score_panels(checkpoints: Sequence[Checkpoint]) -> list[Panel]:
    """A panel for each measure; the dashed line is SFT."""
    panels = []
    for name, (title, note) in MEASURE_TITLES.items():
        scored = [(each, each.measures[name]) for each in checkpoints if name in each.measures]
        if scored:
            panels.append(Panel(f"{title}, %", _points(title, scored, WIDE_IN), note))
    return panels


def kind_panels(checkpoints: Sequence[Checkpoint]) -> list[Panel]:
    """A panel for each kind of question."""
    panels = []
    for kind in kinds_of(checkpoints):
        scored = [(each, each.kinds[kind]) for each in checkpoints if kind in each.kinds]
        asked = max(each.n for _, each in scored)
        panels.append(Panel(f"{kind}, %", _points(kind, scored, NARROW_IN), f"{asked:,} questions"))
    return panels


def kinds_of(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """The kinds of question that any of them was scored on."""
    return sorted({kind for each in checkpoints for kind in each.kinds})


def _points(title: str, scored: Sequence[tuple[Checkpoint, Interval]], width_in: float) -> str:
    rows = [Point(each.title, each.series, found.value, found.low, found.high) for each, found in scored]
    sft = [found.value for each, found in scored if each.label == SFT]
    return points(title, rows, reference=sft[0] if sft else None, width_in=width_in)


def judge_panels(conditions: Sequence[Condition], checkpoints: Sequence[Checkpoint]) -> list[Panel]:
    """Each way of judging against the ground truth, and level with it the score of the policy that learned from it."""
    measured = [
        Point(condition_title(each), 2 if each.narrative else 3, found.agreement, found.low, found.high)
        for each in conditions
        for found in [each.agreement]
    ]
    panels = [Panel("Judge agrees with the ground truth, %", points("Agreement", measured))]
    learned = [_learned(each, checkpoints) for each in conditions]
    if any(learned):
        sft = [each.measures[HEADLINE].value for each in checkpoints if each.label == SFT and HEADLINE in each.measures]
        svg = points("Greedy, exact", learned, reference=sft[0] if sft else None)
        panels.append(Panel("The policy that learned from it: greedy, exact, %", svg))
    return panels


def _learned(condition: Condition, checkpoints: Sequence[Checkpoint]) -> Point | None:
    labels = {arm.name for arm in condition.trained}
    for each in checkpoints:
        if each.label in labels and HEADLINE in each.measures:
            found = each.measures[HEADLINE]
            return Point(each.title, each.series, found.value, found.low, found.high)
    return None


def condition_title(each: Condition) -> str:
    """A way of judging in a few words."""
    if each.narrative is None:
        return each.name.replace("_", " ")
    frames = "" if each.frames is None else f", {each.frames} frames"
    return f"{each.method}{frames}{' + narrative' if each.narrative else ''}"


def curve_panels(curves: Sequence[Curve], arms: Sequence[Arm]) -> tuple[list[Panel], list[Panel]]:
    """The policies' curves, all arms in each panel: those to look at first, then the others."""
    series = {arm.name: (arm.title, arm.series) for arm in arms}
    names = list(dict.fromkeys(curve.name for curve in curves))
    first = [name for name in POLICY_CURVES if name in names]
    rest = [name for name in names if name not in POLICY_CURVES]
    return (
        [
            Panel(POLICY_CURVES[name][0], _lines(name, curves, series, WIDE_IN), POLICY_CURVES[name][1])
            for name in first
        ],
        [Panel(_words(name), _lines(name, curves, series, NARROW_IN)) for name in rest],
    )


def training_panels(curves: Sequence[Curve], arms: Sequence[Arm], chosen: Sequence[str], of: str) -> list[Panel]:
    """The chosen metrics of one kind of training."""
    series = {arm.name: (arm.title, arm.series) for arm in arms} | {SFT: ("SFT", 1)}
    names = {curve.name for curve in curves}
    return [
        Panel(f"{of}: {_words(name).lower()}", _lines(name, curves, series, NARROW_IN))
        for name in chosen
        if name in names
    ]


def _lines(name: str, curves: Sequence[Curve], series: Mapping[str, tuple[str, int]], width_in: float) -> str:
    shown = [
        Line(*(series.get(each.owner) or (each.owner, _color(each.owner, series))), each.steps, each.values)
        for each in curves
        if each.name == name
    ]
    return lines(_words(name), shown, width_in=width_in)


def _color(owner: str, series: Mapping[str, tuple[str, int]]) -> int:
    """That of the arm, where its reward model was refreshed."""
    return series.get(refreshed_arm(owner), (owner, 0))[1]


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()
