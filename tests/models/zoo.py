"""A tiny random checkpoint of every family, saved as those of the Hub: config, safetensors, processor and template."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SAID = """
    what color is the first shape ? describe video . context : a red circle grows happens it cross blue then moves left
    shrinks green yellow square triangle yes no You are provided following series of frames from Frame seconds user
    assistant User Assistant system , [ ] - two three four five six eight ten 0 1 2 3 4 5 6 7 8 9 00 01 02 03 04 05 06
    07 08 Frame1 Frame2 Frame3 Frame4 Frame5 Frame6 Frame7 Frame8 < > ; &
"""
PAD, EOS, BOS, UNK = range(4)
LANGUAGE = "llama"  # of LLaVA-1.5; others were tuned from Mistral
SIDE = 32  # of a frame as the tower sees it
TURNS = (
    "{% for m in messages %}{{ '<|im_start|> ' + m['role'] + ' ' }}{% for c in m['content'] %}"
    "{% if c['type'] == 'text' %}{{ c['text'] }}{% else %}{{ MARK }}{% endif %}{% endfor %}"
    "{% if m['role'] == 'assistant' %}{{ '<|im_end|>' }}{% endif %}{{ ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|> assistant ' }}{% endif %}"
)
TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "pad_token_id": PAD,
    "eos_token_id": EOS,
    "bos_token_id": BOS,
    "tie_word_embeddings": False,
}
CLIP: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": 8,
    "projection_dim": 32,
}
SIZES: dict[str, Any] = {"size": {"height": SIDE, "width": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
MROPE: dict[str, Any] = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}


def new_tokenizer(*special: str, bos: bool = False, **named: str) -> Any:
    """One token a word; `special` ones stand for themselves wherever they are; `bos`: texts begin with one."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    every = ["<pad>", "<|im_end|>", "<s>", "<unk>", "<|im_start|>", *special, *SAID.split()]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(every)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    if bos:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<|im_end|>",
        bos_token="<s>",
        unk_token="<unk>",
        extra_special_tokens={"turn": "<|im_start|>", **{f"mark_{i}": mark for i, mark in enumerate(special)}, **named},
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )


def _template(mark: str) -> str:
    return TURNS.replace("MARK", repr(mark + "\n"))


def _id(tokenizer: Any, token: str) -> int:
    number = tokenizer.convert_tokens_to_ids(token)
    assert number != UNK
    return int(number)


def llava_next_video() -> tuple[Any, Any]:
    import transformers as t

    tokenizer = new_tokenizer("<image>", "<video>", bos=True)
    processor = t.LlavaNextVideoProcessor(
        video_processor=t.LlavaNextVideoVideoProcessor(**SIZES),
        image_processor=t.LlavaNextImageProcessor(**SIZES, image_grid_pinpoints=[[SIDE, SIDE]]),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_template("<video>"),
    )
    config = t.LlavaNextVideoConfig(
        vision_config=CLIP,
        text_config={"model_type": "llama", "vocab_size": len(tokenizer), **TEXT},
        image_token_index=_id(tokenizer, "<image>"),
        video_token_index=_id(tokenizer, "<video>"),
        image_grid_pinpoints=[[SIDE, SIDE]],
    )
    return t.LlavaNextVideoForConditionalGeneration(config), processor


def llava_onevision() -> tuple[Any, Any]:
    from miniature import checkpoint

    return checkpoint.new_model(2, seed=0), checkpoint.new_processor()


def video_llava() -> tuple[Any, Any]:
    import transformers as t

    tokenizer = new_tokenizer("<image>", "<video>", bos=True)
    processor = t.VideoLlavaProcessor(
        image_processor=t.VideoLlavaImageProcessor(**SIZES),
        video_processor=t.VideoLlavaVideoProcessor(**SIZES),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_template("<video>"),
    )
    config = t.VideoLlavaConfig(
        vision_config=CLIP,
        text_config={"model_type": "llama", "vocab_size": len(tokenizer), **TEXT},
        image_token_index=_id(tokenizer, "<image>"),
        video_token_index=_id(tokenizer, "<video>"),
    )
    return t.VideoLlavaForConditionalGeneration(config), processor


def vlm_rlaif() -> tuple[Any, Any]:
    import transformers as t

    tokenizer = new_tokenizer("<image>", bos=True)
    processor = t.LlavaProcessor(
        image_processor=t.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_template("<image>"),
    )
    config = t.LlavaConfig(
        vision_config=CLIP,
        text_config={"model_type": LANGUAGE, "vocab_size": len(tokenizer), **TEXT},
        image_token_index=_id(tokenizer, "<image>"),
    )
    return t.LlavaForConditionalGeneration(config), processor


def _qwen_processor(kind: str, patch: int) -> Any:
    import transformers as t

    tokenizer = new_tokenizer("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    pixels = {"shortest_edge": patch * patch * 4 * 4, "longest_edge": patch * patch * 4 * 16}
    images = t.Qwen2VLImageProcessor(patch_size=patch, size=pixels)
    video = t.Qwen3VLVideoProcessor if kind == "Qwen3VL" else t.Qwen2VLVideoProcessor
    template = _template("<|vision_start|><|video_pad|><|vision_end|>")
    return getattr(t, f"{kind}Processor")(
        images, tokenizer, video(patch_size=patch, size=pixels), chat_template=template
    )


def _qwen_tokens(tokenizer: Any) -> dict[str, int]:
    return {
        "image_token_id": _id(tokenizer, "<|image_pad|>"),
        "video_token_id": _id(tokenizer, "<|video_pad|>"),
        "vision_start_token_id": _id(tokenizer, "<|vision_start|>"),
        "vision_end_token_id": _id(tokenizer, "<|vision_end|>"),
    }


def qwen2_vl() -> tuple[Any, Any]:
    import transformers as t

    processor = _qwen_processor("Qwen2VL", 14)
    config = t.Qwen2VLConfig(
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 2},
        text_config={"vocab_size": len(processor.tokenizer), "rope_parameters": MROPE, **TEXT},
        **_qwen_tokens(processor.tokenizer),
    )
    return t.Qwen2VLForConditionalGeneration(config), processor


def qwen2_5_vl() -> tuple[Any, Any]:
    import transformers as t

    processor = _qwen_processor("Qwen2_5_VL", 14)
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "out_hidden_size": 32}
    config = t.Qwen2_5_VLConfig(
        vision_config={**vision, "fullatt_block_indexes": [1], "tokens_per_second": 2, "window_size": 56},
        text_config={"vocab_size": len(processor.tokenizer), "rope_parameters": MROPE, **TEXT},
        **_qwen_tokens(processor.tokenizer),
    )
    return t.Qwen2_5_VLForConditionalGeneration(config), processor


def qwen3_vl() -> tuple[Any, Any]:
    import transformers as t

    processor = _qwen_processor("Qwen3VL", 16)
    vision = {"depth": 3, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "out_hidden_size": 32}
    config = t.Qwen3VLConfig(
        vision_config={**vision, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16},
        text_config={"vocab_size": len(processor.tokenizer), "rope_parameters": MROPE, "head_dim": 8, **TEXT},
        **_qwen_tokens(processor.tokenizer),
    )
    return t.Qwen3VLForConditionalGeneration(config), processor


def internvl() -> tuple[Any, Any]:
    import transformers as t

    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = new_tokenizer(*named.values(), **named)
    processor = t.InternVLProcessor(
        image_processor=t.GotOcr2ImageProcessor(size={"height": SIDE, "width": SIDE}),
        tokenizer=tokenizer,
        video_processor=t.InternVLVideoProcessor(size={"height": SIDE, "width": SIDE}),
        image_seq_length=4,
        chat_template=_template("<video>"),
    )
    config = t.InternVLConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": [SIDE, SIDE],
            "patch_size": [8, 8],
        },
        text_config={"model_type": "qwen2", "vocab_size": len(tokenizer), **TEXT},
        image_token_id=_id(tokenizer, "<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    return t.InternVLForConditionalGeneration(config), processor


def smolvlm() -> tuple[Any, Any]:
    import transformers as t

    tokenizer = new_tokenizer("<image>", "<video>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
    edge = {"longest_edge": SIDE}
    processor = t.SmolVLMProcessor(
        image_processor=t.SmolVLMImageProcessor(size=edge, max_image_size=edge),
        tokenizer=tokenizer,
        video_processor=t.SmolVLMVideoProcessor(size=edge, max_image_size=edge),
        image_seq_len=4,
        chat_template=_template("<video>"),
    )
    config = t.SmolVLMConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": SIDE,
            "patch_size": 8,
        },
        text_config={"model_type": "llama", "vocab_size": len(tokenizer), **TEXT},
        image_token_id=_id(tokenizer, "<image>"),
        scale_factor=2,
        pad_token_id=PAD,
    )
    return t.SmolVLMForConditionalGeneration(config), processor


ZOO: dict[str, Callable[[], tuple[Any, Any]]] = {
    each.__name__: each
    for each in (
        internvl,
        llava_next_video,
        llava_onevision,
        qwen2_5_vl,
        qwen2_vl,
        qwen3_vl,
        smolvlm,
        video_llava,
        vlm_rlaif,
    )
}


def save(name: str, folder: Path) -> Path:
    """A checkpoint of the family whose every weight matters."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, processor = ZOO[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
