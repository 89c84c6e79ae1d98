"""Proximal policy optimisation of a video language model against a reward model.

One frozen base carries three adapters: `policy` and `value` learn, `reward` stands still; with none of them active the
base is the reference. Each iteration samples answers, scores them, and takes a few clipped steps:
https://arxiv.org/abs/1707.06347, with the per-token KL penalty of https://arxiv.org/abs/2203.02155.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from models.advantages import generalized_advantages, kl_per_token, token_rewards, whiten
from models.losses import masked_mean, policy_loss, value_loss
from models.reward_model import RewardModel
from models.sequences import Prompt, Response
from models.settings import LoraSettings, PpoSettings
from models.training import Journal, Metrics, Trainer, TrainingError, linear_schedule, mean_metrics, passes, step_rng
from models.video_lm import VideoLM

POLICY, VALUE, REWARD = "policy", "value", "reward"

# Prompt numbers and their answers' texts -> how true each answer is. For curves only; nothing learns from it.
Truth = Callable[[Sequence[int], Sequence[str]], Sequence[float]]


@dataclass
class Rollout:
    """Sampled answers and what is known of them before the update; tensors are [B, R] unless said.

    Attributes:
        prompts: B prompts, each question's answers side by side.
        responses: B sampled answers.
        old: log-probabilities under the policy that sampled.
        mask: True at response tokens.
        values: the critic's values.
        advantages: whitened.
        returns: the critic's targets.
    """

    prompts: list[Prompt]
    responses: list[Response]
    old: Tensor
    mask: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


class Ppo:
    """The algorithm: `rollout` samples and scores, `update` learns."""

    def __init__(self, lm: VideoLM, reward: RewardModel, settings: PpoSettings, seed: int) -> None:
        self.lm, self.reward, self.settings, self.seed = lm, reward, settings, seed
        lm.add_adapter(POLICY, settings.lora, seed)
        lm.add_adapter(VALUE, _lora_of(lm, REWARD), seed)
        lm.copy_adapter(REWARD, VALUE)
        self.value_head = nn.Linear(lm.hidden_size, 1).to(lm.device)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        critic = lm.adapter_parameters(VALUE) | {f"head.{k}": v for k, v in self.value_head.named_parameters()}
        self.trainer = Trainer(
            {POLICY: lm.adapter_parameters(POLICY), VALUE: critic},
            {POLICY: settings.rate, VALUE: settings.value_rate},
            settings.max_norm,
        )

    @torch.no_grad()
    def rollout(self, prompts: Sequence[Prompt], seed: int) -> tuple[Rollout, Metrics]:
        """Sample answers and score every token.

        Raises:
            TrainingError: sampling and training disagree on log-probabilities, or too many answers were cut.
        """
        lm, settings = self.lm, self.settings
        lm.merge_into_twin(POLICY)
        responses = self._sample(prompts, seed)
        repeated = [prompt for prompt in prompts for _ in range(settings.samples)]
        old, reference, values, mask = self._forwards(repeated, responses)
        rewards, raw = self._rewards(repeated, responses)
        kl = kl_per_token(old, reference, settings.kl_estimator)
        shaped = token_rewards(rewards, kl, mask, settings.kl_coef)
        advantages, returns = generalized_advantages(shaped, values, mask, settings.gamma, settings.lam)
        metrics = {
            "reward": float(rewards.mean()),
            "reward_raw": float(raw.mean()),
            "kl": float(((old - reference) * mask).sum(1).mean()),
            "entropy": float(-masked_mean(old, mask)),  # the sampled tokens' own estimate
            "response_length": float(mask.sum(1).float().mean()),
            "unique_share": len({response.text for response in responses}) / len(responses),
            "explained_variance": _explained_variance(values, returns, mask),
            **self._checked(old, mask, responses),
        }
        return Rollout(repeated, responses, old, mask, values, whiten(advantages, mask), returns), metrics

    def _sample(self, prompts: Sequence[Prompt], seed: int) -> list[Response]:
        """Every prompt's answers side by side, at most `forward_batch` of them at once."""
        size = max(1, self.settings.forward_batch // self.settings.samples)
        groups = [
            group
            for start in range(0, len(prompts), size)
            for group in self.lm.generate(
                prompts[start : start + size],
                self.settings.sampling,
                n=self.settings.samples,
                seed=seed + start,
                logprobs=True,
                merged=True,
            )
        ]
        return [response for group in groups for response in group]

    def update(self, rollout: Rollout, rng_seed: int) -> Metrics:
        """Several epochs of clipped steps on one rollout."""
        rng = step_rng(rng_seed, self.trainer.step)
        steps = []
        for _ in range(self.settings.epochs):
            order = rng.permutation(len(rollout.responses))
            for start in range(0, len(order), self.settings.minibatch):
                chosen = sorted(order[start : start + self.settings.minibatch].tolist())
                steps.append(self._step(rollout, chosen))
        return mean_metrics(steps)

    def _step(self, rollout: Rollout, chosen: list[int]) -> Metrics:
        settings = self.settings
        prompts = [rollout.prompts[i] for i in chosen]
        responses = [rollout.responses[i].ids for i in chosen]
        width = max(map(len, responses))
        at = (chosen, slice(0, width))
        self.lm.use(POLICY)
        new, mask = self.lm.logprobs(prompts, responses, temperature=settings.sampling.temperature or 1.0)
        loss, clipped = policy_loss(new, rollout.old[at], rollout.advantages[at], mask, settings.clip)
        norm = self.trainer.update(loss, POLICY)
        self.lm.use(VALUE)
        values = self._values(self.lm.hidden(prompts, responses).before_response)
        critic_loss = value_loss(values, rollout.values[at], rollout.returns[at], mask, settings.value_clip)
        self.trainer.update(critic_loss, VALUE)
        return {
            "policy_loss": loss.item(),
            "value_loss": critic_loss.item(),
            "clip_fraction": clipped.item(),
            "gradient_norm": norm,
        }

    def _values(self, hidden: Tensor) -> Tensor:
        values: Tensor = self.value_head(hidden.float())[..., 0]
        return values

    def _forwards(self, prompts: list[Prompt], responses: list[Response]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log-probabilities under policy and reference, values, mask: each [B, R]."""
        lm, ids = self.lm, [response.ids for response in responses]
        temperature = self.settings.sampling.temperature or 1.0
        parts = []
        size = self.settings.forward_batch
        for start in range(0, len(ids), size):
            batch = (prompts[start : start + size], ids[start : start + size])
            lm.use(POLICY)
            old, mask = lm.logprobs(*batch, temperature=temperature)
            with lm.reference():
                reference, _ = lm.logprobs(*batch, temperature=temperature)
            lm.use(VALUE)
            values = self._values(lm.hidden(*batch).before_response) * mask
            parts.append((old, reference, values, mask))
        width = max(old.shape[1] for old, *_ in parts)
        old, reference, values, mask = (
            torch.cat([nn.functional.pad(each, (0, width - each.shape[1])) for each in column])
            for column in zip(*parts, strict=True)
        )
        return old, reference, values, mask

    def _rewards(self, prompts: list[Prompt], responses: list[Response]) -> tuple[Tensor, Tensor]:
        """Rewards [B] as they are learned from, and as the reward model gave them."""
        raw = self.reward.score_all(prompts, [response.ids for response in responses], self.settings.forward_batch)
        numbers = self.trainer.numbers
        if self.settings.normalise_rewards:
            numbers.setdefault("reward_mean", float(raw.mean()))
            numbers.setdefault("reward_deviation", float(raw.std(correction=0)) + 1e-6)
        rewards = (raw - numbers.get("reward_mean", 0.0)) / numbers.get("reward_deviation", 1.0)
        cut = torch.tensor([not response.finished for response in responses], device=raw.device)
        return rewards + self.settings.unfinished_penalty * cut, raw

    def _checked(self, old: Tensor, mask: Tensor, responses: list[Response]) -> Metrics:
        sampled = torch.zeros_like(old)
        for row, response in enumerate(responses):
            sampled[row, : len(response.ids)] = torch.tensor(response.logprobs)
        gap = float(masked_mean((sampled - old).abs(), mask))
        cut = sum(not response.finished for response in responses) / len(responses)
        if not gap <= self.settings.max_gap:  # NaN included
            raise TrainingError(
                f"Sampling and training disagree by {gap:.4f} nats a token (limit {self.settings.max_gap}): they do "
                "not see the same prompt or weights, so ratios mean nothing. Check adapters and chat template."
            )
        if cut > self.settings.max_unfinished:
            raise TrainingError(
                f"{cut:.1%} of the rollout was cut at {self.settings.sampling.max_new_tokens} tokens (limit "
                f"{self.settings.max_unfinished:.1%}). Raise ppo.training.sampling.max_new_tokens."
            )
        return {"rollout_gap": gap, "unfinished_share": cut}


def train_ppo(
    lm: VideoLM,
    reward: RewardModel,
    prompts: Sequence[Prompt],
    settings: PpoSettings,
    seed: int,
    journal: Journal,
    truth: Truth | None = None,
) -> Ppo:
    """Train adapter "policy" of `lm` on the prompts.

    Args:
        lm: the SFT model, with adapter "reward" already added by `reward`.
        reward: scores the answers.
        prompts: questions; each rollout draws from them in shuffled passes.
        settings: see PpoSettings.
        seed: of everything random.
        journal: keeps states and curves.
        truth: measures the rollouts against the truth where it is known, for the curves only.
    """
    ppo = Ppo(lm, reward, settings, seed)
    trainer = ppo.trainer
    if (state := journal.resume()) is not None:
        trainer.load(state)
    while trainer.step < settings.iterations:
        factor = linear_schedule(trainer.step, settings.iterations, warmup=settings.warmup, final=settings.final_rate)
        trainer.set_rates(factor)
        drawn = passes(len(prompts), settings.prompts, seed, trainer.step)
        asked = {i: prompts[i] for i in drawn}
        drawn.sort(key=lambda i: (len(asked[i].ids), i))
        rollout, metrics = ppo.rollout([asked[i] for i in drawn], seed=_sampling_seed(seed, trainer.step))
        if truth is not None:
            owners = [i for i in drawn for _ in range(settings.samples)]
            scores = truth(owners, [response.text for response in rollout.responses])
            metrics["reward_true"] = sum(scores) / len(scores)
        metrics |= ppo.update(rollout, seed) | {"learning_rate": settings.rate * factor}
        trainer.step += 1
        journal.log(trainer.step, metrics)
        if trainer.step % settings.save_every == 0 or trainer.step == settings.iterations:
            with tempfile.TemporaryDirectory() as folder:
                trainer.save(Path(folder))
                journal.save(trainer.step, Path(folder))
    return ppo


def _lora_of(lm: VideoLM, name: str) -> LoraSettings:
    config = lm.model.peft_config[name]
    return LoraSettings(rank=config.r, alpha=config.lora_alpha, modules=config.target_modules)


def _sampling_seed(seed: int, step: int) -> int:
    return int(step_rng(seed, step).integers(1 << 31))


def _explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 - Var(R - V) / Var(R) over response tokens: 1 is a perfect critic, 0 one that knows nothing."""
    picked, target = values[mask], returns[mask]
    return float(1 - (target - picked).var() / (target.var() + 1e-8))
