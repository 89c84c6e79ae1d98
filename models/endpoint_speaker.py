"""A model behind an OpenAI-compatible endpoint that replies in words: who orders answers (models.listwise)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from models.endpoint import CallRefusedError, Endpoint, EndpointError, Message
from models.endpoint_judge import Pictures, message_of
from models.listwise import Reply


class EndpointSpeaker:
    """Replies over HTTP, many at once. A reply that was paid is given again from the ledger."""

    def __init__(self, endpoint: Endpoint, attempt: int = 0) -> None:
        """`attempt`: of the stage; in another one everything is asked anew."""
        self._endpoint = endpoint
        self._attempt = attempt
        # One event loop for the speaker's life: its connections belong to it.
        self._runner = asyncio.Runner()
        # Prompts hold pictures: only those of the calls under way, and of as many that wait, are in memory.
        self._in_memory = asyncio.Semaphore(2 * endpoint.concurrency)

    def reply(self, texts: Sequence[str], frames: Sequence[Pictures], seed: int) -> list[Reply]:  # noqa: ARG002 - it draws
        """One reply a text, in order. `frames`: the JPEG files that go with each. Raises EndpointError."""

        def message(text: str, shown: Pictures) -> Callable[[], list[Message]]:
            return lambda: [{"role": "user", "content": message_of(shown, text)}]

        asked = [message(text, shown) for text, shown in zip(texts, frames, strict=True)]
        return self._runner.run(self._all(asked, 0))

    def chat(self, conversations: Sequence[list[Message]], again: int = 0) -> list[Reply]:
        """One reply a conversation, in order. `again`: how often it was asked before. Raises EndpointError."""

        def said(messages: list[Message]) -> Callable[[], list[Message]]:
            return lambda: messages

        return self._runner.run(self._all([said(each) for each in conversations], again))

    def close(self) -> None:
        """Closes the connections."""
        self._runner.run(self._endpoint.close())
        self._runner.close()

    async def _all(self, asked: Sequence[Callable[[], list[Message]]], again: int) -> list[Reply]:
        # Calls under way are paid for: they come to their end, and into the ledger, before a failure is raised.
        ended = await asyncio.gather(*(self._one(each, again) for each in asked), return_exceptions=True)
        failures = [each for each in ended if isinstance(each, BaseException)]
        for failure in sorted(failures, key=lambda each: not isinstance(each, EndpointError)):
            raise failure
        return [each for each in ended if isinstance(each, Reply)]

    async def _one(self, asked: Callable[[], list[Message]], again: int) -> Reply:
        async with self._in_memory:
            try:
                answer = await self._endpoint.ask(asked(), again, self._attempt)
            except CallRefusedError as error:
                return Reply("", str(error))
        fault = answer.fault or (
            f"the reply was cut at {self._endpoint.settings.max_tokens} tokens" if answer.cut else None
        )
        text, fault = self._endpoint.cleaned(answer.text), fault and self._endpoint.hidden(fault)
        return Reply(text, fault, answer.cost, answer.model)
