"""Which shards a table holds: the transactions of its log (https://github.com/delta-io/delta/blob/master/PROTOCOL.md).

delta-rs tells one transaction at a time and replays the log for each; here the log is read once and then followed.
"""

import json

import pyarrow as pa

from storage.files import Files


class Transactions:
    """The transactions of one table up to a version. Not for several threads."""

    def __init__(self, files: Files, log: str) -> None:
        """`log` is the path of the table's `_delta_log` below the root of `files`."""
        self._files = files
        self._log = log
        self._known: set[str] = set()
        self._version = -1

    def __contains__(self, transaction: str) -> bool:
        return transaction in self._known

    def follow(self, version: int, mark: str | None = None) -> bool:
        """Read the commits up to `version` that were not read yet; whether one of them carries `mark`.

        The log keeps every commit, so each is there to be read.
        """
        if self._version < 0:
            self._begin(version)
        found = False
        while self._version < version:
            text = self._files.read(f"{self._log}/{self._version + 1:020}.json").decode()
            found = found or (mark is not None and f'"{mark}"' in text)
            self._known.update(_transactions(text))
            self._version += 1
        return found

    def add(self, version: int, transaction: str) -> None:
        """Take note of one's own commit, the one after those that are known."""
        assert version == self._version + 1, "the commits in between were not followed"
        self._version = version
        self._known.add(transaction)

    def _begin(self, version: int) -> None:
        """Start from the newest checkpoint, unless it is newer than `version`."""
        try:
            newest = int(json.loads(self._files.read(f"{self._log}/_last_checkpoint"))["version"])
        except FileNotFoundError:
            return
        if newest > version:
            return
        import pyarrow.parquet as pq

        data = self._files.read(f"{self._log}/{newest:020}.checkpoint.parquet")
        rows = pq.read_table(pa.BufferReader(data), columns=["txn"])["txn"].combine_chunks().drop_null()
        self._known.update(rows.field("appId").to_pylist())
        self._version = newest


def _transactions(commit: str) -> list[str]:
    return [action["txn"]["appId"] for action in map(json.loads, commit.splitlines()) if "txn" in action]
