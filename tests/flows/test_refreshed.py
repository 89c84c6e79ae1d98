"""A reward model that is refreshed while the policy learns: which stages there are, and what each is handed."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from reduced import Place

from flows.parameters import Parameters
from flows.plan import _Scale, sample_of
from flows.presets import load
from flows.refreshed import Labels, course
from flows.steps import Rewarded, Trained
from flows.walk import Visit

ARM = "{name: arm, route: ROUTE, narrative: true, frame_set: judge_2, method: likelihood}"
ENDPOINT = "{hosted: {base_url: 'http://127.0.0.1:1/v1', model: m, price_input: 1.0, price_output: 2.0}}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("refreshed"))


def parameters(place: Place, *overrides: str, route: str = "ppo", every: int = 2) -> Parameters:
    long = ["ppo.training.iterations=5", "grpo.training.iterations=5", f"reward.refresh_every={every}"]
    arms = f"arms=[{ARM.replace('ROUTE', route)}]"
    return load("miniature", [*place.overrides("refreshed"), arms, *long, *overrides])


class Recorder:
    """Stands where a flow has its Steps, and notes what it is handed."""

    def __init__(self) -> None:
        self.calls: dict[str, tuple[tuple[Any, ...], dict[str, Any], Sequence[Any]]] = {}

    def __call__(
        self, stage: Any, *inputs: Any, label: str | None = None, after: Sequence[Any] = (), **named: Any
    ) -> str:
        name = f"{stage.__name__} {label or ''}".rstrip()
        assert name not in self.calls
        self.calls[name] = (inputs, named, after)
        return name


def recorded(p: Parameters) -> Recorder:
    step: Any = Recorder()

    def judge(way: Any, policy: Any) -> tuple[bool, str, Any]:
        return way.blind, "told", policy

    shown: Any = SimpleNamespace(asked="asked", seen="seen", narrated="narrated", judge=judge)
    start: Any = Trained("base", merged="sft")  # type: ignore[arg-type]
    first: Any = Labels("arm", "preferences arm", "audit arm")  # type: ignore[arg-type]
    done = course(step, p, p.arms[0], shown, start, (start, "seen"), first)  # type: ignore[arg-type]
    assert done.segments[-1] == [*step.calls][-1]
    return step  # type: ignore[no-any-return]


@pytest.mark.parametrize(("route", "learn"), [("ppo", "policy"), ("grpo", "policy_by_rewards")])
def test_each_segment_goes_on_from_the_last_against_a_reward_model_of_all_labels(
    place: Place, route: str, learn: str
) -> None:
    calls = recorded(parameters(place, "audit.max_position_bias=0.4", route=route)).calls
    assert [*calls] == [
        "reward_model arm", f"{learn} arm_segment_1",
        "candidates arm_refresh_1", "preferences arm_refresh_1", "audit arm_refresh_1", "reward_model arm_refresh_1",
        f"{learn} arm_segment_2",
        "candidates arm_refresh_2", "preferences arm_refresh_2", "audit arm_refresh_2", "reward_model arm_refresh_2",
        f"{learn} arm",
    ]  # fmt: skip
    segments = [f"{learn} {name}" for name in ("arm_segment_1", "arm_segment_2", "arm")]
    made = [range(2), range(2, 4), range(4, 5)]
    assert [calls[each][1] for each in segments] == [
        {"iterations": iterations, "before": segments[:number]} for number, iterations in enumerate(made)
    ]
    models = ["reward_model arm", "reward_model arm_refresh_1", "reward_model arm_refresh_2"]
    for segment, model in zip(segments, models, strict=True):
        config, reward, *_, start, arm = calls[segment][0]
        assert (config.training.iterations, arm, start) == (5, "arm", Trained("base", merged="sft"))  # type: ignore[arg-type]
        assert isinstance(reward, Rewarded)
        assert reward.stage == model
    *_, now, name = calls["candidates arm_refresh_2"][0]
    assert name == "arm_refresh_2"
    assert now == Trained("base", merged="sft", adapter=f"{learn} arm_segment_2")  # type: ignore[arg-type]
    labels = [f"preferences {name}" for name in ("arm", "arm_refresh_1", "arm_refresh_2")]
    assert [calls[model][0][1] for model in models] == [labels[:1], labels[:2], labels]
    assert calls[models[2]][2] == ["audit arm_refresh_2"], "labels that break a limit are not learned from"


@pytest.mark.parametrize("narrative", [True, False])
def test_a_reward_model_reads_the_narrative_where_the_arm_does(place: Place, narrative: bool) -> None:
    calls = recorded(parameters(place, f"arms.0.narrative={str(narrative).lower()}", every=0)).calls
    config, _, captions, *_ = calls["reward_model arm"][0]
    assert config.reads_narrative == narrative
    assert captions == ("narrated" if narrative else None)
    reward = calls["policy arm"][0][1]
    assert (reward.config, reward.captions) == (config, captions)


def test_without_a_refresh_nothing_is_handed_over_that_was_not(place: Place) -> None:
    calls = recorded(parameters(place, every=0)).calls
    assert [*calls] == ["reward_model arm", "policy arm"]
    assert calls["policy arm"][1] == {"iterations": None, "before": []}


def test_a_limit_for_blind_judges_has_its_twin_in_each_refresh(place: Place) -> None:
    calls = recorded(parameters(place, "audit.max_blind_agreement=0.9")).calls
    assert calls["preferences arm_refresh_1_blind"][0][2] is True
    assert set(calls["audit arm_refresh_2"][0][1]) == {"arm_refresh_2", "arm_refresh_2_blind"}


def test_a_refresh_after_the_last_iteration_is_refused(place: Place) -> None:
    with pytest.raises(ValueError, match=r"refresh_every 5 must be below the 5 iterations of grpo.*arm 'arm'"):
        parameters(place, route="grpo", every=5)
    assert parameters(place, route="grpo_rank", every=5).reward.refresh_every == 5, "no arm of it has a reward model"


def test_a_judge_that_would_be_asked_again_and_again_is_refused(place: Place) -> None:
    hosted = ["arms.0.judge=hosted", "arms.0.method=verdict", f"preferences.endpoints={ENDPOINT}"]
    with pytest.raises(ValueError, match=r"arm 'arm': with reward\.refresh_every it judges again and again"):
        parameters(place, *hosted)
    assert parameters(place, *hosted, every=0).arms[0].judge == "hosted"


def test_a_plan_has_the_stages_of_every_refresh_and_their_sizes(place: Place) -> None:
    p = parameters(place)
    small = sample_of(p, place.folder)
    arm = small.arms[0]
    assert small.segments(arm) == [range(3), range(3, 6), range(6, 9)], "as many as in the whole, each long enough"
    scale = _Scale(p, small, {"videos": 8, "rl": 100, "benchmark": 8, "sft": 8}, 4, {})
    names = ["arm_segment_1", "arm_segment_2", "arm"]
    sizes = [scale._size(Visit(f"policy {name}", "policy")) for name in names]
    assert [(size.sampled, size.items, size.training) for size in sizes] == [(3, 2, True), (3, 2, True), (3, 1, True)]
    trained = scale._size(Visit("reward_model arm_refresh_2", "reward_model"))
    assert trained.items == p.reward.training.steps
    answered = scale._size(Visit("candidates arm_refresh_1", "candidates"))
    assert answered.items == p.candidates.limit
