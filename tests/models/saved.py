"""How much memory a forward pass keeps for its backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def saved_bytes(forward: Callable[[], Any], but: frozenset[int] = frozenset()) -> int:
    """Bytes of the tensors that autograd keeps while `forward` runs; memory that several share counts once.

    `but`: addresses of memory that is there anyway, such as weights.
    """
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in but:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    del result
    return sum(storages.values())
