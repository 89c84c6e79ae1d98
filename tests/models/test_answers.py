"""An answer's tokens are those that stand behind the prompt in the model's own chat template."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zoo

from models.video_lm import VideoLM

# As SmolVLM2 and LLaVA-1.5 write a conversation.
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] | capitalize }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'text' %}{{ c['text'] }}{% else %}{{ '<video>' }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


def _trained(words: Any) -> Callable[..., Any]:
    """A tokenizer of byte pairs, in the place of the zoo's."""

    def new_tokenizer(*special: str, bos: bool = False, **named: str) -> Any:  # noqa: ARG001 - as the zoo's
        import transformers
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        every = ["<pad>", "<|im_end|>", "<s>", "<unk>", "<|im_start|>", *special]
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = words
        core.decoder = decoders.ByteLevel() if isinstance(words, pre_tokenizers.ByteLevel) else decoders.Metaspace()
        alphabet = pre_tokenizers.ByteLevel.alphabet() if isinstance(words, pre_tokenizers.ByteLevel) else []
        trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=every, initial_alphabet=alphabet)
        core.train_from_iterator([f"User: {zoo.SAID}", f"Assistant: {zoo.SAID}"] * 5, trainer)
        return transformers.PreTrainedTokenizerFast(
            tokenizer_object=core,
            pad_token="<pad>",
            eos_token="<|im_end|>",
            extra_special_tokens={f"mark_{i}": mark for i, mark in enumerate(special)},
            padding_side="left",
        )

    return new_tokenizer


def _words(kind: str) -> Any:
    from tokenizers import pre_tokenizers

    if kind == "gpt":
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    return pre_tokenizers.Metaspace(prepend_scheme="first")


@pytest.mark.parametrize("kind", ["gpt", "llama"])
def test_the_space_before_an_answer_belongs_to_it_once(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo, "new_tokenizer", _trained(_words(kind)))
    folder = zoo.save("smolvlm", tmp_path)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    lm = VideoLM.load(str(folder))
    turns = [{"role": role, "content": [{"type": "text", "text": "it is red ."}]} for role in ("user", "assistant")]
    whole = lm.processor.apply_chat_template(turns, tokenize=False).removesuffix("\n")
    answer = lm.response_ids("it is red .")
    assert [*lm.prompt("it is red .").ids, *answer] == lm.tokenizer(whole)["input_ids"]
    assert lm.tokenizer.convert_ids_to_tokens(answer[0])[0] in "\u0120\u2581"  # a space that is part of a word
    assert lm.response_ids("") == (lm.end_ids[0],)


def test_a_tokenizers_end_ends_an_answer_whatever_else_does(tmp_path: Path) -> None:
    """A checkpoint may list another end, or lack its generation_config.json."""
    folder = zoo.save("qwen2_vl", tmp_path)
    lm = VideoLM.load(str(folder))
    lm.core.generation_config.eos_token_id = zoo.UNK
    assert lm.end_ids == [zoo.EOS, zoo.UNK]
    assert lm.response_ids("yes")[-1] == zoo.EOS
    assert not {zoo.EOS, zoo.UNK} & set(lm.suppressed)


def test_a_template_that_rewrites_an_answer_takes_no_further_turn(tmp_path: Path) -> None:
    """Templates of models that think aloud drop the thoughts once another turn follows."""
    folder = zoo.save("qwen2_vl", tmp_path)
    template = folder / "chat_template.jinja"
    template.write_text(
        "{% for m in messages %}{% if m['role'] == 'assistant' and loop.last %}<think>{% endif %}"
        "{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}{% else %}<|video_pad|>{% endif %}"
        "{% endfor %}{% endfor %}"
    )
    lm = VideoLM.load(str(folder))
    with pytest.raises(ValueError, match="does not think aloud"):
        lm.next_turn_ids("yes ?")
