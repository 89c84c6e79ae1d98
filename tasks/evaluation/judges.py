"""Who decides what an answer is worth where rules cannot: a model here, or one behind an endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

from benchmarks.benchmark import Benchmark
from benchmarks.grades import Call
from benchmarks.items import Item, Prediction, Shown
from models.endpoint_settings import JudgeEndpoint
from tasks.answering import answers_in_batches
from tasks.evaluation.config import GradingConfig
from tasks.evaluation.reward_ref import RewardRef
from tasks.fanout import StageFailure, derive_seed
from tasks.judge_endpoint import endpoint_speaker
from tasks.model_ref import ModelRef

if TYPE_CHECKING:
    from models.endpoint import Message
    from models.listwise import Reply
    from models.sequences import Prompt
    from storage.lake import Lake


def model_name(model: ModelRef | RewardRef | JudgeEndpoint) -> str:
    """A model as scores name it: with what tells its version, and of one behind an endpoint its settings too."""
    return f"{model.model if isinstance(model, JudgeEndpoint) else model.label}@{model.identity}"


def judge_name(judge: ModelRef | JudgeEndpoint, grading: GradingConfig) -> str:
    """A judge as grades and scores name it: its model, what tells its version, and how it replies.

    The identity of an endpoint says that already; that of weights here does not.
    """
    if isinstance(judge, JudgeEndpoint):
        return model_name(judge)
    replies = ", ".join(f"{name} {value:g}" for name, value in grading.decoding.items())
    return f"{model_name(judge)} ({replies})"


def with_version(name: str, answered: Sequence[str]) -> str:
    """A judge's name with the models that answered in its place (`answered_otherwise`)."""
    return f"{name} answered by {', '.join(answered)}" if answered else name


def asks_judge(made: Benchmark, item: Item, protocol: str) -> bool:
    """Whether a protocol asks a judge about an item where rules cannot read what was said to it."""
    requests = made.ask(item, Shown())
    if not requests or requests[0].choices:
        return False
    said = Prediction(replies=tuple("?" for _ in requests))
    return any(isinstance(made.grade(item, aspect, said, protocol), Call) for aspect in item.aspects)


class GradingJudge(Protocol):
    """Replies to calls.

    Attributes:
        reasks: how often it may be asked again for what it said nothing usable to.
    """

    reasks: int

    def ask(self, calls: Sequence[Call], again: int, seed: int) -> list[Reply]:
        """One reply a call, in order; `again`: how often these were asked before. Raises StageFailure."""
        ...

    def close(self) -> None:
        """Closes what it holds open; it is asked no more."""
        ...


class LocalGradingJudge:
    """A model on this machine. It is shown no video: all that a call says is text."""

    def __init__(self, model: ModelRef, lake: Lake, config: GradingConfig) -> None:
        self._lm = model.load(lake)
        self._config = config
        self.reasks = config.reasks if config.sampling.temperature > 0 else 0

    def ask(self, calls: Sequence[Call], again: int, seed: int) -> list[Reply]:
        from models.listwise import Reply
        from models.prompting import check_room

        replies: dict[int, Reply] = {}
        prompts: dict[int, Prompt] = {}
        for number, call in enumerate(calls):
            try:
                prompt = self._lm.prompt(call.user, None, system=call.system)
                check_room(self._lm, [prompt], self._config.sampling.max_new_tokens)
                prompts[number] = prompt
            except ValueError as error:  # A text that holds a video's placeholder, or is longer than the window.
                replies[number] = Reply("", str(error))
        seeds = partial(derive_seed, seed, "judge", again)
        asked = list(prompts.values())
        said = answers_in_batches(self._lm, asked, self._config.sampling, self._config.batch_size, seeds)
        for number, (response,) in zip(prompts, said, strict=True):
            replies[number] = Reply(response.text)
        return [replies[number] for number in range(len(calls))]

    def close(self) -> None:
        """Nothing is open."""


class EndpointGradingJudge:
    """A model behind an OpenAI-compatible endpoint; what was paid once is not asked again."""

    def __init__(self, endpoint: JudgeEndpoint, lake: str, workers: int) -> None:
        """Raises StageFailure, as tasks.judge_endpoint.endpoint_judge."""
        self._speaker = endpoint_speaker(endpoint, lake=lake, workers=workers)
        self.reasks = endpoint.reasks

    def ask(self, calls: Sequence[Call], again: int, seed: int) -> list[Reply]:  # noqa: ARG002 - the endpoint draws
        from models.endpoint import EndpointError

        try:
            return self._speaker.chat([messages_of(call) for call in calls], again)
        except EndpointError as error:
            raise StageFailure(str(error)) from None

    def close(self) -> None:
        """Closes the connections."""
        self._speaker.close()


def messages_of(call: Call) -> list[Message]:
    """A call as an endpoint is sent it."""
    system = [{"role": "system", "content": call.system}] if call.system is not None else []
    return [*system, {"role": "user", "content": call.user}]
