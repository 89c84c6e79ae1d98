"""A judge behind an OpenAI-compatible endpoint: pictures and two answers in, a verdict in both orders out."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from models.answers import Answer
from models.comparisons import EQUAL_ANSWERS, Comparison, NoVerdict, Preferred, Verdict
from models.endpoint import CallRefusedError, Endpoint, EndpointError, Message
from models.replies import Choice, Reply, parse_verdict
from models.templates import checked

Pictures = tuple[bytes, ...]

SCHEMA = {
    "type": "object",
    "properties": {"verdict": {"type": "string", "enum": ["A", "B", "tie"]}, "reason": {"type": "string"}},
    "required": ["verdict", "reason"],
    "additionalProperties": False,
}
_COLLECT_AFTER = 50_000  # New objects.
_P_FIRST: dict[Choice, float] = {"A": 1.0, "tie": 0.5, "B": 0.0}


@dataclass
class _Said:
    """What the judge said to one order of two answers, over all the times it was asked.

    `p_first` is the probability that the answer shown first is better; None while there is no verdict, and `fault` then
    says why. `calls` is how often it was asked.
    """

    p_first: float | None = None
    choice: Choice | None = None
    fault: str = ""
    reply: str = ""
    reason: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    latency_s: float = 0.0
    cost: float = 0.0
    calls: int = 0
    models: set[str] = field(default_factory=set)

    def count(self, answer: Answer) -> None:
        self.input_tokens += answer.input_tokens or 0
        self.output_tokens += answer.output_tokens or 0
        self.latency_s += answer.latency_s
        self.cost += answer.cost
        self.calls += 1
        self.models |= {answer.model} if answer.model else set()


class EndpointJudge:
    """Asks about every pair in both orders; orders that disagree are a tie that is marked inconsistent.

    p_a is the mean of both orders: read from the log-probabilities of the verdict's token where the server gives them
    and the reply is of the form that was asked for, else 1, 0.5 or 0 by the letter. Answers, question and narrative
    enter the prompt as JSON strings, so that none of them can end its own place; an order to prefer a letter that gets
    through prefers a position, and so both orders disagree.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        text: str,
        context_text: str,
        again: str,
        tie_margin: float = 0.0,
        attempt: int = 0,
    ) -> None:
        """Args:
            endpoint: where to ask.
            text: what the judge is asked, with {question}, {a} (shown first) and {b}.
            context_text: the same where there is a narrative, with {context} too.
            again: what follows a reply that names no verdict, with {fault}.
            tie_margin: log-odds of p_a no larger than this are a tie, nats.
            attempt: how often these comparisons were judged before. An order without a verdict is asked anew in each
                attempt, once; one that an earlier attempt could read is not.

        Raises:
            ValueError: a text lacks a placeholder or has an unknown one.
        """
        self._endpoint = endpoint
        self._text = checked(text, "question", "a", "b")
        self._context_text = checked(context_text, "context", "question", "a", "b")
        self._again = checked(again, "fault")
        self._attempt = attempt
        self._tie_share = 1 / (1 + math.exp(-tie_margin)) - 0.5
        # Prompts hold pictures: only those of the calls under way, and of as many that wait, are in memory.
        self._in_memory = asyncio.Semaphore(2 * endpoint.concurrency)
        # One event loop for the judge's life: its connections belong to it.
        self._runner = asyncio.Runner()

    def judge(self, comparisons: Sequence[Comparison[Pictures]]) -> list[Verdict | NoVerdict]:
        """One verdict a comparison, in order. Raises EndpointError when no call can go on."""
        with _seldom_collecting():
            return self._runner.run(self._all(comparisons))

    def close(self) -> None:
        """Closes the connections."""
        self._runner.run(self._endpoint.close())
        self._runner.close()

    async def _all(self, comparisons: Sequence[Comparison[Pictures]]) -> list[Verdict | NoVerdict]:
        # Equal candidates make equal prompts, which are asked once.
        asked: dict[tuple[str, str | None, int, str, str], asyncio.Task[_Said]] = {}

        def order(each: Comparison[Pictures], first: str, second: str) -> asyncio.Task[_Said]:
            key = (each.question, each.context, id(each.frames), first, second)
            if key not in asked:
                asked[key] = asyncio.create_task(self._said(each, first, second))
            return asked[key]

        orders = [
            None
            if each.same
            else (order(each, each.answer_a, each.answer_b), order(each, each.answer_b, each.answer_a))
            for each in comparisons
        ]
        # Calls under way are paid for: they come to their end, and into the ledger, before a failure is raised.
        ended = await asyncio.gather(*asked.values(), return_exceptions=True)
        failures = [each for each in ended if isinstance(each, BaseException)]
        for failure in sorted(failures, key=lambda each: not isinstance(each, EndpointError)):
            raise failure
        return [EQUAL_ANSWERS if both is None else self._verdict(both[0].result(), both[1].result()) for both in orders]

    async def _said(self, comparison: Comparison[Pictures], first: str, second: str) -> _Said:
        async with self._in_memory:
            return await self._asked(comparison, first, second)

    async def _asked(self, comparison: Comparison[Pictures], first: str, second: str) -> _Said:
        content = self._content(comparison, first, second)
        for attempt in range(self._attempt):
            said = await self._talk(content, attempt, anew=False)
            if said.choice is not None:
                return said
        return await self._talk(content, self._attempt, anew=True)

    async def _talk(self, content: list[Message], attempt: int, anew: bool) -> _Said:
        """A conversation up to its verdict; `anew`: with calls, else as far as the ledger knows it."""
        said = _Said()
        messages: list[Message] = [{"role": "user", "content": content}]
        for number in range(self._endpoint.settings.reasks + 1):
            try:
                answer = (
                    await self._endpoint.ask(messages, number, attempt)
                    if anew
                    else self._endpoint.known(messages, number, attempt)
                )
            except CallRefusedError as error:
                said.fault = str(error)
                return said
            if answer is None or (reply := self._understood(said, answer)).choice is not None:
                return said
            if answer.text:
                # Made clean once more: a ledger may hold replies from before that was done when they came.
                messages = [*messages[:1], {"role": "assistant", "content": self._endpoint.cleaned(answer.text)}]
                messages.append({"role": "user", "content": self._again.format(fault=reply.fault)})
        return said

    def _understood(self, said: _Said, answer: Answer) -> Reply:
        """What an answer says, taken into `said`."""
        said.count(answer)
        said.reply = self._endpoint.hidden(answer.text)
        reply = Reply(None, "refusal") if answer.fault else parse_verdict(answer.text, cut=answer.cut)
        if reply.choice is None:
            said.fault = self._endpoint.hidden(answer.fault or str(reply.fault))
        else:
            said.choice, said.p_first = reply.choice, p_first(reply, answer)
            # Hidden of its own: what is escaped in the object that holds it comes to light only there.
            said.reason = self._endpoint.hidden(reply.reason) if reply.reason else None
        return reply

    def _content(self, comparison: Comparison[Pictures], first: str, second: str) -> list[Message]:
        text = self._text if comparison.context is None else self._context_text
        filled = text.format(
            question=quoted(comparison.question),
            context=quoted(comparison.context or ""),
            a=quoted(first),
            b=quoted(second),
        )
        return message_of(comparison.frames, filled)

    def _verdict(self, a_first: _Said, a_second: _Said) -> Verdict | NoVerdict:
        if a_first.p_first is None or a_second.p_first is None:
            return self._no_verdict(*((a_first, "a") if a_first.p_first is None else (a_second, "b")))
        p_first, p_second = a_first.p_first, 1 - a_second.p_first
        p_a = (p_first + p_second) / 2
        sides = _side(a_first.choice, "a", "b"), _side(a_second.choice, "b", "a")
        consistent = sides[0] == sides[1]
        tie = not consistent or abs(p_a - 0.5) <= self._tie_share
        both = (a_first, a_second)
        return Verdict(
            p_a=p_a,
            preferred="tie" if tie else sides[0],
            p_a_first=p_first,
            p_a_second=p_second,
            consistent=consistent,
            reply_first=a_first.reply,
            reply_second=a_second.reply,
            reason_first=a_first.reason,
            reason_second=a_second.reason,
            input_tokens=sum(each.input_tokens for each in both),
            output_tokens=sum(each.output_tokens for each in both),
            latency_s=sum(each.latency_s for each in both),
            cost=sum(each.cost for each in both),
            answered_by=", ".join(sorted(a_first.models | a_second.models)) or None,
        )

    def _no_verdict(self, said: _Said, shown_first: str) -> NoVerdict:
        if not said.calls:
            return NoVerdict(said.fault)
        reply = f", its last reply: {said.reply[:80]!r}" if said.reply else ""
        return NoVerdict(
            f"the judge gave no verdict with answer {shown_first} shown first, asked {said.calls} times: "
            f"{said.fault}{reply}"
        )


def message_of(frames: Pictures, text: str) -> list[Message]:
    """The content of a message. Pictures, then the text: servers keep the work on a common beginning."""
    pictures = [f"data:image/jpeg;base64,{base64.b64encode(each).decode()}" for each in frames]
    return [*({"type": "image_url", "image_url": {"url": each}} for each in pictures), {"type": "text", "text": text}]


def quoted(text: str) -> str:
    """The text as a JSON string. What it cannot end is its own place; control characters are spelt out."""
    return re.sub("[\x7f-\x9f\u2028\u2029\ud800-\udfff]", _spelt, json.dumps(text, ensure_ascii=False))


def _spelt(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def p_first(reply: Reply, answer: Answer) -> float:
    """Probability that the answer shown first is better, from a reply with a choice.

    (P(A) + P(tie) / 2) / (P(A) + P(B) + P(tie)) over the likeliest tokens at the verdict's place; those that are not
    listed count as 0. Without log-probabilities at that place: 1, 0.5 or 0.
    """
    assert reply.choice is not None
    here = _at(answer.tokens, answer.text, reply.place)
    mass: dict[Choice, float] = {"A": 0.0, "B": 0.0, "tie": 0.0}
    for token, logprob in here.items():
        # Above 0 it is none; where answers are read such are left out, but a ledger may hold some from before.
        if logprob <= 0 and (choice := _token_choice(token)) is not None:
            mass[choice] += math.exp(logprob)
    total = sum(mass.values())
    if mass[reply.choice] == 0 or not math.isfinite(total):
        return _P_FIRST[reply.choice]
    return (mass["A"] + mass["tie"] / 2) / total


def _at(tokens: list[tuple[str, dict[str, float]]], text: str, place: int | None) -> dict[str, float]:
    """The log-probabilities of the token that holds the character `place` of the text."""
    end = 0
    for token, likeliest in tokens:
        begin, end = end, end + len(token)
        if text[begin:end] != token:
            return {}  # A token that is half a character: places cannot be counted beyond it.
        if place is not None and begin <= place < end:
            return likeliest
    return {}


def _token_choice(token: str) -> Choice | None:
    bare = token.strip(" \"'*([{`\n:").casefold()
    if bare in ("a", "b"):
        return "A" if bare == "a" else "B"
    return "tie" if bare and "tie".startswith(bare) else None


@contextmanager
def _seldom_collecting() -> Iterator[None]:
    """A call makes thousands of objects and leaves none behind: to look for garbage several times a call, and now and
    then in the hundreds of thousands of objects of the client's modules, holds up every reply.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def _side(choice: Choice | None, first: Preferred, second: Preferred) -> Preferred:
    return {"A": first, "B": second}.get(choice or "", "tie")
