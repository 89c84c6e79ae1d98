"""The artifacts that runs left on the tests' Prefect server, which keeps those of all tests."""

from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey


def artifacts(key: str) -> list[Any]:
    """Those whose key matches, all versions, the latest last; % stands for any characters."""
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(like_=key)))
    return sorted(found, key=lambda each: each.created)
