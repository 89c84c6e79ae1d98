"""The tokens of an answer, of a verdict and of a further turn are those of the model's own chat template."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from tiny import LORA

from models.comparisons import Comparison, Verdict
from models.judge import VerdictJudge
from models.reward_model import RewardModel
from models.settings import RewardForm
from models.video_lm import VideoLM

# As SmolVLM2 and LLaVA-1.5 write a conversation.
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] | capitalize }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'text' %}{{ c['text'] }}{% else %}{{ MARK }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


def _trained(words: Any) -> Callable[..., Any]:
    """A tokenizer of byte pairs, in the place of the zoo's."""

    def new_tokenizer(*special: str, bos: bool = False, **named: str) -> Any:
        import transformers
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

        every = ["<pad>", "<|im_end|>", "<s>", "<unk>", "<|im_start|>", *special]
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = words
        core.decoder = decoders.ByteLevel() if isinstance(words, pre_tokenizers.ByteLevel) else decoders.Metaspace()
        alphabet = pre_tokenizers.ByteLevel.alphabet() if isinstance(words, pre_tokenizers.ByteLevel) else []
        trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=every, initial_alphabet=alphabet)
        core.train_from_iterator([f"User: {zoo.SAID}", f"Assistant: {zoo.SAID}"] * 5, trainer)
        if bos:
            core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", zoo.BOS)])
        return transformers.PreTrainedTokenizerFast(
            tokenizer_object=core,
            pad_token="<pad>",
            eos_token="<|im_end|>",
            bos_token="<s>",
            unk_token="<unk>",
            extra_special_tokens={**{f"mark_{i}": mark for i, mark in enumerate(special)}, **named},
            padding_side="left",
        )

    return new_tokenizer


def _words(kind: str) -> Any:
    from tokenizers import pre_tokenizers

    if kind == "gpt":
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    return pre_tokenizers.Metaspace(prepend_scheme="first")


@pytest.fixture(params=["gpt", "llama"])
def byte_pairs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokenizers in which a space is part of a word, and a template whose prompt ends without one."""
    monkeypatch.setattr(zoo, "new_tokenizer", _trained(_words(request.param)))
    monkeypatch.setattr(zoo, "TURNS", TEMPLATE)


@pytest.fixture(params=sorted(zoo.ZOO))
def lm(byte_pairs: None, request: pytest.FixtureRequest, tmp_path: Path) -> VideoLM:  # noqa: ARG001 - it is made with them
    return VideoLM.load(str(zoo.save(request.param, tmp_path / request.param)))


def conversation(lm: VideoLM, *texts: str, ask: bool = False) -> list[int]:
    """The tokens of a whole conversation, as the processor writes it; `ask`: up to where the model would reply."""
    turns = [
        {"role": ("user", "assistant")[i % 2], "content": [{"type": "text", "text": text}]}
        for i, text in enumerate(texts)
    ]
    chat = lm.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=ask)
    ids: list[int] = lm.tokenizer(chat, add_special_tokens=not chat.startswith(lm.tokenizer.bos_token))["input_ids"]
    return ids


def reply(lm: VideoLM, asked: str, word: str) -> int:
    """The token that stands where the model replies with `word`."""
    return conversation(lm, asked, word)[len(lm.prompt(asked).ids)]


def test_a_verdict_is_read_from_the_token_that_the_model_would_say(
    lm: VideoLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = lm.encode(np.random.default_rng(0).integers(0, 256, (4, 40, 56, 3), dtype=np.uint8), (0.0, 0.5, 1.0, 1.5))
    text = "{question} {a} then {b}"
    judge = VerdictJudge(lm, text=text, context_text="{context} " + text, choices=("yes", "no"), min_choice_mass=0.9)
    real, boost = lm.logits, torch.zeros(lm.core.get_output_embeddings().weight.shape[0])
    for word, size in (("yes", 41.0), ("no", 40.0)):
        boost[reply(lm, "it is red .", word)] = size
    monkeypatch.setattr(lm, "logits", lambda hidden: real(hidden) + boost)
    (given,) = judge.judge([Comparison("what color ?", shown, "red", "blue")])
    assert isinstance(given, Verdict), given


def test_the_words_of_a_reward_head_are_replies(lm: VideoLM) -> None:
    lm.add_adapter("reward", LORA, seed=0)
    reward = RewardModel(lm, RewardForm(kind="head", words=("yes", "no")))
    rows = lm.core.get_output_embeddings().weight
    yes, no = (reply(lm, "it is red .", word) for word in ("yes", "no"))
    assert torch.equal(reward.head.weight[0], rows[yes] - rows[no])


def test_a_further_turn_stands_as_in_a_conversation(lm: VideoLM) -> None:
    """With the new line that the template writes behind the end token."""
    asked, said, further = "what color is the first shape ?", "it is red .", "yes ?"
    ids = [*lm.prompt(asked).ids, *lm.response_ids(said), *lm.next_turn_ids(further)]
    assert ids == conversation(lm, asked, said, further, ask=True)


@pytest.mark.usefixtures("byte_pairs")
def test_the_space_before_an_answer_belongs_to_it_once(tmp_path: Path) -> None:
    lm = VideoLM.load(str(zoo.save("smolvlm", tmp_path)))
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
