"""Data parallelism by DeepSpeed ZeRO: workers keep parts of what plain data parallelism keeps whole on each.

Stage 2 leaves each worker a part of the optimiser's state and of the gradients. Stage 3 leaves it a part of the weights
of the frozen language model's layers too, which come together one after the other as they are used. Whole on every
worker stay what is small beside these layers and is read elsewhere as well: adapters and heads, embeddings, the vision
tower. https://arxiv.org/abs/1910.02054
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.parallel import Learner, Workers

_PARTITIONED_WEIGHTS = 3
_MOMENTS = ("exp_avg", "exp_avg_sq")
_BATCH = {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1}  # Asked for, and used for nothing.


class ZeroWorkers(Workers):
    """The workers of torch.distributed's default group, under DeepSpeed."""

    in_step = True  # gradients, and in stage 3 weights, are exchanged in every pass

    def __init__(self, config: Mapping[str, Any], device: str) -> None:
        """Args:
        config: of DeepSpeed, with `zero_optimization` of stage 2 or 3; batches, clipping and optimiser are set here.
        device: torch device of the models.

        Raises:
            ValueError: another stage.
        """
        super().__init__()
        self._stage = config.get("zero_optimization", {}).get("stage")
        if self._stage not in (2, _PARTITIONED_WEIGHTS):
            raise ValueError(f"zero_optimization.stage of a DeepSpeed configuration must be 2 or 3, not {self._stage}.")
        self._config = dict(config)
        _prepare(device)

    def learner(self, parameters: Sequence[nn.Parameter], rate: float, max_norm: float) -> Learner:
        zero = {**self._config["zero_optimization"], "stage": 2}
        return _Partitioned({**self._config, "zero_optimization": zero}, self.size, parameters, rate, max_norm)

    def partition(self, model: Any) -> None:
        if self._stage != _PARTITIONED_WEIGHTS:
            return
        if getattr(model, "quantization_method", None) is not None:
            raise ValueError(
                "A base in four bits cannot be divided among workers: set models.quantization to none, or run.strategy "
                "to ddp or zero2."
            )
        import deepspeed

        decoder = model.get_decoder()
        # Weight by weight: the whole need not fit a GPU.
        deepspeed.zero.Init(module=decoder.layers, config_dict_or_path={**self._config, **_BATCH})
        parts = _initialize(decoder.layers, self._config).optimizer
        # The layers' list is never called itself, so it is told here that another pass begins.
        decoder.register_forward_pre_hook(lambda *_: parts.get_param_coordinator().reset_step())


class _Partitioned:
    """A group of parameters with a DeepSpeed engine of its own: each worker steps its part of them."""

    def __init__(
        self, config: Mapping[str, Any], workers: int, parameters: Sequence[nn.Parameter], rate: float, max_norm: float
    ) -> None:
        self._workers, self._parameters = workers, list(parameters)
        optimizer = torch.optim.AdamW(self._parameters, lr=rate, weight_decay=0.0)
        own = {
            "gradient_clipping": max_norm,
            "zero_allow_untested_optimizer": True,  # torch's: DeepSpeed's own AdamW compiles for a minute
            "managed_gradient_accumulation": False,  # a step has as many parts as it has
        }
        learned = [parameter.requires_grad for parameter in self._parameters]
        for parameter in self._parameters:
            parameter.requires_grad_(True)  # DeepSpeed leaves out an adapter that is not in use just now
        self._engine = _initialize(_Through(self._parameters), {**config, **own}, optimizer)
        for parameter, before in zip(self._parameters, learned, strict=True):
            parameter.requires_grad_(before)

    def set_rate(self, rate: float) -> None:
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rate

    def add(self, loss: Tensor) -> None:
        # DeepSpeed averages over the workers; the parts' gradients are to be added up.
        self._engine.backward(self._engine(loss * self._workers))

    def drop(self) -> None:
        self._engine.optimizer.zero_grad()

    def step(self, finite: bool) -> float:
        if not finite:
            self.drop()
            return float("nan")
        self._engine.step()  # leaves everything as it is where the norm is not finite, and calls that infinite
        return float(self._engine.get_global_grad_norm())

    def moments(self) -> dict[int, dict[str, Tensor]]:
        from deepspeed.utils import safe_get_full_optimizer_state

        if not self._state:
            return {}
        return {
            index: {"step": self._state["step"].clone()}
            | {name: safe_get_full_optimizer_state(parameter, name) for name in _MOMENTS}
            for index, parameter in enumerate(self._parameters)
        }

    def restore(self, moments: dict[int, dict[str, Tensor]]) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        zero = self._engine.optimizer
        zero.refresh_fp32_params()
        if not moments:
            return
        (flat,) = zero.single_partition_of_fp32_groups
        # As the first step leaves it; from here on the parameters' parts of it can be written to.
        self._state.update({name: torch.zeros_like(flat) for name in _MOMENTS}, step=moments[0]["step"].clone())
        zero._lazy_init_hp_params_optimizer_state()
        for index, parameter in enumerate(self._parameters):
            for name in _MOMENTS:
                safe_set_full_optimizer_state(parameter, moments[index][name].to(parameter.device), name)

    @property
    def _state(self) -> dict[str, Tensor]:
        """AdamW's state of this worker's part; empty before the first step."""
        zero = self._engine.optimizer
        (flat,) = zero.single_partition_of_fp32_groups
        state: dict[str, Tensor] = zero.optimizer.state[flat]
        return state


class _Through(nn.Module):
    """Holds parameters, and hands on a loss that was computed elsewhere: an engine wants a module of its own."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self.held = nn.ParameterList(parameters)

    def forward(self, loss: Tensor) -> Tensor:
        return loss


def _prepare(device: str) -> None:
    """Before DeepSpeed looks around: the device it is to use, and no compiling."""
    on_cpu = torch.device(device).type == "cpu"
    if on_cpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ["LOCAL_RANK"] = "0" if on_cpu else str(torch.cuda.current_device())
    import deepspeed

    # Its own shared-memory messages between CPUs would be compiled for most of a minute.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _initialize(model: nn.Module, config: Mapping[str, Any], optimizer: Any = None) -> Any:
    import deepspeed

    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config={**config, **_BATCH})
    return engine
