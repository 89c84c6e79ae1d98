"""The rounds of self-retrospective DPO: each by the policy of the one before, from its narrative to its training."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from reduced import Place

from flows.material import material
from flows.parameters import Parameters
from flows.presets import load
from flows.self_dpo import rounds
from flows.steps import Trained
from flows.walk import Visit, Walk
from storage.lake import Lake
from tasks.candidates import candidates
from tasks.fanout import WorkerPool
from tasks.model_ref import ModelRef
from tasks.prepare import prepare
from tasks.progress import SilentProgress
from tasks.sft import sft
from tasks.stage import RunContext, StageResult
from tasks.training import final_adapters

SMALL = [
    "candidates={n: 4, limit: 16, shard_size: 8, sampling: {temperature: 1.0, max_new_tokens: 40}}",
    "preferences.tie_margin=0",
    "self_dpo.rounds=3",
    "run.max_quarantined=0.5",
    "self_dpo.training={steps: 2, save_every: 1, batch_size: 4, forward_batch: 4, rate: 1e-3, held_out: 0}",
]
ARM = "{name: self, narrative: true, frame_set: judge_2, method: likelihood}"


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(1) as pool:
        yield pool


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("self"))


def parameters(place: Place, name: str, *overrides: str) -> Parameters:
    return load("miniature", [*place.overrides(name), *SMALL, f"arms=[{ARM}]", *overrides])


def walked(p: Parameters, pool: WorkerPool, *, to_the_end: bool = True) -> dict[str, Visit]:
    """Everything from the videos to the last round, or to the answers before the first, without Prefect."""
    assert p.data.prepare is not None
    prepare(p.data.prepare, SilentProgress())
    run = p.run
    walk: Any = Walk(RunContext(run.lake_root, run.name, pool, SilentProgress(), run.max_quarantined, run.seed))
    shown = material(walk, p)
    supervised = walk(sft, p.sft, shown.asked, shown.seen, shown.base)
    start = Trained(shown.base, merged=supervised)
    answered = walk(candidates, p.candidates, shown.asked, shown.seen, start)
    if to_the_end:
        rounds(walk, p, shown, answered, start, p.arms[0])
    assert [(each.name, each.fault) for each in walk.visits if each.fault] == []
    return {each.name: each for each in walk.visits}


def result(visits: dict[str, Visit], name: str) -> StageResult:
    found = visits[name].result
    assert found is not None
    return found


def of(lake: Lake, done: StageResult, *columns: str) -> list[dict[str, Any]]:
    rows = lake.table(done.table).read(done.key, columns=["status", *columns]).to_pylist()
    return [{name: row[name] for name in columns} for row in rows if row["status"] == "ok"]


@pytest.mark.slow
def test_each_round_is_narrated_answered_and_judged_by_the_policy_before(place: Place, pool: WorkerPool) -> None:
    p = parameters(place, "rounds", "self_dpo.rounds=1")
    walked(p, pool, to_the_end=False)
    shutil.copytree(place.folder / "rounds", place.folder / "straight")
    before = walked(p, pool)

    # One round more: what is done is used, and the second goes on from the first.
    visits = walked(parameters(place, "rounds", "self_dpo.rounds=2"), pool)
    anew = {name for name, visit in visits.items() if visit.result is not None and not visit.result.cached}
    of_second = ("captions", "candidates", "preferences", "audit", "policy_by_pairs")
    assert anew == {f"{stage} self_round_2" for stage in of_second}
    assert before.keys() == visits.keys() - anew
    lake = Lake(p.run.lake_root)
    first, second = (result(visits, f"policy_by_pairs self_round_{number}") for number in (1, 2))
    supervised = final_adapters(lake, result(visits, "sft").ref)
    after_first = final_adapters(lake, first.ref)
    assert after_first[:-1] == supervised
    assert final_adapters(lake, second.ref)[:-1] == after_first

    base = ModelRef.of(p.models.policy)
    stages = [Trained(base, merged=result(visits, "sft")), Trained(base, merged=first)]
    models = [trained.resolve(lake).identity for trained in stages]
    assert models[0] != models[1]
    assert {row["model"] for row in of(lake, result(visits, "candidates"), "model")} == {models[0]}
    assert {row["model"] for row in of(lake, result(visits, "candidates self_round_2"), "model")} == {models[1]}
    for number, model in enumerate(models, 1):
        name = f"self_round_{number}"
        told = of(lake, result(visits, f"captions {name}"), "model", "video", "narrative")
        judged = of(lake, result(visits, f"preferences {name}"), "model", "arm", "video", "narrative")
        assert {row["model"] for row in [*told, *judged]} == {model}
        assert {row["arm"] for row in judged} == {name}
        narratives = {row["video"]: row["narrative"] for row in told}
        assert all(row["narrative"] == narratives[row["video"]] for row in judged)
        assert f"preferences {name}" in visits[f"policy_by_pairs {name}"].needs
    assert "captions self_round_1" in visits["captions self_round_2"].needs

    # A blob is named by its bytes: in one go, the rounds end with the same adapters.
    straight = parameters(place, "straight", "self_dpo.rounds=2")
    last = result(walked(straight, pool), "policy_by_pairs self_round_2")
    assert final_adapters(Lake(straight.run.lake_root), last.ref) == final_adapters(lake, second.ref)


class Recorder:
    """Stands where a flow has its Steps, and notes what it is handed."""

    def __init__(self) -> None:
        self.calls: dict[str, tuple[Any, ...]] = {}

    def __call__(self, stage: Any, *inputs: Any, label: str | None = None, after: Sequence[Any] = (), **_: Any) -> str:
        name = f"{stage.__name__} {label or ''}".rstrip()
        assert name not in self.calls
        self.calls[name] = (*inputs, *after)
        return name


def recorded(place: Place, *overrides: str) -> dict[str, tuple[Any, ...]]:
    p, step = parameters(place, "recorded", *overrides), Recorder()
    shown: Any = type("Shown", (), {"asked": "asked", "seen": "seen"})
    start: Any = Trained("base", merged="sft")  # type: ignore[arg-type]
    last: Any = rounds(step, p, shown, "answered", start, p.arms[0])[-1].learned  # type: ignore[arg-type]
    assert last == f"policy_by_pairs self_round_{p.self_dpo.rounds}"
    return step.calls


def test_the_answers_of_the_first_round_are_shared_unless_rounds_sample_otherwise(place: Place) -> None:
    assert "candidates self_round_1" not in recorded(place)
    calls = recorded(place, "self_dpo.n=3")
    assert [calls[f"candidates self_round_{number}"][0].n for number in (1, 2, 3)] == [3, 3, 3]


def test_an_arm_without_a_narrative_writes_none_and_a_blind_limit_has_its_twin(place: Place) -> None:
    blind = ARM.replace("true", "false")
    calls = recorded(place, f"arms=[{blind}]", "audit.max_blind_agreement=0.9")
    assert not [name for name in calls if name.startswith("captions")]
    assert calls["preferences self_round_2"][3] is None
    twin = calls["preferences self_round_2_blind"]
    assert (twin[0].blind, twin[0].narrative, twin[3]) == (True, False, None)
    assert set(calls["audit self_round_2"][1]) == {"self_round_2", "self_round_2_blind"}
    assert calls["policy_by_pairs self_round_2"][-1] == "audit self_round_2", (
        "labels that break a limit are not learned from"
    )


def test_questions_are_in_view_where_the_narrative_is_written_for_them(place: Place) -> None:
    calls = recorded(place, "self_dpo.narrative.condition_on_question=true")
    config, *_, questions, previous, name = calls["captions self_round_2"]
    assert (config.splits, questions, previous, name) == (("rl",), "asked", "captions self_round_1", "self_round_2")
    assert recorded(place)["captions self_round_1"][3:5] == (None, None)


def test_another_judge_than_the_policy_is_refused(place: Place) -> None:
    other = ARM.replace("likelihood", "verdict").replace("{name", "{judge: human, name")
    with pytest.raises(ValueError, match="in self-DPO the policy judges: use 'local'"):
        recorded(place, f"arms=[{other}]")


def test_a_clip_that_depends_on_the_clip_before_is_refused(place: Place) -> None:
    with pytest.raises(ValueError, match="mode must be independent"):
        parameters(place, "refused", "self_dpo.narrative.mode=dependent")
