"""A system turn before the question, the beginning of an answer, and choices behind it, in every family."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import zoo
from tiny import save_random

from models.choices import choice_logprobs
from models.sequences import Footage
from models.settings import Sampling
from models.video_lm import VideoLM

QUESTION, SYSTEM, BEGIN = "what color is the first shape ?", "describe video .", "it is"
CHOICES = ("red .", "a blue cross moves left .", "")


@pytest.fixture(scope="module", params=sorted(zoo.ZOO))
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VideoLM:
    return VideoLM.load(str(zoo.save(request.param, tmp_path_factory.mktemp("zoo") / request.param)))


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> VideoLM:
    return VideoLM.load(str(save_random(tmp_path_factory.mktemp("tiny") / "tiny")))


def shown(lm: VideoLM) -> Footage:
    frames = np.random.default_rng(0).integers(0, 256, (4, 40, 56, 3), dtype=np.uint8)
    return lm.encode(frames, (0.0, 0.5, 1.0, 1.5))


def test_the_answer_goes_on_behind_its_beginning(lm: VideoLM) -> None:
    footage = shown(lm)
    plain, begun = lm.prompt(QUESTION, footage), lm.prompt(QUESTION, footage, begin=BEGIN)
    head = lm.response_ids(BEGIN)[:-1]
    assert begun.ids == (*plain.ids, *head), "the beginning is the answer's first tokens"
    rest = lm.response_ids("red .", BEGIN)
    assert (*head, *rest) == lm.response_ids(f"{BEGIN} red .")
    whole, mask = lm.logprobs([plain], [(*head, *rest)])
    behind, _ = lm.logprobs([begun], [rest])
    assert torch.allclose(whole[0, len(head) : int(mask.sum())], behind[0, : len(rest)], atol=1e-4)


@torch.no_grad()
def test_a_begun_prompt_samples_what_its_log_probabilities_say(lm: VideoLM) -> None:
    prompt = lm.prompt(QUESTION, shown(lm), begin=BEGIN)
    ((answer,),) = lm.generate([prompt], Sampling(temperature=0, max_new_tokens=1))
    hidden = lm.hidden([prompt], [answer.ids])
    assert int(lm.logits(hidden.before_response[0, 0]).argmax()) == answer.ids[0]


def test_a_system_turn_goes_through_the_template(lm: VideoLM) -> None:
    footage = shown(lm)
    said = "".join(lm.tokenizer.decode(lm.prompt(QUESTION, footage, system=SYSTEM).ids).split())
    system, question = ("".join(text.split()) for text in (SYSTEM, QUESTION))
    assert said.count(system) == 1
    assert said.index(system) < said.index(question)
    turns = [
        {"role": role, "content": [{"type": "text", "text": text}]}
        for role, text in (("system", SYSTEM), ("user", QUESTION))
    ]
    if lm.opening.takes_system:
        chat = lm.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        alone = lm.prompt(QUESTION, None, system=SYSTEM)
        assert (
            list(alone.ids)
            == lm.tokenizer(chat, add_special_tokens=not chat.startswith(lm.tokenizer.bos_token or "\0"))["input_ids"]
        )
    else:
        assert lm.prompt(QUESTION, footage, system=SYSTEM).ids == lm.prompt(f"{SYSTEM}\n{QUESTION}", footage).ids


def test_some_templates_have_system_turns_and_some_have_none(miniature: VideoLM) -> None:
    assert not miniature.opening.takes_system, "its template writes all but the user's turns as answers"
    footage = shown(miniature)
    assert (
        miniature.prompt("what color?", footage, system="describe the video.").ids
        == miniature.prompt("describe the video.\nwhat color?", footage).ids
    )
    miniature.processor.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('none') }}{% endif %}{% endfor %}"
    )
    refuses = VideoLM(miniature.core, miniature.processor)
    assert not refuses.opening.takes_system


def test_choices_of_a_prompt_share_it_and_get_what_each_gets_alone(lm: VideoLM) -> None:
    footage = shown(lm)
    prompts = [lm.prompt(QUESTION, footage, begin=BEGIN), lm.prompt(SYSTEM, footage)]
    choices = [[lm.response_ids(each, BEGIN) for each in CHOICES], [lm.response_ids(each) for each in CHOICES[:2]]]
    alone = [
        [float(lm.logprobs([prompt], [ids])[0].detach().double().sum()) for ids in each]
        for prompt, each in zip(prompts, choices, strict=True)
    ]
    for batch_size, tokens in ((16, None), (2, None), (16, len(prompts[0].ids) + 4)):
        found = choice_logprobs(lm, prompts, choices, batch_size, tokens)
        for got, expected in zip(found, alone, strict=True):
            assert got == pytest.approx(expected, abs=1e-3)
    assert choice_logprobs(lm, [], [], 4) == []
