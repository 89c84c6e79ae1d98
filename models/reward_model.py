"""The reward model: a LoRA adapter and a scalar head on a frozen base, trained on preferences.

Two forms. `head` is the paper's: a linear layer reads the hidden state of the last token. `likelihood` adds the
answer's mean log-probability under the adapter's own language model, so that it starts as self-preference instead of
noise and learns from a few thousand pairs. A head that starts from what the language model would reply (`words`) learns
from as few; one that starts at zero stays at chance there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from models.batches import Limits, Load, in_batches
from models.parallel import ALONE, Team
from models.sequences import Footage, Prompt, Response
from models.settings import RewardForm
from models.video_lm import VideoLM

ADAPTER = "reward"


@dataclass(frozen=True)
class RewardPrompt(Prompt):
    """What the reward model reads around an answer: the question before it, and a further turn after it.

    Attributes:
        turn: tokens after the answer; may be empty.
    """

    turn: tuple[int, ...] = ()


class RewardModel:
    """Scores answers with adapter "reward" of a model.

    Attributes:
        head: Linear(D, 1), float32.
    """

    def __init__(self, lm: VideoLM, form: RewardForm) -> None:
        """Raises:
        ValueError: one of `form.words` is not one token of the model.
        """
        self.lm = lm
        self.form = form
        self.head = nn.Linear(lm.hidden_size, 1).to(lm.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        if form.words is not None:
            yes, no = (_output_row(lm, word) for word in form.words)
            with torch.no_grad():
                self.head.weight.copy_((yes - no)[None])

    def prompt(self, question: str, shown: Footage | None, narrative: str | None) -> RewardPrompt:
        """What is read around an answer to `question`.

        Args:
            question: as the policy was asked.
            shown: the frames to show, as this model's tower saw them.
            narrative: read only where `form.rm_context` says so.

        Raises:
            ValueError: the narrative is to be read and there is none.
        """
        if narrative is None and self.form.rm_context == "narrative":
            raise ValueError(f"The reward model reads the narrative, and there is none for the question {question!r}.")
        before, after = self.form.texts(question, narrative)
        asked = self.lm.prompt(before, shown)
        return RewardPrompt(asked.ids, asked.visual, asked.positions, self.lm.next_turn_ids(after) if after else ())

    def score(self, prompts: Sequence[RewardPrompt], responses: Sequence[Sequence[int]]) -> Tensor:
        """Rewards [B], with gradients where the adapter and the head have them. Switches adapter "reward" on."""
        self.lm.use(ADAPTER)
        hidden = self.lm.hidden(prompts, _with_turns(prompts, responses))
        rewards: Tensor = self.head(hidden.last.float())[:, 0]
        if self.form.kind == "head":
            return rewards
        logprobs, mask = self.lm.logprobs_from(hidden)
        lengths = torch.tensor([len(response) for response in responses], device=mask.device)
        said = mask & (torch.arange(mask.shape[1], device=mask.device) < lengths[:, None])
        return rewards + self.form.likelihood_scale * (logprobs * said).sum(1) / said.sum(1)

    @torch.no_grad()
    def score_all(
        self,
        prompts: Sequence[RewardPrompt],
        responses: Sequence[Sequence[int]],
        limits: Limits,
        team: Team = ALONE,
    ) -> Tensor:
        """Rewards [N] without gradients, in batches of like length that the workers of `team` share."""

        def compute(batch: Sequence[int]) -> Tensor:
            return self.score([prompts[i] for i in batch], [responses[i] for i in batch])

        return in_batches(compute, self.loads(prompts, responses), limits, team)

    def loads(self, prompts: Sequence[RewardPrompt], responses: Sequence[Sequence[int]]) -> list[Load]:
        """What each answer adds to a forward pass (models.batches)."""
        return self.lm.loads(prompts, _with_turns(prompts, responses))

    def save(self, folder: Path, *, base: str) -> None:
        """Write the adapter as plain PEFT reads it, beside reward_head.safetensors and reward_form.json."""
        from safetensors.torch import save_file

        self.lm.save_adapter(ADAPTER, folder, base=base)
        save_file(dict(self.head.state_dict()), folder / "reward_head.safetensors")
        (folder / "reward_form.json").write_text(json.dumps(asdict(self.form), sort_keys=True))

    @classmethod
    def load(cls, lm: VideoLM, folder: Path) -> RewardModel:
        """Add a saved reward model to `lm`.

        Raises:
            ValueError: the folder has no head; a reward model without its head would score at random.
        """
        from safetensors.torch import load_file

        if not (folder / "reward_head.safetensors").exists():
            raise ValueError(f"{folder} holds no reward_head.safetensors: it is an adapter, not a reward model.")
        lm.load_adapter(ADAPTER, folder)
        reward = cls(lm, RewardForm(**json.loads((folder / "reward_form.json").read_text())))
        reward.head.load_state_dict(load_file(folder / "reward_head.safetensors"))
        return reward


def _with_turns(prompts: Sequence[RewardPrompt], responses: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """The answers, each with the turn that is read behind it."""
    return [(*response, *prompt.turn) for prompt, response in zip(prompts, responses, strict=True)]


class Scorer:
    """A reward model beside what it reads about each question of a training.

    Attributes:
        reward: its base may be the policy's own, or another model.
        same_tokens: whether its base and the policy have one vocabulary.
    """

    def __init__(self, reward: RewardModel, prompts: Sequence[RewardPrompt], policy: VideoLM) -> None:
        """`prompts`: one a question, by the numbers that rollouts give. `policy`: whose answers are scored."""
        self.reward = reward
        self.same_tokens = policy.same_tokens(reward.lm)
        self._prompts = prompts

    def read(self, numbers: Sequence[int], samples: int) -> list[RewardPrompt]:
        """The prompt of each question `samples` times, side by side."""
        return [prompt for number in numbers for prompt in [self._prompts[number]] * samples]

    def score(
        self, prompts: Sequence[RewardPrompt], responses: Sequence[Response], limits: Limits, team: Team = ALONE
    ) -> Tensor:
        """Rewards [B] of answers that a policy sampled, whatever its tokenizer.

        An answer that was sampled twice is scored once: rounding would tell equals apart, and groups of equals would
        then seem to have something to teach.
        """
        keys = [(id(prompt), self._ids(response)) for prompt, response in zip(prompts, responses, strict=True)]
        place = {key: at for at, key in enumerate(dict.fromkeys(keys))}
        known = {id(prompt): prompt for prompt in prompts}
        asked = [known[key] for key, _ in place], [ids for _, ids in place]
        rewards = self.reward.score_all(*asked, limits, team)
        return rewards[[place[key] for key in keys]]

    def _ids(self, response: Response) -> tuple[int, ...]:
        if self.same_tokens:
            return response.ids
        ids = self.reward.lm.response_ids(response.text)
        return ids if response.finished else ids[:-1] or ids  # Of nothing said the end alone can be read.


def _output_row(lm: VideoLM, word: str) -> Tensor:
    """The language model's output row [D] of a word as a reply, float32; ValueError where it is not one known token."""
    *ids, _ = lm.response_ids(word)
    if len(ids) != 1 or ids[0] == lm.tokenizer.unk_token_id:
        raise ValueError(f"{word!r} is {len(ids)} tokens, or an unknown one, to this model: take a word of one token.")
    row: Tensor = lm.core.get_output_embeddings().weight[ids[0]].detach().float()
    return row
