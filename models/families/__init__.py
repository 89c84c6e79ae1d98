"""How each family of video models turns frames into visual tokens and places them in a prompt.

Everything above this folder (prompts, sampling, log-probabilities, adapters, training) is the same for all families:
the tokens go into the model's own forward as `mm_encoder_outputs`, which transformers accepts from every family.
"""

from __future__ import annotations

from models.families.base import Family, VideoFrames
from models.families.llava import LlavaNextVideo, LlavaOnevision, VideoLlava
from models.families.pictures import InternVl, SmolVlm
from models.families.qwen import Qwen2Vl, Qwen3Vl, Qwen25Vl
from models.families.vlm_rlaif import VlmRlaif

__all__ = ["FAMILIES", "Family", "VideoFrames", "family_of"]

FAMILIES: dict[str, Family] = {
    "internvl": InternVl(),
    "llava": VlmRlaif(),
    "llava_next_video": LlavaNextVideo(),
    "llava_onevision": LlavaOnevision(),
    "qwen2_5_vl": Qwen25Vl(),
    "qwen2_vl": Qwen2Vl(),
    "qwen3_vl": Qwen3Vl(),
    "smolvlm": SmolVlm(),
    "video_llava": VideoLlava(),
}


def family_of(model_type: str) -> Family:
    """The family of a transformers `config.model_type`.

    Raises:
        ValueError: the family is not supported.
    """
    if model_type not in FAMILIES:
        raise ValueError(
            f"Models of type {model_type!r} are not supported; supported: {', '.join(sorted(FAMILIES))}. "
            "Choose a checkpoint of one of these families."
        )
    return FAMILIES[model_type]
