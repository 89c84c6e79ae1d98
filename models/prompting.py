"""A question about a video as the tokens that a model reads: its chat template, and the places of visual tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.sequences import Footage, Prompt

if TYPE_CHECKING:
    from models.video_lm import VideoLM


def new_prompt(lm: VideoLM, text: str, shown: Footage | None) -> Prompt:
    """The chat prompt of a question.

    Args:
        lm: the model.
        text: what the user says; the video stands before it.
        shown: the frames to show; None: no video, text alone. Their tokens stay on their device until a pass needs
            them: those of a whole shard would fill a GPU.

    Raises:
        ValueError: the text itself holds a token that stands for visual tokens, or the prompt is longer than the
            model's window.
    """
    if shown is None:
        ids = _ids(lm, _chat(lm, text, []))
        _check(lm, text, ids, 0)
        return Prompt(tuple(ids.tolist()), torch.empty(0, lm.hidden_size, dtype=lm.core.dtype))
    shown = Footage(shown.tokens.to(lm.core.dtype), shown.grid, shown.seconds)
    visual: Tensor = lm.family.join(lm.core, shown)
    chat = _chat(lm, text, [{"type": lm.family.content}])
    unfolded = lm.family.unfold(lm.processor, shown, len(visual))
    ids = _ids(lm, chat.replace(lm.family.placeholder(lm.processor), unfolded))
    _check(lm, text, ids, len(visual))
    positions = lm.family.positions(lm.core, ids, shown)
    return Prompt(tuple(ids.tolist()), visual, positions)


def _chat(lm: VideoLM, text: str, video: list[dict[str, str]]) -> str:
    content = [*video, {"type": "text", "text": text}]
    chat: str = lm.processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    placeholder = lm.family.placeholder(lm.processor)
    if chat.count(placeholder) != len(video):
        raise ValueError(f"The text {text!r} holds the video placeholder {placeholder!r}; remove it.")
    return chat


def _ids(lm: VideoLM, chat: str) -> Tensor:
    begun = bool(lm.tokenizer.bos_token) and chat.startswith(lm.tokenizer.bos_token)
    return torch.tensor(lm.tokenizer(chat, add_special_tokens=not begun)["input_ids"])


def _check(lm: VideoLM, text: str, ids: Tensor, visual: int) -> None:
    places = lm.family.places(lm.core.config)
    if sum(token in places for token in ids.tolist()) != visual:
        marks = lm.tokenizer.convert_ids_to_tokens(sorted(places))
        raise ValueError(f"The text {text!r} holds a token that stands for a picture ({marks}); remove it.")
    if len(ids) >= lm.window:
        raise ValueError(
            f"The prompt has {len(ids):,} tokens, {visual:,} of them the video's, and the model's window is "
            f"{lm.window:,}. Show fewer frames (frames.sets), or smaller ones (frames.max_side)."
        )
