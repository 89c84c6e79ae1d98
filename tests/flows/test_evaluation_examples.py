"""What is written as an example of an evaluation is one: the files of deployments/evaluations, and the ten lines."""

from __future__ import annotations

import re

import pytest
import yaml

import benchmarks.custom
from flows.presets import EVALUATIONS, PROJECT, load_evaluation, names
from tasks.evaluation.config import ScoredBenchmark
from tasks.frames import FrameSet

# Which frames the published scorers or papers show.
WANTED = {
    "mvbench": FrameSet(name="policy", n=16, clips=1, at="mvbench"),
    "zero_shot_qa": FrameSet(name="policy", n=50, clips=1, at="endpoint"),
}


@pytest.mark.parametrize("name", names(EVALUATIONS))
def test_every_example_loads_and_says_how_each_model_answers(name: str) -> None:
    found = load_evaluation(name)
    assert found.models.checkpoints
    for each in found.benchmarks.values():
        assert each.sampling.max_new_tokens >= 1
        assert set(each.files) <= set(each.made.files)
    assert all(endpoint.budget for endpoint in found.asked)
    if name in WANTED:
        assert found.frames.sets == (WANTED[name],)


def test_the_protocol_of_the_paper() -> None:
    found = load_evaluation("zero_shot_qa")
    assert list(found.benchmarks) == ["msvd_qa", "msrvtt_qa", "tgif_qa", "activitynet_qa", "video_chatgpt"]
    for label, each in found.benchmarks.items():
        assert each.benchmark == label
        assert (each.sampling.temperature, each.sampling.max_new_tokens, each.judge) == (0.2, 512, "gpt")
        assert each.video_prefix == ("v_" if label == "activitynet_qa" else "")


def test_subtitles_are_shown_in_one_of_two() -> None:
    plain, subtitled = load_evaluation("videomme").benchmarks.values()
    assert (plain.subtitles, "subtitles" in plain.made.texts, "subtitles" in subtitled.made.texts) == (
        None,
        False,
        True,
    )


@pytest.mark.parametrize("text", [benchmarks.custom.__doc__, (PROJECT / "docs" / "benchmarks.md").read_text()])
def test_the_ten_lines_are_read(text: str) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert len(block.splitlines()) <= 10
    (task,) = yaml.safe_load(block)["benchmarks"].values()
    assert ScoredBenchmark.model_validate(task).made.texts
