"""What an OpenAI-compatible server replied (https://platform.openai.com/docs/api-reference/chat/object).

Servers differ: what they leave out, or send in another form, is read for what it is and never fails.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from models.endpoint_settings import JudgeEndpoint

_KEPT_TOKENS = 16  # The verdict stands at a reply's beginning; the rest of the log-probabilities is not kept.
_LONGEST_PAUSE_S = 3600.0
_MOST_TOKENS = 10**8  # No call has more; a larger count is no count.
_SHOWN = 300  # Characters of a server's own words that are kept.
_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


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
        model: that answered, as the server names it: of an alias the version behind it; "" when it does not say.
    """

    text: str
    fault: str | None
    cut: bool
    tokens: list[tuple[str, dict[str, float]]]
    input_tokens: int | None
    output_tokens: int | None
    latency_s: float
    cost: float
    model: str = ""  # Ledgers of an earlier version have answers without it.


def storable(text: str) -> str:
    """The text as a table takes it, on whatever screen: U+FFFD for half a character and for a control character."""
    if text.isascii() and text.isprintable():
        return text
    if _SURROGATE.search(text):
        # Halves that stand together, as from two parts of a message, are one character.
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return _CONTROL.sub("\ufffd", text)


def read_answer(
    body: dict[str, Any],
    settings: JudgeEndpoint,
    latency_s: float,
    bound: float,
    clean: Callable[[str], str] = storable,
) -> Answer:
    """The answer in the JSON object of a chat completion.

    Args:
        body: that object.
        settings: the endpoint, with its prices.
        latency_s: seconds that the reply took.
        bound: what a call costs whose tokens the server does not count.
        clean: makes a text of the server fit to be kept.
    """
    usage = _mapping(body.get("usage"))
    tokens_in, tokens_out = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    cost = bound if tokens_in is None or tokens_out is None else settings.price(tokens_in, tokens_out)
    choices = body.get("choices")
    choice = _mapping(choices[0]) if isinstance(choices, list) and choices else {}
    said = _text(_mapping(choice.get("message")).get("content"))
    text = clean(said)
    # Where the length changed, the tokens' places are not the text's any more.
    tokens = _tokens(choice, clean) if len(text) == len(said) else []
    fault, cut = _fault(body, choice, clean), choice.get("finish_reason") == "length"
    model = " ".join(clean(_text(body.get("model")))[:_SHOWN].split())
    return Answer(text, fault, cut, tokens, tokens_in, tokens_out, latency_s, cost, model)


def _count(value: Any) -> int | None:
    """A number of tokens; None for what cannot be one. To Python, true is a number."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_TOKENS else None


def _fault(body: dict[str, Any], choice: dict[str, Any], clean: Callable[[str], str]) -> str | None:
    """Why there is no text that could be read."""
    if not body.get("choices"):
        words = _mapping(body.get("error")).get("message")
        return f"an error ({clean(str(words))[:_SHOWN]})" if body.get("error") else "no choices"
    if refusal := _mapping(choice.get("message")).get("refusal"):
        return f"a refusal ({clean(str(refusal))[:_SHOWN]})"
    return "a refusal (the server's content filter)" if choice.get("finish_reason") == "content_filter" else None


def _text(content: Any) -> str:
    """The text of a message, which some servers send in parts."""
    if isinstance(content, list):
        return "".join(str(_mapping(part).get("text") or "") for part in content)
    return content if isinstance(content, str) else ""


def _tokens(choice: dict[str, Any], clean: Callable[[str], str]) -> list[tuple[str, dict[str, float]]]:
    listed = _mapping(choice.get("logprobs")).get("content")
    tokens = []
    for each in (listed if isinstance(listed, list) else [])[:_KEPT_TOKENS]:
        place = _mapping(each)
        likeliest = place.get("top_logprobs")
        found = [_mapping(one) for one in (likeliest if isinstance(likeliest, list) else [])]
        sound = [one for one in found if _is_logprob(one.get("logprob"))]
        scores = {clean(str(one.get("token"))): float(one["logprob"]) for one in sound}
        tokens.append((clean(str(place.get("token", ""))), scores))
    return tokens


def _is_logprob(value: Any) -> bool:
    """Whether a number is finite and no larger than 0. JSON's numbers may be of any size, and Python reads NaN too."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -sys.float_info.max <= value <= 0


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def said(error: Any, clean: Callable[[str], str]) -> str:
    """HTTP status and the server's own words, made clean before they are cut: half a key is no key to `clean`."""
    body = error.body
    inner = body.get("error", body) if isinstance(body, dict) else body
    words = inner.get("message", inner) if isinstance(inner, dict) else inner
    code = f" {clean(str(error.code))[:_SHOWN]}" if error.code else ""
    return f"HTTP {error.status_code}{code}: {clean(str(words or error.message))[:_SHOWN]}"


def retry_after(headers: Any) -> float | None:
    """Seconds that the server asks to wait (RFC 9110, section 10.2.3), as a number or a date."""
    value = headers.get("retry-after")
    if not value:
        return None
    try:
        seconds = float(value) if value.strip().isdecimal() else parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return min(_LONGEST_PAUSE_S, max(0.0, seconds))
