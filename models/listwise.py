"""A ranker that shows a model all answers of a group in one prompt and reads the order from its reply."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from models.batches import Limits, batches_by_length, sampling_loads
from models.orders import LABELS, OrderError, parse_order
from models.parallel import ALONE, Team, share_out
from models.rankings import Group, NoRanking, Ranking, all_equal, average_ranks, spread
from models.sequences import Footage, Prompt, Response
from models.settings import Sampling
from models.templates import checked
from models.training import step_rng
from models.video_lm import VideoLM


@dataclass(frozen=True)
class Reply:
    """What a model said.

    Attributes:
        fault: why nothing can be read from it, whatever it says.
        cost: what an endpoint took.
        model: that an endpoint says has answered; "" where nobody says.
    """

    text: str
    fault: str | None = None
    cost: float = 0.0
    model: str = ""


class Speaker(Protocol):
    """Replies in words."""

    def reply(self, texts: Sequence[str], frames: Sequence[Any], seed: int) -> list[Reply]:
        """One reply a text, in order. `frames`: what is shown with each: visual tokens [F, P, D], or JPEG files."""
        ...


class LocalSpeaker:
    """A video model on this machine."""

    def __init__(self, lm: VideoLM, sampling: Sampling, *, batch_size: int = 16, team: Team = ALONE) -> None:
        """`batch_size`: texts that are replied to together; `team`: the workers that reply to the same texts."""
        self._lm = lm
        self._sampling = sampling
        self._batch_size, self._team = batch_size, team

    def reply(self, texts: Sequence[str], frames: Sequence[Footage], seed: int) -> list[Reply]:
        replies: dict[int, Reply] = {}
        prompts: dict[int, Prompt] = {}
        for number, (text, shown) in enumerate(zip(texts, frames, strict=True)):
            try:
                prompts[number] = self._lm.prompt(text, shown)
            except ValueError as error:  # a text that holds the video placeholder
                replies[number] = Reply("", str(error))
        asked = list(prompts)
        loads = sampling_loads([prompts[i] for i in asked], 1, self._sampling.max_new_tokens)
        batches = batches_by_length(loads, Limits(self._batch_size))
        numbered = [(step, [asked[place] for place in places]) for step, places in enumerate(batches)]

        def say(job: tuple[int, list[int]]) -> list[list[Response]]:
            step, batch = job
            return self._lm.generate([prompts[i] for i in batch], self._sampling, seed=_seed(seed, step))

        cut = f"the reply was cut at {self._sampling.max_new_tokens} tokens"
        for (_, batch), said in zip(numbered, share_out(numbered, say, self._team), strict=True):
            for i, (response,) in zip(batch, said, strict=True):
                replies[i] = Reply(response.text, None if response.finished else cut)
        return [replies[number] for number in range(len(texts))]


class ListwiseRanker:
    """Shows a model all different answers of a group, labelled A, B, ..., and reads the order from its reply.

    A reply that is no order (models.orders) is asked for again, with another seed and the answers in another order;
    after `attempts` the group has no ranking. Nothing is guessed from half an order.
    """

    def __init__(self, speaker: Speaker, *, text: str, context_text: str, attempts: int = 3) -> None:
        """Args:
            speaker: the model.
            text: what it is asked, with {question} and {answers}.
            context_text: the same where there is a narrative, with {context} too.
            attempts: how often it is asked about a group at most.

        Raises:
            ValueError: a text lacks a placeholder or has an unknown one.
        """
        self._speaker = speaker
        self._text = checked(text, "question", "answers")
        self._context_text = checked(context_text, "context", "question", "answers")
        self._attempts = attempts

    def rank(self, groups: Sequence[Group], seed: int = 0) -> list[Ranking | NoRanking]:
        settled = {i: known for i, group in enumerate(groups) if (known := _without_model(group)) is not None}
        faults: dict[int, str] = {}
        for attempt in range(self._attempts):
            asked = {i: _presented(group, attempt) for i, group in enumerate(groups) if i not in settled}
            if not asked:
                break
            texts = [self._question(groups[i], shown) for i, shown in asked.items()]
            replies = self._speaker.reply(texts, [groups[i].frames for i in asked], _seed(seed, attempt))
            for (i, shown), reply in zip(asked.items(), replies, strict=True):
                try:
                    settled[i] = _read(groups[i], shown, reply, attempt + 1)
                except OrderError as error:
                    faults[i] = str(error)
        return [
            settled[i] if i in settled else NoRanking(f"no order in {self._attempts} attempts, the last: {faults[i]}")
            for i in range(len(groups))
        ]

    def _question(self, group: Group, shown: list[str]) -> str:
        # On one line each: a line of an answer must not pass for another answer's label.
        lines = [" ".join(answer.split()) for answer in shown]
        answers = "\n\n".join(f"Answer {label}: {line}" for label, line in zip(LABELS, lines, strict=False))
        text = self._text if group.context is None else self._context_text
        return text.format(question=group.question, answers=answers, context=group.context)


def _without_model(group: Group) -> Ranking | NoRanking | None:
    different = len(group.distinct())
    if different > len(LABELS):
        return NoRanking(f"it has {different} different answers, and there are {len(LABELS)} letters to label them")
    return all_equal(group) if different < 2 else None


def _presented(group: Group, attempt: int) -> list[str]:
    """The different answers as an attempt shows them; what the candidates' order was matters only to `in_order`."""
    answers = group.distinct()
    if group.in_order:
        return answers
    random.Random(f"{group.name}\n{attempt}").shuffle(answers)
    return answers


def _read(group: Group, shown: list[str], reply: Reply, attempts: int) -> Ranking:
    if reply.fault:
        raise OrderError(reply.fault)
    order = parse_order(reply.text, len(shown))
    ranks = average_ranks(spread(group, {shown[label]: -float(rank) for rank, label in enumerate(order)}))
    places = spread(group, {answer: place for place, answer in enumerate(shown)})
    return Ranking(ranks, places=places, reply=reply.text, attempts=attempts, answered_by=reply.model or None)


def _seed(seed: int, number: int) -> int:
    return int(step_rng(seed, number).integers(2**31))
