"""What is said of a Ray cluster that is not reached."""

from __future__ import annotations

import pytest
import ray

from tasks.cluster import ClusterError, RayKeeper


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
