"""What every on-policy training shares: sampled answers, their log-probabilities, the checks on them, and the loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from models.batches import Batch, Limits, cut, in_columns, sampling_loads, singly
from models.losses import masked_mean
from models.monitors import Monitors, repetition
from models.parallel import ALONE, Team, share_out
from models.sequences import Prompt, Response
from models.settings import PolicySettings
from models.training import Journal, Metrics, Trainer, TrainingError, passes, rate_factor, step_rng
from models.video_lm import VideoLM

POLICY = "policy"

# Prompt numbers and their answers' texts -> how true each answer is. For curves only; nothing learns from it.
Truth = Callable[[Sequence[int], Sequence[str]], Sequence[float]]


@dataclass(frozen=True)
class Sampled:
    """Sampled answers before any judgement; tensors are [B, R].

    Attributes:
        numbers: B questions, each one's answers side by side.
        prompts: their prompts.
        responses: B sampled answers.
        old: log-probabilities under the policy that sampled, 0 where masked.
        reference: those under the reference.
        mask: True at response tokens.
    """

    numbers: list[int]
    prompts: list[Prompt]
    responses: list[Response]
    old: Tensor
    reference: Tensor
    mask: Tensor


class Algorithm(Protocol):
    """A way to learn from one's own answers: `rollout` samples and judges, `update` learns.

    Attributes:
        trainer: what learns, and all of the state.
    """

    trainer: Trainer

    def rollout(self, prompts: Sequence[Prompt], seed: int, numbers: Sequence[int], /) -> tuple[Any, Metrics]:
        """Answers to questions, which have these numbers: a `Sampled` with whatever `update` needs."""
        ...

    def update(self, rollout: Any, rng_seed: int) -> Metrics:
        """Several epochs of clipped steps on one rollout."""
        ...

    def begin(self) -> None:
        """Iterations begin whose feedback may be another than before: what was measured of the old one is forgotten."""
        ...


@torch.no_grad()
def sample(
    lm: VideoLM,
    numbers: Sequence[int],
    prompts: Sequence[Prompt],
    settings: PolicySettings,
    seed: int,
    reference: str | None = None,
    team: Team = ALONE,
) -> tuple[Sampled, Metrics]:
    """Sample from adapter "policy" and compute every token's log-probability.

    Args:
        lm: the model.
        numbers: the questions.
        prompts: one of each.
        settings: how many answers, and how they are drawn.
        seed: of the draw.
        reference: the adapter that is the reference; None: the model without any.
        team: the workers that do it together; each gets all of it.

    Raises:
        TrainingError: sampling and training disagree on log-probabilities, or too many answers were cut.
    """
    lm.engine(settings.engine).refresh(POLICY)
    responses = _draw(lm, prompts, settings, seed, team)
    repeated = [prompt for prompt in prompts for _ in range(settings.samples)]
    old, mask = _logprobs(lm, POLICY, repeated, responses, settings, team)
    frozen, _ = _logprobs(lm, reference, repeated, responses, settings, team)
    owners = [number for number in numbers for _ in range(settings.samples)]
    sampled = Sampled(owners, repeated, responses, old, frozen, mask)
    return sampled, _described(sampled) | _checked(sampled, settings)


def _draw(lm: VideoLM, prompts: Sequence[Prompt], settings: PolicySettings, seed: int, team: Team) -> list[Response]:
    """Every prompt's answers side by side, within the limits of a pass; each pass has a seed of its own."""
    loads = sampling_loads(prompts, settings.samples, settings.sampling.max_new_tokens)
    limits = Limits(max(1, settings.forward_batch // settings.samples), settings.forward_tokens)

    def draw(some: list[int]) -> list[list[Response]]:
        return lm.engine(settings.engine).generate(
            [prompts[i] for i in some],
            settings.sampling,
            n=settings.samples,
            seed=seed + some[0],
            logprobs=True,
        )

    batches = share_out(list(cut(singly(len(prompts)), loads, limits)), draw, team)
    return [response for groups in batches for group in groups for response in group]


def _logprobs(
    lm: VideoLM,
    adapter: str | None,
    prompts: list[Prompt],
    responses: list[Response],
    settings: PolicySettings,
    team: Team,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and mask [B, R] under one adapter, or under none."""
    temperature = settings.sampling.temperature

    def compute(batch: Sequence[int]) -> tuple[Tensor, Tensor]:
        return lm.logprobs([prompts[i] for i in batch], [responses[i].ids for i in batch], temperature=temperature)

    loads, limits = lm.loads(prompts, [response.ids for response in responses]), limits_of(settings)
    if adapter is None:
        with lm.reference():
            return tuple(in_columns(compute, loads, limits, team))  # type: ignore[return-value]
    lm.use(adapter)
    return tuple(in_columns(compute, loads, limits, team))  # type: ignore[return-value]


def limits_of(settings: PolicySettings) -> Limits:
    """How many answers of a rollout go through a model at once."""
    return Limits(settings.forward_batch, settings.forward_tokens)


def _described(sampled: Sampled) -> Metrics:
    old, mask, responses = sampled.old, sampled.mask, sampled.responses
    return {
        "kl": float(((old - sampled.reference) * mask).sum(1).mean()),
        "entropy": float(-masked_mean(old, mask)),  # the sampled tokens' own estimate
        "response_length": float(mask.sum(1).float().mean()),
        "unique_share": len({response.text for response in responses}) / len(responses),
        "repetition": repetition(responses),
    }


def _checked(sampled: Sampled, settings: PolicySettings) -> Metrics:
    drawn = torch.zeros_like(sampled.old)
    for row, response in enumerate(sampled.responses):
        drawn[row, : len(response.ids)] = torch.tensor(response.logprobs)
    gap = float(masked_mean((drawn - sampled.old).abs(), sampled.mask))
    cut = sum(not response.finished for response in sampled.responses) / len(sampled.responses)
    if not gap <= settings.max_gap:  # NaN included
        raise TrainingError(
            f"Sampling and training disagree by {gap:.4f} nats a token (limit {settings.max_gap}): they do "
            "not see the same prompt or weights, so ratios mean nothing. Check adapters and chat template."
        )
    if cut > settings.max_unfinished:
        raise TrainingError(
            f"{cut:.1%} of the rollout was cut at {settings.sampling.max_new_tokens} tokens (limit "
            f"{settings.max_unfinished:.1%}). Raise training.sampling.max_new_tokens of the policy."
        )
    return {"rollout_gap": gap, "unfinished_share": cut}


def lengths_and_ends(responses: Sequence[Response], device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens of each answer [B], and whether it ended by itself [B]."""
    lengths = torch.tensor([len(response.ids) for response in responses], device=device)
    return lengths, torch.tensor([response.finished for response in responses], device=device)


def minibatches(rows: Sequence[int], settings: PolicySettings, rng_seed: int, step: int) -> list[list[int]]:
    """The rows of each optimiser step on one rollout: every epoch all of them, shuffled anew.

    The answers to a question stay together, so that their prompt is computed once.

    Args:
        rows: of a rollout, whole questions.
        settings: epochs, samples a question, and how many answers a step has at most (but a question at least).
        rng_seed: of the training.
        step: its iteration.
    """
    rng, samples = step_rng(rng_seed, step), settings.samples
    questions = [rows[at : at + samples] for at in range(0, len(rows), samples)]
    size = max(1, settings.minibatch // samples)
    orders = [rng.permutation(len(questions)) for _ in range(settings.epochs)]
    return [
        [row for place in sorted(order[start : start + size].tolist()) for row in questions[place]]
        for order in orders
        for start in range(0, len(questions), size)
    ]


def batch_of(
    lm: VideoLM, chosen: Sequence[int], samples: int, prompts: Sequence[Prompt], responses: Sequence[Response]
) -> Batch:
    """What an optimiser step learns from: rows of a rollout, a question's answers together.

    Args:
        lm: the model that learns.
        chosen: whole questions, each one's `samples` answers side by side.
        samples: answers a question.
        prompts: of all rows, as the model reads them.
        responses: of all rows.
    """
    questions = [chosen[at : at + samples] for at in range(0, len(chosen), samples)]
    return Batch(questions, lambda: lm.loads(prompts, [response.ids for response in responses]))


def train_on_policy(
    algorithm: Algorithm,
    prompts: Sequence[Prompt],
    settings: PolicySettings,
    seed: int,
    journal: Journal,
    truth: Truth | None = None,
    iterations: range | None = None,
) -> None:
    """Rollouts and updates to the last iteration, from the last saved state on.

    Args:
        algorithm: how it learns.
        prompts: questions; each rollout draws from them in shuffled passes.
        settings: iterations, rates and intervals.
        seed: of everything random.
        journal: keeps states and curves.
        truth: measures the rollouts against the truth where it is known, for the curves only.
        iterations: those to make, where the journal's first state is that of the ones before; None: all. The schedule
            is that of all in any case.

    Raises:
        TrainingError: the journal's state is none of these iterations, or a monitor stops the training.
    """
    trainer, made = algorithm.trainer, range(settings.iterations) if iterations is None else iterations
    trainer.resume(journal)
    if not made.start <= trainer.step <= made.stop:
        raise TrainingError(
            f"Iterations {made.start + 1} to {made.stop} are to be made, but the saved state is that of {trainer.step}."
        )
    if trainer.step == made.start:
        algorithm.begin()
    monitors = Monitors(settings.monitors, trainer.numbers)
    while trainer.step < made.stop:
        factor = rate_factor(trainer.step, settings.iterations, settings)
        trainer.set_rates(factor)
        drawn = passes(len(prompts), settings.prompts, seed, trainer.step)
        asked = {i: prompts[i] for i in drawn}
        drawn.sort(key=lambda i: (len(asked[i].ids), i))
        rollout, metrics = algorithm.rollout([asked[i] for i in drawn], _sampling_seed(seed, trainer.step), drawn)
        if truth is not None:
            scores = truth(rollout.numbers, [response.text for response in rollout.responses])
            metrics["reward_true"] = sum(scores) / len(scores)
        metrics |= algorithm.update(rollout, seed) | {"learning_rate": settings.rate * factor}
        trainer.step += 1
        rung = monitors.watch(trainer.step, metrics)
        journal.log(trainer.step, metrics | dict.fromkeys(rung, 1.0))
        stops = bool(rung) and settings.monitors.action == "stop"
        trainer.keep(journal, settings.save_every, made.stop, now=stops)
        monitors.stop_if_told(trainer.step, rung)


def _sampling_seed(seed: int, step: int) -> int:
    return int(step_rng(seed, step).integers(1 << 31))
