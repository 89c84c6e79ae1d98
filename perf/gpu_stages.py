"""The stages of a run on a model of a given shape, each beside the plain way in transformers and PEFT.

    python -m perf.gpu_stages [--shape small|7b] [--device cpu|cuda] [--samples 4] [--repeats 3]
        [--pass-tokens N] [--tflops N] [--commit NAME] [--note TEXT] [--out FILE]
    python -m perf.gpu_stages --shape 7b --device meta    # only the memory of policy, reference, value and reward

Encoding, sampling of G answers a question, log-probabilities, a reward-model step on pairs, and a PPO iteration (a
rollout, two epochs of two minibatches for policy and critic). Ours read visual tokens that were computed once; the
plain way is what a script with transformers and PEFT does: LoRA adapters on one frozen base and gradient checkpointing
too, but every forward from the pixels, each answer in a row of its own, and sampling with the adapter beside the
weights. Needs torch, transformers and peft (and annotated-types, for the settings in models/); weights are random.

A pass has at most so many tokens in both ways: `--pass-tokens`, or, on a GPU, what fits into the memory that is free
beside the plain way's weights, by what one pair took there. On a CPU nothing is cut.

Seconds are CPU seconds of one thread, or seconds of the GPU; the first repeat of each does not count. Tokens a second
are those of answers; of encoding, visual tokens. `tflops` is the arithmetic that the stage cannot do without
(perf.model_flops) in 10^12 a second, and `utilisation` its share of what the GPU can do in bfloat16 without sparsity,
by its maker or by `--tflops`. Where vLLM is installed, a GPU samples the same with it too (models.engines); no vLLM
has run this yet.

Each figure is printed, and kept in perf/results/ (or `--out`), as soon as it is there. A stage that fails, for want of
memory or otherwise, is kept as such, and the others still run.

Exits with 1 where sampling or PPO is below 3 times as fast as the plain way, the reward model below 1.7, sampling
below 0.8 of vLLM's, or a stage failed; with meta, where the four take more than 1.15 times the memory of the base.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from models.memory import ran_out
from models.room import USED, CudaMeter
from models.video_lm import VideoLM
from perf.gpu_ways import Ours, Plain, Work, add_roles
from perf.model_flops import ModelFlops
from perf.record import CommitError, Record
from perf.shapes import SHAPES, Shape, new_model

WANTED = {"sampling": 3.0, "reward_model_step": 1.7, "ppo_iteration": 3.0}
OF_VLLM = 0.8
LEANER = 1.15
# By NVIDIA's data sheets: dense rates in bfloat16, 10^12 a second. Other cards: --tflops.
TFLOPS = {
    "NVIDIA H200": 989,
    "NVIDIA H100 80GB HBM3": 989,
    "NVIDIA A100-SXM4-80GB": 312,
    "NVIDIA A100-SXM4-40GB": 312,
}
Stage = Callable[[int], Any]


def measured(work: Stage, repeats: int, device: str) -> dict[str, Any]:
    """Median seconds of all repeats but the first, the most memory in GiB on a GPU, and what the last told."""
    cuda, seconds, told = device.startswith("cuda"), [], None
    clock = time.perf_counter if cuda else time.process_time
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    for repeat in range(repeats + 1):
        began = clock()
        told = work(repeat)
        if cuda:
            torch.cuda.synchronize()
        seconds.append(clock() - began)
    figures: dict[str, Any] = {"seconds": round(statistics.median(seconds[1:]), 4)}
    if cuda:
        figures["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return figures | (told if isinstance(told, dict) else {})


def tried(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Its figures, or why there are none; memory is free again in any case."""
    try:
        figures = work()
    except Exception as error:
        traceback.print_exc()
        reason = "out of memory; lower --pass-tokens" if ran_out(error) else f"{type(error).__name__}: {error}"
        figures = {"failed": reason}
    tidy()  # Only here: the error held what the stage had made.
    return figures


def tidy() -> None:
    """Give back what nothing holds any more; models hold themselves in cycles."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def amounts(work: Work) -> dict[str, tuple[int, float]]:
    """Tokens of each stage, and the arithmetic that it cannot do without: a prompt is read once for its answers."""
    sums, shape, samples = ModelFlops(work.lm.core), work.shape, work.samples
    patches = (shape.tower["image_size"] // shape.tower["patch_size"]) ** 2
    questions, read, said = shape.prompts, len(work.prompts[0].ids), shape.new_tokens
    visual = sum(len(prompt.visual) for prompt in work.prompts)
    scored = questions * sums.forward(read, samples, said, scored=True)
    unscored = questions * sums.forward(read, samples, said, scored=False)
    policy = questions * sums.learning(read, samples, said, scored=True)
    critic = questions * sums.learning(read, samples, said, scored=False)
    answers = questions * samples * said
    return {
        "encoding": (visual, questions * sums.encoding(shape.frames, patches)),
        "sampling": (answers, scored),
        "log_probabilities": (answers, scored),
        "reward_model_step": (2 * questions * said, questions * sums.learning(read, 2, said, scored=False)),
        # Sampled, read by policy and reference, by critic and reward model, and learned from twice.
        "ppo_iteration": (answers, 3 * scored + 2 * unscored + 2 * (policy + critic)),
    }


def told(figures: dict[str, Any], amount: tuple[int, float], peak: float | None) -> dict[str, Any]:
    """A stage in figures; how much of the machine was used only where it is known what it can do."""
    if "failed" in figures:
        return figures
    tokens, operations = amount
    rate = operations / figures["seconds"] / 1e12
    figures |= {"tokens_per_second": round(tokens / figures["seconds"], 1), "tflops": round(rate, 4)}
    return figures | ({} if peak is None else {"utilisation": round(rate / peak, 3)})


def stages(way: Plain | Ours, work: Work) -> dict[str, Stage]:
    """What is measured of a way; encoding, which plain forwards do each time, is told of ours alone."""
    named: dict[str, Stage] = {
        "sampling": way.sample,
        "log_probabilities": lambda _: _quietly(way.logprobs),
        "reward_model_step": lambda _: way.reward_step(),
        "ppo_iteration": way.ppo,
    }
    return named if isinstance(way, Plain) else {"encoding": lambda _: work.encode(), **named}


@torch.no_grad()
def _quietly(do: Callable[[], Any]) -> None:
    do()


def fitting(plain: Plain) -> int:
    """The most tokens of a pass that fit into the memory that is free, by what a step on one pair took.

    A pass without gradients takes less, so it fits too.
    """
    meter, (first, *_) = CudaMeter(plain.lm.device), plain.work.prompts
    try:
        plain.reward_step(1)  # Moments of the optimiser are made by the first step.
        meter.begin()
        plain.reward_step(1)
    except torch.OutOfMemoryError:
        return 1  # What stays together, such as a pair, goes through alone.
    tokens = 2 * (len(first.ids) + plain.work.shape.new_tokens)
    return max(1, int(USED * meter.free() / meter.most() * tokens))


def measure_way(kind: type[Plain] | type[Ours], options: argparse.Namespace, record: Record) -> None:
    """Every stage one way, on a model of its own."""
    shape, device = SHAPES[options.shape], options.device
    work = Work(new_model(shape, device), shape, options.samples, record.told.get("pass_tokens"))
    way = kind(work)
    if isinstance(way, Plain):
        cut = options.pass_tokens or (fitting(way) if device.startswith("cuda") else None)
        work.pass_tokens = cut
        record.tell(pass_tokens=cut, samples=options.samples, shape={**asdict(shape), "dtype": str(shape.dtype)})
    sums, peak = amounts(work), _peak(options)
    for stage, do in stages(way, work).items():
        figures = tried(partial(measured, do, options.repeats, device))
        work.lm.core.zero_grad()
        record.tell_stage(stage, kind.__name__.lower(), told(figures, sums[stage], peak))
    record.tell(memory_of_all_roles=held(work.lm))
    if isinstance(way, Ours) and device.startswith("cuda") and find_spec("vllm") is not None:
        figures = tried(lambda: measured(way.vllm(), options.repeats, device))
        figures.pop("peak_gib", None)  # vLLM computes in a process of its own.
        record.tell_stage("sampling", "vllm", told(figures, sums["sampling"], peak))


def _peak(options: argparse.Namespace) -> float | None:
    """10^12 operations that the machine does a second at best, where that is known."""
    known = TFLOPS.get(torch.cuda.get_device_name(options.device)) if options.device.startswith("cuda") else None
    given: float | None = options.tflops
    return known if given is None else given


def held(lm: VideoLM) -> float:
    """Bytes of the weights of policy, reference, value and reward, over those of the base."""
    weights = sum(weight.nbytes for weight in lm.core.parameters())
    adapters = sum(weight.nbytes for name, weight in lm.core.named_parameters() if "lora_" in name)
    return float(round(weights / (weights - adapters), 3))


def only_memory(shape: Shape) -> int:
    """The weights of all roles beside those of the base, counted without making any."""
    lm = new_model(shape, "meta")
    with torch.device("meta"):
        add_roles(lm, shape)
    print(json.dumps({"memory_of_all_roles": held(lm)}))
    return int(held(lm) > LEANER)


def compared(found: dict[str, dict[str, dict[str, Any]]]) -> tuple[dict[str, float], bool]:
    """How many times as fast as the plain way each stage is, sampling also beside vLLM; and whether all are as asked.

    Args:
        found: figures by stage and way.
    """
    ratios = dict[str, float]()
    for stage, ways in found.items():
        ours = ways.get("ours", {}).get("seconds")
        for way, name in (("plain", stage), ("vllm", "sampling_beside_vllm")):
            if ours and "seconds" in ways.get(way, {}):
                ratios[name] = round(ways[way]["seconds"] / ours, 2)
    whole = not any("failed" in figures for ways in found.values() for figures in ways.values())
    fast = all(ratios.get(stage, 0.0) >= wanted for stage, wanted in WANTED.items())
    return ratios, whole and fast and ratios.get("sampling_beside_vllm", OF_VLLM) >= OF_VLLM


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="small")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--pass-tokens", type=int, help="most tokens of a pass, padding included")
    parser.add_argument("--tflops", type=float, help="what the GPU can do, in 10^12 a second")
    parser.add_argument("--commit", help="of this code, where git is not at hand")
    parser.add_argument("--note", default="", help="what a reader must know, such as other work on the machine")
    parser.add_argument("--out", type=Path, help="the file of results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.device == "meta":
        return only_memory(SHAPES[options.shape])
    try:
        record = Record(f"gpu_stages-{options.shape}", options.device, options.commit, options.note, options.out)
    except CommitError as error:
        parser.error(str(error))
    for kind in (Plain, Ours):
        measure_way(kind, options, record)
        tidy()
    ratios, as_asked = compared(record.told["stages"])
    record.tell(times_as_fast=ratios, as_asked=as_asked)
    print(f"Results: {record.path}")
    return int(not as_asked)


if __name__ == "__main__":
    sys.exit(main())
