"""Adapters on their way to the Hub: the folder is loaded as its card says, and sent to a server of our own."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from labels import asked, complete, labelled, provenance
from small import BASE, committed
from test_merge import logprobs
from trained_lake import TrainedLake, trained_lake
from transformers import AutoProcessor
from typer.testing import CliRunner

from flows.cli import app
from models.video_lm import VideoLM
from storage.lake import Lake
from tasks.push import PushError, upload, write_folder
from tasks.stage import StageResult
from tasks.trained import chosen_adapter

TOKEN = "hf_not-to-be-seen"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> TrainedLake:
    """Adapters that were trained on labels, and scored."""
    root = tmp_path_factory.mktemp("trained") / "lake"
    lake = Lake(root)
    questions = asked(lake, {"one": "red", "two": "blue"})
    said = [("one", "red", "blue", "a", 0.9), ("two", "red", "blue", "tie", 0.5)]
    judged = labelled(lake, "context", said, narrative=True, inputs=(questions,))
    done = trained_lake(root, inputs=(questions, judged))
    policy = chosen_adapter(lake, "context")
    for label, exact in (("sft", 0.0), ("context", 1.0)):
        scored(lake, label, exact, questions, policy.key if label == "context" else "sft-None")
    return done


def scored(lake: Lake, label: str, exact: float, questions: StageResult, training: str) -> None:
    rows = [
        {**provenance(item), "checkpoint": label, "instruction": item, "video": f"{item}.mp4", "question": "q?"}
        | {"kind": "color", "answer": "red", "decoding": how, "response": "red", "finished": True, "exact": exact}
        for item in ("one", "two")
        for how in ("greedy", "sampled")
    ]
    result = committed(lake.table("scores"), rows, f"scores-{label}").model_copy(update={"stage": "benchmark"})
    learned = questions.model_copy(update={"stage": "policy", "table": "checkpoints", "key": training})
    complete(lake, result, {"checkpoint": label}, inputs=(questions, learned))


@pytest.fixture(scope="module")
def folder(made: TrainedLake, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("push") / "adapter"
    write_folder(made.lake, chosen_adapter(made.lake, "context"), "owner/name", place)
    return place


def test_plain_peft_loads_it_as_the_card_says(made: TrainedLake, folder: Path) -> None:
    """The code of the card is run, with the folder in the place of the Hub."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace('"base"', repr(str(BASE))).replace('"owner/name"', repr(str(folder))), names)
    plain = names["model"]
    assert type(plain).__name__.startswith("Peft")
    lm = VideoLM(plain.base_model.model, AutoProcessor.from_pretrained(BASE))
    assert (logprobs(lm) - logprobs(made.tuned.load(made.lake))).abs().max() < 1e-5


def test_the_model_card_says_what_it_is_and_what_it_scores(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["library_name"] == "peft"
    assert head["license"] is None
    assert "base_model" not in head, "the name of a folder is no model of the Hub"
    for said in (
        "arm `context`",
        "| context (this) | 1.000 (1.000 to 1.000) |",
        "| sft | 0.000",
        "| loss | 0.5 |",
        '"lora": {"rank": 4}',
        "with what lies beside it, below/1, merged",
        "preferences | `labels-context`",
    ):
        assert said in card, said


def test_the_data_card_names_versions_and_the_judge(folder: Path) -> None:
    card = (folder / "DATA_CARD.md").read_text()
    for said in (
        "| instructions | `instructions-benchmark` | 2 ok, 0 quarantined | 2 benchmark |",
        "## Labels labels-context",
        "verdicts | a 1, b 0, tie 1",
        "read the narrative | yes",
    ):
        assert said in card, said


def test_a_reward_models_head_goes_along(made: TrainedLake, tmp_path: Path) -> None:
    names = write_folder(made.lake, chosen_adapter(made.lake, role="reward"), "owner/name", tmp_path / "out")
    assert {"reward_head.safetensors", "reward_form.json", "below/1/adapter_model.safetensors"} <= set(names)
    assert "`reward_head.safetensors`" in (tmp_path / "out" / "README.md").read_text()


@dataclass
class Hub:
    """What came to the server."""

    url: str
    refuse: int | None = None
    created: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    tokens: set[str | None] = field(default_factory=set)


@contextmanager
def hub() -> Iterator[Hub]:
    """The few addresses of the Hub that an upload asks, on loopback; every file is taken in the commit itself."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            there.tokens.add(self.headers.get("authorization"))
            if there.refuse is not None:
                self._say({"error": "refused"}, there.refuse)
            elif self.path.endswith("/repos/create"):
                there.created.append(json.loads(body))
                self._say({"url": f"{there.url}/owner/name"})
            elif "/preupload/" in self.path:
                asked = [each["path"] for each in json.loads(body)["files"]]
                how = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
                self._say({"files": [{"path": path, **how} for path in asked]})
            elif "/commit/" in self.path:
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        there.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                self._say({"commitUrl": f"{there.url}/owner/name/commit/abc", "commitOid": "abc"})
            else:
                self._say({"errors": [], "warnings": []})

        def do_GET(self) -> None:
            self._say({"error": "no such thing"}, 404)

        def _say(self, body: dict[str, Any], status: int = 200) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    there = Hub(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield there
    finally:
        server.shutdown()
        server.server_close()


def test_every_file_arrives_in_one_commit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with hub() as there:
        address = upload(folder, "owner/name", private=True, message="policy context", endpoint=there.url)
    assert address == f"{there.url}/owner/name/commit/abc"
    assert there.created[0]["visibility"] == "private"
    sent = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert there.files == sent
    assert there.tokens == {f"Bearer {TOKEN}"}


def test_a_refusal_says_what_to_do_and_no_token(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with hub() as there:
        there.refuse = 401
        with pytest.raises(PushError, match=r"did not take owner/name.*log in with `hf auth login`") as caught:
            upload(folder, "owner/name", private=False, message="m", endpoint=there.url)
    assert TOKEN not in str(caught.value)
    assert caught.value.__cause__ is None


def test_without_a_network_it_says_so_and_how_to_go_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with hub() as there:
        pass  # Nobody listens there any more.
    with pytest.raises(PushError, match=rf"no connection to {there.url} .*--dry-run keeps the folder"):
        upload(folder, "owner/name", private=False, message="m", endpoint=there.url)


def test_a_dry_run_writes_the_folder_and_sends_nothing(made: TrainedLake, tmp_path: Path) -> None:
    asked_for = ["push", "--lake", made.lake.root, "--repo", "owner/name", "--dry-run", str(tmp_path / "out")]
    done = CliRunner().invoke(app, asked_for, catch_exceptions=False, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "Nothing was sent" in done.output
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
