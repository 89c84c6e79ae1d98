"""Judges behind an endpoint for tests: on a real ledger file, against a server of tests/fake_endpoint.py."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from fake_endpoint import Call, FakeEndpoint, Said, verdict

from models.comparisons import Comparison, NoVerdict, Verdict
from models.endpoint import Endpoint
from models.endpoint_judge import SCHEMA, EndpointJudge
from models.endpoint_settings import JudgeEndpoint
from models.templates import shipped
from tasks.ledger import SqliteLedger

KEY = "sk-never-to-be-seen"
PICTURES = (b"\xff\xd8 one", b"\xff\xd8 two")
GOOD, BAD = "it is a circle.", "it is a square."
TEXTS = {"text": "", "context_text": "_context", "again": "_again"}


def fair(call: Call) -> Said:
    """Prefers the good answer wherever it stands, and a tie where it stands nowhere."""
    first, second = shown(call)
    if (first == GOOD) == (second == GOOD):
        return verdict("tie")
    return verdict("A" if first == GOOD else "B")


def shown(call: Call) -> tuple[str, str]:
    """The two answers that a call shows, in its order."""
    lines = {line.split(": ", 1)[0]: line.split(": ", 1)[1] for line in call.text.splitlines() if line[:7] == "Answer "}
    return json.loads(lines["Answer A"]), json.loads(lines["Answer B"])


def settings(server: FakeEndpoint | str, **changes: Any) -> JudgeEndpoint:
    url = server if isinstance(server, str) else server.url
    return JudgeEndpoint(base_url=url, model="m", **{"retries": 2, "timeout_s": 20, "concurrency": 8, **changes})


class Judges:
    """Makes judges on one ledger file, and closes them."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ledger.sqlite"
        self.made: list[EndpointJudge] = []

    def __call__(self, chosen: JudgeEndpoint, key: str | None = None, attempt: int = 0) -> EndpointJudge:
        endpoint = Endpoint(chosen, self.ledger(chosen), key, SCHEMA, chosen.concurrency)
        texts = {name: shipped(f"judge_endpoint{suffix}") for name, suffix in TEXTS.items()}
        self.made.append(EndpointJudge(endpoint, **texts, attempt=attempt))
        return self.made[-1]

    def ledger(self, chosen: JudgeEndpoint) -> SqliteLedger:
        return SqliteLedger(self.path, chosen)

    def close(self) -> None:
        for judge in self.made:
            judge.close()


def pair(a: str = GOOD, b: str = BAD, context: str | None = None, question: str = "what is it?") -> Comparison[Any]:
    return Comparison(question, PICTURES, a, b, context)


def judged(judge: EndpointJudge, *pairs: Comparison[Any]) -> list[Verdict]:
    found = judge.judge(pairs)
    assert all(isinstance(each, Verdict) for each in found), found
    return [each for each in found if isinstance(each, Verdict)]


def refused(judge: EndpointJudge, asked: Comparison[Any]) -> str:
    (found,) = judge.judge([asked])
    assert isinstance(found, NoVerdict)
    return found.reason


def logprobs(*tokens: tuple[str, dict[str, float]]) -> dict[str, Any]:
    content = [
        {"token": token, "logprob": 0.0, "top_logprobs": [{"token": t, "logprob": math.log(p)} for t, p in top.items()]}
        for token, top in tokens
    ]
    return {"logprobs": {"content": content}}
