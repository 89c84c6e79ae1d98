"""What no machine could run, found when a preset is read: settings of `run` and `models` that exclude each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flows.parameters import ModelsConfig, RunConfig


def check_weights(run: RunConfig, models: ModelsConfig) -> None:
    """Raises ValueError where the models could not be loaded or trained as both sections say."""
    on_gpu = models.device.startswith("cuda")
    if on_gpu and not run.gpus_per_worker:
        raise ValueError(
            f"models.device is {models.device}, and run.gpus_per_worker 0 hides the GPUs from the workers: set it to "
            "1, or models.device to cpu"
        )
    if models.quantization == "nf4" and not on_gpu:
        raise ValueError(
            f"models.quantization nf4 needs CUDA, and models.device is {models.device}: set device to cuda, or "
            "quantization to none"
        )
    if models.dtype == "float16":
        raise ValueError(
            "models.dtype float16 cannot be trained in: its small gradients become 0, and losses are not scaled up "
            "against that. Set it to bfloat16, or to float32 where the card does not know bfloat16"
        )
    if run.training_workers > 1 and models.fit_memory:
        raise ValueError(
            f"models.fit_memory cuts a step by what fits into one GPU, and the {run.training_workers} "
            "run.training_workers must all cut it alike: set it to false, and forward_tokens to what fits"
        )
    if run.strategy == "zero3" and models.quantization != "none":
        raise ValueError(
            "run.strategy zero3 cannot divide weights in four bits: set models.quantization to none, or the strategy "
            "to ddp or zero2"
        )


def check_engine(run: RunConfig, models: ModelsConfig, at: str, engine: str) -> None:
    """Raises ValueError where the engine that section `at` asks for cannot be handed the models' weights."""
    if engine == "vllm" and (run.strategy == "zero3" or models.quantization != "none"):
        raise ValueError(
            f"{at}.engine vllm takes the language model's weights whole and as they are: set it to transformers, or "
            "run.strategy to ddp or zero2 and models.quantization to none"
        )
