"""PPO on a tiny random checkpoint: resumes to the same bytes, counts no padding, stops when it cannot be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from journals import FolderJournal, files_of, other_process, outcomes
from tiny import BASE, LORA, logprobs_of, prompts_of, save_random, scorer_of, shake
from torch import Tensor

from models.batches import Limits
from models.losses import policy_loss, value_loss
from models.on_policy import POLICY
from models.parallel import ALONE, Team
from models.ppo import REWARD, VALUE, Ppo, Rollout, train_ppo
from models.reward_model import RewardModel, RewardPrompt
from models.settings import LoraSettings, PpoSettings, RewardForm, Sampling
from models.training import Journal, Metrics, TrainingError
from models.video_lm import VideoLM

SETTINGS = PpoSettings(
    lora=LORA,
    sampling=Sampling(max_new_tokens=8),
    iterations=3,
    prompts=2,
    samples=2,
    minibatch=2,
    forward_batch=3,
    rate=5e-3,
    value_rate=5e-3,
    warmup=1,
    final_rate=0.1,
    save_every=1,
)
TRUTH = "a red circle grows."
NUMBERS = [0, 1, 2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random(tmp_path_factory.mktemp("models") / "tiny")


def _reward(lm: VideoLM, kind: str = "head") -> RewardModel:
    """A reward model with a taste of its own, and a shape that is not the policy's."""
    lm.add_adapter(REWARD, LoraSettings(rank=2, alpha=6), seed=9)
    reward = RewardModel(lm, RewardForm(kind="head" if kind == "head" else "likelihood", prompt=""))
    shake(lm.adapter_parameters(REWARD).values(), seed=10, scale=0.2)
    shake(reward.head.parameters(), seed=11, scale=0.5)
    return reward


@pytest.fixture
def ppo(folder: Path) -> Ppo:
    """PPO at its first iteration; value head and policy already off zero, so that every part shows."""
    lm = VideoLM.load(str(folder))
    ppo = Ppo(lm, scorer_of(_reward(lm)), SETTINGS, seed=0)
    shake(ppo.value_head.parameters(), seed=12, scale=0.5)
    shake(lm.adapter_parameters(POLICY).values(), seed=13, scale=0.1)
    return ppo


def _train(folder: Path, journal: Journal, out: Path, seed: int = 0, settings: PpoSettings = SETTINGS) -> None:
    lm = VideoLM.load(str(folder))
    ppo = train_ppo(lm, scorer_of(_reward(lm, "likelihood")), prompts_of(lm), settings, seed, journal)
    for name in (POLICY, VALUE, REWARD):
        ppo.lm.save_adapter(name, out / name, base=BASE)


def test_killed_at_any_save_it_ends_with_the_same_adapters(folder: Path, tmp_path: Path) -> None:
    calm, *resumed = outcomes(lambda journal, out: _train(folder, journal, out), tmp_path, saves=3)
    assert {f"{name}/adapter_model.safetensors" for name in (POLICY, VALUE, REWARD)} < set(calm)
    assert len(resumed) == 3
    for files in resumed:
        assert files == calm


def test_the_seed_decides_every_byte(folder: Path, tmp_path: Path) -> None:
    made = []
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        other_process()
        journal = FolderJournal(tmp_path / f"{name}-states")
        _train(folder, journal, tmp_path / name, seed, replace(SETTINGS, iterations=2))
        made.append(files_of(tmp_path / name))
    assert made[0] == made[1]
    for name in (POLICY, VALUE):
        assert made[0][f"{name}/adapter_model.safetensors"] != made[2][f"{name}/adapter_model.safetensors"]


@pytest.mark.parametrize(("save_every", "saved"), [(2, [2, 3]), (100, [3])])
def test_the_last_state_is_saved_whatever_the_interval(
    folder: Path, tmp_path: Path, save_every: int, saved: list[int]
) -> None:
    journal = FolderJournal(tmp_path / "states")
    _train(folder, journal, tmp_path / "out", settings=replace(SETTINGS, save_every=save_every, epochs=1))
    assert journal.saved == saved
    assert list(journal.curves) == [1, 2, 3]


def test_only_policy_and_value_learn_and_without_them_the_model_is_the_base(folder: Path, tmp_path: Path) -> None:
    lm = VideoLM.load(str(folder))
    reward = _reward(lm)
    before = {name: value.clone() for name, value in lm.core.named_parameters()}
    head = reward.head.weight.detach().clone()
    train_ppo(lm, scorer_of(reward), prompts_of(lm), SETTINGS, 0, FolderJournal(tmp_path))
    changed = {name for name, value in lm.core.named_parameters() if not torch.equal(value, before.get(name, value))}
    assert not changed
    assert torch.equal(reward.head.weight, head)
    for name in (POLICY, VALUE):
        assert any(value.any() for key, value in lm.adapter_parameters(name).items() if "lora_B" in key)
    with lm.reference():
        assert torch.equal(logprobs_of(lm), logprobs_of(VideoLM.load(str(folder))))


def test_the_critic_starts_as_the_reward_adapter_with_a_silent_head(folder: Path) -> None:
    lm = VideoLM.load(str(folder))
    ppo = Ppo(lm, scorer_of(_reward(lm)), SETTINGS, seed=0)
    judged = lm.adapter_parameters(REWARD)
    copied = {key.replace(f".{VALUE}.", f".{REWARD}."): value for key, value in lm.adapter_parameters(VALUE).items()}
    assert copied.keys() == judged.keys()
    assert all(torch.equal(copied[key], judged[key]) for key in judged)
    assert any(value.any() for key, value in judged.items() if "lora_B" in key)
    rollout, _ = ppo.rollout(prompts_of(lm), 0, NUMBERS)
    assert not rollout.values.any()


def test_a_first_rollout_has_no_kl_and_agrees_with_training(folder: Path) -> None:
    lm = VideoLM.load(str(folder))
    _, metrics = Ppo(lm, scorer_of(_reward(lm)), SETTINGS, seed=0).rollout(prompts_of(lm), 0, NUMBERS)
    assert metrics["kl"] == 0
    assert metrics["rollout_gap"] < 1e-4
    assert metrics["reward"] == pytest.approx(0, abs=1e-5)  # normalised by this very rollout


def test_rewards_are_measured_by_the_first_rollout(ppo: Ppo) -> None:
    prompts = prompts_of(ppo.lm)
    _, first = ppo.rollout(prompts, 0, NUMBERS)
    kept = dict(ppo.trainer.numbers)
    shake(ppo.lm.adapter_parameters(POLICY).values(), seed=14, scale=0.1)
    _, second = ppo.rollout(prompts, 1, NUMBERS)
    assert ppo.trainer.numbers == kept
    assert kept["reward_mean"] == pytest.approx(first["reward_raw"])
    expected = (second["reward_raw"] - kept["reward_mean"]) / kept["reward_deviation"]
    assert second["reward"] == pytest.approx(expected, abs=1e-5)
    assert abs(second["reward"]) > 0.01


class LikesRed(RewardModel):
    """Counts how often an answer says red."""

    def score_all(
        self,
        prompts: Sequence[RewardPrompt],
        responses: Sequence[Sequence[int]],
        limits: Limits,
        team: Team = ALONE,  # noqa: ARG002
    ) -> Tensor:
        assert len(prompts) == len(responses)
        assert limits == Limits(24)
        red = self.lm.response_ids("red")[0]
        return torch.tensor([float(list(response).count(red)) for response in responses])


def test_the_policy_finds_what_is_rewarded(folder: Path, tmp_path: Path) -> None:
    lm = VideoLM.load(str(folder))
    reward = LikesRed(lm, _reward(lm).form)
    settings = replace(SETTINGS, iterations=7, prompts=3, samples=8, minibatch=12, forward_batch=24, kl_coef=0.0)
    journal = FolderJournal(tmp_path)
    train_ppo(lm, scorer_of(reward), prompts_of(lm), settings, 0, journal)
    said = [metrics["reward_raw"] for metrics in journal.curves.values()]
    assert said[0] < 0.3
    assert said[-1] > 1.5  # times an answer
    assert journal.curves[7]["kl"] > journal.curves[1]["kl"] == 0
    assert max(metrics["rollout_gap"] for metrics in journal.curves.values()) < 1e-4


def test_the_critic_learns_the_returns(folder: Path) -> None:
    lm = VideoLM.load(str(folder))
    settings = replace(SETTINGS, epochs=12, minibatch=24, value_rate=1e-3, value_clip=float("inf"))
    ppo = Ppo(lm, scorer_of(_reward(lm)), replace(settings, samples=8), seed=0)
    rollout, _ = ppo.rollout(prompts_of(lm), 0, NUMBERS)
    over_epochs = ppo.update(rollout, rng_seed=0)["value_loss"]
    ppo.settings = replace(settings, epochs=1)
    assert ppo.update(rollout, rng_seed=0)["value_loss"] < 0.95 * over_epochs


def test_answers_go_on_after_a_question_mark(ppo: Ppo) -> None:
    lm = ppo.lm
    mark, end = lm.tokenizer.convert_tokens_to_ids("?"), lm.tokenizer.eos_token_id
    rollout, _ = ppo.rollout(prompts_of(lm) * 8, 0, NUMBERS * 8)
    asking = [row for row, response in enumerate(rollout.responses) if mark in response.ids]
    assert asking
    for row in asking:
        ids = rollout.responses[row].ids
        assert ids[-1] == end or len(ids) == SETTINGS.sampling.max_new_tokens
        assert int(rollout.mask[row].sum()) == len(ids)
    assert any(rollout.responses[row].text.partition("?")[2].strip() for row in asking)


def _lengths(rollout: Rollout) -> list[int]:
    lengths = [len(response.ids) for response in rollout.responses]
    assert len(set(lengths)) > 1, "answers of one length would prove nothing about padding"
    return lengths


def test_rollout_values_do_not_depend_on_who_shares_the_forward(ppo: Ppo) -> None:
    prompts = prompts_of(ppo.lm) * 4
    together, metrics = ppo.rollout(prompts, 0, NUMBERS * 4)
    ppo.settings = replace(SETTINGS, forward_batch=1)
    alone, alone_metrics = ppo.rollout(prompts, 0, NUMBERS * 4)
    assert together.responses == alone.responses
    _lengths(together)
    for name in ("old", "values", "advantages", "returns"):
        assert torch.allclose(getattr(together, name), getattr(alone, name), atol=1e-3), name
    assert metrics == pytest.approx(alone_metrics, abs=1e-3)


def test_whitening_counts_response_tokens_only(ppo: Ppo) -> None:
    rollout, metrics = ppo.rollout(prompts_of(ppo.lm) * 4, 0, NUMBERS * 4)
    lengths = _lengths(rollout)
    counted = torch.cat([row[:length] for row, length in zip(rollout.advantages, lengths, strict=True)])
    assert counted.mean().item() == pytest.approx(0, abs=1e-5)
    assert counted.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    for name in ("advantages", "returns", "values", "old"):
        for row, length in zip(getattr(rollout, name), lengths, strict=True):
            assert not row[length:].any()
            assert row[:length].any()
    assert metrics["response_length"] == pytest.approx(sum(lengths) / len(lengths))


def _widened(rollout: Rollout, columns: int) -> Rollout:
    """The same rollout with further padding, in which garbage stands."""

    def garbage(rows: Tensor) -> Tensor:
        return torch.cat([rows, torch.full((len(rows), columns), 1e3)], 1)

    return replace(
        rollout,
        old=garbage(rollout.old),
        values=garbage(rollout.values),
        advantages=garbage(rollout.advantages),
        returns=garbage(rollout.returns),
        mask=torch.nn.functional.pad(rollout.mask, (0, columns)),
    )


def test_an_update_sees_no_padding(ppo: Ppo) -> None:
    """One step's losses are the plain means over the tokens of answers that were each computed alone."""
    lm, settings = ppo.lm, replace(SETTINGS, epochs=1, minibatch=100)
    ppo.settings = settings
    rollout, _ = ppo.rollout(prompts_of(lm) * 2, 0, NUMBERS * 2)
    shake(lm.adapter_parameters(POLICY).values(), seed=14, scale=0.02)  # so that ratios are not one
    shake(lm.adapter_parameters(VALUE).values(), seed=15, scale=0.02)
    expected = _losses_alone(ppo, rollout)
    metrics = ppo.update(_widened(rollout, 3), rng_seed=0)
    assert metrics["policy_loss"] == pytest.approx(expected["policy_loss"], abs=1e-4)
    assert metrics["value_loss"] == pytest.approx(expected["value_loss"], abs=1e-4)
    assert metrics["clip_fraction"] == pytest.approx(expected["clip_fraction"], abs=1e-4)


@torch.no_grad()
def _losses_alone(ppo: Ppo, rollout: Rollout) -> Metrics:
    policy, value, clipped, counts = [], [], [], []
    for row, length in enumerate(_lengths(rollout)):
        one = ([rollout.prompts[row]], [rollout.responses[row].ids])
        at, mask = (slice(row, row + 1), slice(0, length)), torch.ones(1, length)
        ppo.lm.use(POLICY)
        new, _ = ppo.lm.logprobs(*one)
        loss, share = policy_loss(new, rollout.old[at], rollout.advantages[at], mask, ppo.settings.clip)
        ppo.lm.use(VALUE)
        values = ppo.value_head(ppo.lm.hidden(*one).before_response)[..., 0]
        policy.append(loss)
        clipped.append(share)
        value.append(value_loss(values, rollout.values[at], rollout.returns[at], mask, ppo.settings.value_clip))
        counts.append(length)
    weights = torch.tensor(counts) / sum(counts)
    names = {"policy_loss": policy, "value_loss": value, "clip_fraction": clipped}
    return {name: float((torch.stack(each) * weights).sum()) for name, each in names.items()}


def test_sampling_that_disagrees_with_training_stops_it(ppo: Ppo, monkeypatch: pytest.MonkeyPatch) -> None:
    merge = ppo.lm.merge_into_twin

    def merge_badly(name: str) -> None:
        merge(name)
        shake(ppo.lm._twin.model.language_model.layers[0].mlp.parameters(), seed=6, scale=0.1)

    monkeypatch.setattr(ppo.lm, "merge_into_twin", merge_badly)
    with pytest.raises(TrainingError, match=r"disagree by 0\.\d+ nats a token \(limit 0.006\).*Check adapters"):
        ppo.rollout(prompts_of(ppo.lm), 0, NUMBERS)


def test_a_stale_twin_is_noticed(ppo: Ppo, monkeypatch: pytest.MonkeyPatch) -> None:
    ppo.rollout(prompts_of(ppo.lm), 0, NUMBERS)
    monkeypatch.setattr(ppo.lm, "merge_into_twin", lambda _name: None)
    shake(ppo.lm.adapter_parameters(POLICY).values(), seed=6, scale=0.1)
    with pytest.raises(TrainingError, match="disagree"):
        ppo.rollout(prompts_of(ppo.lm), 0, NUMBERS)


def test_a_policy_of_no_numbers_is_noticed(ppo: Ppo, monkeypatch: pytest.MonkeyPatch) -> None:
    ppo.lm.merge_into_twin(POLICY)
    monkeypatch.setattr(ppo.lm, "merge_into_twin", lambda _name: None)
    with torch.no_grad():
        next(iter(ppo.lm.adapter_parameters(POLICY).values())).fill_(float("nan"))
    with pytest.raises(TrainingError, match="disagree by nan"):
        ppo.rollout(prompts_of(ppo.lm), 0, NUMBERS)


def test_too_many_cut_answers_stop_it(ppo: Ppo) -> None:
    ppo.settings = replace(SETTINGS, sampling=Sampling(max_new_tokens=2), max_unfinished=0.5)
    with pytest.raises(
        TrainingError, match=r"of the rollout was cut at 2 tokens \(limit 50.0%\). Raise training.sampling"
    ):
        ppo.rollout(prompts_of(ppo.lm) * 4, 0, NUMBERS * 4)


def test_a_cut_answer_is_penalised_and_nothing_else(ppo: Ppo) -> None:
    prompts = prompts_of(ppo.lm) * 4
    rollout, _ = ppo.rollout(prompts, 0, NUMBERS * 4)
    cut = torch.tensor([not response.finished for response in rollout.responses])
    assert 0 < int(cut.sum()) < len(cut)
    plain, raw = ppo._rewards(rollout.read, rollout.responses)
    ppo.settings = replace(SETTINGS, unfinished_penalty=-7.0)
    penalised, raw_again = ppo._rewards(rollout.read, rollout.responses)
    assert torch.equal(raw, raw_again)
    assert torch.allclose(penalised - plain, -7.0 * cut, atol=1e-5)


def test_truth_is_measured_for_the_curves_and_teaches_nothing(folder: Path, tmp_path: Path) -> None:
    asked: list[int] = []

    def truth(questions: Sequence[int], responses: Sequence[str]) -> list[float]:
        assert len(questions) == len(responses) == SETTINGS.prompts * SETTINGS.samples
        asked.extend(questions)
        return [float(response == TRUTH) + 0.25 for response in responses]

    adapters = []
    for name, measure in (("measured", truth), ("blind", None)):
        lm, journal = VideoLM.load(str(folder)), FolderJournal(tmp_path / name)
        train_ppo(lm, scorer_of(_reward(lm)), prompts_of(lm), SETTINGS, 0, journal, measure)
        adapters.append(list(lm.adapter_parameters(POLICY).values()))
        assert ("reward_true" in journal.curves[1]) == (name == "measured")
    assert all(torch.equal(one, other) for one, other in zip(*adapters, strict=True))
    assert set(asked) == {0, 1, 2}


def test_an_entropy_bonus_keeps_the_policy_from_making_up_its_mind(folder: Path) -> None:
    after = {}
    for coefficient in (0.0, 10.0):
        lm = VideoLM.load(str(folder))
        ppo = Ppo(lm, scorer_of(_reward(lm)), replace(SETTINGS, entropy_coef=coefficient, samples=4), seed=0)
        for step in range(4):
            rollout, metrics = ppo.rollout(prompts_of(lm), step, NUMBERS)
            ppo.update(rollout, rng_seed=step)
        after[coefficient] = metrics["entropy"]
    assert after[10.0] > after[0.0]
