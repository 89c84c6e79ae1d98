"""DPO on a tiny random checkpoint: prefers what was chosen, resumes to the same bytes, leaves the reference alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from journals import FolderJournal, files_of, other_process, outcomes
from tiny import ANSWERS, BASE, LORA, SHAPES, growing_pairs, logprobs_of, prompts_of, save_random

from models.dpo import train_dpo
from models.on_policy import POLICY
from models.pairs import Pair
from models.settings import DpoSettings
from models.training import Journal, TrainingError
from models.video_lm import VideoLM

SETTINGS = DpoSettings(lora=LORA, steps=5, batch_size=3, forward_batch=2, rate=5e-3, warmup=2, save_every=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def lm(folder: Path) -> VideoLM:
    return VideoLM.load(str(folder))


def _train(folder: Path, journal: Journal, out: Path, seed: int = 0, settings: DpoSettings = SETTINGS) -> None:
    lm = VideoLM.load(str(folder))
    train_dpo(lm, growing_pairs(lm), [], settings, seed, journal)
    lm.save_adapter(POLICY, out, base=BASE)


def test_it_comes_to_prefer_the_chosen_where_it_was_not_taught_and_leaves_the_reference(
    folder: Path, lm: VideoLM, tmp_path: Path
) -> None:
    journal = FolderJournal(tmp_path)
    settings = replace(SETTINGS, steps=25, batch_size=6, forward_batch=6, save_every=25)
    taught, unseen = growing_pairs(lm, SHAPES[:2]), growing_pairs(lm, SHAPES[2:], seed=1)
    metrics = train_dpo(lm, taught, unseen, settings, 0, journal)
    assert metrics["held_out_pairs"] == len(unseen)
    assert metrics["held_out_accuracy"] == 1
    assert metrics["held_out_margin"] > 0.5
    assert metrics["held_out_loss"] < journal.curves[1]["loss"]
    first, last = journal.curves[1], journal.curves[25]
    # The adapter begins as the reference: a coin, and nothing has moved.
    assert first["loss"] == pytest.approx(torch.log(torch.tensor(2.0)).item(), abs=1e-6)
    assert first["margin"] == first["shift"] == 0
    assert last["shift"] > 0
    assert last["margin"] == pytest.approx(last["chosen_reward"] - last["rejected_reward"], abs=1e-5)
    assert set(first) > {"accuracy", "gradient_norm", "learning_rate"}
    with lm.reference():
        assert torch.equal(logprobs_of(lm), logprobs_of(VideoLM.load(str(folder))))


def test_killed_at_any_save_it_ends_with_the_same_adapter(folder: Path, tmp_path: Path) -> None:
    calm, *resumed = outcomes(lambda journal, out: _train(folder, journal, out), tmp_path, saves=3)
    assert "adapter_model.safetensors" in calm
    assert len(resumed) == 3
    for files in resumed:
        assert files == calm


def test_the_seed_decides_every_byte(folder: Path, tmp_path: Path) -> None:
    made = []
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        other_process()
        _train(folder, FolderJournal(tmp_path / f"{name}-states"), tmp_path / name, seed)
        made.append(files_of(tmp_path / name))
    assert made[0] == made[1]
    assert made[0]["adapter_model.safetensors"] != made[2]["adapter_model.safetensors"]


@pytest.mark.parametrize(("save_every", "saved"), [(2, [2, 4, 5]), (100, [5])])
def test_the_last_state_is_saved_whatever_the_interval(
    folder: Path, tmp_path: Path, save_every: int, saved: list[int]
) -> None:
    journal = FolderJournal(tmp_path / "states")
    _train(folder, journal, tmp_path / "out", settings=replace(SETTINGS, save_every=save_every))
    assert journal.saved == saved


def test_how_many_pairs_a_forward_pass_takes_changes_nothing_but_the_rounding(folder: Path, tmp_path: Path) -> None:
    curves = []
    for forward_batch in (1, 2, 3, 64):
        journal = FolderJournal(tmp_path / str(forward_batch))
        _train(
            folder, journal, tmp_path / f"{forward_batch}-out", settings=replace(SETTINGS, forward_batch=forward_batch)
        )
        curves.append(journal.curves)
    for other in curves[1:]:
        for step, metrics in curves[0].items():
            assert other[step] == pytest.approx(metrics, abs=1e-3)


def test_by_the_mean_a_longer_answer_weighs_no_more(lm: VideoLM, tmp_path: Path) -> None:
    prompts, answers = prompts_of(lm), [lm.response_ids(text) for text in ANSWERS]
    pairs = [Pair(prompts[0], answers[1], answers[0])]
    settings = replace(SETTINGS, steps=3, batch_size=1, save_every=3, length_normalised=True)
    metrics = train_dpo(lm, pairs, pairs, settings, 0, FolderJournal(tmp_path))
    new, mask = lm.logprobs([prompts[0]] * 2, answers[1::-1])
    with lm.reference():
        old, _ = lm.logprobs([prompts[0]] * 2, answers[1::-1])
    lead = ((new - old) * mask).sum(1) / mask.sum(1)
    assert mask.sum(1)[0] > mask.sum(1)[1]
    assert metrics["held_out_margin"] == pytest.approx(settings.beta * (lead[0] - lead[1]).item(), abs=1e-5)


def test_a_loss_that_is_not_finite_ends_it_and_the_base_stands(folder: Path, lm: VideoLM, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="not finite"):
        train_dpo(lm, growing_pairs(lm), [], replace(SETTINGS, rate=1e30, warmup=0), 0, FolderJournal(tmp_path))
    with lm.reference():
        assert torch.equal(logprobs_of(lm), logprobs_of(VideoLM.load(str(folder))))


@pytest.mark.parametrize("wrong", [{"beta": 0.0}, {"label_smoothing": 0.5}, {"held_out": 1.0}, {"forward_batch": 0}])
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DpoSettings(**wrong)  # type: ignore[arg-type]
