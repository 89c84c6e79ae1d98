"""Checkpoints of an evaluation that a run trained: what they resolve to, and that their own adapters answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from small import BASE, base_model, rows_of, small_run
from toy_benchmark import answered, looked_at, world
from trained_lake import TrainedLake, finish, kept_reward, trained_lake

from models.settings import RewardForm
from storage.lake import Lake
from tasks.evaluation.checkpoints import Checkpoint
from tasks.evaluation.reward_ref import RewardRef
from tasks.fanout import WorkerPool
from tasks.model_ref import ModelRef
from tasks.tokens import VisualTokens
from tasks.trained import AdapterError


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedLake:
    return trained_lake(tmp_path_factory.mktemp("trained") / "lake")


def checkpoint(trained: TrainedLake, **about: str) -> Checkpoint:
    given = {"name": "tuned", "model": str(BASE), "lake": trained.lake.root, **about}
    return Checkpoint.model_validate(given)


@pytest.mark.usefixtures("toy")
def test_an_adapter_that_a_run_trained_answers(pool: WorkerPool, trained: TrainedLake, tmp_path: Path) -> None:
    ctx, made = small_run(pool, tmp_path / "lake"), world(tmp_path / "world")
    tuned = checkpoint(trained, arm="context").resolve(ctx.lake, {})
    assert tuned == trained.tuned
    rows = [{**row, "options": [row["answer"], "no"]} for row in made.questions()]
    seen = looked_at(ctx, made.scored(rows), base_model())
    scores = {}
    for name, model in {"base": base_model(), "tuned": tuned}.items():
        assert isinstance(model, ModelRef)
        assert model.tower == base_model().tower, "both read the same visual tokens"
        found = rows_of(ctx.lake, answered(ctx, seen, model, name))
        scores[name] = {item: row["scores"] for item, (row,) in found.items()}
    # The evaluation's own lake has the adapters now: the model is loaded from there, and says the same as elsewhere.
    kept, lm = VisualTokens(ctx.lake, seen.tokens.ref), trained.tuned.load(trained.lake)
    for row in rows:
        prompt = lm.prompt(row["questions"][0], kept.frames(f"{row['video']}.mp4", "policy"))
        alone = [float(lm.logprobs([prompt], [lm.response_ids(each)])[0].double().sum()) for each in row["options"]]
        assert scores["tuned"][row["id"]] == pytest.approx(alone, abs=1e-3)
        assert scores["base"][row["id"]] != pytest.approx(alone, abs=0.05)


def test_each_role_is_found(trained: TrainedLake, tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    sft = checkpoint(trained, role="sft").resolve(lake, {"device": "cpu"})
    assert sft == replace(base_model(), adapter=trained.sft)
    assert checkpoint(trained, role="policy").resolve(lake, {}) == trained.tuned
    reward = checkpoint(trained, role="reward").resolve(lake, {})
    assert reward == RewardRef(replace(base_model(), merged=(trained.sft,)), trained.reward)
    assert reward.load(lake).form == RewardForm()
    assert Checkpoint(name="plain", model=str(BASE)).resolve(lake, {}) == base_model()


def test_what_cannot_be_scored_says_why(trained: TrainedLake, tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    with pytest.raises(ValueError, match="Checkpoint tuned: give its model, or the lake"):
        Checkpoint(name="tuned").resolve(lake, {})
    with pytest.raises(AdapterError, match="holds no policy adapter of arm 'blind'"):
        checkpoint(trained, arm="blind").resolve(lake, {})
    form = RewardForm(rm_context="narrative")
    told = Lake(tmp_path / "told")
    finish(told, base_model(), "reward", "told", kept_reward(told, base_model(), form))
    reader = Checkpoint(name="reader", model=str(BASE), lake=told.root, role="reward")
    with pytest.raises(ValueError, match="Checkpoint reader: this reward model reads the narrative of a video"):
        reader.resolve(lake, {})
