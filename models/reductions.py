"""How a loss per token becomes one number: three conventions, each exact over micro-batches and workers.

A batch may be cut into micro-batches, on one worker or on several; their gradients add up. The loss of a part is its
weighted sum divided by the count of the *whole* batch, so the parts' losses add up to the batch's: one batch of 8
equals 8 of 1, whatever the lengths. A part that divided by its own count would weigh short answers differently in
every cut.

Tensors are [B, R]; masks are 1 (or True) at tokens that count.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.settings import ReductionName


@dataclass(frozen=True)
class Reduction:
    """A convention, and the divisor that it belongs to.

    Attributes:
        name: `token`: every token of the batch weighs the same (DAPO, https://arxiv.org/abs/2503.14476 section 3.3).
            `sequence`: every response weighs the same, its tokens share that (GRPO, https://arxiv.org/abs/2402.03300
            equation 3). `constant`: every token weighs 1 / (responses x `length`), so that no length is favoured
            (Dr. GRPO, https://arxiv.org/abs/2503.20783 section 3.1).
        length: the constant length of `constant`, in tokens; unused by the others.
        whole: the count of the whole batch, all micro-batches and workers together; None: the part is the whole.
    """

    name: ReductionName = "token"
    length: int | None = None
    whole: float | None = None

    def __post_init__(self) -> None:
        if self.name == "constant" and self.length is None:
            raise ValueError("reduction 'constant' divides by a length: name it, such as the token limit of answers")

    def count(self, mask: Tensor) -> float:
        """What a part adds to the divisor: its tokens, its responses, or responses x length."""
        if self.name == "token":
            return float(mask.sum())
        return float(len(mask)) * (1.0 if self.length is None or self.name == "sequence" else self.length)

    def __call__(self, values: Tensor, mask: Tensor) -> Tensor:
        """The part's share of the batch's loss. NaN where nothing counts.

        Args:
            values: a loss for each token [B, R]; what is masked may hold anything finite.
            mask: [B, R]; a response without a token adds 0 to `sequence`, and still counts as a response.
        """
        weights = mask.to(values.dtype)
        if self.name == "sequence":
            weights = weights / weights.sum(1, keepdim=True).clamp(min=1)
        count = self.count(mask) if self.whole is None else self.whole
        return (values * weights).sum() / torch.as_tensor(count, dtype=values.dtype)


PER_TOKEN = Reduction()
