"""What an OpenAI-compatible server replied (https://platform.openai.com/docs/api-reference/chat/object).

Servers differ: what they leave out, or send in another form, is read for what it is and never fails.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from models.endpoint_settings import JudgeEndpoint

_KEPT_TOKENS = 16  # The verdict stands at a reply's beginning; the rest of the log-probabilities is not kept.
_LONGEST_PAUSE_S = 3600.0


@dataclass(frozen=True)
class Answer:
    """A server's reply.

    Attributes:
        text: what the model said; "" when nothing.
        fault: why there is no text that could be read: a refusal or an empty reply of the server; else None.
        cut: whether the length limit ended it.
        tokens: the first tokens, each with the log-probabilities of the likeliest ones at its place; may be empty.
        input_tokens, output_tokens: as the server counts them; None when it does not say.
        latency_s: seconds from sending the call to the whole reply.
        cost: in the currency of the prices.
    """

    text: str
    fault: str | None
    cut: bool
    tokens: list[tuple[str, dict[str, float]]]
    input_tokens: int | None
    output_tokens: int | None
    latency_s: float
    cost: float


def read_answer(body: dict[str, Any], settings: JudgeEndpoint, latency_s: float, bound: float) -> Answer:
    """The answer in the JSON object of a chat completion. What the server does not count costs `bound`."""
    usage = _mapping(body.get("usage"))
    counts = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
    tokens_in, tokens_out = (count if isinstance(count, int) and count >= 0 else None for count in counts)
    known = tokens_in is not None and tokens_out is not None
    cost = settings.price(tokens_in or 0, tokens_out or 0) if known else bound
    choices = body.get("choices")
    choice = _mapping(choices[0]) if isinstance(choices, list) and choices else {}
    message = _mapping(choice.get("message"))
    text, finish = _text(message.get("content")), choice.get("finish_reason")
    fault = None
    if not choices:
        fault = f"an error ({_mapping(body['error']).get('message')})" if body.get("error") else "no choices"
    elif message.get("refusal"):
        fault = f"a refusal ({message['refusal']})"
    elif finish == "content_filter":
        fault = "a refusal (the server's content filter)"
    return Answer(text, fault, finish == "length", _tokens(choice), tokens_in, tokens_out, latency_s, cost)


def _text(content: Any) -> str:
    """The text of a message, which some servers send in parts."""
    if isinstance(content, list):
        return "".join(str(_mapping(part).get("text") or "") for part in content)
    return content if isinstance(content, str) else ""


def _tokens(choice: dict[str, Any]) -> list[tuple[str, dict[str, float]]]:
    listed = _mapping(choice.get("logprobs")).get("content")
    tokens = []
    for each in (listed if isinstance(listed, list) else [])[:_KEPT_TOKENS]:
        place = _mapping(each)
        likeliest = place.get("top_logprobs")
        found = [_mapping(one) for one in (likeliest if isinstance(likeliest, list) else [])]
        scores = {str(one.get("token")): one["logprob"] for one in found if isinstance(one.get("logprob"), int | float)}
        tokens.append((str(place.get("token", "")), scores))
    return tokens


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def said(error: Any) -> str:
    """HTTP status and the server's own words."""
    body = error.body
    inner = body.get("error", body) if isinstance(body, dict) else body
    words = inner.get("message", inner) if isinstance(inner, dict) else inner
    code = f" {error.code}" if error.code else ""
    return f"HTTP {error.status_code}{code}: {str(words or error.message)[:300]}"


def retry_after(headers: Any) -> float | None:
    """Seconds that the server asks to wait (RFC 9110, section 10.2.3), as a number or a date."""
    value = headers.get("retry-after")
    if not value:
        return None
    try:
        seconds = float(value) if value.strip().isdecimal() else parsedate_to_datetime(value).timestamp() - time.time()
    except ValueError:
        return None
    return min(_LONGEST_PAUSE_S, max(0.0, seconds))
