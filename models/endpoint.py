"""Calls to an OpenAI-compatible endpoint (https://platform.openai.com/docs/api-reference/chat/create).

The official client does the talking. What it does not know stands here: a ledger that is asked before each call,
repeats that honour Retry-After, servers that refuse an option, and whether a failure is the call's fault or the
endpoint's.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from models.answers import Answer, read_answer, retry_after, said, storable
from models.endpoint_client import client_of
from models.endpoint_settings import JudgeEndpoint
from models.meter import METER
from models.places import Places

if TYPE_CHECKING:
    import httpx2

Message = dict[str, Any]

_BACKOFF_S = 0.5
_LONGEST_BACKOFF_S = 30.0
# A call that would leave later than this after its place in the queue gives the place back. The ledger lays a minute's
# places 61 s apart: of that second half is for a call that leaves late, the other half for what delays it on its way.
_LATE_S = 0.5
_POLL_S = 0.05
_LISTED = 10  # Likeliest tokens that are asked for at each place.
_REFUSED_FORMS = 8  # So many calls refused, and none ever taken: the endpoint refuses them all.


class EndpointError(RuntimeError):
    """No call can go on, whatever it asks; the text says what to do. Replies so far are in the ledger."""


class CallRefusedError(RuntimeError):
    """The endpoint gives no reply to this call; others may go on."""


class BadRequestError(CallRefusedError):
    """The endpoint finds fault with the call itself: its content, or an option that this server does not know."""


@dataclass(frozen=True)
class Ticket:
    """The leave to make one call: its number in the ledger, and when it may be sent (seconds since the epoch)."""

    number: int
    at: float


@dataclass(frozen=True)
class Exhausted:
    """There is no money for a call. `waiting`: calls under way may yet leave some; `text` says what was spent."""

    waiting: bool
    text: str


@dataclass(frozen=True)
class UnderWay:
    """Someone else is making this very call: its answer is worth the wait."""


class Ledger(Protocol):
    """What was asked, answered and paid at one account, and when the next call may leave."""

    def begin(self, call: str, bound: float) -> Answer | Ticket | Exhausted | UnderWay:
        """The reply that `call` got before, else leave to make it: it counts as costing `bound` until it ended."""
        ...

    def end(self, ticket: Ticket, cost: float, call: str | None = None, answer: Answer | None = None) -> None:
        """The call cost this much; with `call` its answer is kept for whoever asks the same."""
        ...

    def pause(self, seconds: float) -> None:
        """No further ticket is for a time before these seconds have passed."""
        ...

    def find(self, call: str) -> Answer | None:
        """The reply that `call` got before."""
        ...


@dataclass(frozen=True)
class _Form:
    """The options that a server may refuse."""

    structured: bool
    logprobs: bool


@dataclass(frozen=True)
class _Failure:
    """A call that brought no answer.

    `kind`: "endpoint" (nothing will work), "call" (this one is refused), "busy" (slow down), "lost" (no connection) or
    "again". `cost`: what it counts for, None when that cannot be known.
    """

    kind: str
    text: str
    cost: float | None = 0.0
    wait_s: float | None = None


class Endpoint:
    """Sends calls, at most `concurrency` at once, and gives their answers; used by one event loop."""

    def __init__(
        self, settings: JudgeEndpoint, ledger: Ledger, key: str | None, schema: dict[str, Any], concurrency: int
    ) -> None:
        """Args:
        settings: the endpoint; its `concurrency` is that of all workers together.
        ledger: asked before each call, told after it.
        key: the API key, if the server wants one. Never shown.
        schema: JSON schema of the replies.
        concurrency: this worker's share.
        """
        self.settings = settings
        self.concurrency = concurrency
        self._ledger = ledger
        self._key = key
        self._schema = schema
        self._places: Places[Answer | _Failure] = Places(concurrency)
        self._client = client_of(settings, key, concurrency)
        self._form: _Form | None = None
        self._trying = asyncio.Lock()
        self._refused = 0
        self._paused_until = 0.0
        self._end: EndpointError | None = None
        self._ended = asyncio.Event()

    async def ask(self, messages: list[Message], again: int = 0, attempt: int = 0) -> Answer:
        """The answer to a conversation, from the ledger where it was asked before.

        `again` tells a question that is repeated in a conversation from the first, `attempt` a conversation that is
        begun anew from the one before. Raises EndpointError, CallRefusedError.
        """
        if self._form is None:
            async with self._trying:
                if self._form is None:
                    return await self._first(messages, again, attempt)
        return await self._call(messages, again, attempt, self._form)

    def known(self, messages: list[Message], again: int, attempt: int) -> Answer | None:
        """The answer that the ledger has to a conversation, with whatever options it was asked; makes no call."""
        names = (self._name(self._body(messages, form), again, attempt) for form in self._forms())
        return next((found for name in names if (found := self._ledger.find(name)) is not None), None)

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    def hidden(self, text: str) -> str:
        """The text on one line, fit to be kept and shown: without the key and without what no table takes."""
        return " ".join(self.cleaned(text).split())

    def cleaned(self, text: str) -> str:
        """The same with its lines."""
        text = storable(text)
        return text.replace(self._key, "***") if self._key else text

    async def _first(self, messages: list[Message], again: int, attempt: int) -> Answer:
        """Finds the options that the server takes: all that are wished for, else fewer."""
        refusals: list[str] = []
        for form in self._forms():
            try:
                found = await self._call(messages, again, attempt, form)
            except BadRequestError as error:
                refusals.append(str(error))
                continue
            self._form = form
            return found
        self._refused += 1
        if self._refused >= _REFUSED_FORMS:
            raise self._stop(f"refuses every call, the last with: {refusals[0]}")
        raise BadRequestError(refusals[0])

    def _forms(self) -> Iterator[_Form]:
        structured = {"auto": (True, False), "on": (True,), "off": (False,)}[self.settings.structured]
        logprobs = {"auto": (True, False), "on": (True,), "off": (False,)}[self.settings.logprobs]
        return (_Form(one, other) for one in structured for other in logprobs)

    def _body(self, messages: list[Message], form: _Form) -> bytes:
        body: dict[str, Any] = {
            "model": self.settings.model,
            "messages": messages,
            "temperature": self.settings.temperature,
            self.settings.limit_name: self.settings.max_tokens,
        }
        if form.structured:
            schema = {"name": "verdict", "strict": True, "schema": self._schema}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        if form.logprobs:
            body |= {"logprobs": True, "top_logprobs": _LISTED}
        return json.dumps(body, ensure_ascii=False).encode()

    def _bound(self, body: bytes, messages: list[Message]) -> float:
        """The most that a call can cost: a token of text has at least one byte."""
        parts = [part for each in messages if isinstance(each["content"], list) for part in each["content"]]
        pictures = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        text = len(body) - sum(map(len, pictures))
        return self.settings.price(text + len(pictures) * self.settings.image_tokens, self.settings.max_tokens)

    def _name(self, body: bytes, again: int, attempt: int) -> str:
        """The name of a call in the ledger."""
        # The first attempt goes unsaid, as in ledgers from before there were others.
        which = f"{again} {attempt}" if attempt else f"{again}"
        return hashlib.sha256(f"{self.settings.base_url.rstrip('/')} {which} ".encode() + body).hexdigest()

    async def _call(self, messages: list[Message], again: int, attempt: int, form: _Form) -> Answer:
        body = self._body(messages, form)
        call = self._name(body, again, attempt)
        bound = self._bound(body, messages)
        for number in range(self.settings.retries + 1):
            reply = await self._try(call, body, bound)
            if isinstance(reply, Answer):
                return reply
            await self._after(reply, number)
        raise AssertionError  # The last failure raised.

    async def _after(self, failure: _Failure, number: int) -> None:
        """Waits before the next try, or raises whose fault the failure is."""
        if failure.kind == "endpoint":
            raise self._stop(failure.text)
        if failure.kind == "call":
            raise BadRequestError(f"the endpoint refuses the call: {failure.text}")
        if failure.kind == "busy":
            pause = _backoff(number) if failure.wait_s is None else failure.wait_s
            self._paused_until = max(self._paused_until, time.time() + pause)
            self._ledger.pause(pause)
        if number < self.settings.retries:
            if failure.kind != "busy":
                await self._rest(max(_backoff(number), failure.wait_s or 0.0))
            return
        tries = f"{failure.text}, {number + 1} times in a row"
        if failure.kind == "busy":
            raise self._stop(f"is asked too often: {tries}. Set requests_per_minute to what it allows")
        if failure.kind == "lost" or not await self._answers():
            raise self._stop(f"does not answer: {tries}")
        raise CallRefusedError(f"the endpoint gives no reply: {tries}")

    async def _try(self, call: str, body: bytes, bound: float) -> Answer | _Failure:
        """One call as soon as there is a place for it, unless the ledger has its answer."""
        return await self._places.do(lambda: self._placed(call, body, bound))

    async def _placed(self, call: str, body: bytes, bound: float) -> Answer | _Failure:
        ticket = await self._ticket(call, bound)
        if isinstance(ticket, Answer):
            return ticket
        reply = await self._made(ticket, call, body, bound)
        if isinstance(reply, Answer):
            METER.count(1, reply.input_tokens or 0, reply.output_tokens or 0, reply.cost)
            self._check_bound(reply, bound)
        return reply

    async def _made(self, ticket: Ticket, call: str, body: bytes, bound: float) -> Answer | _Failure:
        """One call, and what came of it in the ledger: its ticket is ended whatever is raised meanwhile."""
        cost = bound  # Cancelled under way, nobody knows what it cost.
        answer: Answer | None = None
        try:
            began = time.perf_counter()
            got = await self._send(body)
            reply = got if isinstance(got, _Failure) else self._read(got, time.perf_counter() - began, bound)
            answer = reply if isinstance(reply, Answer) else None
            cost = bound if reply.cost is None else reply.cost
            return reply
        finally:
            self._ledger.end(ticket, cost, None if answer is None else call, answer)

    async def _ticket(self, call: str, bound: float) -> Answer | Ticket:
        """Leave to call now, at the end of the wait that the rate limit asks for; or the answer from the ledger."""
        while True:
            if self._end is not None:
                raise self._end
            found = self._ledger.begin(call, bound)
            if isinstance(found, Answer):
                return found
            if isinstance(found, Exhausted | UnderWay):
                if isinstance(found, Exhausted) and not found.waiting:
                    raise self._stop(found.text)
                await self._rest(_POLL_S)
                continue
            await self._rest(found.at - time.time())
            now = time.time()
            if now - found.at <= _LATE_S and now >= self._paused_until and self._end is None:
                return found
            self._ledger.end(found, 0.0)

    async def _send(self, body: bytes) -> httpx2.Response | _Failure:
        import httpx2
        import openai

        try:
            async with asyncio.timeout(self.settings.timeout_s):
                return await self._client.post("/chat/completions", cast_to=httpx2.Response, content=body)
        except openai.APIStatusError as error:
            return self._status(error)
        except TimeoutError:
            return _Failure("again", f"no reply within {self.settings.timeout_s:g} s", None)
        except openai.APIConnectionError as error:
            return self._lost(error)

    def _lost(self, error: Exception) -> _Failure:
        """A call whose connection failed: nothing was sent where none came about."""
        import aiohttp

        causes: list[BaseException] = [error]
        while (cause := causes[-1].__cause__) is not None:
            causes.append(cause)
        unsent = any(isinstance(each, aiohttp.ClientConnectorError) for each in causes)
        why = self.hidden(f"{type(causes[-1]).__name__}: {causes[-1]}")[:200]
        return _Failure("lost", f"no connection ({why})", 0.0 if unsent else None)

    def _status(self, error: Any) -> _Failure:
        """What an HTTP status above 399 means."""
        status, text = error.status_code, said(error, self.hidden)
        if status == 429 and "insufficient_quota" not in text:
            return _Failure("busy", text, wait_s=retry_after(error.response.headers))
        if status in (400, 413, 415, 422):
            return _Failure("call", text)
        if status in (408, 409) or status >= 500:
            return _Failure("again", text, wait_s=retry_after(error.response.headers))
        name = self.settings.api_key_env
        refused = (
            f"refuses the key in the variable {name}" if name else "refuses a call without a key (set api_key_env)"
        )
        meanings = {401: refused, 403: refused, 404: f"does not know its address or the model {self.settings.model!r}"}
        return _Failure("endpoint", f"{meanings.get(status, 'refuses all calls')}: {text}")

    def _read(self, response: httpx2.Response, latency_s: float, bound: float) -> Answer | _Failure:
        """The answer in a reply, which is no JSON object when a gateway shows a page of its own."""
        try:
            body = json.loads(response.content)
            if isinstance(body, dict):
                return read_answer(body, self.settings, latency_s, bound, self.cleaned)
        except (ValueError, RecursionError):
            pass
        page = "an HTML page" if b"<html" in response.content[:2000].lower() else "no JSON object"
        return _Failure("again", f"the server sent {page} in place of a reply; is base_url right?", None)

    def _check_bound(self, answer: Answer, bound: float) -> None:
        if self.settings.budget is not None and answer.cost > bound:
            raise self._stop(
                f"counted {answer.input_tokens} input and {answer.output_tokens} output tokens for a call, which is "
                f"more than image_tokens {self.settings.image_tokens} and max_tokens {self.settings.max_tokens} let "
                "expect, so the budget cannot be kept. Raise image_tokens"
            )

    def _stop(self, text: str) -> EndpointError:
        """Ends this endpoint: calls under way come to their end, no other begins."""
        if self._end is None:
            self._end = EndpointError(
                f"The judge {self.settings.model!r} at {self.settings.base_url} {text}. What was answered is kept: run "
                "the same command again when this is mended."
            )
            self._ended.set()
        return self._end

    async def _rest(self, seconds: float) -> None:
        """Sleeps, but not beyond the end of this endpoint."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), seconds)

    async def _answers(self) -> bool:
        """Whether the endpoint replies at all to a question that costs nothing."""
        import httpx2
        import openai

        limit: Any = {"timeout": min(10.0, self.settings.timeout_s)}
        try:
            await self._client.get("/models", cast_to=httpx2.Response, options=limit)
        except openai.APIStatusError as error:
            return bool(error.status_code < 500)
        except openai.OpenAIError:
            return False
        return True


def _backoff(number: int) -> float:
    """Seconds before try number + 2: doubling, with full jitter, so that clients do not come back together."""
    return random.uniform(0.5, 1.0) * min(_LONGEST_BACKOFF_S, _BACKOFF_S * 2.0**number)
