"""Supervised fine-tuning on a tiny random checkpoint: learns, resumes to the same bytes, leaves the base alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from journals import FolderJournal, files_of, other_process, outcomes
from tiny import ANSWERS, BASE, LORA, logprobs_of, prompts_of, save_random

from models.sequences import Prompt
from models.settings import Sampling, SftSettings
from models.sft import ADAPTER, Example, train_sft
from models.training import Journal
from models.video_lm import VideoLM

SETTINGS = SftSettings(lora=LORA, steps=5, batch_size=2, rate=1e-2, warmup=2, max_norm=1.0, save_every=2)
LEARN = replace(SETTINGS, steps=100, batch_size=3, save_every=100)
REMEMBERED = ("what is the first shape? it is a circle.", *ANSWERS[1:])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def lm(folder: Path) -> VideoLM:
    return VideoLM.load(str(folder))


def _examples(lm: VideoLM, answers: tuple[str, ...] = ANSWERS) -> list[Example]:
    return [Example(prompt, lm.response_ids(text)) for prompt, text in zip(prompts_of(lm), answers, strict=True)]


def _train(folder: Path, journal: Journal, out: Path, seed: int = 0, settings: SftSettings = SETTINGS) -> None:
    lm = VideoLM.load(str(folder))
    train_sft(lm, _examples(lm), settings, seed, journal)
    lm.save_adapter(ADAPTER, out, base=BASE)


def test_killed_at_any_save_it_ends_with_the_same_adapter(folder: Path, tmp_path: Path) -> None:
    calm, *resumed = outcomes(lambda journal, out: _train(folder, journal, out), tmp_path, saves=3)
    assert set(calm) == {"adapter_config.json", "adapter_model.safetensors"}
    assert len(resumed) == 3
    for files in resumed:
        assert files == calm


def test_the_seed_decides_every_byte(folder: Path, tmp_path: Path) -> None:
    made = []
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        other_process()
        _train(folder, FolderJournal(tmp_path / f"{name}-states"), tmp_path / name, seed)
        made.append(files_of(tmp_path / name)["adapter_model.safetensors"])
    assert made[0] == made[1]
    assert made[0] != made[2]


@pytest.mark.parametrize(("save_every", "saved"), [(2, [2, 4, 5]), (5, [5]), (100, [5])])
def test_the_last_state_is_saved_whatever_the_interval(
    folder: Path, tmp_path: Path, save_every: int, saved: list[int]
) -> None:
    journal = FolderJournal(tmp_path / "states")
    _train(folder, journal, tmp_path / "out", settings=replace(SETTINGS, save_every=save_every))
    assert journal.saved == saved
    assert list(journal.curves) == [1, 2, 3, 4, 5]


def test_a_finished_training_resumes_to_its_end_without_a_step(folder: Path, tmp_path: Path) -> None:
    _train(folder, FolderJournal(tmp_path / "states"), tmp_path / "out")
    again = FolderJournal(tmp_path / "states")
    _train(folder, again, tmp_path / "again")
    assert not again.curves
    assert files_of(tmp_path / "again") == files_of(tmp_path / "out")


@pytest.fixture(scope="module")
def learned(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[VideoLM, list[Prompt], float]:
    """A model that learned three answers by heart; one goes on after a question mark."""
    lm = VideoLM.load(str(folder))
    examples = _examples(lm, REMEMBERED)
    loss = train_sft(lm, examples, LEARN, 0, FolderJournal(tmp_path_factory.mktemp("states")))
    return lm, [example.prompt for example in examples], loss


def test_it_learns_answers_whole_even_past_a_question_mark(learned: tuple[VideoLM, list[Prompt], float]) -> None:
    lm, prompts, loss = learned
    assert loss < 0.2
    answers = lm.generate(prompts, Sampling(temperature=0, max_new_tokens=24))
    assert [answer.text for (answer,) in answers] == list(REMEMBERED)
    assert all(answer.finished for (answer,) in answers)


def test_without_its_adapter_the_model_is_the_base_bit_for_bit(
    folder: Path, learned: tuple[VideoLM, list[Prompt], float]
) -> None:
    lm, _, _ = learned
    with lm.reference():
        assert torch.equal(logprobs_of(lm), logprobs_of(VideoLM.load(str(folder))))


def test_padding_of_a_neighbour_does_not_enter_the_loss(lm: VideoLM, tmp_path: Path) -> None:
    journal = FolderJournal(tmp_path / "states")
    examples = _examples(lm)
    train_sft(lm, examples, replace(SETTINGS, steps=1, batch_size=3), 0, journal)
    with lm.reference(), torch.no_grad():  # a fresh adapter changed nothing at the first step
        alone = torch.cat([lm.logprobs([each.prompt], [each.response])[0][0] for each in examples])
    assert len(alone) == sum(len(each.response) for each in examples)
    assert journal.curves[1]["loss"] == pytest.approx(-alone.mean().item(), abs=1e-5)
