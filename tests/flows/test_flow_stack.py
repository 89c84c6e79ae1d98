"""`make up` and `make down` on a port of their own."""

import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from flows.stack import StackError, _get_json, down, up

pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    return tmp_path


@pytest.mark.usefixtures("home")
def test_the_stack_comes_up_with_its_deployments_and_goes_down() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    try:
        address = up(port)
        assert address == f"http://127.0.0.1:{port}"
        deployments = _get_json(f"{address}/api/deployments/filter", {})
        assert {each["name"] for each in deployments} == {"full", "oracle", "self-dpo", "benchmarks", "nightly"}
        (schedule,) = next(each["schedules"] for each in deployments if each["name"] == "nightly")
        assert (schedule["schedule"]["cron"], schedule["active"]) == ("0 3 * * *", True)
        full = next(each for each in deployments if each["name"] == "full")
        assert full["parameter_openapi_schema"]["properties"]["run"]["default"]["name"] == "miniature"
        with urllib.request.urlopen(f"http://127.0.0.1:{port + 1}/", timeout=10) as reports:
            assert reports.status == 200
        # A bad value is refused before a run exists.
        with pytest.raises(urllib.error.HTTPError, match=r"409|422"):
            _get_json(f"{address}/api/deployments/{full['id']}/create_flow_run", {"parameters": {"run": {"seed": -1}}})
    finally:
        assert down() == ["worker", "reports", "server"]
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{address}/api/health", timeout=2)
    assert down() == []


def test_a_taken_port_is_named(home: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(StackError, match=rf"Port {port} .* is taken"):
            up(port)
    assert not (home / "server.pid").exists()
