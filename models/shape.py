"""How large a video model is, from its configuration alone: no weight is read or made.

The model is built on torch's meta device, so parameters are counted, not estimated, whatever the family.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# The processors of each `model_type`, so that a checkpoint can be refused without loading torch; what drives it is in
# models.families. The first two generations of Qwen show videos alike.
_QWEN2 = ("Qwen2VLProcessor", "Qwen2_5_VLProcessor")
PROCESSORS = {
    "internvl": ("InternVLProcessor",),
    "llava": ("LlavaProcessor",),
    "llava_next_video": ("LlavaNextVideoProcessor",),
    "llava_onevision": ("LlavaOnevisionProcessor",),
    "qwen2_5_vl": _QWEN2,
    "qwen2_vl": _QWEN2,
    "qwen3_vl": ("Qwen3VLProcessor",),
    "smolvlm": ("SmolVLMProcessor",),
    "video_llava": ("VideoLlavaProcessor",),
}
SUPPORTED = frozenset(PROCESSORS)
SEVERAL_AXES = frozenset({"qwen2_vl", "qwen2_5_vl", "qwen3_vl"})  # Positions in time, row and column.

# About what is written around a frame: its number or time, and marks.
LABEL_TOKENS = {"smolvlm": 12, "internvl": 6, "qwen3_vl": 4}


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model.

    Attributes:
        name: of the model.
        source: where its configuration was found.
        config: the configuration, with the family's defaults.
        parameters: all weights; tied ones count once.
        language: those of the language model that each token is multiplied with: without the table of embeddings.
        vision: those of tower and projector.
        layers: of the language model, as all below.
        hidden: width.
        intermediate: width inside the feed-forward part.
        kv_width: keys and values that one layer keeps of a token.
        vocabulary: tokens.
        linear: inputs and outputs of every linear layer of the whole model, by its name.
    """

    name: str
    source: str
    config: Mapping[str, Any]
    parameters: int
    language: int
    vision: int
    layers: int
    hidden: int
    intermediate: int
    kv_width: int
    vocabulary: int
    linear: Mapping[str, tuple[int, int]]

    @classmethod
    def of(cls, name: str, config: Mapping[str, Any], source: str) -> ModelShape:
        """The shape of the model with this config.json.

        Raises:
            ValueError: transformers does not know the configuration.
        """
        import torch
        from transformers import AutoConfig, AutoModelForImageTextToText

        try:
            known = AutoConfig.for_model(**config)
            with torch.device("meta"):
                model = AutoModelForImageTextToText.from_config(known)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"The configuration of {name} ({source}) is none that transformers knows: {error}"
            ) from error
        text = known.get_text_config()
        table = model.get_input_embeddings().weight
        head = model.get_output_embeddings().weight
        sizes = {key: value.numel() for key, value in model.named_parameters()}
        language = {key: size for key, size in sizes.items() if speaks(key)}
        heads = text.num_attention_heads
        return cls(
            name=name,
            source=source,
            config={"model_type": config["model_type"], **known.to_dict()},
            parameters=sum(sizes.values()),
            language=sum(language.values()) - (0 if head is table else table.numel()),
            vision=sum(sizes.values()) - sum(language.values()),
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            intermediate=text.intermediate_size,
            kv_width=(getattr(text, "head_dim", None) or text.hidden_size // heads) * text.num_key_value_heads,
            vocabulary=text.vocab_size,
            linear={
                key: (module.in_features, module.out_features)
                for key, module in model.named_modules()
                if isinstance(module, torch.nn.Linear)
            },
        )

    @property
    def model_type(self) -> str:
        return str(self.config["model_type"])

    def adapted(self, modules: str) -> int:
        """Weights of the layers that an adapter with this pattern stands on."""
        return sum(size_in * size_out for size_in, size_out in self._on(modules))

    def lora(self, modules: str, rank: int) -> int:
        """Weights of a LoRA adapter with this pattern; ValueError as of `layers_for`."""
        return sum(rank * (size_in + size_out) for size_in, size_out in self._on(modules))

    def _on(self, modules: str) -> list[tuple[int, int]]:
        return [self.linear[name] for name in layers_for(modules, self.linear)]

    def frame_patches(self, size: tuple[int, int]) -> int:
        """What the tower computes of one frame of `size` (height, width) pixels, in tokens."""
        vision = self.config["vision_config"]
        patch = _side(vision["patch_size"])
        if "image_size" in vision:
            return (_side(vision["image_size"]) // patch) ** 2
        height, width = (max(1, round(side / (2 * patch))) * 2 for side in size)
        return height * width

    def kept_tokens(self, frames: int, size: tuple[int, int], clips: int = 1) -> int:
        """Visual tokens that are kept of so many frames in so many clips.

        Raises:
            ValueError: it is not known for this family.
        """
        patches, side, config = self.frame_patches(size), math.isqrt(self.frame_patches(size)), self.config
        if self.model_type == "llava":  # VLM-RLAIF: the mean over space of each frame, the mean over time of each clip.
            return frames + patches * clips
        if self.model_type in SEVERAL_AXES:
            return math.ceil(frames / 2) * (patches // 4)  # Two frames and 2 x 2 patches are one token.
        of_frame: dict[str, Callable[[], int]] = {
            "internvl": lambda: int(side * config["downsample_ratio"]) ** 2,
            "llava_next_video": lambda: int((side // config["spatial_pool_stride"]) ** 2),
            "llava_onevision": lambda: math.ceil(side / 2) ** 2,
            "smolvlm": lambda: int(patches // config["scale_factor"] ** 2),
            "video_llava": lambda: patches + 1,  # With the tower's token of the whole frame.
        }
        if self.model_type in of_frame:
            return frames * of_frame[self.model_type]()
        raise ValueError(
            f"How many tokens a video has for a model of type {self.model_type!r} is not known here: measure with "
            "`rlaif plan --measured` on a machine that has the model."
        )

    def video_tokens(self, frames: int, size: tuple[int, int]) -> int:
        """Tokens of a prompt that a video of so many frames takes, with what a family writes between them.

        Raises:
            ValueError: it is not known for this family.
        """
        newline = int(self.model_type == "llava_onevision")
        return self.kept_tokens(frames, size) + newline + frames * LABEL_TOKENS.get(self.model_type, 0)


def layers_for(pattern: str, names: Iterable[str]) -> list[str]:
    """The layers that an adapter stands on.

    Visual tokens are computed once and kept, so that an adapter in the tower would be given no gradient, and would see
    other tokens than those that are kept.

    Args:
        pattern: regular expression of whole names (models.settings.LoraSettings.modules).
        names: of the model's layers.

    Raises:
        ValueError: the pattern fits no layer, or one outside the language model.
    """
    known = list(names)
    fitting = [name for name in known if re.fullmatch(pattern, name)]
    if not fitting:
        some = next((name for name in known if speaks(name) and name.endswith("proj")), known[-1])
        raise ValueError(f"lora.modules {pattern!r} fits no layer of the model, whose layers have names as {some!r}.")
    if outside := [name for name in fitting if not speaks(name)]:
        raise ValueError(
            f"lora.modules {pattern!r} fits {len(outside)} layers outside the language model, such as {outside[0]!r}. "
            "Visual tokens are computed once, so nothing there would learn: name the language model in the pattern, as "
            "in .*(language|text)_model.*\\.q_proj"
        )
    return fitting


def _side(size: int | Sequence[int]) -> int:
    return size if isinstance(size, int) else size[0]


def speaks(parameter: str) -> bool:
    """Whether a parameter or layer is of the language model, by its name."""
    return re.search(r"(language_model|text_model|lm_head)\b", parameter) is not None and "vision" not in parameter
