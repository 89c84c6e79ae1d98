"""How much memory a forward pass keeps for its backward pass."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile


def kept_bytes(forward: Callable[[], Any]) -> int:
    """Bytes that are taken when `forward` has run and its result is held: the result, and what autograd keeps.

    Measured where torch takes and gives back memory, so it counts what checkpoints keep too; hooks on saved tensors do
    not see that.
    """
    gc.collect()  # What other tests left would be given back meanwhile, and counted.
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = forward()
    taken = sum(event.self_cpu_memory_usage for event in profiler.events() or ())
    del result
    return int(taken)
