"""The reward model: a LoRA adapter and a scalar head on the policy's frozen base, trained on preferences.

Two forms. `head` is the paper's: a linear layer reads the hidden state of the last token. `likelihood` adds the
answer's mean log-probability under the adapter's own language model, so that it starts as self-preference instead of
noise and learns from a few thousand pairs (the head alone stays at chance there).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from models.losses import bradley_terry
from models.sequences import Prompt
from models.settings import RewardForm, RewardSettings
from models.training import Journal, Trainer, in_batches, linear_schedule, passes
from models.video_lm import VideoLM

ADAPTER = "reward"


@dataclass(frozen=True)
class Pair:
    """A prompt with the preferred and the other answer, as tokens with end token."""

    prompt: Prompt
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]


class RewardModel:
    """Scores answers with adapter "reward" of a model.

    Attributes:
        head: Linear(D, 1), float32.
    """

    def __init__(self, lm: VideoLM, form: RewardForm) -> None:
        self.lm = lm
        self.form = form
        self.head = nn.Linear(lm.hidden_size, 1).to(lm.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self._turn = lm.next_turn_ids(form.prompt) if form.prompt else ()

    def score(self, prompts: Sequence[Prompt], responses: Sequence[Sequence[int]]) -> Tensor:
        """Rewards [B], with gradients where the adapter and the head have them. Switches adapter "reward" on."""
        self.lm.use(ADAPTER)
        hidden = self.lm.hidden(prompts, [(*response, *self._turn) for response in responses])
        rewards: Tensor = self.head(hidden.last.float())[:, 0]
        if self.form.kind == "head":
            return rewards
        logprobs, mask = self.lm.logprobs_from(hidden)
        lengths = torch.tensor([len(response) for response in responses], device=mask.device)
        said = mask & (torch.arange(mask.shape[1], device=mask.device) < lengths[:, None])
        return rewards + self.form.likelihood_scale * (logprobs * said).sum(1) / said.sum(1)

    @torch.no_grad()
    def score_all(self, prompts: Sequence[Prompt], responses: Sequence[Sequence[int]], batch_size: int) -> Tensor:
        """Rewards [N] without gradients, in batches of like length."""
        lengths = [len(p.ids) + len(r) for p, r in zip(prompts, responses, strict=True)]
        return in_batches(
            lambda batch: self.score([prompts[i] for i in batch], [responses[i] for i in batch]), lengths, batch_size
        )

    def save(self, folder: Path, *, base: str) -> None:
        """Write the adapter as plain PEFT reads it, beside reward_head.safetensors and reward_form.json."""
        from safetensors.torch import save_file

        self.lm.save_adapter(ADAPTER, folder, base=base)
        save_file(dict(self.head.state_dict()), folder / "reward_head.safetensors")
        (folder / "reward_form.json").write_text(json.dumps(asdict(self.form), sort_keys=True))

    @classmethod
    def load(cls, lm: VideoLM, folder: Path) -> RewardModel:
        """Add a saved reward model to `lm`.

        Raises:
            ValueError: the folder has no head; a reward model without its head would score at random.
        """
        from safetensors.torch import load_file

        if not (folder / "reward_head.safetensors").exists():
            raise ValueError(f"{folder} holds no reward_head.safetensors: it is an adapter, not a reward model.")
        lm.load_adapter(ADAPTER, folder)
        reward = cls(lm, RewardForm(**json.loads((folder / "reward_form.json").read_text())))
        reward.head.load_state_dict(load_file(folder / "reward_head.safetensors"))
        return reward


def train_reward_model(
    lm: VideoLM, pairs: Sequence[Pair], held_out: Sequence[Pair], settings: RewardSettings, seed: int, journal: Journal
) -> tuple[RewardModel, dict[str, float]]:
    """Train adapter "reward" and its head on preferences.

    Returns:
        The reward model, and its accuracy and margin on the held-out pairs.
    """
    lm.add_adapter(ADAPTER, settings.lora, seed)
    reward = RewardModel(lm, settings.form)
    lm.use(ADAPTER)
    weights = lm.adapter_parameters(ADAPTER) | {f"head.{key}": value for key, value in reward.head.named_parameters()}
    trainer = Trainer({ADAPTER: weights}, {ADAPTER: settings.rate}, settings.max_norm)
    trainer.resume(journal)
    while trainer.step < settings.steps:
        factor = linear_schedule(trainer.step, settings.steps, warmup=settings.warmup, final=settings.final_rate)
        trainer.set_rates(factor)
        batch = [pairs[i] for i in passes(len(pairs), settings.batch_size, seed, trainer.step)]
        chosen, rejected = _score_pairs(reward, batch)
        loss = bradley_terry(chosen, rejected, settings.centering)
        norm = trainer.update(loss, ADAPTER)
        trainer.step += 1
        accuracy = (chosen > rejected).float().mean().item()
        margin = (chosen - rejected).mean().item()
        journal.log(
            trainer.step,
            {"loss": loss.item(), "accuracy": accuracy, "margin": margin, "gradient_norm": norm},
        )
        trainer.keep(journal, settings.save_every, settings.steps)
    return reward, _evaluate(reward, held_out, settings.batch_size * 2)


def _score_pairs(reward: RewardModel, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    prompts = [pair.prompt for pair in pairs] * 2
    scores = reward.score(prompts, [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs])
    return scores[: len(pairs)], scores[len(pairs) :]


def _evaluate(reward: RewardModel, pairs: Sequence[Pair], batch_size: int) -> dict[str, float]:
    if not pairs:
        return {"held_out_pairs": 0.0}
    scored, lengths = [], []
    with torch.no_grad():  # batch by batch: all pairs' visual tokens at once would not fit
        for start in range(0, len(pairs), batch_size):
            batch = [pairs[i] for i in range(start, min(start + batch_size, len(pairs)))]
            scored.append(_score_pairs(reward, batch))
            lengths += [len(pair.chosen) - len(pair.rejected) for pair in batch]
    chosen, rejected = (torch.cat(column) for column in zip(*scored, strict=True))
    longer = torch.tensor(lengths, device=chosen.device)
    margins = {
        f"held_out_margin_{name}": float((chosen - rejected)[those].mean())
        for name, those in (("longer", longer > 0), ("shorter", longer < 0))
        if those.any()
    }
    return {
        "held_out_pairs": float(len(pairs)),
        "held_out_accuracy": float((chosen > rejected).float().mean()),
        "held_out_margin": float((chosen - rejected).mean()),
        "held_out_loss": float(bradley_terry(chosen, rejected)),
        "held_out_calibration_error": calibration_error(chosen - rejected),
        "mean_reward": float(torch.cat([chosen, rejected]).mean()),
        **margins,
    }


def calibration_error(margins: Tensor, bins: int = 10) -> float:
    """How far a reward model's confidence is from how often it is right: the expected calibration error.

    Confidence is sigmoid(|margin|), from one half up; a pair is right where its margin is positive. Pairs are binned by
    confidence, and each bin's |share right - mean confidence| weighs by its pairs.

    Args:
        margins: chosen less rejected [N], N at least 1.
        bins: of equal width between one half and 1.

    Source: https://arxiv.org/abs/1706.04599 equation 3.
    """
    confidence, right = margins.abs().sigmoid().double(), (margins > 0).double()
    place = ((confidence - 0.5) * 2 * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64, device=margins.device).index_add(0, place, right - confidence)
    return float(gaps.abs().sum() / len(margins))
