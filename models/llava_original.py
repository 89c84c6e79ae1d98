"""Checkpoints in the layout of the original LLaVA code, made into plain transformers and PEFT ones.

VLM-RLAIF's weights (https://huggingface.co/SNUMPR) have that layout: a Llama with a projector beside its layers, the
vision tower by name only, LoRA adapters under the names of that code, and the reward model's head in a file of its own.
Pickled files are read as tensors alone (`weights_only`), never run.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.adapters import check_shapes
from models.settings import RewardForm
from models.templates import shipped

IMAGE = "<image>"
# vicuna_v1, as that code trains and evaluates with it.
CHAT_TEMPLATE = (
    "{{ bos_token }}{{ 'A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user\\'s questions. ' }}"
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ 'USER: ' }}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}{{ '<image>\\n' }}{% endif %}{% endfor %}"
    "{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] + ' ' }}{% endif %}{% endfor %}"
    "{% else %}{{ 'ASSISTANT: ' }}{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
_RENAMED = (
    (r"^model\.mm_projector\.0\.", "model.multi_modal_projector.linear_1."),
    (r"^model\.mm_projector\.2\.", "model.multi_modal_projector.linear_2."),
    (r"^model\.(embed_tokens|layers|norm)\.", r"model.language_model.\1."),
)
_TABLES = ("model.language_model.embed_tokens.weight", "lm_head.weight")
_TOWER = "model.vision_tower."
_COMPUTED = "rotary_emb.inv_freq"  # Saved beside the weights by the transformers of that time; follows from the config.
_TEXT = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "rms_norm_eps",
    "max_position_embeddings",
    "rope_theta",
    "rope_scaling",
    "hidden_act",
)


def convert_checkpoint(source: Path, tower: str | None, target: Path) -> None:
    """Write a checkpoint as `LlavaForConditionalGeneration` with its processor and chat template.

    Args:
        source: folder with config.json, weights (.bin or safetensors) and tokenizer.
        tower: the vision tower, a folder or a Hub id; None: the one that config.json names.
        target: folder to write; it must not be there.

    Raises:
        ValueError: something is missing, or the projector is none that transformers has a class for.
    """
    import transformers as t

    given = _read(source / "config.json", "is no checkpoint folder")
    kind = given.get("mm_projector_type", "linear")
    if kind != "mlp2x_gelu":
        raise ValueError(
            f"{source / 'config.json'} says mm_projector_type {kind!r}; transformers' LLaVA has mlp2x_gelu alone. "
            "Take a LLaVA-1.5 checkpoint."
        )
    vision, images = _tower(tower or given.get("mm_vision_tower"), source)
    tokenizer = _tokenizer(source)
    if lacking := sorted({"vocab_size", "hidden_size", "num_hidden_layers"} - given.keys()):
        raise ValueError(f"{source / 'config.json'} does not say {', '.join(lacking)}: it is no LLaVA's.")
    config = _config(given, vision.config, tokenizer)
    state = {name: value for name, value in _renamed(source) if not name.startswith(_TOWER)}
    if not state:
        raise ValueError(f"{source} holds no weights (pytorch_model*.bin or model*.safetensors). Download it again.")
    if config.tie_word_embeddings and _TABLES[0] in state:
        state.setdefault(_TABLES[1], state[_TABLES[0]])
    state |= {f"{_TOWER}{name}": value for name, value in vision.state_dict().items()}
    for name in state.keys() & {*_TABLES}:
        state[name] = _longer(state[name], config.text_config.vocab_size)
    with torch.device("meta"):
        model = t.LlavaForConditionalGeneration(config)
    _fill(model, state, source)
    model.generation_config = t.GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    target.mkdir(parents=True)
    model.save_pretrained(target)
    t.LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        image_token=IMAGE,
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(target)


def convert_adapter(source: Path, base: Path, target: Path) -> None:
    """Write a LoRA adapter as plain PEFT reads it for a converted base; a reward head beside it goes along.

    Args:
        source: folder with adapter_config.json and adapter_model.bin or .safetensors.
        base: the converted checkpoint that it stands on; its name goes into the adapter's configuration.
        target: folder to write; it must not be there.

    Raises:
        ValueError: the folder holds no adapter, weights that are not of the language model, or such as do not fit the
            base; or the base is no converted checkpoint.
    """
    from safetensors.torch import save_file
    from transformers import LlavaForConditionalGeneration

    core = _base(base)
    config = _read(source / "adapter_config.json", "holds no adapter")
    weights: dict[str, Tensor] = {}
    for name, value in _tensors(source, "adapter_model"):
        inner = re.sub(r"^base_model\.model\.model\.layers\.", "base_model.model.model.language_model.layers.", name)
        if "language_model" not in inner:
            raise ValueError(f"{source} adapts {name}, no layer of the language model; it cannot be converted.")
        weights[inner] = value.contiguous()
    if not weights:
        raise ValueError(f"{source} holds no weights (adapter_model.bin or .safetensors). Download it again.")
    check_shapes(source, {name: value.shape for name, value in weights.items()}, core)
    near = (source, *source.absolute().parents[:2])  # It stands beside the folder of the adapter's folder.
    head = next((folder / "reward_head" for folder in near if (folder / "reward_head").is_file()), None)
    row = None if head is None else _head(head, core.config.get_text_config().hidden_size)
    modules = sorted({name.split(".lora_")[0].rpartition(".")[2] for name in weights})
    target.mkdir(parents=True)
    save_file(weights, target / "adapter_model.safetensors")
    config |= {
        "base_model_name_or_path": str(base),
        # Names alone would match layers of the vision tower too.
        "target_modules": rf".*language_model.*\.({'|'.join(modules)})",
        "task_type": None,
        "auto_mapping": {
            "base_model_class": LlavaForConditionalGeneration.__name__,
            "parent_library": LlavaForConditionalGeneration.__module__,
        },
    }
    (target / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
    if row is not None:
        save_file(row, target / "reward_head.safetensors")
        form = RewardForm(kind="head", prompt=shipped("reward"))
        (target / "reward_form.json").write_text(json.dumps(vars(form), sort_keys=True))


def adapter_folder(source: Path) -> Path | None:
    """Where in a folder of that code an adapter stands, if anywhere: in itself or one of two levels below."""
    places = (source, source / "lora_default", source / "adapter_model", source / "adapter_model" / "lora_default")
    return next((place for place in places if (place / "adapter_config.json").is_file()), None)


def _read(path: Path, what: str) -> dict[str, Any]:
    """The fields of a JSON file; `what` the folder is where it is missing."""
    if not path.is_file():
        raise ValueError(f"{path.parent} {what}: {path.name} is missing. Give the folder that was downloaded.")
    try:
        fields = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}. Download it again.") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path} does not name its settings. Download it again.")
    return fields


def _base(folder: Path) -> Any:
    """A converted checkpoint without its weights."""
    from transformers import AutoConfig, LlavaForConditionalGeneration

    kind = _read(folder / "config.json", "is no base to stand on").get("model_type")
    if kind != "llava":
        raise ValueError(
            f"The base {folder} is a {kind!r}, no converted LLaVA: convert it first, and give that folder."
        )
    with torch.device("meta"):
        return LlavaForConditionalGeneration(AutoConfig.from_pretrained(folder))


def _tower(name: str | None, source: Path) -> tuple[Any, Any]:
    """The vision tower and its image processor. OpenAI's own are pickled too: read as tensors alone, as all here."""
    from safetensors import SafetensorError
    from transformers import CLIPImageProcessor, CLIPVisionModel

    if name is None:
        raise ValueError(f"{source / 'config.json'} names no mm_vision_tower; give --vision-tower.")
    try:
        tower, told = CLIPVisionModel.from_pretrained(name, weights_only=True, output_loading_info=True)
        images = CLIPImageProcessor.from_pretrained(name)
    except (OSError, ValueError, SafetensorError, pickle.UnpicklingError) as error:
        raise ValueError(f"The vision tower {name!r} does not load: {error}. Give --vision-tower FOLDER.") from error
    if lacking := sorted(told["missing_keys"]):
        raise ValueError(
            f"The vision tower {name!r} lacks {len(lacking)} weights, such as {lacking[0]}. Give --vision-tower FOLDER."
        )
    return tower, images


def _tokenizer(source: Path) -> Any:
    from transformers import AddedToken, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left", trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(
            f"The tokenizer in {source} does not load: {error}. A tokenizer.model alone needs the "
            "package sentencepiece; a tokenizer.json beside it does not."
        ) from error
    tokenizer.add_tokens([AddedToken(IMAGE, special=True)])
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def _config(given: Mapping[str, Any], vision: Any, tokenizer: Any) -> Any:
    from transformers import LlavaConfig

    text = {name: given[name] for name in _TEXT if name in given}
    patches = given.get("mm_vision_select_feature", "patch") == "patch"
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    return LlavaConfig(
        vision_config=vision,
        text_config={
            "model_type": "llama",
            "vocab_size": max(given["vocab_size"], len(tokenizer)),
            "pad_token_id": tokenizer.pad_token_id,
            **ends,
            **text,
        },
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_layer=given.get("mm_vision_select_layer", -2),
        vision_feature_select_strategy="default" if patches else "full",
        tie_word_embeddings=given.get("tie_word_embeddings", False),
    )


def _renamed(source: Path) -> Iterator[tuple[str, Tensor]]:
    for stem in ("model", "pytorch_model"):
        for name, value in _tensors(source, stem):
            if not name.endswith(_COMPUTED):
                yield _new_name(name), value


def _new_name(name: str) -> str:
    for pattern, new in _RENAMED:
        if re.match(pattern, name):
            return re.sub(pattern, new, name)
    return name


def _tensors(folder: Path, stem: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors by name in `stem`.safetensors or .bin, in one file or in shards."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for path in sorted(folder.glob(f"{stem}*.safetensors")):
        try:
            loaded = load_file(path)
        except SafetensorError as error:
            raise ValueError(
                f"{path} is cut off, or only points at the weights as git without LFS leaves it ({error}). Download it "
                "again."
            ) from error
        yield from loaded.items()
    for path in sorted(folder.glob(f"{stem}*.bin")):
        yield from _unpickled(path).items()


def _unpickled(path: Path) -> Mapping[str, Tensor]:
    try:
        loaded: Mapping[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # whatever a pickle can hold
        raise ValueError(f"{path} does not hold tensors alone and is not opened: {error}") from error
    return loaded


def _longer(rows: Tensor, length: int) -> Tensor:
    """Rows [V, D] with zeros below them: the added tokens are places of the video, and never said."""
    return torch.cat([rows, rows.new_zeros(length - len(rows), rows.shape[1])])


def _fill(model: Any, state: Mapping[str, Tensor], source: Path) -> None:
    wanted = set(model.state_dict())
    if missing := sorted(wanted - set(state)):
        raise ValueError(f"{source} lacks {len(missing)} weights, such as {missing[0]}; is a shard missing?")
    if more := sorted(set(state) - wanted):
        raise ValueError(f"{source} holds {len(more)} weights that LLaVA-1.5 does not have, such as {more[0]}.")
    model.load_state_dict(state, assign=True)


def _head(path: Path, width: int) -> dict[str, Tensor]:
    """Weight [1, D] and bias [1] of the reward head, float32, for hidden states of `width` D."""
    saved = {name.rpartition(".")[2]: value.float() for name, value in _unpickled(path).items()}
    if "weight" not in saved or saved["weight"].numel() != width:
        raise ValueError(f"{path} holds no row of {width} weights, the width of its base. Give the base it stands on.")
    weight = saved["weight"].reshape(1, -1)
    return {"weight": weight, "bias": saved.get("bias", torch.zeros(1)).reshape(1)}
