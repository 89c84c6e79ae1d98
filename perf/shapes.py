"""Randomly initialised models of a given shape, for measurements that need torch and transformers alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from models.families import VideoFrames
from models.video_lm import VideoLM

SPECIAL = ("<pad>", "<eos>", "<image>", "<video>", "<turn>")
SAID = "what happens in this video and why ? tell me more about it please now then who does"
WORDS = SAID.split()
TEMPLATE = (
    "{% for m in messages %}{{ '<turn> ' }}{% for c in m['content'] %}{% if c['type'] == 'video' %}{{ '<video> ' }}"
    "{% else %}{{ c['text'] + ' ' }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<turn> ' }}{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """A LLaVA-OneVision by its sizes.

    Attributes:
        tower: fields of the SigLIP tower.
        text: fields of the Qwen2 language model.
        frames: frames of a video.
        prompts: questions in a batch.
        new_tokens: tokens of an answer.
        rank: of the adapters.
        dtype: of the weights.
        sampling_copy: whether sampling has a copy of the weights (VideoLM).
        gradient_checkpointing: whether steps keep only the layers' inputs (VideoLM); a large model's do not fit else.
    """

    tower: Mapping[str, int]
    text: Mapping[str, int]
    frames: int
    prompts: int
    new_tokens: int
    rank: int
    dtype: torch.dtype
    sampling_copy: bool
    gradient_checkpointing: bool


SHAPES = {
    # The tower takes twice what the language model takes to read its tokens, as VLM-RLAIF's does: 50 frames of 576
    # patches through CLIP-L (0.3 B), 626 tokens through Llama 7 B.
    "small": Shape(
        tower={
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": 56,
            "patch_size": 8,
        },
        text={
            "vocab_size": 1000,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
        },
        frames=50,
        prompts=2,
        new_tokens=24,
        rank=16,
        dtype=torch.float32,
        sampling_copy=True,
        gradient_checkpointing=False,
    ),
    # llava-hf/llava-onevision-qwen2-7b-ov-hf: SigLIP SO400M at 384 pixels, Qwen2 7B.
    "7b": Shape(
        tower={
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 26,
            "num_attention_heads": 16,
            "image_size": 384,
            "patch_size": 14,
        },
        text={
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
        },
        frames=16,
        prompts=4,
        new_tokens=128,
        rank=64,
        dtype=torch.bfloat16,
        sampling_copy=False,
        gradient_checkpointing=True,
    ),
}


def new_model(shape: Shape, device: str) -> VideoLM:
    """The model on a device, its weights drawn there."""
    import transformers as t

    size = shape.tower["image_size"]
    config = t.LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **shape.tower},
        text_config={
            "model_type": "qwen2",
            "max_position_embeddings": 32768,
            "bos_token_id": None,
            "eos_token_id": 1,
            "pad_token_id": 0,
            "tie_word_embeddings": False,
            **shape.text,
        },
        image_token_index=SPECIAL.index("<image>"),
        video_token_index=SPECIAL.index("<video>"),
        image_grid_pinpoints=[[size, size]],
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    standing = torch.get_default_dtype()
    torch.set_default_dtype(shape.dtype)
    try:
        with torch.device(device):
            model = t.LlavaOnevisionForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(standing)
    # No answer ends before its limit, so that every way draws equally many tokens.
    model.generation_config = t.GenerationConfig(
        pad_token_id=0, eos_token_id=1, suppress_tokens=list(range(len(SPECIAL)))
    )
    lm = VideoLM(model, _processor(shape))
    lm.sampling_copy = shape.sampling_copy
    lm.gradient_checkpointing = shape.gradient_checkpointing
    return lm


def _processor(shape: Shape) -> Any:
    import transformers as t
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = dict.fromkeys([*SPECIAL, *WORDS, *(f"w{number}" for number in range(shape.text["vocab_size"]))])
    known = {word: number for number, word in enumerate(list(words)[: shape.text["vocab_size"]])}
    core = Tokenizer(models.WordLevel(known, unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = t.PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<eos>",
        extra_special_tokens={name.strip("<>") + "_mark": name for name in SPECIAL[2:]},
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )
    size = {"height": shape.tower["image_size"], "width": shape.tower["image_size"]}
    return t.LlavaOnevisionProcessor(
        image_processor=t.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=[list(size.values())]),
        video_processor=t.LlavaOnevisionVideoProcessor(size=size, do_sample_frames=False),
        tokenizer=tokenizer,
        num_image_tokens=(shape.tower["image_size"] // shape.tower["patch_size"]) ** 2,
        vision_feature_select_strategy="full",
        image_token="<image>",
        video_token="<video>",
        chat_template=TEMPLATE,
    )


def new_frames(shape: Shape, seed: int) -> VideoFrames:
    """Noise [F, N, N, 3] of the tower's own size, so that nothing is resized."""
    size = shape.tower["image_size"]
    return np.random.default_rng(seed).integers(0, 256, (shape.frames, size, size, 3), dtype=np.uint8)
