"""A stand-in for four bits, through transformers' own machinery: weights of the language model on a coarse grid."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

STEP = 0.05


def rounded(weight: Tensor) -> Tensor:
    return torch.round(weight / STEP) * STEP


def is_rounded(name: str) -> bool:
    return re.search(r"(language|text)_model\.layers\..*_proj\.weight$", name) is not None


class _Round(ConversionOps):  # type: ignore[misc]  # transformers has no types here
    def __init__(self, hf_quantizer: Any) -> None:
        self.hf_quantizer = hf_quantizer

    def convert(self, input_dict: dict[str, Any], **_: Any) -> dict[str, Tensor]:
        given = {name: each[0] if isinstance(each, list) else each for name, each in input_dict.items()}
        return {name: rounded(each) for name, each in given.items()}


@register_quantization_config("coarse")
class CoarseConfig(QuantizationConfigMixin):  # type: ignore[misc]  # transformers has no types here
    def __init__(self, **_: Any) -> None:
        self.quant_method = "coarse"


@register_quantizer("coarse")
class _Coarse(HfQuantizer):  # type: ignore[misc]  # transformers has no types here
    def param_needs_quantization(self, model: Any, param_name: str, **_: Any) -> bool:  # noqa: ARG002 - its signature
        return is_rounded(param_name)

    def get_quantize_ops(self) -> ConversionOps:
        return _Round(self)

    def is_serializable(self) -> bool:
        return False

    @property
    def is_trainable(self) -> bool:
        return True
