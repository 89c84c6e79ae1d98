"""The Ray that a run starts for itself, and what is said of a cluster that is not reached."""

from __future__ import annotations

import psutil
import pytest
import ray

from tasks.cluster import ClusterError, RayKeeper
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


@pytest.mark.parametrize(
    "error", [ConnectionError("Failed to connect to Ray cluster."), ray.exceptions.AuthenticationError("no token")]
)
def test_a_cluster_that_is_not_reached_is_named_with_the_token_it_may_want(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Ray refuses a driver without a token by either; asking a real one takes it minutes."""

    def refuse(**_: object) -> None:
        raise error

    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ClusterError, match=r"(?s)head:6379 is not reached: .*set RAY_AUTH_MODE=token here too"):
        RayKeeper(1, 0)
