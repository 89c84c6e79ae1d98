"""The tiny models are ordinary checkpoints, and the shipped ones see what they are said to see."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

import miniature
from miniature import checkpoint, lessons
from miniature.lessons import FRAMES, SLOTS
from miniature.world import ACTIONS, COLORS, QUESTIONS, SHAPES, Event, Frames, Question, Scene, render, sample_scene
from models.settings import Sampling
from models.video_lm import VideoLM

WEIGHTS = Path(miniature.__file__).parent / "weights"
MODELS = ("base", "labeler")
GREEDY = Sampling(temperature=0, max_new_tokens=checkpoint.MAX_NEW_TOKENS)
# Everything that the world can say of one event, and in one description.
EVENTS = [Event(color, shape, action) for color in COLORS for shape in SHAPES for action in ACTIONS]
ASKED = (*QUESTIONS, Question("clip"))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return checkpoint.new_processor().tokenizer


def test_no_text_that_the_world_can_say_holds_an_unknown_word(tokenizer: Any) -> None:
    texts = [question.text for question in ASKED]
    texts += [question.answer(Scene((event, event), 0)) for event in EVENTS for question in ASKED]
    texts += [checkpoint.CORRECT_PROMPT, "yes", "no"]
    for ids, text in zip(tokenizer(texts, add_special_tokens=False)["input_ids"], texts, strict=True):
        assert checkpoint.UNK not in ids
        assert tokenizer.decode(ids) == text  # a marked answer reads as it was written
    assert checkpoint.UNK in tokenizer("a red elephant", add_special_tokens=False)["input_ids"]


def test_a_token_is_a_word_or_a_mark_and_special_ones_come_first(tokenizer: Any) -> None:
    words = checkpoint.vocabulary()
    assert len(set(words)) == len(words)
    assert tokenizer.get_vocab() == {word: index for index, word in enumerate(words)}
    assert [words[index] for index in (checkpoint.PAD, checkpoint.EOS, checkpoint.VIDEO)] == [
        "<pad>",
        "<eos>",
        "<video>",
    ]
    assert tokenizer.padding_side == "left"


def test_no_answer_reaches_the_token_limit(tokenizer: Any) -> None:
    moving = [event for event in EVENTS if " " in event.action]
    answers = [Question("describe").answer(Scene((event, event), 0)) for event in moving]
    longest = max(len(tokenizer(answer, add_special_tokens=False)["input_ids"]) for answer in answers)
    assert longest + 1 == 15 < checkpoint.MAX_NEW_TOKENS


def _chat(question: str, answer: str, video: Frames | None = None) -> list[dict[str, Any]]:
    shown = {"type": "video"} if video is None else {"type": "video", "video": video}
    return [
        {"role": "user", "content": [shown, {"type": "text", "text": question}]},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]


@pytest.mark.parametrize("question", ASKED, ids=lambda question: f"{question.kind}{question.event}")
def test_the_processor_makes_the_ids_that_the_lessons_make_by_hand(question: Question) -> None:
    processor = checkpoint.new_processor()
    scene = Scene((EVENTS[7], EVENTS[-1]), seed=1)
    lesson = lessons.answering("4", question, question.answer(scene))
    chat = processor.apply_chat_template(_chat(question.text, question.answer(scene)), tokenize=False)
    video = list(render(scene)[list(FRAMES["4"])])
    inputs = processor(text=chat, videos=[video], return_tensors="pt", add_special_tokens=False)
    assert inputs["input_ids"][0].tolist() == lesson.ids


def test_the_assistant_mask_covers_the_answer_and_its_end() -> None:
    processor = checkpoint.new_processor()
    video = render(Scene((EVENTS[0], EVENTS[1]), seed=0))[1::2]
    said = {"what is the first shape?": "it is a cross.", "describe the video.": "first a red cross grows."}
    inputs = processor.apply_chat_template(
        [_chat(question, answer, video) for question, answer in said.items()],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        return_assistant_tokens_mask=True,
        processor_kwargs={"padding": True},
    )
    masks = torch.as_tensor(inputs["assistant_masks"]).bool()
    for ids, mask, answer in zip(inputs["input_ids"], masks, said.values(), strict=True):
        assert ids[mask].tolist() == [*lessons.encode(answer), checkpoint.EOS]


def test_a_new_model_is_the_same_for_its_seed() -> None:
    one, again, other = (checkpoint.new_model(2, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def _logits(model: Any, processor: Any) -> Tensor:
    scene = Scene((EVENTS[3], EVENTS[100]), seed=2)
    chat = processor.apply_chat_template(_chat("describe the video.", "first a red cross grows."), tokenize=False)
    inputs = processor(text=chat, videos=[list(render(scene)[1::2])], return_tensors="pt", add_special_tokens=False)
    with torch.no_grad():
        logits: Tensor = model.eval()(**inputs).logits
    return logits


@pytest.mark.parametrize("name", [None, "base"])
def test_added_layers_change_nothing_until_they_learn(name: str | None) -> None:
    model = AutoModelForImageTextToText.from_pretrained(WEIGHTS / name) if name else checkpoint.new_model(2, seed=3)
    layers = model.config.text_config.num_hidden_layers
    processor = checkpoint.new_processor()
    before = _logits(model, processor)
    deeper = checkpoint.deepen(model, layers + 2)
    assert deeper.config.text_config.num_hidden_layers == layers + 2
    assert torch.equal(_logits(deeper, processor), before)
    added = deeper.model.language_model.layers[layers + 1].mlp.down_proj.weight
    assert not added.any()
    with torch.no_grad():
        added.add_(0.1)
    assert not torch.equal(_logits(deeper, processor), before)
    assert torch.equal(_logits(model, processor), before)  # the shallow model shares nothing with it


def test_a_saved_model_loads_through_the_auto_classes_as_it_was(tmp_path: Path) -> None:
    model = checkpoint.new_model(2, seed=4)
    checkpoint.save(model, tmp_path)
    loaded, processor = AutoModelForImageTextToText.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded).__name__ == "LlavaOnevisionForConditionalGeneration"
    assert torch.equal(_logits(loaded, processor), _logits(model, checkpoint.new_processor()))
    assert loaded.generation_config.suppress_tokens == model.generation_config.suppress_tokens
    assert not list(tmp_path.glob("*.bin"))


def test_the_shipped_models_are_small_together() -> None:
    files = [file for file in WEIGHTS.rglob("*") if file.is_file()]
    assert {file.parent.name for file in files if file.suffix == ".safetensors"} == set(MODELS)
    assert sum(file.stat().st_size for file in files) < 12e6
    assert {file.suffix for file in files} == {".json", ".jinja", ".safetensors"}  # no pickle, no code


@pytest.mark.parametrize("name", MODELS)
def test_the_shipped_processor_is_the_one_that_the_code_makes(name: str, tmp_path: Path) -> None:
    checkpoint.new_processor().save_pretrained(tmp_path)
    for file in ("chat_template.jinja", "tokenizer.json", "processor_config.json"):
        assert (WEIGHTS / name / file).read_text() == (tmp_path / file).read_text(), file


@pytest.mark.parametrize(("name", "layers"), [("base", 3), ("labeler", 5)])
def test_the_shipped_models_load_through_the_auto_classes(name: str, layers: int) -> None:
    model = AutoModelForImageTextToText.from_pretrained(WEIGHTS / name, use_safetensors=True, trust_remote_code=False)
    processor = AutoProcessor.from_pretrained(WEIGHTS / name, trust_remote_code=False)
    fresh = checkpoint.new_model(layers, seed=0).state_dict()
    assert {key: value.shape for key, value in model.state_dict().items()} == {
        key: value.shape for key, value in fresh.items()
    }
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert processor.tokenizer.get_vocab() == checkpoint.new_processor().tokenizer.get_vocab()


@dataclass(frozen=True)
class Shipped:
    """A shipped model and what it sees of scenes that neither its training nor its evaluation drew."""

    lm: VideoLM
    scenes: list[Scene]
    videos: list[Tensor]  # the tokens of all sixteen frames

    def answers(self, question: Question, frames: str) -> list[str]:
        shown = [video[list(FRAMES[frames])] for video in self.videos]
        answers = self.lm.generate([self.lm.prompt(question.text, video) for video in shown], GREEDY)
        assert all(answer.finished for (answer,) in answers)
        return [answer.text for (answer,) in answers]

    def slot_score(self, question: Question, frames: str) -> float:
        said = zip(self.scenes, self.answers(question, frames), strict=True)
        return float(np.mean([SLOTS.score(question.answer(scene), text) for scene, text in said]))


@pytest.fixture(scope="module", params=MODELS)
def shipped(request: pytest.FixtureRequest) -> Shipped:
    torch.set_num_threads(1)
    lm = VideoLM.load(str(WEIGHTS / request.param))
    rng = np.random.default_rng(20_240_229)
    scenes = [sample_scene(rng) for _ in range(100)]
    return Shipped(lm, scenes, [lm.encode(render(scene)) for scene in scenes])


def test_shipped_models_answer_about_scenes_they_never_saw(shipped: Shipped) -> None:
    asked = [Question("describe"), *(Question(kind, event) for kind in ("shape", "action") for event in (0, 1))]
    scores = {question: shipped.slot_score(question, "8") for question in asked}
    assert np.mean(list(scores.values())) >= 0.9, scores
    assert min(scores.values()) >= 0.8, scores


def test_shipped_models_caption_clips_nearly_without_error(shipped: Shipped) -> None:
    for clip in (0, 1):
        assert shipped.slot_score(Question("clip", clip), f"clip{clip}") >= 0.97


def test_shipped_models_have_to_look(shipped: Shipped) -> None:
    """Of another video their descriptions are right by chance: 1 in 4 to 1 in 6 a fact."""
    question = Question("describe")
    others = [*shipped.scenes[1:], shipped.scenes[0]]
    said = zip(others, shipped.answers(question, "8"), strict=True)
    assert np.mean([SLOTS.score(question.answer(other), text) for other, text in said]) < 0.3


def test_the_record_of_the_build_is_of_these_models() -> None:
    record = json.loads((WEIGHTS / "build.json").read_text())
    assert record["base"]["slot"] >= 0.9
    assert record["labeler"]["caption_slot"] >= 0.97
    assert set(record["recipe"]) == {"base_steps", "base_rate", "labeler_steps", "labeler_rate", "easy_steps", "seed"}
