"""A question about a video as the tokens that a model reads: its chat template, and the places of visual tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jinja2 import TemplateError
from torch import Tensor

from models.sequences import Footage, Prompt

if TYPE_CHECKING:
    from models.video_lm import VideoLM


def new_prompt(lm: VideoLM, text: str, shown: Footage | None, system: str | None = None, begin: str = "") -> Prompt:
    """The chat prompt of a question.

    Args:
        lm: the model.
        text: what the user says; the video stands before it.
        shown: the frames to show; None: no video, text alone. Their tokens stay on their device until a pass needs
            them: those of a whole shard would fill a GPU.
        system: what is said before the user's turn. A chat template without such turns gets it in front of the user's
            text, on a line of its own.
        begin: how the answer begins: its first tokens, behind which the model goes on.

    Raises:
        ValueError: the text itself holds a token that stands for visual tokens, or the prompt is longer than the
            model's window.
    """
    if shown is None:
        ids = prompt_ids(lm, text, None, 0, system, begin)
        check_window(lm, len(ids), 0)
        return Prompt(tuple(ids.tolist()), torch.empty(0, lm.hidden_size, dtype=lm.core.dtype))
    shown = Footage(shown.tokens.to(lm.core.dtype), shown.grid, shown.seconds)
    visual: Tensor = lm.family.join(lm.core, shown)
    ids = prompt_ids(lm, text, shown, len(visual), system, begin)
    check_window(lm, len(ids), len(visual))
    positions = lm.family.positions(lm.core, ids, shown)
    return Prompt(tuple(ids.tolist()), visual, positions)


def prompt_ids(
    lm: VideoLM, text: str, shown: Footage | None, visual: int, system: str | None = None, begin: str = ""
) -> Tensor:
    """The tokens [L] of a question about frames that take `visual` places, as of `new_prompt`.

    Of the frames no data is read.

    Raises:
        ValueError: the text itself holds a token that stands for visual tokens.
    """
    begun = torch.tensor(answer_ids(lm, begin) if begin else [], dtype=torch.long)
    chat = _chat(lm, text, [] if shown is None else [{"type": lm.family.content}], system)
    if shown is not None:
        chat = chat.replace(lm.family.placeholder(lm.processor), lm.family.unfold(lm.processor, shown, visual))
    ids = torch.cat([_ids(lm, chat), begun])
    places = lm.family.places(lm.core.config)
    if sum(token in places for token in ids.tolist()) != visual:
        marks = lm.tokenizer.convert_ids_to_tokens(sorted(places))
        raise ValueError(f"The text {text!r} holds a token that stands for a picture ({marks}); remove it.")
    return ids


def check_window(lm: VideoLM, length: int, visual: int) -> None:
    """Raises ValueError where a prompt of `length` tokens, `visual` of them the video's, fills the model's window."""
    if length >= lm.window:
        raise ValueError(
            f"The prompt has {length:,} tokens, {visual:,} of them the video's, and the model's window is "
            f"{lm.window:,}. Show fewer frames (frames.sets), or smaller ones (frames.max_side)."
        )


def check_room(lm: VideoLM, prompts: Sequence[Prompt], new_tokens: int) -> int:
    """The length of the longest prompt. Raises ValueError where it and `new_tokens` more do not fit into the window."""
    longest = max(len(prompt.ids) for prompt in prompts)
    if longest + new_tokens > lm.window:
        raise ValueError(
            f"A prompt has {longest:,} tokens, an answer up to {new_tokens:,} (max_new_tokens), and the model's window "
            f"is {lm.window:,}. Show fewer frames (frames.sets) or smaller ones, or lower max_new_tokens."
        )
    return longest


class Opening(NamedTuple):
    """What stands before an answer.

    Attributes:
        text: a prompt, with the white space that the chat template writes between it and an answer.
        ids: the tokens of the prompt alone; none where the template writes no space.
        takes_system: whether the chat template has system turns.
    """

    text: str
    ids: list[int]
    takes_system: bool


def opening(lm: VideoLM) -> Opening:
    """What the model's chat template writes before an answer."""
    asked = [_turn("user", "x")]
    before: str = lm.processor.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    whole: str = lm.processor.apply_chat_template([*asked, _turn("assistant", "x")], tokenize=False)
    said = whole.removeprefix(before) if whole.startswith(before) else ""
    space = said[: len(said) - len(said.lstrip())]
    ids = lm.tokenizer(before, add_special_tokens=False)["input_ids"] if space else []
    return Opening(before + space, ids, _takes_system(lm))


def answer_ids(lm: VideoLM, text: str) -> list[int]:
    """The tokens of an answer as they stand behind a prompt, without the end.

    SmolVLM2 answers "Assistant: Yes": the space belongs to the answer's first token. Llama's tokenizer writes such a
    space by itself; so what stands before is read too, and cut off again.
    """
    ids: list[int] = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
    before, head = lm.opening.text, lm.opening.ids
    if not head or not text:
        return ids
    whole: list[int] = lm.tokenizer(before + text, add_special_tokens=False)["input_ids"]
    return whole[len(head) :] if whole[: len(head)] == head else ids


def continuation_ids(lm: VideoLM, begin: str, text: str) -> list[int]:
    """The tokens of `text` as an answer goes on with it behind `begin`, without the end."""
    if not begin:
        return answer_ids(lm, text)
    head, whole = answer_ids(lm, begin), answer_ids(lm, begin + text)
    # Where the last token of `begin` would swallow the first character of `text`, the text stands for itself.
    alone: list[int] = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
    return whole[len(head) :] if whole[: len(head)] == head else alone


def next_turn_ids(lm: VideoLM, text: str) -> list[int]:
    """The tokens of a further user turn after an answer and its end token, up to where the model would reply.

    With what the chat template writes behind the end token: Qwen and SmolVLM2 begin a new line there.

    Raises:
        ValueError: the chat template changes what was said before when something is said after.
    """
    answer = "what was said"
    said = [_turn("user", "x"), _turn("assistant", answer)]
    before: str = lm.processor.apply_chat_template(said, tokenize=False)
    after: str = lm.processor.apply_chat_template(
        [*said, _turn("user", text)], tokenize=False, add_generation_prompt=True
    )
    if not after.startswith(before):
        raise ValueError(
            "The chat template of this model writes an answer in another way once a turn follows it, so that nothing "
            "can be asked behind an answer: take a checkpoint that does not think aloud, or set form.prompt to ''."
        )
    turn, closing = after.removeprefix(before), before.rpartition(answer)[2]
    for token in lm.tokenizer.convert_ids_to_tokens(lm.end_ids):
        if token and token in closing:  # a checkpoint may list an end that its tokenizer does not know
            space = closing.partition(token)[2]
            # Read with the end token, and cut off again: some tokenizers put a space before what begins a text.
            ids: list[int] = lm.tokenizer(token + space + turn, add_special_tokens=False)["input_ids"]
            return ids[1:]
    plain: list[int] = lm.tokenizer(turn, add_special_tokens=False)["input_ids"]
    return plain


def _takes_system(lm: VideoLM) -> bool:
    """Whether the model's chat template has system turns: one that has none refuses them, leaves them out, or writes
    them as it writes any other turn that is not the user's.
    """
    mark = "a system turn"

    def written(role: str) -> str:
        turns = [_turn(role, mark), _turn("user", "x")]
        return str(lm.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    try:
        said = written("system")
    except (TemplateError, ValueError):
        return False
    try:
        return mark in said and said != written("assistant")
    except (TemplateError, ValueError):  # An answer cannot come first here, but a system turn can.
        return True


def _turn(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def window_of(text: Any) -> int:
    """Tokens that a language model with this configuration was made for.

    Where positions are stretched, linearly or by YaRN, `max_position_embeddings` may be that of before. Those of kind
    "dynamic" stretch by the length of each pass, so that what is kept of a prompt fits up to the plain limit only.
    """
    rope = getattr(text, "rope_parameters", None) or {}
    longest = int(text.max_position_embeddings)
    if rope.get("rope_type") not in ("linear", "yarn"):
        return longest
    return max(longest, int(rope["factor"] * rope.get("original_max_position_embeddings", longest)))


def _chat(lm: VideoLM, text: str, video: list[dict[str, str]], system: str | None) -> str:
    before: list[dict[str, Any]] = []
    if system:
        before, text = ([_turn("system", system)], text) if lm.opening.takes_system else ([], f"{system}\n{text}")
    content = [*video, {"type": "text", "text": text}]
    chat: str = lm.processor.apply_chat_template(
        [*before, {"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    placeholder = lm.family.placeholder(lm.processor)
    if chat.count(placeholder) != len(video):
        raise ValueError(f"The text {text!r} holds the video placeholder {placeholder!r}; remove it.")
    return chat


def _ids(lm: VideoLM, chat: str) -> Tensor:
    begun = bool(lm.tokenizer.bos_token) and chat.startswith(lm.tokenizer.bos_token)
    return torch.tensor(lm.tokenizer(chat, add_special_tokens=not begun)["input_ids"])
