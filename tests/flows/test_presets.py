"""Presets: loading, `${project}`, overrides, and what is said about a mistake."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.presets import FOLDER, PROJECT, PresetError, command, load, load_evaluation, names


@pytest.mark.parametrize("name", names())
def test_every_preset_loads(name: str) -> None:
    load(name)


def test_project_stands_for_its_folder() -> None:
    assert load("miniature").models.policy == str(PROJECT / "miniature" / "weights" / "base")


def test_a_file_does_as_well_as_a_name(tmp_path: Path) -> None:
    values = yaml.safe_load((FOLDER / "miniature.yaml").read_text())
    values["run"]["name"] = "mine"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
    assert load(str(tmp_path / "mine.yaml")).run.name == "mine"


def test_overrides_reach_every_depth() -> None:
    overrides = [
        "run.seed=3",
        "data.prepare=null",
        "arms.1.name=other",
        "run.lake=s3://bucket/lake",
        "frames.sets.0.n=5",
    ]
    found = load("miniature", overrides)
    assert (found.run.seed, found.data.prepare, found.arms[1].name, found.run.lake_root, found.frames.sets[0].n) == (
        3,
        None,
        "other",
        "s3://bucket/lake",
        5,
    )


def test_sections_that_no_arm_needs_may_name_what_is_not_there() -> None:
    """A preset from before there were routes has no such sections, and frame sets of its own names."""
    given = load("miniature", ["grpo.frame_set=eyes", "self_dpo.frame_set=eyes"])
    assert given.grpo.frame_set == "eyes"
    ranks = "{name: r, route: grpo_rank, narrative: true, frame_set: judge_2, method: likelihood}"
    with pytest.raises(PresetError, match="grpo: frame_set 'eyes' is none of"):
        load("miniature", ["grpo.frame_set=eyes", f"arms=[{ranks}]"])
    with pytest.raises(PresetError, match="a tournament needs every pair"):
        load("miniature", ["preferences.max_pairs=2", f"arms=[{ranks}]"])


def test_a_captioner_that_takes_more_frames_may_be_given_them() -> None:
    assert load("miniature", ["frames.sets.3.n=21", "captions.max_frames=21"]).frames.sets[3].n == 21


def test_narratives_for_questions_are_written_for_all_that_is_judged() -> None:
    asked = ["captions.condition_on_question=true", "captions.splits=[rl]"]
    with pytest.raises(PresetError, match=r"captions\.splits lacks benchmark: candidates"):
        load("miniature", asked)
    assert load("miniature", [*asked, "agreement.conditions=[]"]).captions.splits == ("rl",)
    assert load("miniature", asked[:1]).captions.splits == ("rl", "benchmark")


def test_the_command_reproduces_an_evaluation() -> None:
    one = {"benchmark": "nextqa", "files": {"": "val.csv"}, "videos": "videos", "limit": 20}
    for overrides in (["run.name=night", "benchmarks.scenes.limit=5"], [f"benchmarks={json.dumps({'mine': one})}"]):
        given = load_evaluation("miniature", [*overrides, "prepare=null"])
        rlaif, evaluate, option, preset, *said = shlex.split(command(given))
        assert (rlaif, evaluate, option, preset) == ("rlaif", "evaluate", "--preset", "miniature")
        assert load_evaluation(preset, said) == given
    assert said == ["benchmarks=" + said[0].partition("=")[2], "prepare=null"], "and nothing that is the preset's"


def test_the_command_reproduces_the_parameters() -> None:
    overrides = ["run.name=other", "arms.1.method=verdict", "data.prepare=null", "captions.prompt=what's this?"]
    given = load("miniature", overrides)
    rlaif, run, option, preset, *said = shlex.split(command(given))
    assert (rlaif, run, option) == ("rlaif", "run", "--preset")
    assert len(said) == len(overrides)
    assert load(preset, said) == given


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("run.nmae=x", "run.nmae: unknown key, did you mean 'name'"),
        ("rum.name=x", "rum: unknown key, did you mean 'run'"),
        ("frames.sets.0.clip=2", "frames.sets.0.clip: unknown key, did you mean 'clips'"),
        ("data.prepare.calls=x", "data.prepare.calls: unknown key, did you mean 'call'"),
        ("candidates.sampling.temprature=1", "did you mean 'temperature'"),
        ("run.seed=many", "run.seed: Input should be a valid integer"),
        ("run.name=two words", "run.name: String should match"),
        ("arms.0.frame_set=judge", "frame_set 'judge' is none of frames.sets"),
        (
            "arms.0={name: r, route: grpo_rank, narrative: true, frame_set: judge_2, method: verdict, judge: human}",
            "arm 'r': route grpo_rank judges again and again while it trains: set judge to local",
        ),
        (
            "arms.0={name: r, route: grpo_rank, narrative: no, frame_set: judge_2, method: verdict, label_noise: 0.1}",
            "arm 'r': route grpo_rank learns from orders, not from labels: leave label_noise out",
        ),
        (
            "arms.0={name: r, route: self_dpo, narrative: true, frame_set: judge_2, method: likelihood, judge: self}",
            "arm 'r': route self_dpo judges again and again while it trains: set judge to local and blind to false",
        ),
        ("arms.0.label_noise=0.7", "arms.0.label_noise: Input should be less than or equal to 0.5"),
        ("arms.0.route=dpo", "arms.0.route"),
        ("arms.0.name=ppo_no_context", "names of arms and agreement.conditions must differ"),
        ("frames.sets.3.n=21", "clip of frame set 'clips' has 21 frames, more than captions.max_frames 20"),
        ("captions.prompts.next=go on", "captions.prompts.next: Prompt text 'go on' needs the placeholders {previous}"),
        ("arms.9.name=x", "entries 0 to 1"),
        ("run.seed.more=1", "stands the value 0"),
        ("run.seed", "must read section.key=value"),
    ],
)
def test_a_mistake_is_named(override: str, said: str) -> None:
    with pytest.raises(PresetError) as caught:
        load("miniature", [override])
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["run.gpus_per_worker=0"], "models.device is cuda, and run.gpus_per_worker 0 hides the GPUs"),
        (["models.device=gpu0"], "models.device: String should match pattern"),
        (["models.device=cpu", "models.quantization=nf4"], "nf4 needs CUDA, and models.device is cpu"),
        (["models.dtype=float16"], "models.dtype float16 cannot be trained in"),
        (["candidates.engine=vllm", "models.quantization=nf4"], "candidates.engine vllm takes the language model's"),
        (
            ["ppo.training.engine=vllm", "run.training_workers=8", "run.strategy=zero3"],
            "ppo.training.engine vllm takes the language model's weights whole",
        ),
        (["sft.training.lora.modules='(('"], "modules '((' is no regular expression"),
    ],
)
def test_what_no_machine_could_run_is_refused_when_it_is_read(overrides: list[str], said: str) -> None:
    with pytest.raises(PresetError) as caught:
        load("vlm_rlaif_7b", overrides)
    assert said in str(caught.value)
    assert load("vlm_rlaif_7b", ["models.device=cuda:0", "candidates.engine=vllm", "run.strategy=ddp"])


def test_an_unknown_preset_is_answered_with_the_nearest() -> None:
    with pytest.raises(PresetError, match="did you mean 'miniature'"):
        load("minature")


def test_a_missing_section_is_named(tmp_path: Path) -> None:
    (tmp_path / "half.yaml").write_text("run: {name: half}")
    with pytest.raises(PresetError, match="models: is missing"):
        load(str(tmp_path / "half.yaml"))


def test_a_list_is_no_preset(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(PresetError, match="must hold sections"):
        load(str(tmp_path / "list.yaml"))


SOURCES = ("code", "paper", "data", "vlm", "hound", "ours")
OF_REAL_MODELS = ("vlm_rlaif_7b", "oracle_rlaif_7b", "self_dpo_7b", "qwen2_5_vl_3b", "smolvlm2")


@pytest.mark.parametrize("name", OF_REAL_MODELS)
def test_presets_of_real_models_take_the_users_places(name: str) -> None:
    own = ["data.videos=/mine/videos", "data.rl=/mine/rl.json", "models.policy=/mine/model", "run.workers=3"]
    own += ["run.training_workers=3"] if load(name).run.training_workers > 1 else []
    given = load(name, own)
    assert (given.data.videos, given.data.rl, given.models.policy, given.run.workers) == (
        "/mine/videos",
        "/mine/rl.json",
        "/mine/model",
        3,
    )
    _, _, _, preset, *said = shlex.split(command(given))
    assert preset == name, "the command of a run names its own preset"
    assert sorted(said) == sorted(own)


@pytest.mark.parametrize("name", ["vlm_rlaif_7b", "oracle_rlaif_7b", "self_dpo_7b"])
def test_all_gpus_of_a_preset_train_and_have_a_pass_in_every_step(name: str) -> None:
    p = load(name)
    assert p.run.training_workers == p.run.workers > 1
    of_route: dict[str, list[Any]] = {"ppo": [p.reward, p.ppo], "grpo_rank": [p.grpo], "self_dpo": [p.self_dpo]}
    for section in [p.sft, *of_route[p.arms[0].route]]:
        training: Any = section.training
        step = training.minibatch if hasattr(training, "minibatch") else training.batch_size
        assert step % (training.forward_batch * p.run.training_workers) == 0, "each has as many passes"


def sourceless(text: str) -> list[str]:
    """Lines with a number whose comment, or that of a section around them, names no source."""
    around: dict[int, bool] = {}
    found = []
    for line in text.splitlines():
        value, _, comment = line.partition("#")
        depth = len(line) - len(line.lstrip())
        around = {indent: told for indent, told in around.items() if indent < depth}
        told = any(around.values()) or any(source in comment for source in SOURCES)
        around[depth] = told
        if not told and any(character.isdecimal() for character in value.partition(":")[2]):
            found.append(line)
    return found


@pytest.mark.parametrize("name", ["vlm_rlaif_7b", "oracle_rlaif_7b", "self_dpo_7b"])
def test_every_number_of_a_published_preset_says_where_it_comes_from(name: str) -> None:
    """One without a source would pass for a published one."""
    text = (FOLDER / f"{name}.yaml").read_text()
    settings = text[text.index("\nframes:") :]
    assert sourceless(settings) == []
    assert sourceless(settings.replace("# ours", "#")), "what it looks for is there to be found"


def test_vlm_rlaif_has_the_published_values() -> None:
    """Those that decide what is learned, against the facts as they were read in the scripts."""
    p = load("vlm_rlaif_7b")
    ppo, reward, sft = p.ppo.training, p.reward.training, p.sft.training
    assert {(each.lora.rank, each.lora.alpha) for each in (ppo, reward, sft)} == {(64, 16)}
    assert (ppo.prompts, ppo.minibatch, ppo.epochs, ppo.samples, ppo.iterations) == (256, 128, 2, 1, 99_000 // 256 + 1)
    assert (ppo.rate, ppo.value_rate, ppo.kl_coef, ppo.kl_estimator) == (3e-5, 3e-5, 0.1, "k1_clamped")
    assert (ppo.gamma, ppo.lam, ppo.clip, ppo.value_clip, ppo.max_norm) == (1, 1, 0.2, 0.2, 1)
    assert (ppo.unfinished_penalty, ppo.length_penalty, ppo.reward_scale) == (-8, -10, 10)
    assert (ppo.sampling.temperature, ppo.sampling.max_new_tokens) == (1.0, 896)
    assert (reward.batch_size, reward.rate, reward.centering, reward.form.rm_context) == (16, 2e-5, 1e-3, "none")
    assert (sft.batch_size, sft.rate) == (128, 1e-4)
    assert [(each.n, each.clips, each.at) for each in p.frames.sets if each.name == "policy"] == [(50, 1, "endpoint")]
    assert p.models.reward is not None
    assert "13b" in p.models.reward
