"""Plans of models that are not here: by arithmetic, told as that, with every assumption beside them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import flows.shapes
from flows.cli import app
from flows.plan_command import not_here
from flows.plan_computed import compute_plan, gpu_memory, lake_gib
from flows.presets import load
from flows.rlaif import figure
from flows.shapes import TABLE, ShapeError, shape_of
from flows.sketch import Sketch
from models.shape import ModelShape
from tasks.plan import Line, Plan
from tasks.plan_costs import CARDS, AssumptionError, Assumptions, Costs

CONFIGS = yaml.safe_load(TABLE.read_text())
CARD_OF = {
    "qwen2_5_vl_3b": "rtx-4090",
    "smolvlm2": "cpu",
    "self_dpo_7b": "a100-80",
    "oracle_rlaif_7b": "h100",
    "vlm_rlaif_7b": "a100-80",
}
PRESETS = tuple(CARD_OF)
H100 = Assumptions(card="h100")


def known(name: str) -> ModelShape:
    return ModelShape.of(name, CONFIGS[name], "the table")


def planned(preset: str, *overrides: str, assumed: Assumptions = H100, **counts: int) -> Plan:
    return compute_plan(load(preset, overrides), assumed, counts, shapes=known)


def line(made: Plan, name: str) -> Line:
    (found,) = (each for each in made.lines if each.name == name)
    return found


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: str, tried: list[str]) -> None:
        tried.append("the Hub does not give its config.json (a test)")

    monkeypatch.setattr(flows.shapes, "_from_hub", refused)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_priced_without_a_weight(preset: str) -> None:
    made = planned(preset)
    arm = load(preset).arms[0].name
    model_stages = [each for each in made.lines if not each.name.startswith(("videos", "instructions", "audit"))]
    assert all(each.seconds for each in model_stages), [each.name for each in model_stages if not each.seconds]
    assert f"benchmark {arm}" in {each.name for each in made.lines}
    assert made.wall_seconds > 0
    assert any("not measured" in note for note in made.notes)
    assert any("utilisation=0.35" in note and "card=h100" in note for note in made.notes)


@pytest.mark.parametrize("preset", CARD_OF)
def test_presets_fit_the_cards_that_they_are_for(preset: str) -> None:
    card = CARD_OF[preset]
    stage, gib = gpu_memory(load(preset), Assumptions(card=card), known)
    assert gib < CARDS[card].gib, stage


@pytest.mark.parametrize("preset", PRESETS)
def test_adapters_of_a_preset_stand_on_layers_of_its_language_model(preset: str) -> None:
    """A pattern that fits nothing trains nothing; one that fits the tower would make kept visual tokens wrong."""
    p, shape = load(preset), known(load(preset).models.policy)
    of_route = {"ppo": [p.reward, p.ppo], "grpo": [p.reward, p.grpo], "grpo_rank": [p.grpo], "self_dpo": [p.self_dpo]}
    for section in [p.sft, *of_route[p.arms[0].route]]:
        pattern = section.training.lora.modules  # type: ignore[attr-defined]
        layers = [key for key in shape.linear if re.fullmatch(pattern, key)]
        assert len(layers) == 7 * shape.layers
        assert not any("vis" in key for key in layers)


def test_the_sketch_has_the_stages_of_the_graph() -> None:
    sketch = Sketch()
    figure(sketch, load("miniature", ["agreement.conditions=[]"]))  # type: ignore[arg-type]
    names = [seen.name for seen, _ in sketch.visits]
    assert names[:3] == ["videos", "frames", "instructions"]
    assert len(set(names)) == len(names)
    seen, given = next(each for each in sketch.visits if each[0].name == "policy ppo_context")
    assert "reward_model ppo_context" in seen.needs
    assert given["config"].training.iterations == 60


def test_work_grows_with_what_causes_it() -> None:
    usual = planned("qwen2_5_vl_3b", rl=4000, videos=500)
    name = "policy_by_rewards grpo_context"
    twice = planned("qwen2_5_vl_3b", "grpo.training.iterations=400", rl=4000, videos=500)
    assert line(twice, name).seconds == pytest.approx(2 * (line(usual, name).seconds or 0))
    assert line(twice, "sft") == line(usual, "sft")
    more = planned("qwen2_5_vl_3b", rl=4000, videos=1000)
    assert line(more, "captions").calls == 2 * (line(usual, "captions").calls or 0)
    slow = planned("qwen2_5_vl_3b", rl=4000, videos=500, assumed=replace(H100, utilisation=0.175))
    assert line(slow, "sft").seconds == pytest.approx(2 * (line(usual, "sft").seconds or 0))
    lower = planned("qwen2_5_vl_3b", "sft.training.forward_batch=4")
    assert (line(lower, "sft").memory_mib or 0) > (line(usual, "sft").memory_mib or 0)


def test_trainings_are_shared_by_their_workers_and_the_plan_says_what_that_assumes() -> None:
    alone, shared = (planned("vlm_rlaif_7b", f"run.training_workers={number}") for number in (1, 8))
    for name in ("sft", "reward_model ppo_context", "policy ppo_context"):
        one, eight = line(alone, name), line(shared, name)
        assert eight.seconds == one.seconds, "worker time is what all of them take together"
        assert eight.wall_seconds == pytest.approx((one.wall_seconds or 0) / 8)
    assert shared.wall_seconds < 0.5 * alone.wall_seconds
    assert any("on 8 workers is assumed to be 8 times as fast as on one" in note for note in shared.notes)
    assert not any("is assumed to be" in note for note in alone.notes)


def test_checkpointing_trades_memory_for_time() -> None:
    costs = Costs(known("llava-hf/llava-1.5-7b-hf"), H100, "bfloat16")
    plain, again = (costs.learn(1, 1500, 100, 8, 10**8, again=each) for each in (False, True))
    assert again.memory < plain.memory / 2
    assert again.seconds == pytest.approx(1.5 * plain.seconds)


def test_what_does_not_fit_is_said_beside_its_stage() -> None:
    made = planned("vlm_rlaif_7b", assumed=Assumptions(card="l4"))
    assert "of the 24 GiB of l4" in (line(made, "policy ppo_context").note or "")


def test_the_lakes_disk_grows_with_the_videos() -> None:
    p = load("qwen2_5_vl_3b")
    small, large = (lake_gib(load("qwen2_5_vl_3b", [f"candidates.limit={each}"]), H100, known) for each in (4000, 9000))
    assert 0 < small < large
    assert p.candidates.limit == 4000


def test_assumptions_are_checked() -> None:
    assert Assumptions().with_values(["card=l4", "answer_tokens=50"]).answer_tokens == 50
    for wrong, said in (
        ("gpu=l4", "must read name=value; names: card, utilisation"),
        ("utilisation=much", "'much' is no float"),
        ("utilisation=2", "shares at most 1"),
        ("card=tpu", "The card 'tpu' is not known; known: a100-40"),
    ):
        with pytest.raises(AssumptionError, match=said):
            Assumptions().with_values([wrong])


@pytest.mark.usefixtures("no_hub")
def test_a_model_of_unknown_size_is_named_with_what_to_do() -> None:
    with pytest.raises(ShapeError, match=r"How large 'own/model' is cannot be told: there is no own/model/config"):
        shape_of("own/model")
    with pytest.raises(ShapeError, match=r"the Hub does not give its config\.json.*add its configuration to .*shapes"):
        compute_plan(load("own", ["models.policy=own/model"]), H100)
    assert "shapes.yaml, since there is no" in shape_of("Qwen/Qwen2.5-VL-3B-Instruct").source


def test_a_folder_counts_before_the_table() -> None:
    base = load("miniature").models.policy
    assert shape_of(base).source == str(Path(base) / "config.json")
    assert list(not_here(load("miniature"))) == []


@pytest.mark.usefixtures("no_hub")
def test_the_command_computes_where_models_are_not_here_and_says_so_first(tmp_path: Path) -> None:
    asked = ["plan", "--preset", "smolvlm2", f"run.folder={tmp_path}", "--price-per-hour", "2"]
    done = CliRunner().invoke(
        app, [*asked, "--assume", "rl=300", "--assume", "answer_tokens=40"], env={"COLUMNS": "200"}
    )
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert said.startswith("COMPUTED, not measured. Not on this machine: the weights of HuggingFaceTB/SmolVLM2-256M")
    assert "300 rl" in said
    assert "answer_tokens=40" in said
    assert "Money: about" in said
    assert list(tmp_path.iterdir()) == [], "it leaves nothing that a report would take for measured"
    with pytest.raises(AssumptionError, match="'rl=many': 'many' is no int"):
        CliRunner().invoke(app, [*asked, "--assume", "rl=many"], catch_exceptions=False)
    wrong = CliRunner().invoke(app, ["plan", "--preset", "smolvlm2", "--measured", "--assume", "rl=3"])
    assert wrong.exit_code == 2
    assert "add --computed" in wrong.output
