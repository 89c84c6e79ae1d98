"""Tiny models as ordinary checkpoint folders: config, safetensors, tokenizer, processor and chat template.

LLaVA-OneVision with a SigLIP tower of 64x2 and a Qwen2 text model of 128x3 (base) or 128x5 (labeler): 0.8 to 1.2 M
weights. They load through AutoModelForImageTextToText and AutoProcessor like any checkpoint of the Hub.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from miniature.world import ACTIONS, COLORS, QUESTIONS, SHAPES, Event, Question, Scene

SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<image>", "<video>", "<ans>")
PAD, EOS, BOS, UNK, IMAGE, VIDEO, ANSWER = range(len(SPECIAL))

HIDDEN, VISION_HIDDEN, HEADS = 128, 64, 4
MODEL_SIZE, PATCH = 32, 8
PATCHES = (MODEL_SIZE // PATCH) ** 2

# The longest answer has 15 tokens, end token included; nothing that the world can say is cut.
MAX_NEW_TOKENS = 24

CONTEXT_PROMPT = "context: {context} {question}"
VERDICT_PROMPT = "{question} answer A: {a} answer B: {b} better:"
CORRECT_PROMPT = "is this answer correct?"

# The leading space of an answer stands before the generation block: a block that opens with a character that belongs
# to no token gives an empty assistant mask.
CHAT_TEMPLATE = (
    "{{ '<bos>' }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{% for c in m['content'] %}{% if c['type'] == 'video' %}{{ '<video>' }}{% endif %}{% endfor %}"
    "{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ ' ' + c['text'] + ' ' }}{% endif %}{% endfor %}"
    "{{ '<ans>' }}"
    "{% else %}{{ ' ' }}{% generation %}{% for c in m['content'] %}{{ c['text'] + ' ' }}{% endfor %}{{ '<eos>' }}"
    "{% endgeneration %}{% endif %}{% endfor %}"
)


def vocabulary() -> list[str]:
    """Every token: the special ones, then each word and mark that the world or a prompt can say, sorted."""
    scenes = [Scene((Event(c, s, a),) * 2, seed=0) for c in COLORS for s in SHAPES for a in ACTIONS]
    questions = (*QUESTIONS, Question("clip"))
    texts = [question.text for question in questions]
    texts += [question.answer(scene) for scene in scenes for question in questions]
    texts += [CONTEXT_PROMPT, VERDICT_PROMPT, CORRECT_PROMPT, "yes", "no"]
    words = {word for text in texts for word in re.findall(r"\w+|[^\w\s]", re.sub(r"{\w+}", " ", text))}
    return [*SPECIAL, *sorted(words)]


def new_processor() -> Any:
    """The processor with its tokenizer (one token a word or mark, left padding) and chat template."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words = vocabulary()
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    core.decoder = decoders.WordPiece(prefix="##", cleanup=True)  # "it is red ." is shown as "it is red."
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        additional_special_tokens=["<image>", "<video>", "<ans>"],
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )
    normalise: dict[str, Any] = {"image_mean": [0.3] * 3, "image_std": [0.3] * 3}
    size = {"height": MODEL_SIZE, "width": MODEL_SIZE}
    return transformers.LlavaOnevisionProcessor(
        image_processor=transformers.LlavaOnevisionImageProcessor(
            size=size, image_grid_pinpoints=[[MODEL_SIZE, MODEL_SIZE]], **normalise
        ),
        video_processor=transformers.LlavaOnevisionVideoProcessor(size=size, do_sample_frames=False, **normalise),
        tokenizer=tokenizer,
        num_image_tokens=PATCHES,  # before pooling; a wrong number is not refused by the processor
        vision_feature_select_strategy="full",
        image_token="<image>",
        video_token="<video>",
        chat_template=CHAT_TEMPLATE,
    )


def new_model(layers: int, seed: int) -> Any:
    """A randomly initialised model with `layers` text layers."""
    import transformers

    torch.manual_seed(seed)
    config = transformers.LlavaOnevisionConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": VISION_HIDDEN,
            "intermediate_size": 3 * VISION_HIDDEN,
            "num_hidden_layers": 2,
            "num_attention_heads": HEADS,
            "image_size": MODEL_SIZE,
            "patch_size": PATCH,
            "vision_use_head": False,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(vocabulary()),
            "hidden_size": HIDDEN,
            "intermediate_size": 3 * HIDDEN,
            "num_hidden_layers": layers,
            "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS,
            "max_position_embeddings": 512,
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            "pad_token_id": PAD,
            "tie_word_embeddings": True,
        },
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=[[MODEL_SIZE, MODEL_SIZE]],
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )
    model = transformers.LlavaOnevisionForConditionalGeneration(config)
    model.generation_config = transformers.GenerationConfig(
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=BOS,
        max_new_tokens=MAX_NEW_TOKENS,
        suppress_tokens=[PAD, BOS, UNK, IMAGE, VIDEO, ANSWER],
    )
    return model


def deepen(model: Any, layers: int) -> Any:
    """The same model with more text layers; the added ones are the identity until trained.

    Args:
        model: a trained model; it is not changed.
        layers: text layers of the new model, at least those of `model`.
    """
    deeper = new_model(layers, seed=layers)
    missing, unexpected = deeper.load_state_dict(model.state_dict(), strict=False)
    assert not unexpected, unexpected
    added = {name.split(".layers.")[1].split(".")[0] for name in missing if ".layers." in name}
    with torch.no_grad():
        for index in added:
            layer = deeper.model.language_model.layers[int(index)]
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    return deeper


def save(model: Any, folder: Path) -> None:
    """Write a folder that the Auto classes load."""
    model.save_pretrained(folder)
    new_processor().save_pretrained(folder)
