"""The lake: one folder, or one prefix in a bucket, that holds the tables and the blobs."""

import threading
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storage import places
from storage.blobs import Blobs
from storage.errors import LakeError
from storage.schemas import SCHEMAS
from storage.tables import Table


class Lake:
    """Tables and blobs under one root. Only the root is pickled: credentials stay in the environment."""

    def __init__(self, root: str | Path) -> None:
        """Open the lake at a folder (made where missing) or at s3://bucket/prefix.

        For S3 the environment gives AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION (default
        us-east-1) and AWS_ALLOW_HTTP. Raises LakeError when the place cannot be written.
        """
        self.root = places.absolute(root)
        places.check(self.root)
        self.blobs = Blobs(self.root)
        self._tables: dict[str, Table] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Lake({self.root!r})"

    def __reduce__(self) -> tuple[type["Lake"], tuple[str]]:
        return (Lake, (self.root,))

    def table(self, name: str) -> Table:
        """The table of that name, existing or not. Raises LakeError for a name without a schema."""
        if name not in SCHEMAS:
            raise LakeError(f"The lake has no table {name!r}; its tables are {', '.join(SCHEMAS)}.")
        with self._lock:
            return self._tables.setdefault(name, Table(self.root, name))

    def tables(self) -> list[str]:
        """Names of the tables that exist, sorted."""
        return sorted(name for name in SCHEMAS if self.table(name).version() >= 0)

    def log(self, rows: list[dict[str, Any]]) -> None:
        """Append events to the table `runs`. Raises LakeError."""
        self.table("runs").append(rows)


def event(run: str, name: str, *, seconds: float | None = None, detail: str | None = None) -> dict[str, Any]:
    """A row of the table `runs`; `detail` is JSON."""
    return {
        "run": run,
        "event_id": uuid.uuid4().hex,
        "at": datetime.now(UTC),
        "event": name,
        "seconds": seconds,
        "detail": detail,
    }
