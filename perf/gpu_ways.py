"""The stages of a run done two ways: as the product does them, and as a script with transformers and PEFT does.

Both learn adapters on one frozen base, keep only the layers' inputs for a backward pass where the shape says so, and
cut their work into passes by one rule: at most `Work.pass_tokens` tokens, padding included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from models.advantages import generalized_advantages, kl_per_token, token_rewards, whiten
from models.batches import Batch, Limits, Load, cut, sampling_loads, singly
from models.encoding import encode_clips
from models.families.llava import LlavaOnevision
from models.losses import bradley_terry, policy_loss, value_loss
from models.on_policy import limits_of
from models.packing import Packed, pack_answers
from models.ppo import Ppo
from models.reward_model import RewardModel, RewardPrompt, Scorer
from models.settings import LoraSettings, PpoSettings, RewardForm, Sampling
from models.training import Metrics, Trainer
from models.video_lm import VideoLM
from perf.shapes import WORDS, Shape, new_frames

ROLES = ("policy", "value", "reward")  # The reference is the base without any.
MAX_GAP = {torch.float32: 0.006, torch.bfloat16: 0.03}  # As in the presets, nats a token.


class Work:
    """What is asked: a video and a question each, in pixels for the plain way and in tokens for ours.

    Attributes:
        pass_tokens: the most tokens of a pass, padding included; None: all in one pass.
        answers: to each question, tokens that stand for sampled ones wherever they are read again.
    """

    def __init__(self, lm: VideoLM, shape: Shape, samples: int, pass_tokens: int | None = None) -> None:
        self.lm, self.shape, self.samples, self.pass_tokens = lm, shape, samples, pass_tokens
        self._frames = [new_frames(shape, seed) for seed in range(shape.prompts)]
        eyes = LlavaOnevision()  # Frames are resized and normalised once, not in every forward of the plain way.
        made = (eyes.pixels(lm.processor, frames) for frames in self._frames)
        self._pixels = [each.to(lm.device, lm.core.dtype) for each in made]
        texts = [" ".join(WORDS[seed : seed + 8]) for seed in range(shape.prompts)]
        self.prompts = [lm.prompt(text, lm.encode(frames)) for text, frames in zip(texts, self._frames, strict=True)]
        torch.manual_seed(1)
        count = (shape.prompts, samples, shape.new_tokens)
        self.answers = torch.randint(len(WORDS), shape.text["vocab_size"] - 1, count).tolist()

    @property
    def limits(self) -> Limits:
        return Limits(len(self.prompts) * self.samples, self.pass_tokens)

    def encode(self) -> None:
        clip = list(range(self.shape.frames))
        for frames in self._frames:
            encode_clips(self.lm, frames, [clip], clip, self.shape.frames)

    def pixels(self, numbers: Sequence[int]) -> Tensor:
        """Normalised frames of the questions with these numbers."""
        return torch.stack([self._pixels[number] for number in numbers])

    def rows(self, samples: int) -> tuple[list[int], list[list[int]]]:
        """Question and answer of each row, a question's side by side."""
        numbers = [number for number in range(len(self.prompts)) for _ in range(samples)]
        return numbers, [answer for each in self.answers for answer in each[:samples]]

    def sampling_passes(self) -> Iterator[list[int]]:
        """Numbers of the questions that are sampled from together."""
        loads = sampling_loads(self.prompts, self.samples, self.shape.new_tokens)
        return cut(singly(len(self.prompts)), loads, self.limits)


def lora_of(shape: Shape) -> LoraSettings:
    return LoraSettings(rank=shape.rank, alpha=2 * shape.rank)


def add_roles(lm: VideoLM, shape: Shape) -> None:
    """Policy, critic and reward model as adapters of one base."""
    for seed, name in enumerate(ROLES):
        lm.add_adapter(name, lora_of(shape), seed)


def pairs_of(rows: int) -> list[list[int]]:
    """Rows two by two: a chosen and a rejected answer each."""
    return [[row, row + 1] for row in range(0, rows, 2)]


class Plain:
    """The way of a script: every forward sees the pixels, every answer has a row of its own."""

    def __init__(self, work: Work) -> None:
        self.work, self.lm = work, work.lm
        add_roles(self.lm, work.shape)
        width, device = self.lm.hidden_size, self.lm.device
        self.value_head, self.reward_head = (nn.Linear(width, 1, device=device) for _ in range(2))
        self._steps = {
            "policy": self._optimizer("policy"),
            "value": self._optimizer("value", self.value_head),
            "reward": self._optimizer("reward", self.reward_head),
        }
        if work.shape.gradient_checkpointing:
            self.lm.core.activation_checkpointing_enable({"use_reentrant": False})

    def _optimizer(self, name: str, head: nn.Module | None = None) -> torch.optim.Optimizer:
        weights = [*self.lm.adapter_parameters(name).values(), *(head.parameters() if head else ())]
        return torch.optim.AdamW(weights, lr=1e-4)

    def hidden(self, numbers: Sequence[int], answers: Sequence[list[int]]) -> tuple[Tensor, Packed]:
        """Last hidden states [B, L, D] of questions with an answer each, and where the answers stand."""
        prompts = [self.work.prompts[number] for number in numbers]
        packed = pack_answers(prompts, answers, 0, self.lm.device, share=False)
        # Layers are computed again only while a model trains; no dropout is on.
        self.lm.core.train(torch.is_grad_enabled() and self.work.shape.gradient_checkpointing)
        states: Tensor = self.lm.core.model(
            input_ids=packed.ids,
            attention_mask=packed.mask,
            position_ids=packed.positions,
            pixel_values_videos=self.work.pixels(numbers),
            use_cache=False,
        ).last_hidden_state
        return states, packed

    def sample(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.lm.core.eval()
        self.lm.use("policy")
        for numbers in self.work.sampling_passes():
            ids = torch.tensor([self.work.prompts[number].ids for number in numbers], device=self.lm.device)
            self.lm.core.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                pixel_values_videos=self.work.pixels(numbers),
                num_return_sequences=self.work.samples,
                max_new_tokens=self.work.shape.new_tokens,
                do_sample=True,
                top_k=0,
                suppress_tokens=self.lm.suppressed,
            )

    def logprobs(self) -> Tensor:
        """Log-probabilities [B, R] of all answers."""
        self.lm.use("policy")
        return self._of_all(self._logprobs)

    def _logprobs(self, rows: list[int]) -> Tensor:
        """Those [B, R] of the answers in these rows."""
        states, packed = self._hidden_of(rows)
        logits = self.lm.core.lm_head(states[packed.row[:, None], packed.before]).float()
        picked: Tensor = logits.log_softmax(-1).gather(-1, packed.response_ids[..., None])[..., 0]
        return picked

    def _values(self, rows: list[int]) -> Tensor:
        """The critic's value [B, R] before each token of the answers in these rows."""
        states, packed = self._hidden_of(rows)
        values: Tensor = self.value_head(states[packed.row[:, None], packed.before].float())[..., 0]
        return values

    def _rewards(self, rows: list[int], samples: int) -> Tensor:
        """Rewards [B] of the answers in these rows, where each question has `samples` of them."""
        states, packed = self._hidden_of(rows, samples)
        rewards: Tensor = self.reward_head(states[packed.row, packed.last].float())[:, 0]
        return rewards

    def _hidden_of(self, rows: list[int], samples: int | None = None) -> tuple[Tensor, Packed]:
        numbers, answers = self.work.rows(samples or self.work.samples)
        return self.hidden([numbers[row] for row in rows], [answers[row] for row in rows])

    def _of_all(self, compute: Callable[[list[int]], Tensor]) -> Tensor:
        every = singly(len(self.work.prompts) * self.work.samples)
        return torch.cat([compute(rows) for rows in self._passes(every, self.work.samples)])

    def _passes(self, units: Sequence[Sequence[int]], samples: int) -> Iterator[list[int]]:
        """Rows of questions with `samples` answers each, as many together as a pass takes; units stay whole."""
        numbers, answers = self.work.rows(samples)
        loads = [Load(row, len(self.work.prompts[number].ids), len(answers[row])) for row, number in enumerate(numbers)]
        return cut(units, loads, self.work.limits)

    def reward_step(self, questions: int | None = None) -> None:
        """A step on the pairs of all questions, or of the first ones."""

        def loss(rows: list[int]) -> Tensor:
            scores = self._rewards(rows, 2)
            return bradley_terry(scores[::2], scores[1::2])

        self._learn("reward", pairs_of(2 * len(self.work.prompts))[:questions], 2, loss)

    def _learn(
        self, name: str, units: Sequence[Sequence[int]], samples: int, loss: Callable[[list[int]], Tensor]
    ) -> None:
        """One step of an adapter on the mean over rows, whose gradients are added up over passes."""
        self.lm.use(name)
        count = sum(map(len, units))
        for rows in self._passes(units, samples):
            (len(rows) / count * loss(rows)).backward()  # type: ignore[no-untyped-call]
        self._steps[name].step()
        self._steps[name].zero_grad()

    def ppo(self, seed: int) -> dict[str, float]:
        with torch.no_grad():
            self.sample(seed)
            old = self.logprobs()
            with self.lm.reference():
                reference = self._of_all(self._logprobs)
            self.lm.use("value")
            values = self._of_all(self._values)
            self.lm.use("reward")
            rewards = self._of_all(partial(self._rewards, samples=self.work.samples))
            mask = torch.ones_like(old, dtype=torch.bool)  # No answer ends early.
            shaped = token_rewards(rewards, kl_per_token(old, reference, "k1"), mask, 0.1)
            advantages, returns = generalized_advantages(shaped, values, mask, 1.0, 1.0)
            advantages = whiten(advantages, mask)

        def policy(rows: list[int]) -> Tensor:
            return policy_loss(self._logprobs(rows), old[rows], advantages[rows], mask[rows], 0.2)[0]

        def critic(rows: list[int]) -> Tensor:
            return value_loss(self._values(rows), values[rows], returns[rows], mask[rows], 0.2)

        every, half = singly(len(old)), len(old) // 2
        for rows in [every[:half], every[half:]] * 2:
            self._learn("policy", rows, self.work.samples, policy)
            self._learn("value", rows, self.work.samples, critic)
        return {}


class Ours:
    """The product's way."""

    def __init__(self, work: Work) -> None:
        self.work, self.lm = work, work.lm
        self.lm.add_adapter("reward", lora_of(work.shape), 0)
        self.reward = RewardModel(self.lm, RewardForm(kind="head", prompt=""))
        self.read = [RewardPrompt(prompt.ids, prompt.visual, prompt.positions) for prompt in work.prompts]
        answers = len(work.prompts) * work.samples
        self.settings = PpoSettings(
            lora=lora_of(work.shape),
            prompts=len(work.prompts),
            samples=work.samples,
            minibatch=answers // 2,
            forward_batch=answers,
            forward_tokens=work.pass_tokens,
            epochs=2,
            sampling=Sampling(max_new_tokens=work.shape.new_tokens),
            max_unfinished=1.0,
            max_gap=MAX_GAP[work.shape.dtype],
        )
        self.algorithm = Ppo(self.lm, Scorer(self.reward, self.read, self.lm), self.settings, seed=0)
        head = {f"head.{name}": weight for name, weight in self.reward.head.named_parameters()}
        self._trainer = Trainer({"reward": self.lm.adapter_parameters("reward") | head}, {"reward": 1e-4}, 1.0)
        self.lm.merge_into_twin("policy")

    def sample(self, seed: int) -> None:
        for numbers in self.work.sampling_passes():
            prompts = [self.work.prompts[number] for number in numbers]
            sampling, samples = self.settings.sampling, self.work.samples
            self.lm.generate(prompts, sampling, n=samples, seed=seed + numbers[0], logprobs=True, merged=True)

    def logprobs(self) -> Tensor:
        """Log-probabilities [B, R] of all answers."""
        numbers, answers = self.work.rows(self.work.samples)
        prompts = [self.work.prompts[number] for number in numbers]
        self.lm.use("policy")
        passes = cut(singly(len(numbers)), self.lm.loads(prompts, answers), limits_of(self.settings))
        return torch.cat(
            [self.lm.logprobs([prompts[i] for i in each], [answers[i] for i in each])[0] for each in passes]
        )

    def reward_step(self) -> None:
        numbers, answers = self.work.rows(2)
        prompts = [self.read[number] for number in numbers]
        pairs = Batch(pairs_of(len(numbers)), partial(self.reward.loads, prompts, answers))

        def part(places: list[int]) -> tuple[Tensor, Metrics]:
            scores = self.reward.score([prompts[i] for i in places], [answers[i] for i in places])
            return len(places) / len(answers) * bradley_terry(scores[::2], scores[1::2]), {}

        self.lm.use("reward")
        self._trainer.update_in_parts(pairs, part, self.work.limits, "reward", numbers)

    def ppo(self, seed: int) -> dict[str, float]:
        rollout, told = self.algorithm.rollout(self.work.prompts, seed, range(len(self.work.prompts)))
        self.algorithm.update(rollout, seed)
        self.algorithm.trainer.step += 1
        return {"rollout_gap": round(told["rollout_gap"], 5)}

    def vllm(self) -> Callable[[int], dict[str, float]]:
        """Draws the same with vLLM, told a seed. Its ends are as unlikely as ours: they are among what is suppressed.

        Raises:
            ValueError: vLLM does not load.
        """
        engine = self.lm.engine("vllm")
        engine.refresh("policy")

        def draw(seed: int) -> dict[str, float]:
            sampling, samples = self.settings.sampling, self.work.samples
            drawn = engine.generate(self.work.prompts, sampling, n=samples, seed=seed, logprobs=True)
            return {"answer_tokens": sum(len(answer.ids) for answers in drawn for answer in answers)}

        return draw
