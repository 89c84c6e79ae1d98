"""What every labelling begins with, as far as the stages' inputs go."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.material import check_engines, check_four_bits, material
from flows.presets import load
from flows.rlaif import figure
from flows.steps import Trained
from models.human_judge import Person
from tasks.progress import SilentProgress


class Recorder:
    """In the place of Steps: keeps what each stage is handed, and gives its name as its result."""

    def __init__(self) -> None:
        self.ctx = SimpleNamespace(progress=SilentProgress(), looks_only=False)
        self.handed: dict[str, tuple[Any, ...]] = {}

    def __call__(self, stage: Any, *inputs: Any, **named: Any) -> str:  # noqa: ARG002 - labels do not matter here
        self.handed[stage.__name__] = inputs
        return str(stage.__name__)


@pytest.mark.parametrize("by_question", [False, True])
def test_captions_read_the_questions_only_where_they_are_in_view(by_question: bool) -> None:
    parameters = load("miniature", [f"captions.condition_on_question={str(by_question).lower()}"])
    step = Recorder()
    material(step, parameters)  # type: ignore[arg-type]
    config, tokens, _, *questions = step.handed["captions"]
    assert (config, tokens) == (parameters.captions, "visual_tokens")
    assert questions == (["instructions"] if by_question else [])


def test_people_are_handed_the_frames() -> None:
    arm = "arms=[{name: people, narrative: true, frame_set: judge_2, method: verdict, judge: human}]"
    parameters = load("miniature", [arm])
    shown = material(Recorder(), parameters)  # type: ignore[arg-type]
    start = Trained(shown.base)
    assert shown.judge(parameters.judging(parameters.arms[0]), start) == ("frames", "captions", Person())


def test_a_policy_that_judges_itself_reads_the_labelers_narratives() -> None:
    parameters = load("miniature", ["arms.0.judge=self"])
    step = Recorder()
    shown = replace(material(step, parameters), seen_by_labeler="other eyes")  # type: ignore[arg-type]
    start = Trained(shown.base)
    own, labelers = (shown.judge(parameters.judging(arm), start) for arm in parameters.arms)
    assert own == ("visual_tokens", "captions", start)
    assert labelers == ("other eyes", "captions", shown.labeler)


def test_a_policy_that_ranks_itself_is_handed_over_as_the_ranker() -> None:
    parameters = load("miniature", ["arms.0.judge=self", "arms.0.route=grpo_rank"])
    step = Recorder()
    figure(step, parameters)  # type: ignore[arg-type]
    _, way, ranker, seen, narrated, *_ = step.handed["policy_by_ranks"]
    assert (way.judge, seen, narrated) == ("self", "visual_tokens", "captions")
    assert ranker == Trained(ranker.base, merged="sft")


def test_an_engine_that_cannot_draw_for_the_model_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    for section in ("candidates", "ppo.training"):
        parameters = load("miniature", [f"{section}.engine=vllm"])
        with pytest.raises(ValueError, match=rf"^{section}\.engine 'vllm' cannot draw.*Set it to transformers"):
            check_engines(parameters, str(tmp_path))
        monkeypatch.setattr("flows.material.find_spec", lambda _: None)
        with pytest.raises(ValueError, match=rf"^{section}\.engine 'vllm' is not installed: pip install"):
            check_engines(parameters, parameters.models.policy)
        monkeypatch.setattr("flows.material.find_spec", lambda _: object())
        check_engines(parameters, parameters.models.policy)
    check_engines(load("miniature"), str(tmp_path))


def test_four_bits_without_what_rounds_them_are_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    models = load("oracle_rlaif_7b").models
    monkeypatch.setattr("flows.material.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"^models\.quantization 'nf4' needs bitsandbytes.*pip install bitsandbytes"):
        check_four_bits(models)
    check_four_bits(models.model_copy(update={"quantization": "none"}))
    monkeypatch.setattr("flows.material.find_spec", lambda _: object())
    check_four_bits(models)
