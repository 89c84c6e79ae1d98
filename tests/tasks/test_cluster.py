"""The Ray that a run starts for itself."""

from __future__ import annotations

import psutil

from tasks.fanout import WorkerPool


def test_a_local_ray_has_what_runs_actors_and_nothing_that_serves_a_cluster(pool: WorkerPool) -> None:
    from ray._private import parameter, services

    pool.start()
    commands = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    assert any("core/src/ray/raylet/raylet" in each for each in commands)
    idle = (
        "dashboard/dashboard.py",
        "_private/log_monitor.py",
        "autoscaler/_private/monitor.py",
        "autoscaler/v2/monitor.py",
    )
    assert [each for each in commands if any(name in each for name in idle)] == []
    # Only for that start: whoever starts a cluster from the same process gets all of it.
    assert isinstance(parameter.RayParams, type)
    assert services.start_api_server.__module__ == services.__name__
