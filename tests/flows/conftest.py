"""One Prefect server for all tests of the flows."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from one_server import common_folder, one_server


def _prefect(folder: Path, port: int) -> "subprocess.Popen[bytes]":
    """As Prefect starts one for a test, but with a database that outlives the process that needed it first."""
    application = ["--factory", "prefect.server.api.server:create_app", "--lifespan", "on", "--log-level", "error"]
    settings = {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": _database(folder),
        "PREFECT_UI_ENABLED": "0",
        "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT__SERVER_FINAL": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "uvicorn", *application, "--host", "127.0.0.1", "--port", str(port)],
        env={**os.environ, **settings},
        stdout=subprocess.DEVNULL,
    )


def _database(folder: Path) -> str:
    return f"sqlite+aiosqlite:///{folder / 'prefect.db'}"


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A server with an empty database, on loopback."""
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_SERVER_DATABASE_CONNECTION_URL, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    folder = common_folder(tmp_path_factory, "prefect")
    with one_server(folder, _prefect, "/api/health") as address, pytest.MonkeyPatch.context() as patch:

        def join(server: SubprocessASGIServer, timeout: int | None = None) -> None:  # noqa: ARG001
            server.port, server.running = int(address.rsplit(":", 1)[1]), True

        patch.setattr(SubprocessASGIServer, "start", join)
        with prefect_test_harness(), temporary_settings({PREFECT_SERVER_DATABASE_CONNECTION_URL: _database(folder)}):
            yield
