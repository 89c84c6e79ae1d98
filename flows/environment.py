"""Settings of the libraries that the project wants in each of its processes, unless the user has set them."""

import gc
import logging
import os
from pathlib import Path

# Where `make up` serves the folder runs.
ELSEWHERE = ("PREFECT_API_URL", "PREFECT_SERVER_DATABASE_CONNECTION_URL")  # Prefect keeps nothing at home then.
REPORTS_URL = "RLAIF_REPORTS_URL"
ROOMS = ("flows", "tasks", "models", "benchmarks", "storage")
SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # Two threads a process were up to ten times slower on a busy machine: OpenMP spins while it waits.
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    # A first start makes the database; on a busy machine the default of 20 s is too short.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    # What the rooms log goes where Prefect's own messages go.
    "PREFECT_LOGGING_EXTRA_LOGGERS": ",".join(ROOMS),
}


def apply() -> None:
    """Puts the settings into this process's environment; what stands there already stays.

    Python looks for garbage seldom from here on: imports make a million objects that stay, and looking through them at
    every 700 new ones is a quarter of their time.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    gc.set_threshold(50_000, 10, 10)


def speak() -> None:
    """Lets the rooms' information through to Prefect; Python alone stops it below warnings."""
    for room in ROOMS:
        logging.getLogger(room).setLevel(logging.INFO)


def before_flows() -> None:
    """What a command does before it runs a flow here, when Prefect is imported.

    Raises:
        ValueError: Prefect's folder cannot be made.
    """
    _make_prefect_home()
    keep_terminal_clear()


def _make_prefect_home() -> None:
    """Prefect makes no folder above its own; without it its temporary server fails again and again, for minutes."""
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    try:
        home.mkdir(parents=True, exist_ok=True)
        fault = None if os.access(home, os.W_OK) else "it may not be written"
    except OSError as error:
        fault = f"it cannot be made: {error.strerror}"
    if fault and not any(os.environ.get(name) for name in ELSEWHERE):
        raise ValueError(
            f"Prefect keeps its database in {home}, but {fault}. Set PREFECT_HOME to a folder that may be written, or "
            "PREFECT_API_URL to the address of a server."
        )


def keep_terminal_clear() -> None:
    """Leaves progress bars, warnings of the rooms and the last error on the terminal; the rest is for the Prefect UI.

    To be called when Prefect is imported: a failing stage makes it report every other stage that waited for it.
    """
    for handler in logging.getLogger().handlers:
        handler.addFilter(lambda record: record.levelno >= logging.WARNING and record.name.split(".")[0] != "prefect")
