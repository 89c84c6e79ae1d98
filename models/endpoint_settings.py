"""What is said of an OpenAI-compatible endpoint that judges. A plain dataclass, see models/settings.py."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Annotated, Literal
from urllib.parse import urlsplit

from annotated_types import Ge, Gt, Le

from models.bounds import Count, NotNegative, Positive

Switch = Literal["auto", "on", "off"]


@dataclass(frozen=True, kw_only=True)
class JudgeEndpoint:
    """A judge behind an OpenAI-compatible endpoint (vLLM, SGLang, hosted).

    Budget, rate and "an answer is paid for once" hold for one ledger, which all runs on one machine and one lake share:
    it stands in the lake when that is a folder, and in the machine's cache when the lake is on S3.
    """

    __pydantic_config__ = {"use_attribute_docstrings": True, "extra": "forbid"}

    base_url: str
    """Address up to and with its version, such as http://localhost:8000/v1; without credentials."""
    model: str
    """Name under which the server has the model."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key; null: the server wants none."""
    api_key_block: str | None = None
    """Name of a Prefect Secret block; a flow puts its value into the variable api_key_env before workers start."""
    temperature: NotNegative = 0.0
    """Sampling temperature."""
    max_tokens: Count = 300
    """Longest reply in tokens; one that is cut is no verdict."""
    limit_name: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the server calls that limit; some hosted models know only the second name."""
    structured: Switch = "auto"
    """Ask for replies by a JSON schema; auto: where the server takes it."""
    logprobs: Switch = "auto"
    """Ask for the log-probabilities that p_a is read from; auto: where the server gives them."""
    max_side: Count = 512
    """Longest side of a picture in pixels; larger frames shrink."""
    jpeg_quality: Annotated[int, Ge(1), Le(95)] = 85
    """Quality of the pictures."""
    reasks: Annotated[int, Ge(0)] = 2
    """How often a reply that names no verdict is asked again, before the pair counts as not judged."""
    concurrency: Count = 16
    """Calls under way at once, over all workers."""
    requests_per_minute: Annotated[float, Gt(0)] | None = None
    """Calls in any minute, over all that one machine does in a lake; null: as many as go."""
    timeout_s: Positive = 120.0
    """Seconds that one call may take."""
    retries: Annotated[int, Ge(0)] = 6
    """How often a call is repeated after a time-out, HTTP 408, 409, 429 or 5xx, or a lost connection."""
    price_input: NotNegative = 0.0
    """Price of a million input tokens."""
    price_output: NotNegative = 0.0
    """Price of a million output tokens."""
    budget: Positive | None = None
    """Most that one machine may ever spend for a lake on this model at this address, in the prices' currency; null: no
    limit. The ledger that counts it is in the lake when that is a folder, else in the machine's cache."""
    image_tokens: Count = 1500
    """Most input tokens that the server counts for one picture; what a call may cost at most follows from it."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"base_url {self.base_url!r} must begin with http:// or https:// and name a host")
        if parts.username or parts.password or parts.query or parts.fragment:
            # Not shown: it may hold the key.
            raise ValueError("base_url must hold no credentials and no query: name the key's variable in api_key_env")
        if self.api_key_block and not self.api_key_env:
            raise ValueError("api_key_block needs api_key_env: the variable that the block's value is put into")
        if self.budget is not None and not (self.price_input or self.price_output):
            raise ValueError("budget needs price_input or price_output, the prices of a million tokens")

    @property
    def account(self) -> str:
        """Whom the calls are charged to: budget and rate limit count by it."""
        return f"{self.base_url.rstrip('/')} {self.model}"

    @property
    def identity(self) -> str:
        """What the judge's replies depend on, 16 hex digits; limits of rate, time and money do not count."""
        decisive = [self.base_url.rstrip("/"), self.model, self.temperature, self.max_tokens, self.structured]
        decisive += [self.logprobs, self.max_side, self.jpeg_quality, self.reasks]
        return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:16]

    def price(self, input_tokens: int, output_tokens: int) -> float:
        """What tokens cost, in the prices' currency."""
        return (input_tokens * self.price_input + output_tokens * self.price_output) / 1e6
