"""The official client of OpenAI-compatible endpoints, trimmed: its processor time bounds the throughput."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from models.endpoint_settings import JudgeEndpoint

if TYPE_CHECKING:
    import httpx2
    from openai import AsyncOpenAI


def client_of(settings: JudgeEndpoint, key: str | None, concurrency: int) -> AsyncOpenAI:
    """A client that sends `key` and nothing else of the environment, and repeats nothing by itself.

    All its calls to one path may differ in `content` alone: whatever else describes them is made for the first. To make
    it for each took a quarter of the time of a call.
    """
    import httpx2
    import openai
    from openai._models import FinalRequestOptions

    options_of: dict[str, FinalRequestOptions] = {}
    requests_to: dict[tuple[str, str], httpx2.Request] = {}

    class Client(openai.AsyncOpenAI):
        def platform_headers(self) -> dict[str, str]:
            return {}  # Six headers that tell the server of this machine, a tenth of the time of a call.

        async def post(self, path: str, *, cast_to: type[Any], content: Any = None) -> Any:  # type: ignore[override]
            if path not in options_of:
                options_of[path] = FinalRequestOptions.construct(method="post", url=path)
            return await self.request(cast_to, options_of[path].model_copy(update={"content": content}))

        def _build_request(self, options: FinalRequestOptions, *, retries_taken: int = 0) -> httpx2.Request:
            place = (options.method, options.url)
            if place not in requests_to:
                requests_to[place] = super()._build_request(options, retries_taken=retries_taken)
            first = requests_to[place]
            headers = first.headers.copy()
            headers.pop("Content-Length", None)
            body: Any = options.content
            return httpx2.Request(first.method, first.url, headers=headers, content=body, extensions=first.extensions)

    # aiohttp's connections cost half the processor time of httpcore's. Its time limit is for a single read and must not
    # come before the one that is kept around the whole call.
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=concurrency)
    return Client(
        base_url=settings.base_url,
        api_key=key or "none",  # Else the client would send OPENAI_API_KEY, whoever the server is.
        max_retries=0,  # Each try needs a ticket of its own.
        http_client=openai.DefaultAioHttpClient(limits=limits, timeout=2 * settings.timeout_s),
    )
