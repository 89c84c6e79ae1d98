"""A base in four bits: the language model's linear layers in NF4, everything else as it is.

NF4 with double quantisation, computing in the model's dtype, as of QLoRA (https://arxiv.org/abs/2305.14314); vision
tower, projector and output layer keep their numbers, so visual tokens are those of the plain model. It needs CUDA and
bitsandbytes. **It was not run on a GPU where this was written**: loading alone was, with the CPU part of bitsandbytes.

Adapters that are merged into such a base (an SFT adapter under a policy) are in the weights before they are rounded
(models.merging). A copy with an adapter merged in for sampling is not made, since it would be rounded anew after each
update: the policy that samples would be another than the one that learns (VideoLM.merge_into_twin).
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig

Quantization = Literal["none", "nf4"]

# Whatever is not below the language model, as transformers reads it (should_convert_module).
KEPT = [r"(?!.*(language|text)_model\.).*", "lm_head"]


def load_arguments(quantization: Quantization, device: str, dtype: str) -> dict[str, Any]:
    """What `from_pretrained` is told besides the name; nothing for "none".

    Raises:
        ValueError: there is no CUDA device or no bitsandbytes.
    """
    if quantization == "none":
        return {}
    _check(device)
    return {"quantization_config": _nf4(dtype), "device_map": {"": device}}


def _nf4(dtype: str) -> BitsAndBytesConfig:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=KEPT,
    )


def _check(device: str) -> None:
    import torch

    lacks = [] if device.startswith("cuda") else [f"models.device cuda (now {device})"]
    lacks += [] if torch.cuda.is_available() else ["a machine with CUDA"]
    lacks += [] if importlib.util.find_spec("bitsandbytes") else ["bitsandbytes (pip install bitsandbytes)"]
    if lacks:
        raise ValueError(f"models.quantization nf4 needs {' and '.join(lacks)}; or set models.quantization to none.")
