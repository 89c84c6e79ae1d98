"""The stages of a run on a model of a given shape, each beside the plain way in transformers and PEFT.

    python -m perf.gpu_stages [--shape small|7b] [--device cpu|cuda] [--samples 4] [--repeats 3] [--tflops 989]
    python -m perf.gpu_stages --shape 7b --device meta    # only the memory of policy, reference, value and reward

Encoding, sampling of G answers a question, log-probabilities, a reward-model step on pairs, and a PPO iteration (a
rollout, two epochs of two minibatches for policy and critic). Ours read visual tokens that were computed once; the
plain way is what a script with transformers and PEFT does: LoRA adapters on one frozen base too, but every forward from
the pixels, each answer in a row of its own, and sampling with the adapter beside the weights. Needs torch, transformers
and peft alone; weights are random. Seconds are CPU seconds of one thread, or seconds of the GPU; the first repeat of
each does not count. On a GPU also the largest memory, and the share of its arithmetic that is used (`--tflops`: what it
can do, in 10^12 a second; 989 is an H200 in bfloat16).

Exits with 1 where sampling or PPO is below 3 times as fast as the plain way, or the reward model below 1.7; with meta,
where the four take more than 1.15 times the memory of the base.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from models.advantages import generalized_advantages, kl_per_token, token_rewards, whiten
from models.encoding import encode_clips
from models.families.llava import LlavaOnevision
from models.losses import bradley_terry, policy_loss, value_loss
from models.packing import pack_answers
from models.ppo import Ppo
from models.reward_model import RewardModel, RewardPrompt, Scorer
from models.settings import LoraSettings, PpoSettings, RewardForm, Sampling
from models.video_lm import VideoLM
from perf.shapes import SHAPES, WORDS, Shape, new_frames, new_model

WANTED = {"sampling": 3.0, "reward_model_step": 1.7, "ppo_iteration": 3.0}
LEANER = 1.15
ROLES = ("policy", "value", "reward")  # The reference is the base without any.


class Work:
    """What is asked: a video and a question each, in pixels for the plain way and in tokens for ours."""

    def __init__(self, lm: VideoLM, shape: Shape, samples: int) -> None:
        self.lm, self.shape, self.samples = lm, shape, samples
        self.frames = [new_frames(shape, seed) for seed in range(shape.prompts)]
        self.texts = [" ".join(WORDS[seed : seed + 8]) for seed in range(shape.prompts)]
        self.clip = [list(range(shape.frames))]
        self.prompts = [
            lm.prompt(text, lm.encode(frames)) for text, frames in zip(self.texts, self.frames, strict=True)
        ]
        torch.manual_seed(1)
        count = (shape.prompts, samples, shape.new_tokens)
        self.answers = torch.randint(len(WORDS), shape.text["vocab_size"] - 1, count).tolist()

    def encode(self) -> None:
        for frames in self.frames:
            encode_clips(self.lm, frames, self.clip, self.clip[0], self.shape.frames)

    def pixels(self, numbers: list[int]) -> Tensor:
        """Normalised frames of the questions with these numbers."""
        eyes = LlavaOnevision()
        seen = torch.stack([eyes.pixels(self.lm.processor, self.frames[number]) for number in numbers])
        return seen.to(self.lm.device, self.lm.core.dtype)

    def rows(self, samples: int) -> tuple[list[int], list[list[int]]]:
        """Question and answer of each row."""
        numbers = [number for number in range(len(self.prompts)) for _ in range(samples)]
        return numbers, [answer for each in self.answers for answer in each[:samples]]


def lora_of(shape: Shape) -> LoraSettings:
    return LoraSettings(rank=shape.rank, alpha=2 * shape.rank)


def add_roles(lm: VideoLM, shape: Shape) -> None:
    """Policy, critic and reward model as adapters of one base."""
    for seed, name in enumerate(ROLES):
        lm.add_adapter(name, lora_of(shape), seed)


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

    def _optimizer(self, name: str, head: nn.Module | None = None) -> torch.optim.Optimizer:
        weights = [*self.lm.adapter_parameters(name).values(), *(head.parameters() if head else ())]
        return torch.optim.AdamW(weights, lr=1e-4)

    def hidden(self, numbers: list[int], answers: list[list[int]]) -> tuple[Tensor, Any]:
        prompts = [self.work.prompts[number] for number in numbers]
        packed = pack_answers(prompts, answers, 0, self.lm.device, share=False)
        states = self.lm.core.model(
            input_ids=packed.ids,
            attention_mask=packed.mask,
            position_ids=packed.positions,
            pixel_values_videos=self.work.pixels(numbers),
            use_cache=False,
        ).last_hidden_state
        return states, packed

    def sample(self, seed: int) -> None:
        torch.manual_seed(seed)
        ids = torch.tensor([prompt.ids for prompt in self.work.prompts], device=self.lm.device)
        self.lm.core.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values_videos=self.work.pixels(list(range(len(ids)))),
            num_return_sequences=self.work.samples,
            max_new_tokens=self.work.shape.new_tokens,
            do_sample=True,
            top_k=0,
            suppress_tokens=self.lm.suppressed,
        )

    def logprobs(self, name: str | None = "policy", rows: slice = slice(None)) -> tuple[Tensor, Tensor]:
        numbers, answers = self.work.rows(self.work.samples)
        if name is None:
            with self.lm.reference():
                states, packed = self.hidden(numbers[rows], answers[rows])
        else:
            self.lm.use(name)
            states, packed = self.hidden(numbers[rows], answers[rows])
        logits = self.lm.core.lm_head(states[packed.row[:, None], packed.before]).float()
        found = logits.log_softmax(-1).gather(-1, packed.response_ids[..., None])[..., 0]
        return found * packed.response_mask, packed.response_mask

    def _read(self, name: str, head: nn.Module, rows: slice = slice(None)) -> tuple[Tensor, Any]:
        numbers, answers = self.work.rows(self.work.samples)
        self.lm.use(name)
        states, packed = self.hidden(numbers[rows], answers[rows])
        return head(states.float())[..., 0], packed

    def values(self, rows: slice = slice(None)) -> Tensor:
        read, packed = self._read("value", self.value_head, rows)
        values: Tensor = read[packed.row[:, None], packed.before] * packed.response_mask
        return values

    def reward_step(self) -> None:
        numbers, answers = self.work.rows(2)
        self.lm.use("reward")
        states, packed = self.hidden(numbers, answers)
        scores = self.reward_head(states.float())[packed.row, packed.last, 0]
        self._step("reward", bradley_terry(scores[::2], scores[1::2]))

    def _step(self, name: str, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]
        self._steps[name].step()
        self._steps[name].zero_grad()

    def ppo(self, seed: int) -> None:
        with torch.no_grad():
            self.lm.use("policy")
            self.sample(seed)
            old, mask = self.logprobs()
            reference, _ = self.logprobs(None)
            values = self.values()
            read, packed = self._read("reward", self.reward_head)
            shaped = token_rewards(read[packed.row, packed.last], kl_per_token(old, reference, "k1"), mask, 0.1)
            advantages, returns = generalized_advantages(shaped, values, mask, 1.0, 1.0)
            advantages = whiten(advantages, mask)
        half = len(old) // 2
        for rows in [slice(0, half), slice(half, None)] * 2:
            new, kept = self.logprobs(rows=rows)
            loss, _ = policy_loss(new, old[rows], advantages[rows], kept, 0.2)
            self._step("policy", loss)
            self._step("value", value_loss(self.values(rows), values[rows], returns[rows], kept, 0.2))


class Ours:
    """The product's way."""

    def __init__(self, work: Work) -> None:
        self.work, self.lm = work, work.lm
        self.lm.add_adapter("reward", lora_of(work.shape), 0)
        reward = RewardModel(self.lm, RewardForm(kind="head", prompt=""))
        read = [RewardPrompt(prompt.ids, prompt.visual, prompt.positions) for prompt in work.prompts]
        answers = len(work.prompts) * work.samples
        self.settings = PpoSettings(
            lora=lora_of(work.shape),
            prompts=len(work.prompts),
            samples=work.samples,
            minibatch=answers // 2,
            forward_batch=answers,
            epochs=2,
            sampling=Sampling(max_new_tokens=work.shape.new_tokens),
            max_unfinished=1.0,
        )
        self.algorithm = Ppo(self.lm, Scorer(reward, read, self.lm), self.settings, seed=0)
        self.reward, self.read = reward, read
        weights = [*self.lm.adapter_parameters("reward").values(), *reward.head.parameters()]
        self._reward_steps = torch.optim.AdamW(weights, lr=1e-4)
        self.lm.merge_into_twin("policy")

    def sample(self, seed: int) -> None:
        self.lm.generate(
            self.work.prompts, self.settings.sampling, n=self.work.samples, seed=seed, logprobs=True, merged=True
        )

    def logprobs(self) -> Tensor:
        numbers, answers = self.work.rows(self.work.samples)
        self.lm.use("policy")
        return self.lm.logprobs([self.work.prompts[number] for number in numbers], answers)[0]

    def reward_step(self) -> None:
        numbers, answers = self.work.rows(2)
        scores = self.reward.score([self.read[number] for number in numbers], answers)
        bradley_terry(scores[::2], scores[1::2]).backward()  # type: ignore[no-untyped-call]
        self._reward_steps.step()
        self._reward_steps.zero_grad()

    def ppo(self, seed: int) -> None:
        rollout, _ = self.algorithm.rollout(self.work.prompts, seed, range(len(self.work.prompts)))
        self.algorithm.update(rollout, seed)
        self.algorithm.trainer.step += 1


def measured(work: Callable[[int], Any], repeats: int, device: str) -> tuple[float, float | None]:
    """Median seconds of all repeats but the first, and the most memory in GiB, on a GPU."""
    cuda, seconds = device.startswith("cuda"), []
    for repeat in range(repeats + 1):
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter() if cuda else time.process_time()
        work(repeat)
        if cuda:
            torch.cuda.synchronize()
        seconds.append((time.perf_counter() if cuda else time.process_time()) - began)
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else None
    return statistics.median(seconds[1:]), peak


def useful(shape: Shape, lm: VideoLM, work: Work) -> dict[str, float]:
    """Multiplications and additions that a stage cannot do without: 2 a weight and token, 6 where it is trained."""
    text = sum(weight.numel() for name, weight in lm.core.named_parameters() if "vision" not in name)
    tower = sum(weight.numel() for name, weight in lm.core.named_parameters() if "vision" in name)
    patches = (shape.tower["image_size"] // shape.tower["patch_size"]) ** 2
    read, said = sum(len(prompt.ids) for prompt in work.prompts), shape.prompts * work.samples * shape.new_tokens
    once = 2.0 * text * (read + said)
    pairs = 2.0 * text * (read + 2 * shape.prompts * shape.new_tokens)
    return {
        "encoding": 2.0 * tower * shape.frames * patches * shape.prompts,
        "sampling": once,
        "log_probabilities": once,
        "reward_model_step": 3 * pairs,
        "ppo_iteration": once * (1 + 4 + 2 * 2 * 3),  # sampled, read four times, two trained twice
    }


def stages(way: Plain | Ours, work: Work) -> dict[str, Callable[[int], Any]]:
    """What is measured of a way; encoding, which plain forwards do each time, is told of ours alone."""
    named: dict[str, Callable[[int], Any]] = {
        "sampling": way.sample,
        "log_probabilities": lambda _: _quietly(way.logprobs),
        "reward_model_step": lambda _: way.reward_step(),
        "ppo_iteration": way.ppo,
    }
    return named if isinstance(way, Plain) else {"encoding": lambda _: work.encode(), **named}


@torch.no_grad()
def _quietly(do: Callable[[], Any]) -> None:
    do()


def told(seconds: float, peak: float | None, operations: float, tflops: float) -> dict[str, float]:
    """A stage in figures; how much of a GPU was used only where there is one."""
    figures = {"seconds": round(seconds, 4)}
    if peak is not None:
        figures |= {"peak_gib": round(peak, 2), "utilisation": round(operations / seconds / tflops / 1e12, 3)}
    return figures


def held(lm: VideoLM) -> float:
    """Bytes of the weights of policy, reference, value and reward, over those of the base."""
    weights = sum(weight.nbytes for weight in lm.core.parameters())
    adapters = sum(weight.nbytes for name, weight in lm.core.named_parameters() if "lora_" in name)
    return float(round(weights / (weights - adapters), 3))


def machine(device: str) -> str:
    return torch.cuda.get_device_name() if device.startswith("cuda") else "CPU, one thread"


def only_memory(shape: Shape) -> int:
    """The weights of all roles beside those of the base, counted without making any."""
    lm = new_model(shape, "meta")
    with torch.device("meta"):
        add_roles(lm, shape)
    print(json.dumps({"memory_of_all_roles": held(lm)}))
    return int(held(lm) > LEANER)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="small")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tflops", type=float, default=989.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    shape = SHAPES[options.shape]
    if options.device == "meta":
        return only_memory(shape)
    found: dict[str, dict[str, Any]] = {}
    for way in (Plain, Ours):
        work = Work(new_model(shape, options.device), shape, options.samples)
        sums = useful(shape, work.lm, work)
        for stage, do in stages(way(work), work).items():
            seconds, peak = measured(do, options.repeats, options.device)
            found.setdefault(stage, {})[way.__name__.lower()] = told(seconds, peak, sums[stage], options.tflops)
        roles = held(work.lm)
        del work, do
    ratios = {
        stage: round(each["plain"]["seconds"] / each["ours"]["seconds"], 2)
        for stage, each in found.items()
        if "plain" in each
    }
    print(
        json.dumps(
            {
                "machine": machine(options.device),
                "stages": found,
                "times_as_fast": ratios,
                "memory_of_all_roles": roles,
            },
            indent=2,
        )
    )
    return int(any(ratios[stage] < wanted for stage, wanted in WANTED.items()))


if __name__ == "__main__":
    sys.exit(main())
