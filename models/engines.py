"""What draws answers for a model: transformers, or vLLM beside it.

Whoever draws, a rollout is refused where the log-probabilities of engine and trainer differ by more than 0.006 nats a
token (models.on_policy).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from models.language_part import check_plain, embeddings, save_language_adapter, save_language_part
from models.meter import METER
from models.prompting import check_room
from models.sequences import Prompt, Response
from models.settings import EngineName, Sampling

if TYPE_CHECKING:
    from models.video_lm import VideoLM

GPU_SHARE = 0.4  # Of the card's memory for vLLM: weights of the language model, and keys and values.
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # Largest ranks that vLLM can be set up for.
NEVER = -100.0  # The lowest bias that vLLM takes: e^-100 of a chance.


class RolloutEngine(Protocol):
    """Draws answers with the weights that it was last handed."""

    def refresh(self, adapter: str) -> None:
        """Draw with this adapter, as it is now, from here on."""
        ...

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, n: int = 1, seed: int = 0, logprobs: bool = False
    ) -> list[list[Response]]:
        """`n` answers to each prompt, as `VideoLM.generate` gives them."""
        ...


class TransformersEngine:
    """The model itself; once refreshed, its plain copy with the adapter merged in."""

    def __init__(self, lm: VideoLM) -> None:
        self._lm, self._merged = lm, False

    def refresh(self, adapter: str) -> None:
        self._lm.merge_into_twin(adapter)
        self._merged = True

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, n: int = 1, seed: int = 0, logprobs: bool = False
    ) -> list[list[Response]]:
        return self._lm.generate(prompts, sampling, n=n, seed=seed, logprobs=logprobs, merged=self._merged)


class VllmEngine:
    """vLLM with the language model alone, which is handed embeddings: kept visual tokens in the places of a prompt.

    Written for vLLM 0.11 (V1) after its documentation: prompt embeddings (`enable_prompt_embeds`), LoRA adapters
    (`LoRARequest`), `logprobs_mode="processed_logprobs"`. It was tried with a stand-in for vLLM only.
    """

    def __init__(self, lm: VideoLM) -> None:
        """Raises:
        ValueError: vLLM is not installed, or the family needs more than embeddings.
        """
        check_plain(lm)
        vllm = _vllm()
        self._lm, self._vllm = lm, vllm
        self._folder = Path(tempfile.mkdtemp(prefix="rlaif-vllm-"))
        self._refreshed, self._adapter = 0, None
        save_language_part(lm, self._folder / "model")
        self._engine = vllm.LLM(
            model=str(self._folder / "model"),
            skip_tokenizer_init=True,
            enable_prompt_embeds=True,
            enable_lora=True,
            max_loras=1,
            max_lora_rank=_room_for(lm),
            dtype=str(lm.core.dtype).removeprefix("torch."),
            gpu_memory_utilization=GPU_SHARE,
            logprobs_mode="processed_logprobs",  # After temperature and bias: of what was drawn from.
        )

    def refresh(self, adapter: str) -> None:
        """A new number and folder each time: vLLM keeps what it read under a number."""
        self._refreshed += 1
        folder = self._folder / f"adapter-{self._refreshed}"
        save_language_adapter(self._lm, adapter, folder)
        request = self._vllm.lora.request.LoRARequest
        self._adapter = request(f"{adapter}-{self._refreshed}", self._refreshed, str(folder))
        shutil.rmtree(self._folder / f"adapter-{self._refreshed - 1}", ignore_errors=True)

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, n: int = 1, seed: int = 0, logprobs: bool = False
    ) -> list[list[Response]]:
        """Raises:
        ValueError: a prompt leaves no room in the model's window for the longest answer.
        RuntimeError: vLLM gave another number of answers, or tokens without log-probabilities.
        """
        check_room(self._lm, prompts, sampling.max_new_tokens)
        asked = [{"prompt_embeds": embeddings(self._lm, prompt).cpu()} for prompt in prompts]
        ends = sorted(self._lm.end_ids)
        parameters = [
            self._vllm.SamplingParams(
                n=n,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_new_tokens,
                seed=seed + n * number,  # vLLM counts on from it for the answers to one prompt.
                stop_token_ids=ends,
                logit_bias=dict.fromkeys(self._lm.suppressed, NEVER),
                logprobs=0 if logprobs else None,  # That of the drawn token alone.
                detokenize=False,
            )
            for number in range(len(prompts))
        ]
        drawn = self._engine.generate(asked, parameters, lora_request=self._adapter, use_tqdm=False)
        answers = [[self._response(each, logprobs) for each in one.outputs] for one in drawn]
        if [len(each) for each in answers] != [n] * len(prompts):
            raise RuntimeError(f"vLLM gave {[*map(len, answers)]} answers, where each prompt was to have {n}.")
        read, written = sum(len(p.ids) for p in prompts), sum(len(each.ids) for group in answers for each in group)
        METER.count(n * len(prompts), read, written)
        return answers

    def _response(self, drawn: Any, logprobs: bool) -> Response:
        ids = tuple(map(int, drawn.token_ids))
        kept: tuple[float, ...] = ()
        if logprobs:
            if drawn.logprobs is None or len(drawn.logprobs) != len(ids):
                raise RuntimeError("vLLM gave tokens without their log-probabilities.")
            kept = tuple(float(chances[token].logprob) for token, chances in zip(ids, drawn.logprobs, strict=True))
        text = self._lm.tokenizer.decode(ids, skip_special_tokens=True).strip()
        return Response(ids, text, finished=bool(ids) and ids[-1] in self._lm.end_ids, logprobs=kept)

    def __del__(self) -> None:
        shutil.rmtree(getattr(self, "_folder", ""), ignore_errors=True)


def new_engine(lm: VideoLM, name: EngineName) -> RolloutEngine:
    """The engine of that name for a model.

    Raises:
        ValueError: it is not installed, or cannot serve this model.
    """
    return VllmEngine(lm) if name == "vllm" else TransformersEngine(lm)


def _vllm() -> Any:
    try:
        import vllm
        import vllm.lora.request
    except ImportError as error:
        raise ValueError(
            f"engine vllm needs vLLM, which does not load ({error}): pip install 'video-rlaif[vllm]', or set engine to "
            "transformers."
        ) from error
    return vllm


def _room_for(lm: VideoLM) -> int:
    """The smallest rank that vLLM can be set up for and that holds the adapters of the model."""
    largest = max((config.r for config in getattr(lm.model, "peft_config", {}).values()), default=RANKS[-1])
    if largest > RANKS[-1]:
        raise ValueError(f"vLLM takes adapters up to rank {RANKS[-1]}, not {largest}: set engine to transformers.")
    return next(rank for rank in RANKS if rank >= largest)
