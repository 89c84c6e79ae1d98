"""Fixtures for all rooms: a lake's root in a folder and in a bucket, and the folder of real test material."""

import gc
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from one_server import common_folder, one_server, request

# No test asserts a wall time: not this one either.
settings.register_profile("unhurried", deadline=None, max_examples=50)
settings.load_profile("unhurried")

LONGEST = ("test_survival", "test_train_workers", "test_bad_input")

SECRET = "wJalrXUtnFEMI-not-to-be-seen"


# All that is imported stays: Python need not look through it again and again.
gc.disable()


def pytest_collection_finish() -> None:
    gc.enable()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, then whatever is slow: processes end together only when no long one begins last."""
    items.sort(key=lambda item: (_place(item.path.stem), item.get_closest_marker("slow") is None))


def _place(file: str) -> int:
    return LONGEST.index(file) if file in LONGEST else len(LONGEST)


@pytest.fixture
def caplog(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """Hears everything whatever ran before: a command that keeps its terminal clear filters the handlers of the root,
    and pytest's among them lives as long as the session.
    """
    monkeypatch.setattr(caplog.handler, "filters", [])
    return caplog


def _moto(_: Path, port: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a moto S3 server on a loopback port."""
    with one_server(common_folder(tmp_path_factory, "s3"), _moto, "/moto-api/") as address:
        yield address


@pytest.fixture
def s3_root(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Root of an empty lake in a bucket of its own; the environment leads to it."""
    bucket = f"lake-{uuid.uuid4().hex[:12]}"
    request(f"{s3_server}/{bucket}", method="PUT")
    settings = {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "AKIATESTONLY",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1,localhost",
        "RLAIF_CACHE": str(tmp_path / "cache"),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    return f"s3://{bucket}/some/prefix"


@pytest.fixture(params=["folder", "s3"])
def lake_root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Root of an empty lake: once in a folder, once in a bucket of a real S3 server."""
    if request.param == "folder":
        return str(tmp_path / "lake")
    root: str = request.getfixturevalue("s3_root")
    return root


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of real clips and annotation files: RLAIF_TEST_DATA, by default ../shared/data beside the project."""
    default = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("RLAIF_TEST_DATA") or default)
    if not folder.is_dir():
        pytest.skip(f"no test material at {folder}; set RLAIF_TEST_DATA to its folder")
    return folder
