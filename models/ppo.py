"""Proximal policy optimisation of a video language model against a reward model.

One frozen base carries three adapters: `policy` and `value` learn, `reward` stands still; with none of them active the
base is the reference. Where the reward model has a base of its own, often a larger one, the critic stands there beside
it, and two bases carry two adapters each. Each iteration samples answers, scores them, and takes a few clipped steps:
https://arxiv.org/abs/1707.06347, with the per-token KL penalty of https://arxiv.org/abs/2203.02155.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from models.advantages import (
    generalized_advantages,
    kl_per_token,
    penalised,
    token_rewards,
    whiten,
)
from models.batches import in_columns
from models.losses import policy_loss, value_loss
from models.on_policy import (
    POLICY,
    Sampled,
    Truth,
    batch_of,
    lengths_and_ends,
    limits_of,
    minibatches,
    sample,
    train_on_policy,
)
from models.parallel import ALONE, Team
from models.reductions import Reduction
from models.reward_model import RewardPrompt, Scorer
from models.sequences import Prompt, Response
from models.settings import LoraSettings, PpoSettings
from models.training import Journal, Metrics, Trainer, mean_metrics
from models.video_lm import VideoLM

VALUE, REWARD = "value", "reward"
MEAN, DEVIATION = "reward_mean", "reward_deviation"  # By which rewards are normalised; part of the state.


@dataclass(frozen=True)
class Rollout(Sampled):
    """Sampled answers and what the critic makes of them; tensors are [B, R].

    Attributes:
        read: B prompts as the critic reads them.
        values: the critic's values.
        advantages: whitened.
        returns: the critic's targets.
    """

    read: list[RewardPrompt]
    values: Tensor
    advantages: Tensor
    returns: Tensor


class Ppo:
    """The algorithm: `rollout` samples and scores, `update` learns."""

    def __init__(self, lm: VideoLM, scorer: Scorer, settings: PpoSettings, seed: int, team: Team = ALONE) -> None:
        """Raises:
        ValueError: policy and reward model have different vocabularies, so that a critic would value other tokens.
        """
        if not scorer.same_tokens:
            raise ValueError(
                "PPO's critic stands on the reward model's base and values each token of the policy, but their "
                "tokenizers differ. Choose a reward model of the policy's family, or route grpo, which has no critic."
            )
        self.lm, self.scorer, self.settings, self.seed = lm, scorer, settings, seed
        self.critic = critic = scorer.reward.lm
        lm.add_adapter(POLICY, settings.lora, seed)
        critic.add_adapter(VALUE, _lora_of(critic, REWARD), seed)
        critic.copy_adapter(REWARD, VALUE)
        self.value_head = nn.Linear(critic.hidden_size, 1).to(critic.device)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        learns = critic.adapter_parameters(VALUE) | {f"head.{k}": v for k, v in self.value_head.named_parameters()}
        self.trainer = Trainer(
            {POLICY: lm.adapter_parameters(POLICY), VALUE: learns},
            {POLICY: settings.rate, VALUE: settings.value_rate},
            settings.max_norm,
            meters={POLICY: lm.meter, VALUE: critic.meter},
            team=team,
        )

    @torch.no_grad()
    def rollout(self, prompts: Sequence[Prompt], seed: int, numbers: Sequence[int]) -> tuple[Rollout, Metrics]:
        """Sample answers and score every token.

        Raises:
            TrainingError: sampling and training disagree on log-probabilities, or too many answers were cut.
        """
        settings = self.settings
        sampled, metrics = sample(self.lm, numbers, prompts, settings, seed, team=self.trainer.team)
        read = self.scorer.read(numbers, settings.samples)
        values = self._all_values(read, sampled.responses)
        rewards, raw = self._rewards(read, sampled.responses)
        kl = kl_per_token(sampled.old, sampled.reference, settings.kl_estimator)
        shaped = settings.reward_scale * token_rewards(rewards, kl, sampled.mask, settings.kl_coef)
        if settings.whiten_rewards:
            shaped = whiten(shaped, sampled.mask, shift_mean=False)
        advantages, returns = generalized_advantages(shaped, values, sampled.mask, settings.gamma, settings.lam)
        metrics |= {
            "reward": float(rewards.mean()),
            "reward_raw": float(raw.mean()),
            "explained_variance": _explained_variance(values, returns, sampled.mask),
        }
        white = whiten(advantages, sampled.mask)
        return Rollout(**vars(sampled), read=read, values=values, advantages=white, returns=returns), metrics

    def update(self, rollout: Rollout, rng_seed: int) -> Metrics:
        """Several epochs of clipped steps on one rollout."""
        chosen = minibatches(range(len(rollout.responses)), self.settings, rng_seed, self.trainer.step)
        return mean_metrics([self._step(rollout, each) for each in chosen])

    def begin(self) -> None:
        """The next rollout measures anew how rewards are normalised: another reward model has a scale of its own."""
        for name in (MEAN, DEVIATION):
            self.trainer.numbers.pop(name, None)

    def _step(self, rollout: Rollout, chosen: list[int]) -> Metrics:
        numbers = [rollout.numbers[i] for i in chosen]
        limits, samples = limits_of(self.settings), self.settings.samples
        tokens = float(rollout.mask[chosen].sum())
        self.lm.use(POLICY)
        asked = batch_of(self.lm, chosen, samples, rollout.prompts, rollout.responses)
        policy_part = partial(self._policy_part, rollout, tokens)
        told = self.trainer.update_in_parts(asked, policy_part, limits, POLICY, numbers)
        self.critic.use(VALUE)
        read = batch_of(self.critic, chosen, samples, rollout.read, rollout.responses)
        value_part = partial(self._value_part, rollout, tokens)
        critic = self.trainer.update_in_parts(read, value_part, limits, VALUE, numbers)
        return told | {"value_loss": critic["value_loss"]}

    def _policy_part(self, rollout: Rollout, tokens: float, part: list[int]) -> tuple[Tensor, Metrics]:
        """A part's share of the policy's loss over `tokens`."""
        settings, temperature = self.settings, self.settings.sampling.temperature
        responses = [rollout.responses[i].ids for i in part]
        at = (part, slice(0, max(map(len, responses))))
        hidden = self.lm.hidden([rollout.prompts[i] for i in part], responses)
        new, mask = self.lm.logprobs_from(hidden, temperature=temperature)
        share = Reduction(whole=tokens)
        surrogate, clipped = policy_loss(new, rollout.old[at], rollout.advantages[at], mask, settings.clip, share)
        loss = surrogate
        if settings.entropy_coef:
            spread = self.lm.entropies_from(hidden, temperature=temperature)
            loss = loss - settings.entropy_coef * share(spread, mask)
        weight = float(mask.sum()) / tokens
        return loss, {"policy_loss": surrogate.item(), "clip_fraction": clipped.item() * weight}

    def _value_part(self, rollout: Rollout, tokens: float, part: list[int]) -> tuple[Tensor, Metrics]:
        """The same of the critic's."""
        responses = [rollout.responses[i].ids for i in part]
        at = (part, slice(0, max(map(len, responses))))
        hidden = self.critic.hidden([rollout.read[i] for i in part], responses)
        values, clip = self._values(hidden.before_response), self.settings.value_clip
        whole = Reduction(whole=tokens)
        loss = value_loss(values, rollout.values[at], rollout.returns[at], hidden.response_mask, clip, whole)
        return loss, {"value_loss": loss.item()}

    def _values(self, hidden: Tensor) -> Tensor:
        values: Tensor = self.value_head(hidden.float())[..., 0]
        return values

    def _all_values(self, prompts: list[RewardPrompt], responses: list[Response]) -> Tensor:
        """The critic's values [B, R], 0 where masked."""
        self.critic.use(VALUE)

        def compute(batch: Sequence[int]) -> tuple[Tensor, ...]:
            hidden = self.critic.hidden([prompts[i] for i in batch], [responses[i].ids for i in batch])
            return (self._values(hidden.before_response) * hidden.response_mask,)

        loads = self.critic.loads(prompts, [response.ids for response in responses])
        (values,) = in_columns(compute, loads, limits_of(self.settings), self.trainer.team)
        return values

    def _rewards(self, prompts: list[RewardPrompt], responses: list[Response]) -> tuple[Tensor, Tensor]:
        """Rewards [B] as they are learned from, and as the reward model gave them."""
        raw = self.scorer.score(prompts, responses, limits_of(self.settings), self.trainer.team)
        numbers = self.trainer.numbers
        if self.settings.normalise_rewards:
            numbers.setdefault(MEAN, float(raw.mean()))
            numbers.setdefault(DEVIATION, float(raw.std(correction=0)) + 1e-6)
        rewards = (raw - numbers.get(MEAN, 0.0)) / numbers.get(DEVIATION, 1.0)
        return penalised(
            rewards,
            *lengths_and_ends(responses, raw.device),
            limit=self.settings.sampling.max_new_tokens,
            length_penalty=self.settings.length_penalty,
            unfinished_penalty=self.settings.unfinished_penalty,
        ), raw


def train_ppo(
    lm: VideoLM,
    scorer: Scorer,
    prompts: Sequence[Prompt],
    settings: PpoSettings,
    seed: int,
    journal: Journal,
    truth: Truth | None = None,
    iterations: range | None = None,
    team: Team = ALONE,
) -> Ppo:
    """Train adapter "policy" of `lm` on the prompts.

    Args:
        lm: the SFT model.
        scorer: scores the answers.
        prompts: questions; each rollout draws from them in shuffled passes.
        settings: see PpoSettings.
        seed: of everything random.
        journal: keeps states and curves.
        truth: measures the rollouts against the truth where it is known, for the curves only.
        iterations: those to make, by a scorer that need not be that of the ones before; None: all.
        team: the workers that train together.
    """
    ppo = Ppo(lm, scorer, settings, seed, team)
    train_on_policy(ppo, prompts, settings, seed, journal, truth, iterations)
    return ppo


def _lora_of(lm: VideoLM, name: str) -> LoraSettings:
    config = lm.model.peft_config[name]
    return LoraSettings(rank=config.r, alpha=config.lora_alpha, modules=config.target_modules)


def _explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 - Var(R - V) / Var(R) over response tokens: 1 is a perfect critic, 0 one that knows nothing."""
    picked, target = values[mask], returns[mask]
    return float(1 - (target - picked).var() / (target.var() + 1e-8))
