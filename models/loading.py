"""A checkpoint and its processor, whole and of a known family, or an error that says what is wrong with it.

transformers fills in weights that a checkpoint lacks with random ones and goes on; here that is an error.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from models.families import Family, family_of
from models.quantization import Quantization, load_arguments
from models.shape import PROCESSORS

SAFE = (
    "Only safetensors are read: a .bin file is a pickle and may run code. For a checkpoint of the original LLaVA "
    "layout there is `rlaif convert`; otherwise load it once in a place of its own and save it with save_pretrained."
)

FILES = "Take the processor's and the tokenizer's files of the model that this one was made of."

# What a processor says of its patches, and what a tower does.
SIZES = {
    "patch_size": "patch_size",
    "merge_size": "spatial_merge_size",
    "temporal_patch_size": "temporal_patch_size",
}

# Weights in the language model's layers; what follows from the configuration was saved beside them once.
LAYERS = re.compile(r"\.(language|text)_model\.layers\.\d+\.(?!.*inv_freq$)")

OWN = (
    "Take the chat_template.jinja of the model that this one was made of, whose messages are lists of "
    '{"type": ...} parts.'
)


def load_checkpoint(
    name: str,
    revision: str | None,
    dtype: str,
    quantization: Quantization = "none",
    device: str = "cpu",
    *,
    later: bool = False,
) -> tuple[Any, Any]:
    """The transformers model and the processor of a local folder or a Hub id.

    Args:
        name: the folder or id.
        revision: commit of a Hub id; None: its newest.
        dtype: torch dtype by name.
        quantization: whether the language model's weights are kept in four bits.
        device: where a quantised model is put; any other stays in main memory.
        later: only check that this machine can quantise it, and leave that to `quantised`.

    Raises:
        ValueError: it is not there, of no supported family, not whole, without safetensors, processor files or chat
            template, has a template that shows no video or a processor of another model, or needs code of its own; or
            this machine cannot quantise it.
    """
    more = load_arguments(quantization, device, dtype)
    config = _config(name, revision)
    family = family_of(config.model_type)
    family.check(config)
    places = family.places(config)
    processor = _processor(name, revision)  # Before the weights, which take minutes.
    _check_processor(name, config, processor)
    known = len(processor.tokenizer)
    if max(places) >= known:
        raise ValueError(
            f"The tokenizer of {name!r} knows {known} tokens, and its model puts a video at token {max(places)}: the "
            "tokenizer's files are missing beside the weights, or of another model."
        )
    _check_template(name, family, processor)
    return _model(name, revision, {"dtype": getattr(torch, dtype), **({} if later else more)}), processor


def quantised(whole: Any, quantization: Quantization, device: str, dtype: str) -> Any:
    """What `load_checkpoint` would have made of a checkpoint with these weights, without writing one.

    transformers rounds layers as it reads them, from files or from a state dict. The state dict is what save_pretrained
    would write: a checkpoint's names of the weights, and tied ones once.

    Args:
        whole: a model with plain weights; of no more use afterwards.
        quantization: not "none".
        device: where to put the result.
        dtype: of what stays unrounded, by name.

    Raises:
        ValueError: this machine cannot quantise.
    """
    from transformers.core_model_loading import revert_weight_conversion
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    how, name = load_arguments(quantization, device, dtype), whole.config.name_or_path
    weights = revert_weight_conversion(whole, remove_tied_weights_from_state_dict(whole.state_dict(), whole))
    rounded, told = type(whole).from_pretrained(
        None,
        config=whole.config,
        state_dict=weights,
        dtype=getattr(torch, dtype),
        output_loading_info=True,
        **how,
    )
    assert not told["missing_keys"], told["missing_keys"]
    rounded.config.name_or_path, rounded.generation_config = name, whole.generation_config
    return rounded


def _config(name: str, revision: str | None) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    except OSError as error:
        raise ValueError(
            f"Model {name!r} does not load: {error}. Give a local folder with config, safetensors and processor, "
            "or the id of a Hub model that this machine can reach."
        ) from error
    except ValueError as error:
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"Model {name!r} wants to run code of its own (`auto_map` in its config.json). trust_remote_code is "
                "off and stays off: take the checkpoint of the same model that transformers has a class for, often the "
                "one whose name ends in -hf."
            ) from error
        raise ValueError(f"Model {name!r} is of no kind that transformers knows: {error}") from error


def _model(name: str, revision: str | None, how: dict[str, Any]) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText

    try:
        model, told = AutoModelForImageTextToText.from_pretrained(
            name,
            revision=revision,
            **how,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except OSError as error:
        raise ValueError(f"The weights of {name!r} do not load: {error}. {SAFE}") from error
    except SafetensorError as error:
        raise ValueError(
            f"The weights of {name!r} are cut off, or only point at the weights as git without LFS leaves them "
            f"({error}). Download it again."
        ) from error
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise ValueError(
            f"The weights of {name!r} have other shapes than its config.json says (named in the report above): they "
            "are of another model. Download it again, or take one that is whole."
        ) from error
    model.generation_config = _neutral(model.generation_config)
    lacking = sorted(told["missing_keys"])
    if lacking:
        raise ValueError(
            f"The checkpoint {name!r} lacks {len(lacking)} of its model's weights, such as {lacking[0]}. "
            "Download it again, or take one that is whole."
        )
    if more := sorted(name for name in told["unexpected_keys"] if LAYERS.search(name)):
        raise ValueError(
            f"The checkpoint {name!r} has {len(more)} weights in its language model's layers that its config.json does "
            f"not know, such as {more[0]}: the model would be a part of what was trained. Take the config.json that "
            "was saved with the weights."
        )
    return model


def _neutral(given: Any) -> Any:
    """What a checkpoint says of its special tokens, without its taste in sampling.

    A repetition penalty or a nucleus of its own would draw from another distribution than the one that is trained.
    """
    from transformers import GenerationConfig

    kept = ("bos_token_id", "eos_token_id", "pad_token_id", "suppress_tokens", "max_new_tokens")
    return GenerationConfig(**{name: getattr(given, name, None) for name in kept})


def _processor(name: str, revision: str | None) -> Any:
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(name, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(
            f"The processor of {name!r} does not load: {error}. Beside the weights there must be its files: "
            "processor_config.json or preprocessor_config.json, and the tokenizer's."
        ) from error
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        raise ValueError(
            f"{name!r} has no processor for pictures, only {type(processor).__name__}: processor_config.json or "
            "preprocessor_config.json is missing beside the weights."
        )
    if not (processor.chat_template or processor.tokenizer.chat_template):
        raise ValueError(
            f"The tokenizer of {name!r} has no chat template, so it is not known how a question is put to this model. "
            "Take an instruction-tuned checkpoint, or put its chat_template.jinja beside the weights."
        )
    if processor.tokenizer.pad_token_id is None:  # Padding is masked: any token will do.
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return processor


def _check_processor(name: str, config: Any, processor: Any) -> None:
    """Refuse the processor of another family or model, which would fail at the first video."""
    known = PROCESSORS[config.model_type]
    if not {each.__name__ for each in type(processor).__mro__} & {*known}:
        raise ValueError(
            f"The processor of {name!r} is a {type(processor).__name__}, and a model of type {config.model_type!r} has "
            f"a {' or '.join(known)}. {FILES}"
        )
    seen = getattr(processor, "video_processor", None) or processor.image_processor
    for ours, theirs in SIZES.items():
        made, wanted = getattr(seen, ours, None), getattr(config.vision_config, theirs, None)
        if None not in (made, wanted) and made != wanted:
            raise ValueError(
                f"The processor of {name!r} has {ours} {made}, and its model {theirs} {wanted}: it is of another "
                f"model. {FILES}"
            )


def _check_template(name: str, family: Family, processor: Any) -> None:
    asked, mark = "What is shown?", family.placeholder(processor)
    content = [{"type": family.content}, {"type": "text", "text": asked}]
    try:
        chat = processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # whatever a template can do
        raise ValueError(f"The chat template of {name!r} fails at a question about a video: {error}. {OWN}") from error
    if chat.count(mark) != 1 or asked not in chat:
        raise ValueError(
            f"The chat template of {name!r} makes {chat!r} of a question about a video, where {mark!r} must stand once "
            f"and the question too. {OWN}"
        )
