"""One interface to every video language model: frames to tokens, sampling, log-probabilities, adapters on and off.

Sampling pads prompts on the left; a forward over prompts and answers computes a prompt that several answers share
once. Masks are 1 (or True) where a token counts. Visual tokens are computed once (`encode`) and handed to every
forward; nothing here runs the vision tower again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from models.adapters import check_pattern, load_onto, merged_twin, parameters_of, save_plain
from models.batches import Load
from models.drawing import Drawing
from models.encoding import encode_clips
from models.families import Family, VideoFrames, family_of
from models.memory import LATEST
from models.merging import load_merged
from models.meter import METER
from models.packing import pack_answers, takes_any_attention
from models.parallel import ALONE, Team, is_partitioned
from models.prefix import begin
from models.prompting import Opening, check_room, continuation_ids, new_prompt, next_turn_ids, opening, window_of
from models.quantization import Quantization
from models.recomputing import recomputing
from models.room import MemoryMeter
from models.sequences import Footage, Hidden, Prompt, Response
from models.settings import EngineName, LoraSettings, Sampling
from models.token_logprobs import chunk_of, entropies, picked_logprobs

if TYPE_CHECKING:
    from models.engines import RolloutEngine


class VideoLM:
    """A video language model with its processor.

    Attributes:
        model: the transformers model; once adapters were added, the PEFT model around it.
        frozen: parameters stand still except those of the adapter in use.
        sampling_copy: whether rollouts are sampled from a copy with the adapter merged in; it is faster, and takes the
            memory of the language model a second time.
        gradient_checkpointing: whether forwards with gradients keep only the layers' inputs (models.recomputing).
        meter: tells how much of a step fits into memory; None: steps are cut as their settings say (models.room).
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.core = model.eval().requires_grad_(False)
        self.model = self.core
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.family: Family = family_of(model.config.model_type)
        self.gradient_checkpointing = False
        self.sampling_copy = True
        self.meter: MemoryMeter | None = None
        self._twin: Any = None
        self._engines: dict[EngineName, RolloutEngine] = {}

    @classmethod
    def load(
        cls,
        name: str,
        *,
        revision: str | None = None,
        merge: Sequence[Path] = (),
        adapter: Path | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        quantization: Quantization = "none",
        team: Team = ALONE,
    ) -> VideoLM:
        """Load a checkpoint.

        Args:
            name: a local folder or a Hub id. Remote code is off; only safetensors are read.
            revision: commit of a Hub id; None: its newest.
            merge: PEFT adapter folders to merge into the weights, in order (an SFT adapter under a policy); before the
                weights are rounded to four bits, if they are (models.merging).
            adapter: one more PEFT adapter folder, added as "policy" and switched on.
            device: torch device.
            dtype: torch dtype by name.
            quantization: whether the language model's weights are kept in four bits (models.quantization).
            team: the workers that use it together; each may keep a part of it only.

        Raises:
            ValueError: as of models.loading.load_checkpoint; or an adapter does not fit.
        """
        model, processor = load_merged(name, revision, dtype, quantization, device, merge)
        team.partition(model)
        lm = cls(model if quantization != "none" else model.to(device), processor)
        if adapter is not None:
            lm.load_adapter("policy", adapter)
            lm.use("policy")
        return lm

    @property
    def device(self) -> torch.device:
        return torch.device(self.core.device)

    @property
    def hidden_size(self) -> int:
        return int(self.core.config.get_text_config().hidden_size)

    @property
    def window(self) -> int:
        """Tokens that the language model was made for."""
        return window_of(self.core.config.get_text_config())

    @property
    def suppressed(self) -> list[int]:
        """Tokens that are never sampled: a video placeholder in an answer would break the next forward.

        Log-probabilities leave them out too, so that training sees the distribution that was sampled from.
        """
        listed = self.core.generation_config.suppress_tokens
        if listed is None:
            added = {number for number, token in self.tokenizer.added_tokens_decoder.items() if token.special}
            listed = (added | set(self.tokenizer.all_special_ids)) - set(self.end_ids)
        return sorted({*listed, *self.family.places(self.core.config)})

    @property
    def end_ids(self) -> list[int]:
        """The tokens that end an answer, that of the tokenizer first."""
        listed = self.core.generation_config.eos_token_id
        listed = [listed] if isinstance(listed, int) else listed or []
        own = self.tokenizer.eos_token_id
        return list(dict.fromkeys([*([] if own is None else [own]), *listed]))

    @torch.no_grad()
    def tower(self, frames: VideoFrames, of: int) -> tuple[Tensor, tuple[int, int]]:
        """What the tower makes of frames (models.families.base.Family.encode): one pass."""
        METER.count(len(frames), 0)
        LATEST.begin("encoding", "frames", len(frames))
        return self.family.encode(self.core, self.processor, frames, of)

    def encode(self, frames: VideoFrames, seconds: Sequence[float] | None = None) -> Footage:
        """All of the frames uint8 [F, H, W, 3] as one clip; without `seconds` there is one a second."""
        times = range(len(frames)) if seconds is None else seconds
        return encode_clips(self, frames, [range(len(frames))], times, len(frames)).shown(0)

    def prompt(self, text: str, shown: Footage | None = None, *, system: str | None = None, begin: str = "") -> Prompt:
        """The chat prompt of a question about the frames that are shown (models.prompting.new_prompt)."""
        return new_prompt(self, text, shown, system, begin)

    @property
    def quantized(self) -> bool:
        """Whether the base is kept in four bits."""
        return getattr(self.core, "quantization_method", None) is not None

    @property
    def _copies(self) -> bool:
        whole = not self.quantized and not is_partitioned(self.core)
        return self.sampling_copy and whole and self.core.dtype == torch.float32

    def _plain(self, merged: bool) -> Any:
        """The plain copy if it is asked for and there is one, else the model with the adapter that is on."""
        return self._twin if merged and self._copies else self.core

    def response_ids(self, text: str, begin: str = "") -> tuple[int, ...]:
        """The tokens of an answer, end token included, as the model would sample them; behind `begin`, if any."""
        return (*continuation_ids(self, begin, text), self.end_ids[0])

    @cached_property
    def opening(self) -> Opening:
        """What stands before an answer (models.prompting.opening)."""
        return opening(self)

    def next_turn_ids(self, text: str) -> tuple[int, ...]:
        """The tokens of a further user turn after an answer, up to where the model would reply."""
        return tuple(next_turn_ids(self, text))

    def same_tokens(self, other: VideoLM) -> bool:
        """Whether a token means the same to both models."""
        return self is other or self.tokenizer.get_vocab() == other.tokenizer.get_vocab()

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        n: int = 1,
        seed: int = 0,
        logprobs: bool = False,
        merged: bool = False,
    ) -> list[list[Response]]:
        """Sample `n` answers to each prompt.

        Args:
            prompts: one batch.
            sampling: temperature, nucleus and length.
            n: answers a prompt.
            seed: the batch's random seed; the same batch and seed give the same answers on a CPU.
            logprobs: also return each token's log-probability.
            merged: sample from a plain copy with the adapter merged in (see `merge_into_twin`): faster.
        Raises ValueError where a prompt leaves no room in the model's window for the longest answer.
        """
        torch.manual_seed(seed)
        longest = check_room(self, prompts, sampling.max_new_tokens)
        LATEST.begin("sampling from", "prompts", len(prompts) * n, longest + sampling.max_new_tokens)
        model, drawing = self._plain(merged), Drawing(sampling, record=logprobs)
        start = begin(model, self.family, prompts, self.tokenizer.pad_token_id, n)
        out = model.generate(
            **start.inputs,
            max_new_tokens=sampling.max_new_tokens,
            suppress_tokens=self.suppressed,
            eos_token_id=self.end_ids,
            pad_token_id=self.tokenizer.pad_token_id,
            synced_gpus=is_partitioned(self.core),
            **drawing.arguments,
        )
        tokens = out[:, start.length :]
        drawn = drawing.logprobs(tokens)
        answers = [self._response(row, None if drawn is None else drawn[i]) for i, row in enumerate(tokens.cpu())]
        METER.count(len(answers), start.tokens, sum(len(answer.ids) for answer in answers))
        return [answers[i : i + n] for i in range(0, len(answers), n)]

    def engine(self, name: EngineName) -> RolloutEngine:
        """What draws answers for this model; made once."""
        from models.engines import new_engine

        if name not in self._engines:
            self._engines[name] = new_engine(self, name)
        return self._engines[name]

    def _response(self, row: Tensor, logprobs: Tensor | None) -> Response:
        ids = row.tolist()
        ends = [i for i, token in enumerate(ids) if token in self.end_ids]
        ids = ids[: ends[0] + 1] if ends else ids
        kept = () if logprobs is None else tuple(logprobs[: len(ids)].tolist())
        text = self.tokenizer.decode(ids, skip_special_tokens=True).strip()
        return Response(tuple(ids), text, finished=bool(ends), logprobs=kept)

    def hidden(self, prompts: Sequence[Prompt], responses: Sequence[Sequence[int]], *, merged: bool = False) -> Hidden:
        """Last hidden states at the responses, with gradients where the adapter in use has them.

        Prompts that are the same object are computed once (models.packing).
        """
        packed = pack_answers(
            prompts,
            responses,
            self.tokenizer.pad_token_id,
            self.device,
            share=self._takes_any_attention,
            axes=self.family.axes,
        )
        METER.count(len(prompts), int(packed.mask.sum()))
        LATEST.begin("a forward pass over", "rows", *packed.ids.shape)
        inner = self._plain(merged).model
        with recomputing(inner) if self.gradient_checkpointing else nullcontext():
            states = inner(
                input_ids=packed.ids,
                attention_mask=packed.attention(self.core.dtype),
                position_ids=packed.positions,
                use_cache=False,
                **self.family.pack(self.core, [prompt.visual for prompt in packed.prompts]),
            ).last_hidden_state
        before = states[packed.row[:, None], packed.before]
        return Hidden(before, states[packed.row, packed.last], packed.response_ids, packed.response_mask)

    def loads(self, prompts: Sequence[Prompt], responses: Sequence[Sequence[int]]) -> list[Load]:
        """What each answer adds to a forward pass (models.batches)."""
        rows = map(id, prompts) if self._takes_any_attention else range(len(prompts))
        return [
            Load(row, len(prompt.ids), len(response))
            for row, prompt, response in zip(rows, prompts, responses, strict=True)
        ]

    @property
    def _takes_any_attention(self) -> bool:
        """Whether answers may share their prompt's row (models.packing)."""
        return takes_any_attention(self.core.config.get_text_config(), self.window)

    def logprobs(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[Sequence[int]],
        *,
        temperature: float = 1.0,
        merged: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Log-probability of each response token.

        Returns:
            logprobs [B, R] (0 where masked) and mask [B, R] (True at response tokens, end token included).
        """
        return self.logprobs_from(self.hidden(prompts, responses, merged=merged), temperature=temperature)

    def logprobs_from(self, hidden: Hidden, *, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """The same from hidden states that are at hand."""
        states, ids, mask = hidden.before_response, hidden.ids, hidden.response_mask
        return picked_logprobs(states, ids, mask, self.logits, temperature=temperature, chunk=self._chunk), mask

    def entropies_from(self, hidden: Hidden, *, temperature: float = 1.0) -> Tensor:
        """Entropy [B, R] in nats of what each response token is drawn from, 0 where masked."""
        states, mask = hidden.before_response, hidden.response_mask
        return entropies(states, mask, self.logits, temperature=temperature, chunk=self._chunk)

    @property
    def _chunk(self) -> int:
        return chunk_of(self.core.get_output_embeddings().weight.shape[0])

    def logits(self, hidden: Tensor) -> Tensor:
        """float32 logits [..., V] of hidden states [..., D]; tokens that are never sampled are at -inf.

        For a few states at a time: those of a whole batch of answers would not fit (models.token_logprobs).
        """
        logits: Tensor = self.core.get_output_embeddings()(hidden).float()
        banned = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
        banned[self.suppressed] = True
        return logits.masked_fill(banned, torch.finfo(torch.float32).min)

    def add_adapter(self, name: str, config: LoraSettings, seed: int) -> None:
        """Add a fresh LoRA adapter to the language model; B is zero, so it changes nothing yet.

        Raises:
            ValueError: it would stand on other layers than the language model's, or on none.
        """
        from peft import PeftModel, get_peft_model

        check_pattern(self.core, config.modules)
        torch.manual_seed(seed)
        lora = config.peft_config()
        if isinstance(self.model, PeftModel):
            self.model.add_adapter(name, lora)
        else:
            self.model = get_peft_model(self.core, lora, adapter_name=name)
        self.model.eval()

    def load_adapter(self, name: str, folder: Path) -> None:
        """Add a saved PEFT adapter.

        Raises:
            ValueError: the adapter is not whole, does not fit this model, or changes nothing.
        """
        self.model = load_onto(self.model, self.core, name, folder)

    def save_adapter(self, name: str, folder: Path, *, base: str) -> None:
        """Write one adapter as plain PEFT reads it: adapter_config.json and adapter_model.safetensors in `folder`.

        Args:
            name: the adapter.
            folder: where to; made when it is not there.
            base: the model name that the adapter's configuration gives as its base.
        """
        save_plain(self.model, name, folder, base)

    def adapter_parameters(self, name: str) -> dict[str, nn.Parameter]:
        """The weights of one adapter by name."""
        return parameters_of(self.core, name)

    def copy_adapter(self, source: str, target: str) -> None:
        """Overwrite one adapter's weights with another's of the same shape."""
        values = self.adapter_parameters(source)
        with torch.no_grad():
            for key, parameter in self.adapter_parameters(target).items():
                parameter.copy_(values[key.replace(f".{target}.", f".{source}.")])

    def use(self, name: str) -> None:
        """Switch one adapter on; its weights learn, all others stand still."""
        self.model.set_adapter(name)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """No adapter is active: the model is bit for bit the frozen base."""
        with self.model.disable_adapter():
            yield

    @torch.no_grad()
    def merge_into_twin(self, name: str) -> None:
        """Refresh the plain copy that samples for adapter `name`; the frozen base is never written to.

        The copy shares every weight that no adapter touches. Without one (`sampling_copy`; a base in four bits, divided
        among workers, or in half precision, where merging would round updates away) adapter `name` is switched on
        instead, and the model itself samples.
        """
        if self._copies:
            self._twin = merged_twin(self.core, self._twin, name)
        else:
            self.use(name)
