"""What model work costs by arithmetic: time from a card's data sheet, memory from a model's sizes. Nothing is measured.

It stands in for a sample (tasks.plan) where the model, the data or the card are not here. Every number that is no size
of the model is an assumption of `Assumptions`, shown beside the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, Self

from models.settings import LoraSettings

if TYPE_CHECKING:
    from models.shape import ModelShape

GIB = 2**30
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
NF4_BYTES = 0.52  # Of a weight in four bits, with what scales its block.
LEARNED_BYTES = 16  # A weight of an adapter in float32, its gradient, and Adam's two moments.
_FLOAT32_SLOWER = 16  # Of a card's rate in bfloat16: without tensor cores.


@dataclass(frozen=True)
class Card:
    """A GPU as its maker's data sheet tells it.

    Attributes:
        tflops: rate in bfloat16, dense.
        gib: memory.
        gb_s: bandwidth of the memory.
    """

    tflops: float
    gib: float
    gb_s: float


CARDS = {
    "a100-40": Card(312, 40, 1555),
    "a100-80": Card(312, 80, 2039),
    "h100": Card(989, 80, 3350),
    "h200": Card(989, 141, 4800),
    "l4": Card(121, 24, 300),
    "a10": Card(125, 24, 600),
    "l40s": Card(362, 48, 864),
    "rtx-3090": Card(71, 24, 936),
    "rtx-4090": Card(165, 24, 1008),
    "cpu": Card(
        1.6, 16, 20
    ),  # One core: 100 GFLOP/s in float32, told as the sixteen times that a card gains in bfloat16.
}


def card_here() -> str | None:
    """What the first GPU of this machine is called here; None: there is none, or it is not known."""
    import torch

    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name(0).lower().replace(" ", "-")
    gib = torch.cuda.get_device_properties(0).total_memory / GIB
    words = name.split("-")
    near = [card for card in CARDS if card in name or (card.startswith("a100") and "a100" in words)]
    return min(near, key=lambda card: abs(CARDS[card].gib - gib), default=None)


class AssumptionError(ValueError):
    """An assumption has no such name or value; the message names those there are."""


def as_count(given: str) -> int:
    """The number of "name=number".

    Raises:
        AssumptionError: it is none.
    """
    text = given.partition("=")[2]
    if not text.isdecimal():
        raise AssumptionError(f"Assumption {given!r}: {text!r} is no int.")
    return int(text)


@dataclass(frozen=True)
class Assumptions:
    """What is taken for granted. The defaults are the project's guesses; none was measured on a GPU.

    Attributes:
        card: the GPU of a worker.
        utilisation: share of the card's rate that passes of a model reach.
        bandwidth_use: share of the card's bandwidth that sampling reaches.
        step_ms: least time of one step of sampling, whatever the model: Python and launches.
        question_tokens: of a question with its chat marks.
        answer_tokens: mean length of an answer, where the limit allows it.
        caption_tokens: mean length of a caption, likewise.
        longest: the longest answer of a batch, in means: a batch is sampled until its last answer ends.
        height: of a frame of the videos, in pixels.
        width: likewise.
        decode_ms: of a core, for a frame that is kept.
        reserve_gib: what the card's driver, the libraries and fragmentation take of its memory.
    """

    card: str = "a100-80"
    utilisation: float = 0.35
    bandwidth_use: float = 0.6
    step_ms: float = 25.0
    question_tokens: int = 60
    answer_tokens: int = 120
    caption_tokens: int = 150
    longest: float = 2.5
    height: int = 720
    width: int = 1280
    decode_ms: float = 12.0
    reserve_gib: float = 2.0

    def __post_init__(self) -> None:
        if self.card not in CARDS:
            raise AssumptionError(f"The card {self.card!r} is not known; known: {', '.join(CARDS)}.")
        wrong = [each.name for each in fields(self) if each.name != "card" and not getattr(self, each.name) > 0]
        if wrong or self.utilisation > 1 or self.bandwidth_use > 1:
            raise AssumptionError("Assumptions must be above 0, and shares at most 1: " + ", ".join(self.told()))

    def with_values(self, given: Sequence[str]) -> Self:
        """The same with values on top, each "name=value".

        Raises:
            AssumptionError: a name or a value that there cannot be.
        """
        kinds = {each.name: type(getattr(self, each.name)) for each in fields(self)}
        values: dict[str, Any] = {}
        for each in given:
            name, equals, text = each.partition("=")
            if not equals or name not in kinds:
                raise AssumptionError(f"Assumption {each!r} must read name=value; names: {', '.join(kinds)}.")
            try:
                values[name] = kinds[name](text)
            except ValueError:
                raise AssumptionError(f"Assumption {each!r}: {text!r} is no {kinds[name].__name__}.") from None
        return replace(self, **values)

    def told(self) -> Iterator[str]:
        """Each as it could be given."""
        for each in fields(self):
            value = getattr(self, each.name)
            yield f"{each.name}={value:g}" if isinstance(value, float) else f"{each.name}={value}"

    def frame_size(self, max_side: int | None) -> tuple[int, int]:
        """Height and width of a kept frame."""
        shrink = min(1.0, (max_side or self.height + self.width) / max(self.height, self.width))
        return round(self.height * shrink), round(self.width * shrink)


@dataclass(frozen=True)
class Work:
    """What a stage does. `+` adds up what one worker does in turn; memory is then that of the larger.

    Attributes:
        calls: of models, as a plan counts them.
        input_tokens: that they read.
        output_tokens: that they write.
        seconds: of one worker.
        memory: bytes on its card.
    """

    calls: float = 0.0
    input_tokens: float = 0.0
    output_tokens: float = 0.0
    seconds: float = 0.0
    memory: float = 0.0

    def __add__(self, other: Work) -> Work:
        sums = {each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)}
        return Work(**{**sums, "memory": max(self.memory, other.memory)})


class Costs:
    """Of one model on one card."""

    def __init__(
        self, shape: ModelShape, assumed: Assumptions, dtype: str, quantization: Literal["none", "nf4"] = "none"
    ) -> None:
        self.shape, self.assumed, self._in_four_bits = shape, assumed, quantization == "nf4"
        self.bytes = BYTES[dtype]
        card = CARDS[assumed.card]
        self._rate = card.tflops * 1e12 * assumed.utilisation / (_FLOAT32_SLOWER if dtype == "float32" else 1)
        self._bandwidth = card.gb_s * 1e9 * assumed.bandwidth_use

    @property
    def weights(self) -> float:
        """Bytes of the model."""
        few = self.shape.adapted(LoraSettings().modules) if self._in_four_bits else 0
        return (self.shape.parameters - few) * self.bytes + few * NF4_BYTES

    @property
    def _kv(self) -> int:
        """Bytes of keys and values of a token."""
        return 2 * self.shape.layers * self.shape.kv_width * self.bytes

    def tower(self, frames: float, size: tuple[int, int]) -> Work:
        """Frames through the vision tower."""
        patches = self.shape.frame_patches(size)
        seconds = 2 * self.shape.vision * frames * patches / self._rate
        return Work(frames, frames * patches, 0, seconds, self.weights)

    def read(self, calls: float, tokens: float, at_once: float = 1, memory: float | None = None) -> Work:
        """Forward passes over `tokens` tokens each, `at_once` together; `memory`: of the weights, where others are."""
        seconds = calls * tokens * self._flops(tokens) / self._rate
        held = self.weights if memory is None else memory
        return Work(calls, calls * tokens, 0, seconds, held + at_once * tokens * self._passing)

    def sample(self, prompts: float, prompt: float, answers: int, mean: float, limit: int, batch: float) -> Work:
        """`answers` answers to each of so many prompts of `prompt` tokens, which are read once a prompt.

        Args:
            prompts: how many.
            prompt: tokens of one.
            answers: to each.
            mean: tokens of an answer.
            limit: the most that it may have.
            batch: answers that are sampled together.
        """
        mean = min(mean, limit)
        steps = min(float(limit), self.assumed.longest * mean)
        batches = max(1.0, prompts * answers / batch)
        kept = batch * (prompt / answers + steps) * self._kv
        step = max(self.assumed.step_ms / 1e3, (self.weights + kept) / self._bandwidth)
        step = max(step, batch * self._flops(prompt) / self._rate)
        reading = self.read(prompts, prompt)
        written = Work(prompts * answers, 0, prompts * answers * mean, batches * steps * step)
        memory = self.weights + batch * (prompt + limit) * self._kv + batch * self.shape.vocabulary * 8
        return replace(reading + written, calls=prompts * answers, memory=memory)

    def learn(self, calls: float, tokens: float, written: float, at_once: float, adapter: int, *, again: bool) -> Work:
        """Forward and backward passes through frozen weights with an adapter of so many weights.

        Args:
            calls: sequences.
            tokens: of one.
            written: those of them whose logits are computed.
            at_once: sequences of a pass.
            adapter: weights that learn.
            again: gradient checkpointing: layers are computed again in the backward pass.
        """
        passes = 3 if again else 2  # There, back to the layer below, and once more there.
        seconds = passes * calls * tokens * self._flops(tokens) / self._rate
        layers = 1 if again else self.shape.layers
        kept = (
            at_once
            * tokens
            * (layers * self._saved + (self.shape.layers * self.shape.hidden * self.bytes if again else 0))
        )
        logits = 3 * at_once * written * self.shape.vocabulary * 4  # Scores, their logarithms, and the gradient.
        return Work(calls, calls * tokens, 0, seconds, self.weights + adapter * LEARNED_BYTES + kept + logits)

    def twin(self, modules: str) -> float:
        """Bytes of the plain copy that samples for a policy (models.video_lm.merge_into_twin)."""
        return float(self.shape.adapted(modules) * self.bytes)

    def _flops(self, tokens: float) -> float:
        """Of one token in a forward pass: each weight once, and half the context in every layer."""
        return 2.0 * self.shape.language + 2.0 * self.shape.layers * self.shape.hidden * tokens

    @property
    def _saved(self) -> float:
        """Bytes that one layer keeps of a token for the backward pass, with adapters on all its linear layers."""
        shape = self.shape
        return float(self.bytes * (13 * shape.hidden + 2 * shape.kv_width + 4 * shape.intermediate))

    @property
    def _passing(self) -> float:
        """Bytes of a token in a forward pass without gradients: a few layers' worth."""
        return 2 * self._saved
