"""One interface to every video language model: frames to tokens, sampling, log-probabilities, adapters on and off.

Sampling pads prompts on the left; a forward over prompts and answers computes a prompt that several answers share
once. Masks are 1 (or True) where a token counts. Visual tokens are computed once (`encode`) and handed to every
forward; nothing here runs the vision tower again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.adapters import check_loaded, plain_twin
from models.families import Family, VideoFrames, family_of, pack
from models.meter import METER
from models.packing import pack_answers
from models.parallel import ALONE, Team, is_partitioned
from models.sequences import Hidden, Prompt, Response, left_pad
from models.settings import LoraSettings, Sampling


class VideoLM:
    """A video language model with its processor.

    Attributes:
        model: the transformers model; once adapters were added, the PEFT model around it.
        frozen: parameters stand still except those of the adapter in use.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.core = model.eval().requires_grad_(False)
        self.model = self.core
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.family: Family = family_of(model.config.model_type)
        self._twin: Any = None

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
        team: Team = ALONE,
    ) -> VideoLM:
        """Load a checkpoint.

        Args:
            name: a local folder or a Hub id. Remote code is off; only safetensors are read.
            revision: commit of a Hub id; None: its newest.
            merge: PEFT adapter folders to merge into the weights, in order (an SFT adapter under a policy).
            adapter: one more PEFT adapter folder, added as "policy" and switched on.
            device: torch device.
            dtype: torch dtype by name.
            team: the workers that use it together; each may keep a part of it only.

        Raises:
            ValueError: the family is not supported, or the checkpoint does not load; the message says which.
        """
        from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

        try:
            family_of(AutoConfig.from_pretrained(name, revision=revision).model_type)
            model = AutoModelForImageTextToText.from_pretrained(
                name, revision=revision, dtype=getattr(torch, dtype), use_safetensors=True, trust_remote_code=False
            )
            processor = AutoProcessor.from_pretrained(name, revision=revision, trust_remote_code=False)
        except OSError as error:
            raise ValueError(
                f"Model {name!r} does not load: {error}. Give a local folder with config, safetensors and processor, "
                "or the id of a Hub model that this machine can reach."
            ) from error
        for folder in merge:
            adapted = cls(model, processor)
            adapted.load_adapter("merged", folder)
            model = adapted.model.merge_and_unload()
        team.partition(model)
        lm = cls(model.to(device), processor)
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
    def suppressed(self) -> list[int]:
        """Tokens that are never sampled: a video placeholder in an answer would break the next forward.

        Log-probabilities leave them out too, so that training sees the distribution that was sampled from.
        """
        listed = self.core.generation_config.suppress_tokens
        if listed is None:
            listed = set(self.tokenizer.all_special_ids) - set(self._end_ids)
        return sorted(listed)

    @property
    def _end_ids(self) -> list[int]:
        end = self.core.generation_config.eos_token_id
        end = self.tokenizer.eos_token_id if end is None else end
        return [end] if isinstance(end, int) else list(end)

    @torch.no_grad()
    def encode(self, frames: VideoFrames) -> Tensor:
        """Visual tokens [F, P, D] of frames uint8 [F, H, W, 3]: one pass of the vision tower."""
        METER.count(len(frames), 0)
        return self.family.encode(self.core, self.processor, frames)

    def prompt(self, text: str, frame_tokens: Tensor | None = None) -> Prompt:
        """The chat prompt of a question.

        Args:
            text: what the user says; the video stands before it.
            frame_tokens: visual tokens [F, P, D] of the frames to show; None: no video, text alone.

        Raises:
            ValueError: the text itself holds the placeholder of a video.
        """
        content = [{"type": "text", "text": text}]
        visual = torch.empty(0, self.hidden_size, device=self.device, dtype=self.core.dtype)
        if frame_tokens is not None:
            content = [{"type": "video"}, *content]
            visual = self.family.join(self.core, frame_tokens.to(self.device, self.core.dtype))
        chat = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        placeholder = self.processor.video_token
        if chat.count(placeholder) != len(content) - 1:
            raise ValueError(f"The text {text!r} holds the video placeholder {placeholder!r}; remove it.")
        ids = self.tokenizer(chat.replace(placeholder, placeholder * len(visual)), add_special_tokens=False)[
            "input_ids"
        ]
        return Prompt(tuple(ids), visual)

    def response_ids(self, text: str) -> tuple[int, ...]:
        """The tokens of an answer, end token included, as the model would sample them."""
        return (*self.tokenizer(text, add_special_tokens=False)["input_ids"], self._end_ids[0])

    def next_turn_ids(self, text: str) -> tuple[int, ...]:
        """The tokens of a further user turn after an answer, up to where the model would reply."""
        first = [{"role": "user", "content": [{"type": "text", "text": "x"}]}]
        answer = [{"role": "assistant", "content": [{"type": "text", "text": "x"}]}]
        turn = [{"role": "user", "content": [{"type": "text", "text": text}]}]
        before = self.processor.apply_chat_template(first + answer, tokenize=False)
        after = self.processor.apply_chat_template(first + answer + turn, tokenize=False, add_generation_prompt=True)
        return tuple(self.tokenizer(after.removeprefix(before), add_special_tokens=False)["input_ids"])

    def same_tokens(self, other: VideoLM) -> bool:
        """Whether a token means the same to both models."""
        return self is other or self.tokenizer.get_vocab() == other.tokenizer.get_vocab()

    def output_row(self, word: str) -> Tensor:
        """The language model's output row [D] of a word, float32.

        Raises:
            ValueError: the tokenizer does not know the word as one token.
        """
        ids = self.tokenizer(word, add_special_tokens=False)["input_ids"]
        if len(ids) != 1 or ids[0] == self.tokenizer.unk_token_id:
            raise ValueError(
                f"{word!r} is {len(ids)} tokens, or an unknown one, to this model: take a word of one token."
            )
        row: Tensor = self.core.get_output_embeddings().weight[ids[0]].detach().float()
        return row

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
        """
        torch.manual_seed(seed)
        repeated = [prompt for prompt in prompts for _ in range(n)]
        ids, mask = left_pad([prompt.ids for prompt in repeated], self.tokenizer.pad_token_id)
        greedy = sampling.temperature == 0
        model = self._twin if merged else self.core
        out = model.generate(
            input_ids=ids.to(self.device),
            attention_mask=mask.to(self.device),
            max_new_tokens=sampling.max_new_tokens,
            do_sample=not greedy,
            temperature=None if greedy else sampling.temperature,
            top_p=None if greedy else sampling.top_p,
            top_k=None if greedy else 0,
            suppress_tokens=self.suppressed,
            eos_token_id=self._end_ids,
            pad_token_id=self.tokenizer.pad_token_id,
            return_dict_in_generate=True,
            output_scores=logprobs,
            synced_gpus=is_partitioned(self.core),
            **pack([prompt.visual for prompt in repeated]),
        )
        tokens = out.sequences[:, ids.shape[1] :].cpu()
        scores = torch.stack(out.scores, 1).float().log_softmax(-1).cpu() if logprobs else None
        answers = [self._response(row, None if scores is None else scores[i]) for i, row in enumerate(tokens)]
        METER.count(len(answers), int(mask.sum()), sum(len(answer.ids) for answer in answers))
        return [answers[i : i + n] for i in range(0, len(answers), n)]

    def _response(self, row: Tensor, scores: Tensor | None) -> Response:
        ids = row.tolist()
        ends = [i for i, token in enumerate(ids) if token in self._end_ids]
        ids = ids[: ends[0] + 1] if ends else ids
        kept = () if scores is None else tuple(scores[range(len(ids)), ids].tolist())
        text = self.tokenizer.decode(ids, skip_special_tokens=True).strip()
        return Response(tuple(ids), text, finished=bool(ends), logprobs=kept)

    def hidden(self, prompts: Sequence[Prompt], responses: Sequence[Sequence[int]], *, merged: bool = False) -> Hidden:
        """Last hidden states at the responses, with gradients where the adapter in use has them.

        Prompts that are the same object are computed once (models.packing).
        """
        packed = pack_answers(
            prompts, responses, self.tokenizer.pad_token_id, self.device, share=self._takes_any_attention
        )
        METER.count(len(prompts), int(packed.mask.sum()))
        inner = (self._twin if merged else self.core).model
        states = inner(
            input_ids=packed.ids,
            attention_mask=packed.attention(self.core.dtype),
            position_ids=packed.positions,
            use_cache=False,
            **pack([prompt.visual for prompt in packed.prompts]),
        ).last_hidden_state
        before = states[packed.row[:, None], packed.before]
        return Hidden(before, states[packed.row, packed.last], packed.response_ids, packed.response_mask)

    @property
    def _takes_any_attention(self) -> bool:
        """Whether a forward accepts an attention mask of its own for every pair of tokens."""
        return self.core.config.get_text_config()._attn_implementation in ("sdpa", "eager")

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
        mask = hidden.response_mask
        logits = self.logits(hidden.before_response) / temperature
        picked = logits.log_softmax(-1).gather(-1, hidden.ids[..., None])[..., 0]
        return torch.where(mask, picked, 0.0), mask  # a banned pad may be -inf

    def logits(self, hidden: Tensor) -> Tensor:
        """float32 logits [..., V] of hidden states [..., D]; tokens that are never sampled are at -inf."""
        logits: Tensor = self.core.get_output_embeddings()(hidden).float()
        banned = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
        banned[self.suppressed] = True
        return logits.masked_fill(banned, torch.finfo(torch.float32).min)

    def add_adapter(self, name: str, config: LoraSettings, seed: int) -> None:
        """Add a fresh LoRA adapter to the language model; B is zero, so it changes nothing yet."""
        from peft import PeftModel, get_peft_model

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
            ValueError: the adapter changes nothing, or does not fit this model.
        """
        from peft import PeftModel

        if isinstance(self.model, PeftModel):
            self.model.load_adapter(folder, adapter_name=name)
        else:
            self.model = PeftModel.from_pretrained(self.core, folder, adapter_name=name)
        self.model.eval().requires_grad_(False)
        check_loaded(folder, name, self.adapter_parameters(name))

    def save_adapter(self, name: str, folder: Path, *, base: str) -> None:
        """Write one adapter as plain PEFT reads it: adapter_config.json and adapter_model.safetensors in `folder`.

        Args:
            name: the adapter.
            folder: where to; made when it is not there.
            base: the model name that the adapter's configuration gives as its base.
        """
        self.model.peft_config[name].base_model_name_or_path = base
        self.model.save_pretrained(folder, selected_adapters=[name])
        inner = folder / name
        if inner.is_dir():  # PEFT nests every adapter that is not called "default"
            for file in sorted(inner.iterdir()):
                file.rename(folder / file.name)
            inner.rmdir()
        (folder / "README.md").unlink(missing_ok=True)

    def adapter_parameters(self, name: str) -> dict[str, nn.Parameter]:
        """The weights of one adapter by name."""
        return {key: value for key, value in self.core.named_parameters() if "lora_" in key and f".{name}." in key}

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

        The copy shares every weight that no adapter touches.
        """
        if is_partitioned(self.core):  # nobody has the weights whole: the model samples with the adapter on
            self.use(name)
            self._twin = self.core
            return
        layers = {key: module for key, module in self.core.named_modules() if hasattr(module, "lora_A")}
        if self._twin is None:
            self._twin = plain_twin(self.core, layers)
        for key, layer in layers.items():
            merged = layer.base_layer.weight + layer.get_delta_weight(name)
            self._twin.get_submodule(key).weight.copy_(merged)
