"""A labelling in a bucket with its credentials in a Prefect block: it works, and the secret stays where it is."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from reduced import SMALL
from typer.testing import CliRunner

from flows.cli import app
from flows.parameters import Labelling
from flows.presets import load
from flows.relabel import relabel
from flows.s3_block import BlockError, s3_environment
from flows.views import ViewError
from miniature.dataset import write
from models.comparisons import Comparison
from models.human_judge import HumanJudge, Strip
from storage.files import files_of
from storage.lake import Lake
from storage.places import S3_VARIABLES
from tasks.human_desk import Desk, desk_path
from tasks.stage import StageError

pytestmark = pytest.mark.usefixtures("prefect_server")
KEY, SECRET = "AKIAONLYINTHEBLOCK", "q8Zr-only-in-the-block-and-never-seen"


def keep(name: str, value: Any) -> None:
    from prefect.blocks.system import Secret

    Secret(value=value).save(name, overwrite=True)


@pytest.fixture
def block(s3_root: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A block that leads to the bucket; the environment does not any more."""
    assert s3_root
    values = {name: os.environ[name] for name in S3_VARIABLES if name in os.environ}
    for name in values:
        monkeypatch.delenv(name)
    keep("lake", json.dumps(values | {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}))
    return "lake"


def test_the_block_holds_inside_only(block: str, s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of somebody else")
    with s3_environment(block) as given:
        assert given["AWS_SECRET_ACCESS_KEY"] == os.environ["AWS_SECRET_ACCESS_KEY"] == SECRET
        assert os.environ["AWS_SESSION_TOKEN"] == ""
        Lake(s3_root).blobs.put(b"x")
    assert os.environ["AWS_SESSION_TOKEN"] == "of somebody else"
    assert "AWS_SECRET_ACCESS_KEY" not in os.environ


def test_a_block_may_hold_an_object_and_none_changes_nothing(block: str) -> None:
    keep("object", {"AWS_REGION": "eu-north-1"})
    with s3_environment("object") as given:
        assert given == {"AWS_REGION": "eu-north-1"}
    before = dict(os.environ)
    with s3_environment(None) as given:
        assert (given, dict(os.environ)) == ({}, before)
    assert block


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (f"secret={SECRET}", "must hold a JSON object"),
        (f'["{SECRET}"]', "must hold a JSON object"),
        (json.dumps({"AWS_ALLOW_HTTP": True}), "whose values are strings"),
        (json.dumps({SECRET: SECRET}), "1 names in block 'wrong' are none of AWS_ENDPOINT_URL"),
    ],
)
def test_a_block_with_something_else_is_refused_unseen(value: str, message: str) -> None:
    keep("wrong", value)
    with pytest.raises(BlockError, match=message) as refusal, s3_environment("wrong"):
        pass
    assert SECRET not in str(refusal.value)
    assert refusal.value.__cause__ is None
    assert refusal.value.__context__ is None


def test_a_block_that_is_missing_is_named() -> None:
    with pytest.raises(BlockError, match="no Secret block 'nowhere'"), s3_environment("nowhere"):
        pass


@pytest.mark.slow
def test_every_command_on_a_lake_takes_the_block(block: str, s3_root: str, tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image>\nWhich sport?"}]
    row = {"id": "one", "video": "a.mp4", "conversations": turns, "preference": 2}
    row |= {"output_1": {"value": "Golf"}, "output_2": {"value": "Tennis"}}
    (tmp_path / "RM.json").write_text(json.dumps([row]))
    (tmp_path / "a.mp4").touch()
    official = ("--format", "vlm-rlaif")
    assert "1 of 1 questions imported" in typed(
        "import", s3_root, str(tmp_path / "RM.json"), *official, "--arm", "official", "--s3-block", block
    )
    assert "import-official" in typed("status", s3_root, "--s3-block", block)
    out = ("--to", str(tmp_path / "out"), "--videos", str(tmp_path))
    assert "1 pairs from 1 of 1 rows" in typed("export", s3_root, *official, *out, "--s3-block", block)
    with pytest.raises(ViewError, match=f"{s3_root} holds no checkpoints yet"):
        typed("lineage", "ffff", "--lake", s3_root, "--s3-block", block)
    with pytest.raises(StageError, match=rf"{s3_root} holds no complete labels"):
        typed("audit", s3_root, "--arm", "none", "--s3-block", block)
    assert "Nothing to do" in typed("gc", s3_root, "--s3-block", block)
    assert "AWS_SECRET_ACCESS_KEY" not in os.environ


def test_the_page_of_people_keeps_the_block_and_names_it(
    block: str, s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    showings = HumanJudge({}, text="Which?", context_text="").showings
    Desk(desk_path(s3_root)).want("r", "people", [("q", showings(Comparison("q?", Strip("d", "{}"), "red", "blue")))])
    seen: list[str | None] = []
    at_work = "tasks.human_server.JudgingServer.serve_forever"
    monkeypatch.setattr(at_work, lambda _: seen.append(os.environ.get("AWS_SECRET_ACCESS_KEY")))
    assert f"go on with `rlaif judge {s3_root} --s3-block {block}`" in typed("judge", s3_root, "--s3-block", block)
    assert seen == [SECRET]


def typed(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments, catch_exceptions=False, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.slow
def test_a_run_leaves_no_trace_of_the_secret(block: str, s3_root: str, tmp_path: Path, caplog: Any, capfd: Any) -> None:
    write(tmp_path, sft=8, rl=8, benchmark=2, seed=0)
    places = [f"data.videos={tmp_path / 'videos'}", f"run.lake={s3_root}", "data.prepare=null"]
    places += [f"data.{split}={tmp_path / split}.json" for split in ("sft", "rl", "benchmark")]
    places += [f"run.folder={tmp_path / 'results'}", f"run.s3_block={block}", "run.workers=1"]
    one = "arms=[{name: context, narrative: true, frame_set: judge_2, method: likelihood}]"
    given = load("miniature", [*SMALL.split(), *places, one, "candidates.limit=8"])
    with caplog.at_level("INFO"):
        moved = relabel(**{name: getattr(given, name) for name in Labelling.model_fields})
        assert moved["context"]["new"] > 0
        wrong = given.run.model_copy(update={"lake": f"{s3_root.rsplit('/', 2)[0]}-gone/lake"})
        with pytest.raises(Exception, match="does not exist: create") as failure:
            relabel(**{name: getattr(given, name) for name in Labelling.model_fields} | {"run": wrong})
    out, err = capfd.readouterr()
    left = {"messages": caplog.text + out + err, "failure": repr(failure.value)}
    with s3_environment(block):
        files = files_of(s3_root)
        for folder in ("tables", "blobs"):
            left |= {each.path: files.read(each.path).decode("latin1") for each in files.listing(folder)}
    sessions = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray").glob(f"session_*_{os.getpid()}")
    for root in (tmp_path, prefect_home(), *sessions):
        left |= {str(path): path.read_bytes().decode("latin1") for path in root.rglob("*") if path.is_file()}
    assert any(name.startswith("tables/preferences/") for name in left)
    assert any(name.endswith("raylet.out") for name in left)
    assert any(name.endswith(".db") for name in left)
    assert [name for name, text in left.items() if SECRET in text or KEY in text] == []


def prefect_home() -> Path:
    """Where the tests' Prefect server keeps its database."""
    from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL

    return Path(PREFECT_API_DATABASE_CONNECTION_URL.value().split("///", maxsplit=1)[1]).parent
