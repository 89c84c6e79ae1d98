"""`make up` and `make down`: a Prefect server, a work pool, its worker and the deployments, all on loopback.

A browser follows no link from the UI to a file, so the reports are served as well, at the port after the UI's.

python -m flows.stack up [--port 4200]
python -m flows.stack down
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from flows.environment import REPORTS_URL, SETTINGS

PROJECT = Path(__file__).resolve().parent.parent
POOL = "rlaif"
SERVICES = ("server", "reports", "worker")
START_LIMIT_S = 120.0
STOP_LIMIT_S = 20.0


class StackError(RuntimeError):
    """The stack cannot start; the message says why and what to do."""


class Service:
    """A background process that outlives this one; its pid stands in <home>/<name>.pid, its output in <name>.log."""

    def __init__(self, name: str, home: Path) -> None:
        self.name = name
        self.log = home / f"{name}.log"
        self._file = home / f"{name}.pid"

    def process(self) -> psutil.Process | None:
        """The running process, or None. A pid that was given to another program since does not count."""
        try:
            pid, created = self._file.read_text().split()[:2]
            process = psutil.Process(int(pid))
            alive = abs(process.create_time() - float(created)) < 2 and process.status() != psutil.STATUS_ZOMBIE
        except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
            return None
        return process if alive else None

    def start(self, arguments: list[str], env: dict[str, str]) -> None:
        """Starts `python <arguments>` in a session of its own."""
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=PROJECT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._file.write_text(f"{process.pid} {psutil.Process(process.pid).create_time()}\n")

    def check(self) -> None:
        """Raises StackError with the end of its output when the process has ended."""
        if self.process() is None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
            raise StackError(f"The {self.name} ended. Its output, {self.log}, closes with:\n{tail}")

    def stop(self) -> bool:
        """Ends the process and whatever it started; False where it did not run."""
        process = self.process()
        if process is not None:
            family = process.children(recursive=True)
            process.terminate()
            psutil.wait_procs([process], timeout=STOP_LIMIT_S)
            _end([process, *family])
        self._file.unlink(missing_ok=True)
        return process is not None


def _end(processes: list[psutil.Process]) -> None:
    """Terminates what is left of `processes`, and kills what does not go."""
    left = [process for process in processes if process.is_running()]
    for process in left:
        process.terminate()
    _, stubborn = psutil.wait_procs(left, timeout=5)
    for process in stubborn:
        process.kill()
    psutil.wait_procs(stubborn, timeout=5)


def up(port: int) -> str:
    """Starts what does not run yet, applies prefect.yaml and returns the UI's address.

    Raises:
        StackError: the port is taken, or a process did not come up.
    """
    # Run in the background of a script, this process ignores SIGINT and its children would too: but that is how
    # Prefect's worker stops itself.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    home = _home()
    server, reports, worker = (Service(name, home) for name in SERVICES)
    address_file = home / "address"
    if server.process() is None:
        reports.stop()
        _refuse_taken(port)
        _refuse_taken(port + 1)
        address_file.write_text(f"http://127.0.0.1:{port}")
    address = address_file.read_text()
    reports_port = _port_of(address) + 1
    env = _environment(f"{address}/api", f"http://127.0.0.1:{reports_port}")
    if server.process() is None:
        server.start(["-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)], env)
    if reports.process() is None:
        runs = PROJECT / "runs"
        runs.mkdir(exist_ok=True)
        served = [str(reports_port), "--bind", "127.0.0.1", "--directory", str(runs)]
        reports.start(["-m", "http.server", *served], env)
    _wait("the server", lambda: _answers(f"{address}/api/health"), server)
    _prefect(env, "work-pool", "create", POOL, "--type", "process", "--overwrite")
    _prefect(env, "deploy", "--all")
    if worker.process() is None:
        worker.start(["-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"], env)
    _wait("the worker", lambda: _worker_online(f"{address}/api"), worker)
    return address


def down() -> list[str]:
    """Stops the worker first, the server last; returns the names of those that ran."""
    home = _home()
    return [name for name in reversed(SERVICES) if Service(name, home).stop()]


def _home() -> Path:
    home = Path(os.environ.get("PREFECT_HOME", PROJECT / ".prefect"))
    home.mkdir(parents=True, exist_ok=True)
    return home


def _port_of(address: str) -> int:
    return int(address.rsplit(":", 1)[1])


def _environment(api: str, reports: str) -> dict[str, str]:
    return {**SETTINGS, **os.environ, "PREFECT_HOME": str(_home()), "PREFECT_API_URL": api, REPORTS_URL: reports}


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise StackError(
                f"Port {port} of 127.0.0.1 is taken by another program. Stop that, or run: make up PORT={port + 1}"
            ) from error


def _prefect(env: dict[str, str], *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
        cwd=PROJECT,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise StackError(f"`prefect {' '.join(arguments)}` failed:\n{(done.stdout + done.stderr).strip()}")


def _wait(what: str, ready: Callable[[], bool], service: Service) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while not ready():
        service.check()
        if time.monotonic() > deadline:
            raise StackError(
                f"After {START_LIMIT_S:.0f} s {what} does not answer; see {service.log}, then `make down`."
            )
        time.sleep(0.2)


def _answers(url: str) -> bool:
    try:
        return bool(_get_json(url))
    except (OSError, urllib.error.URLError):
        return False


def _worker_online(api: str) -> bool:
    workers = _get_json(f"{api}/work_pools/{POOL}/workers/filter", {"limit": 50})
    return any(worker["status"] == "ONLINE" for worker in workers)


def _get_json(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    # Loopback, whatever proxy the environment names.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=10) as answer:
        return json.loads(answer.read())


def main() -> None:
    parser = argparse.ArgumentParser(prog="flows.stack", description=__doc__)
    parser.add_argument("action", choices=["up", "down"])
    parser.add_argument("--port", type=int, default=4200)
    arguments = parser.parse_args()
    try:
        if arguments.action == "down":
            print("Stopped: " + (", ".join(down()) or "nothing ran") + ".")
            return
        address = up(arguments.port)
    except StackError as error:
        sys.exit(str(error))
    prefect = Path(sys.executable).with_name("prefect")
    print(
        f"Prefect UI: {address}\n"
        f"Run now:    PREFECT_API_URL={address}/api {prefect} deployment run rlaif/full\n"
        "Stop:       make down"
    )


if __name__ == "__main__":
    main()
