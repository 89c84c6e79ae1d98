"""The arithmetic that work on a video model cannot do without, for the share of a GPU's rate that is used.

Model FLOPs as in appendix B of PaLM (https://arxiv.org/abs/2204.02311): what is computed again in a backward pass does
not count, nor what only one way of doing the work computes. A weight of a matrix costs 2 a token on the way there, and
2 on the way back through the activations; the 2 of its own gradient fall away, since the base stands still. A token
that sees another costs 4 times the heads' width in every layer, and twice that on the way back. Adapters (2 % of the
weights of a 7B model at rank 64), heads of one output, norms and softmaxes are left out; so is the table of
embeddings, which is looked up. The output layer counts only where an answer's tokens are scored.
"""

from __future__ import annotations

from typing import Any

from torch import nn


class ModelFlops:
    """Of one model.

    Attributes:
        tower: weights of matrices in vision tower and projector.
        text: those in the layers of the language model.
        output: those of the output layer.
    """

    def __init__(self, core: Any) -> None:
        """`core`: a LLaVA-OneVision of transformers, with or without adapters."""
        self.tower = self.text = self.output = 0
        for name, module in core.named_modules():
            if not isinstance(module, nn.Linear | nn.Conv2d) or "lora_" in name:
                continue
            if "vision_tower" in name or "projector" in name:
                self.tower += module.weight.numel()
            elif "lm_head" in name:
                self.output += module.weight.numel()
            else:
                self.text += module.weight.numel()
        vision, text = core.config.vision_config, core.config.get_text_config()
        self._vision_pair = 4 * vision.num_hidden_layers * vision.hidden_size
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self._text_pair = 4 * text.num_hidden_layers * text.num_attention_heads * width

    def encoding(self, frames: int, patches: int) -> float:
        """Frames of so many patches, each of which sees all others of its frame, through tower and projector."""
        return float(frames * patches * (2 * self.tower + self._vision_pair * patches))

    def forward(self, prompt: int, answers: int, answer: int, *, scored: bool) -> float:
        """A prompt of `prompt` tokens, read once, and so many answers to it of `answer` tokens each."""
        weights, pairs = self._parts(prompt, answers, answer, scored)
        return weights + pairs

    def learning(self, prompt: int, answers: int, answer: int, *, scored: bool) -> float:
        """The same there and back."""
        weights, pairs = self._parts(prompt, answers, answer, scored)
        return 2 * weights + 3 * pairs

    def _parts(self, prompt: int, answers: int, answer: int, scored: bool) -> tuple[float, float]:
        """Of the weights, and of tokens that see each other: those before them, so half of all pairs."""
        said = answers * answer
        weights = 2.0 * self.text * (prompt + said) + (2.0 * self.output * said if scored else 0.0)
        return weights, self._text_pair * (prompt * prompt / 2 + said * (prompt + answer / 2))
