"""Engines: a stand-in for vLLM draws from what it is handed alone; its log-probabilities are the trainer's."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from peft import PeftModel
from pydantic import TypeAdapter
from tiny import LORA, shake
from torch import Tensor
from transformers import AutoModelForCausalLM

from models.engines import TransformersEngine, VllmEngine, new_engine
from models.language_part import embeddings, save_language_adapter, save_language_part
from models.on_policy import sample
from models.sequences import Prompt
from models.settings import GrpoSettings, Sampling
from models.training import TrainingError
from models.video_lm import VideoLM

PLAIN = sorted(set(zoo.ZOO) - {"qwen2_vl", "qwen2_5_vl", "qwen3_vl"})
ANSWERS = ("it is red .", "a blue cross moves left .")
DRAW = Sampling(temperature=1.5, max_new_tokens=6)


@dataclass
class Parameters:
    """vllm.SamplingParams, with what is read of it here."""

    n: int
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    stop_token_ids: list[int]
    logit_bias: dict[int, float]
    logprobs: int | None
    detokenize: bool


@dataclass
class LoRARequest:
    """vllm.lora.request.LoRARequest."""

    lora_name: str
    lora_int_id: int
    lora_path: str


@dataclass
class Engine:
    """vllm.LLM: loads a checkpoint, and an adapter once for each number, and draws from embeddings."""

    model: str
    options: dict[str, Any]
    known: dict[int, Any] = field(default_factory=dict)

    def generate(
        self, prompts: list[dict[str, Tensor]], parameters: list[Parameters], lora_request: Any, use_tqdm: bool
    ) -> list[SimpleNamespace]:
        assert not use_tqdm
        model = self._with(lora_request)
        return [
            SimpleNamespace(outputs=[_draw(model, prompt["prompt_embeds"], how, how.seed + i) for i in range(how.n)])
            for prompt, how in zip(prompts, parameters, strict=True)
        ]

    def _with(self, request: LoRARequest | None) -> Any:
        number = 0 if request is None else request.lora_int_id
        if number not in self.known:
            model = AutoModelForCausalLM.from_pretrained(self.model, dtype=torch.float32)
            self.known[number] = model if request is None else PeftModel.from_pretrained(model, request.lora_path)
        return self.known[number].eval()


@torch.no_grad()
def _draw(model: Any, prompt: Tensor, how: Parameters, seed: int) -> SimpleNamespace:
    noise, table = torch.Generator().manual_seed(seed), model.get_input_embeddings()
    ids: list[int] = []
    chances: list[dict[int, SimpleNamespace]] = []
    while len(ids) < how.max_tokens and (not ids or ids[-1] not in how.stop_token_ids):
        seen = torch.cat([prompt, table(torch.tensor(ids, dtype=torch.long))])[None]
        logits = model(inputs_embeds=seen).logits[0, -1].float()
        for token, bias in how.logit_bias.items():
            logits[token] += bias
        spread = (logits / how.temperature).log_softmax(-1)
        ids.append(int(torch.multinomial(spread.exp(), 1, generator=noise)))
        chances.append({ids[-1]: SimpleNamespace(logprob=float(spread[ids[-1]]))})
    return SimpleNamespace(token_ids=ids, logprobs=None if how.logprobs is None else chances)


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> list[Engine]:
    """The stand-in where `import vllm` finds it; the engines that were made."""
    made: list[Engine] = []

    def load(model: str, **options: Any) -> Engine:
        made.append(Engine(model, options))
        return made[-1]

    module, lora, request = ModuleType("vllm"), ModuleType("vllm.lora"), ModuleType("vllm.lora.request")
    module.LLM, module.SamplingParams, module.lora = load, Parameters, lora  # type: ignore[attr-defined]
    lora.request, request.LoRARequest = request, LoRARequest  # type: ignore[attr-defined]
    for each in (module, lora, request):
        monkeypatch.setitem(sys.modules, each.__name__, each)
    return made


def model(name: str, folder: Path) -> VideoLM:
    """A family's model with an adapter that changes its answers."""
    lm = VideoLM.load(str(zoo.save(name, folder / name)))
    lm.add_adapter("policy", LORA, seed=0)
    lm.use("policy")
    shake(lm.adapter_parameters("policy").values(), seed=2, scale=0.3)
    return lm


def prompts(lm: VideoLM) -> list[Prompt]:
    frames = np.random.default_rng(0).integers(0, 256, (4, 40, 56, 3), dtype=np.uint8)
    return [lm.prompt("what color is the first shape ?", lm.encode(frames)), lm.prompt("describe the video .")]


@pytest.mark.parametrize("name", PLAIN)
@torch.no_grad()
def test_the_language_part_sees_what_the_trainer_sees(name: str, tmp_path: Path) -> None:
    """Each family, with an adapter: the same log-probabilities from the embeddings alone."""
    lm = model(name, tmp_path)
    save_language_part(lm, tmp_path / "part")
    save_language_adapter(lm, "policy", tmp_path / "adapter")
    part = AutoModelForCausalLM.from_pretrained(tmp_path / "part", dtype=torch.float32)
    part = PeftModel.from_pretrained(part, tmp_path / "adapter").eval()
    for prompt in prompts(lm):
        answer = lm.response_ids(ANSWERS[0])
        seen = torch.cat([embeddings(lm, prompt), lm.core.get_input_embeddings()(torch.tensor(answer))])[None]
        logits = part(inputs_embeds=seen).logits[0, len(prompt.ids) - 1 : -1].float()
        logits[:, lm.suppressed] = torch.finfo(torch.float32).min
        found = logits.log_softmax(-1).gather(-1, torch.tensor(answer)[:, None])[:, 0]
        assert torch.allclose(found, lm.logprobs([prompt], [answer])[0][0], atol=1e-4)


def test_answers_have_the_trainers_log_probabilities(vllm: list[Engine], tmp_path: Path) -> None:
    lm = model("llava_onevision", tmp_path)
    engine = new_engine(lm, "vllm")
    engine.refresh("policy")
    groups = engine.generate(prompts(lm), DRAW, n=3, seed=5, logprobs=True)
    assert [len(group) for group in groups] == [3, 3]
    assert len({answer.ids for group in groups for answer in group}) > 2
    for prompt, group in zip(prompts(lm), groups, strict=True):
        found, mask = lm.logprobs([prompt] * 3, [answer.ids for answer in group], temperature=DRAW.temperature)
        for row, answer in enumerate(group):
            assert torch.allclose(found[row][mask[row]], torch.tensor(answer.logprobs), atol=1e-4)
            assert not set(answer.ids) & set(lm.suppressed)
            assert answer.finished == (answer.ids[-1] in lm.end_ids)
    assert vllm[0].options["enable_prompt_embeds"]
    assert vllm[0].options["logprobs_mode"] == "processed_logprobs"
    assert vllm[0].options["max_lora_rank"] == 8, "the smallest that holds rank 4"
    assert engine.generate(prompts(lm), DRAW, n=3, seed=5)[0][0].logprobs == ()


def test_every_refresh_has_a_number_and_a_folder_of_its_own(vllm: list[Engine], tmp_path: Path) -> None:
    """The engine reads an adapter once for each number: under the old one, new weights would never be seen."""
    lm = model("llava_onevision", tmp_path)
    engine = VllmEngine(lm)
    first = engine.generate(prompts(lm), DRAW, seed=1, logprobs=True)[0][0]
    for step in (1, 2):
        shake(lm.adapter_parameters("policy").values(), seed=step, scale=0.3)
        engine.refresh("policy")
        drawn = engine.generate(prompts(lm), DRAW, seed=1, logprobs=True)[0][0]
        found, mask = lm.logprobs([prompts(lm)[0]], [drawn.ids], temperature=DRAW.temperature)
        assert torch.allclose(found[mask], torch.tensor(drawn.logprobs), atol=1e-4)
        assert drawn.logprobs != first.logprobs
    assert sorted(vllm[0].known) == [0, 1, 2]
    assert sorted(path.name for path in Path(vllm[0].model).parent.iterdir()) == ["adapter-2", "model"]


def settings(**more: Any) -> GrpoSettings:
    return GrpoSettings(lora=LORA, sampling=DRAW, prompts=2, samples=2, engine="vllm", **more)


@pytest.mark.usefixtures("vllm")
def test_a_rollout_is_drawn_by_the_engine_and_checked(tmp_path: Path) -> None:
    lm = model("llava_onevision", tmp_path)
    sampled, metrics = sample(lm, [0, 1], prompts(lm), settings(), seed=0)
    assert len(sampled.responses) == 4
    assert metrics["rollout_gap"] < 1e-4
    assert lm.engine("vllm") is lm.engine("vllm"), "it is made once"


@pytest.mark.usefixtures("vllm")
def test_an_answer_that_would_leave_the_window_is_refused(tmp_path: Path) -> None:
    lm = model("llava_onevision", tmp_path)
    with pytest.raises(ValueError, match=r"the model's window is .*lower max_new_tokens"):
        lm.engine("vllm").generate(prompts(lm), Sampling(max_new_tokens=lm.window))


@pytest.mark.usefixtures("vllm")
def test_an_engine_with_old_weights_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = model("llava_onevision", tmp_path)
    monkeypatch.setattr(VllmEngine, "refresh", lambda *_: None)
    with pytest.raises(TrainingError, match="Sampling and training disagree"):
        sample(lm, [0, 1], prompts(lm), settings(), seed=0)


def test_transformers_draws_as_before(tmp_path: Path) -> None:
    lm = model("llava_onevision", tmp_path)
    engine = lm.engine("transformers")
    assert isinstance(engine, TransformersEngine)
    assert engine.generate(prompts(lm), DRAW, n=2, seed=3) == lm.generate(prompts(lm), DRAW, n=2, seed=3)
    engine.refresh("policy")
    assert engine.generate(prompts(lm), DRAW, seed=3) == lm.generate(prompts(lm), DRAW, seed=3, merged=True)


@pytest.mark.usefixtures("vllm")
def test_families_that_need_more_than_embeddings_are_refused(tmp_path: Path) -> None:
    lm = VideoLM.load(str(zoo.save("qwen2_5_vl", tmp_path / "qwen")))
    with pytest.raises(ValueError, match=r"in time, row and column.*set engine to transformers"):
        lm.engine("vllm")


def test_a_base_of_which_each_worker_has_a_part_is_refused(tmp_path: Path) -> None:
    lm = VideoLM.load(str(zoo.save("llava_onevision", tmp_path)))
    next(lm.core.parameters()).ds_id = 0  # type: ignore[attr-defined]  # as DeepSpeed marks it
    with pytest.raises(ValueError, match="divided among workers cannot be handed to another engine"):
        new_engine(lm, "vllm")


def test_without_vllm_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ValueError, match=r"pip install 'video-rlaif\[vllm\]'"):
        model("llava_onevision", tmp_path).engine("vllm")


def test_only_another_engine_enters_the_keys_of_stages() -> None:
    dump = TypeAdapter(GrpoSettings).dump_python
    assert "engine" not in dump(GrpoSettings())
    assert dump(settings())["engine"] == "vllm"
