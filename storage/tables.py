"""Versioned tables of the lake: Delta Lake through delta-rs (https://delta-io.github.io/delta-rs/).

A shard is one commit that carries the transaction (stage key, shard): readers see it whole or not at all, and of
several writers of one shard exactly one gets in.
"""

import random
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import pyarrow as pa

from storage import places
from storage.errors import LakeError, explained
from storage.files import Found, files_of
from storage.retry import ATTEMPTS, passing, patiently
from storage.rows import arrow_rows
from storage.schemas import ORDER, SCHEMAS
from storage.transactions import Transactions

_T = TypeVar("_T")
_CONFIGURATION = {
    "delta.appendOnly": "true",
    "delta.checkpointInterval": "50",
    # Rows name the versions of their inputs, so old versions stay readable.
    "delta.enableExpiredLogCleanup": "false",
    # Column statistics in the log made the 300th commit 2.4 times slower; files are found by partition.
    "delta.dataSkippingNumIndexedCols": "0",
}
_COMMIT_ATTEMPTS = 100
_MARK = "rlaif.commit"  # Names a commit in its commitInfo: how a writer knows its own one again.
# The handle keeps a batch of Arrow arrays for each commit and goes through all of them at each commit; opened again, it
# has one. Never opened again, the 1,000th commit took 60 ms; opened every 25 commits, the 5,000th takes half of that.
_COMMITS_A_HANDLE = 25
_ROWS_A_BATCH = 1024
_KEY = re.compile(r"[A-Za-z0-9_.-]+")

# Arrow's own allocator keeps what it once had: 32 MiB after the rows of 157 shards were counted; the system's 19.
pa.set_memory_pool(pa.system_memory_pool())


class Table:
    """One table of a lake. Keeps its Delta handle open, because a commit through a fresh one replays the log.

    May be used by several threads; pickles as (root, name).
    """

    def __init__(self, root: str, name: str) -> None:
        """`root` is a lake's root as Lake has it; `name` one of storage.schemas.SCHEMAS."""
        self.name = name
        self.root = root
        self.uri = f"{root}/tables/{name}"
        self._schema = SCHEMAS[name]
        self._partitioned = "shard" in self._schema.names
        self._handle: Any = None
        self._opened_at = 0
        self._transactions = Transactions(files_of(root), f"tables/{name}/_delta_log")
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"Table({self.uri!r})"

    def __reduce__(self) -> tuple[type["Table"], tuple[str, str]]:
        return (Table, (self.root, self.name))

    def commit_shard(self, rows: list[dict[str, Any]] | pa.Table, *, stage_key: str, shard: int) -> bool:
        """Write the rows of a shard, filling in their stage_key and shard; False when that shard is already there.

        No rows are a shard too. Raises LakeError for rows that do not fit the schema (storage.rows.arrow_rows) and when
        the storage fails; nothing is written then.
        """
        if not _KEY.fullmatch(stage_key):
            raise LakeError(
                f"Stage key {stage_key!r} of table {self.name}: use letters, digits, '.', '-' and '_' only."
            )
        data = arrow_rows(self.name, rows, {"stage_key": stage_key, "shard": shard})
        return self._commit(data, f"{stage_key}/{shard}")

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Add rows that belong to no shard (the event log). Raises LakeError like `commit_shard`."""
        # A transaction of its own: repeated by the client because its answer was lost, it is refused.
        self._commit(arrow_rows(self.name, rows, {}), f"append/{uuid.uuid4().hex}")

    def committed(self, stage_key: str, shards: Iterable[int]) -> set[int]:
        """Those of `shards` that are in the table now."""
        with self._lock, explained(f"read table {self.name}", self.uri):
            handle = self._current()
            if handle is None:
                return set()
            self._transactions.follow(int(handle.version()))
            return {shard for shard in shards if f"{stage_key}/{shard}" in self._transactions}

    def read(
        self, stage_key: str | None = None, columns: list[str] | None = None, version: int | None = None
    ) -> pa.Table:
        """Rows of a stage key (None: of all) as they were at `version` (None: now), in the order storage.schemas.ORDER.

        An empty table where nothing is written yet. Raises LakeError for an unknown column or version.
        """
        names = self._schema.names if columns is None else columns
        self._check(names)
        order = ORDER[self.name]
        needed = pa.schema([field for field in self._schema if field.name in {*names, *order}])
        with explained(f"read table {self.name}", self.uri):
            try:
                data = patiently(lambda: self._rows(stage_key, needed, version))
            except FileNotFoundError as error:
                if version is None:
                    raise
                raise LakeError(
                    f"Files of version {version} of table {self.name} at {self.uri} are gone: `rlaif gc "
                    "--forget-versions-before` gave it up. Read a later version; no row of a label version is lost."
                ) from error
        return data.sort_by([(column, "ascending") for column in order]).select(names)

    def scan(self, stage_key: str, columns: list[str], gather: Callable[[Iterator[pa.RecordBatch]], _T]) -> _T:
        """What `gather` makes of the rows of a stage key, which come in batches and in no order, never all at once.

        It reads them all, and is called again from the start where the storage stumbles. Raises LakeError.
        """
        import pyarrow.dataset as ds

        self._check(columns)
        schema = pa.schema([self._schema.field(name) for name in columns])

        def once() -> _T:
            with self._lock:
                handle = self._current()
                if handle is None:
                    return gather(iter(()))
                dataset = handle.to_pyarrow_dataset()
            chosen = ds.field("stage_key") == stage_key
            found = dataset.to_batches(columns=columns, filter=chosen, batch_size=_ROWS_A_BATCH, cache_metadata=False)
            return gather(batch.cast(schema) for batch in found)

        with explained(f"read table {self.name}", self.uri):
            return patiently(once)

    def count(self, stage_key: str) -> dict[str, int]:
        """Distinct items of a stage key: {"ok": n, "quarantined": n}."""
        # Arrow's own grouping kept 12 MiB of 157 small files, their ids take 2.
        items = self.scan(stage_key, ["item_id", "status"], _ids_by_status)
        return {status: len(items.get(status, ())) for status in ("ok", "quarantined")}

    def version(self) -> int:
        """The newest version, counting commits from 0; -1 while the table does not exist."""
        with self._lock, explained(f"read table {self.name}", self.uri):
            handle = self._current()
            return -1 if handle is None else int(handle.version())

    def live_files(self) -> list[str]:
        """Paths or s3:// addresses of the Parquet files that make up the newest version."""
        return sorted(f"{self.root}/{file.path}" for _, file in self.found_files())

    def found_files(self) -> list[tuple[str | None, Found]]:
        """The Parquet files of the newest version, each with its stage key (None in the event log)."""
        with self._lock, explained(f"read table {self.name}", self.uri):
            handle = self._current()
            if handle is None:
                return []
            actions = pa.table(handle.get_add_actions(flatten=True)).to_pylist()
        return [
            (
                add.get("partition.stage_key"),
                Found(f"tables/{self.name}/{add['path']}", add["size_bytes"], add["modification_time"] / 1000),
            )
            for add in actions
        ]

    def batches(self, without: frozenset[str]) -> Iterator[pa.RecordBatch]:
        """All rows of the newest version in no order, but those of the stage keys `without`."""
        import pyarrow.dataset as ds

        with self._lock, explained(f"read table {self.name}", self.uri):
            handle = self._current()
            if handle is None:
                return
            dataset = handle.to_pyarrow_dataset()
        chosen = ~ds.field("stage_key").isin(sorted(without)) if without and self._partitioned else None
        yield from dataset.to_batches(filter=chosen)

    def compact(self, stage_key: str | None, target_bytes: int) -> bool:
        """Write the small files of a stage key (None: of the table) together; False where another was at it too.

        Rows and older versions stay what they are. Raises LakeError.
        """
        from deltalake.exceptions import CommitFailedError

        partition = None if stage_key is None else [("stage_key", "=", stage_key)]
        with self._lock, explained(f"compact table {self.name}", self.uri):
            try:
                patiently(
                    lambda: self._current().optimize.compact(partition_filters=partition, target_size=target_bytes)
                )
            except CommitFailedError:
                self._handle = None
                return False
            return True

    def delete_stage(self, stage_key: str) -> None:
        """Take the rows of a stage key out of the newest version; older versions keep them. Raises LakeError."""
        from deltalake.exceptions import CommitFailedError

        if not _KEY.fullmatch(stage_key):
            raise LakeError(f"{stage_key!r} is no stage key.")
        with self._lock, explained(f"delete {stage_key} from table {self.name}", self.uri):
            for _ in range(_COMMIT_ATTEMPTS):
                try:
                    return patiently(lambda: _delete(self._current(), stage_key))
                except CommitFailedError:
                    time.sleep(random.uniform(0, 0.2))
        raise LakeError(f"Could not delete {stage_key} from table {self.name}: others write there all the time; later.")

    def _check(self, columns: list[str]) -> None:
        if unknown := sorted(set(columns) - set(self._schema.names)):
            raise LakeError(f"Table {self.name} has no column {unknown}; its columns are {self._schema.names}.")

    def _rows(self, stage_key: str | None, schema: pa.Schema, version: int | None) -> pa.Table:
        import pyarrow.dataset as ds

        with self._lock:
            handle = self._current() if version is None else self._at(version)
            if handle is None:
                return schema.empty_table()
            dataset = handle.to_pyarrow_dataset()
        chosen = None if stage_key is None else ds.field("stage_key") == stage_key
        there = [name for name in schema.names if name in dataset.schema.names]  # Old versions may lack a column.
        found = dataset.to_table(columns=there, filter=chosen, cache_metadata=False)
        for field in schema:
            if field.name not in there:
                found = found.append_column(field, pa.nulls(len(found), field.type))
        return found.select(schema.names).cast(schema)

    def _at(self, version: int) -> Any:
        newest = self.version()
        if not 0 <= version <= newest:
            raise LakeError(f"Table {self.name} at {self.uri} has no version {version}; its newest is {newest}.")
        from deltalake import DeltaTable

        return DeltaTable(self.uri, version=version, storage_options=places.delta_options(self.root))

    def _open(self) -> Any:
        """The handle, perhaps behind the newest version; None while the table does not exist."""
        if self._handle is None or self._handle.version() >= self._opened_at + _COMMITS_A_HANDLE:
            from deltalake import DeltaTable
            from deltalake.exceptions import TableNotFoundError

            self._handle = None
            try:
                self._keep(patiently(lambda: DeltaTable(self.uri, storage_options=places.delta_options(self.root))))
            except TableNotFoundError:
                return None
        return self._handle

    def _keep(self, handle: Any) -> None:
        self._fit(handle)
        self._handle, self._opened_at = handle, int(handle.version())

    def _fit(self, handle: Any) -> None:
        """Give a table that was written before a column was thought of that column, null in its rows.

        Raises LakeError where that does not make it this project's table.
        """
        import deltalake

        there = {field.name for field in handle.schema().fields}
        lacking = [field for field in self._schema if field.name not in there]
        unknown = sorted(there - set(self._schema.names))
        if unknown or not all(field.nullable for field in lacking):
            odd = [*unknown, *(field.name for field in lacking if not field.nullable)]
            raise LakeError(
                f"Table {self.name} at {self.uri} was written by another version of this project: it differs in the "
                f"columns {', '.join(odd)}. Choose a new lake (run.lake=...), or go on with that version."
            )
        if lacking:
            patiently(lambda: handle.alter.add_columns(list(deltalake.Schema.from_arrow(pa.schema(lacking)).fields)))

    def _current(self) -> Any:
        known = self._handle
        handle = self._open()
        if handle is known and known is not None:
            patiently(handle.update_incremental)
        return handle

    def _create(self) -> Any:
        import deltalake
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        partition = ["stage_key"] if self._partitioned else None
        options = places.delta_options(self.root)
        try:
            self._keep(
                DeltaTable.create(
                    self.uri,
                    self._schema,
                    partition_by=partition,
                    configuration=_CONFIGURATION,
                    storage_options=options,
                    # Without a limit, the second of two that create at once describes the table anew, as version 1.
                    commit_properties=deltalake.CommitProperties(max_commit_retries=0),
                )
            )
        except (DeltaError, OSError):
            # Another writer may have created it since, or this one, and the answer was lost.
            if self._open() is None:
                raise
        return self._handle

    def _commit(self, data: pa.Table, transaction: str) -> bool:
        mark = uuid.uuid4().hex
        with self._lock, explained(f"write to table {self.name}", self.uri):
            stumbles = 0
            for attempt in range(_COMMIT_ATTEMPTS):
                handle = self._open() or patiently(self._create)
                # Not refreshed first: a writer that came since this handle's version makes the commit fail.
                self._transactions.follow(int(handle.version()))
                if transaction in self._transactions:
                    return False
                refused = self._attempt(handle, data, transaction, mark)
                if refused is None:
                    return True
                stumbles += passing(refused)
                time.sleep(random.uniform(0, min(0.2, 0.005 * 2**attempt)))
                patiently(handle.update_incremental)
                # A commit whose answer was lost is refused when the client repeats it: by itself.
                if self._transactions.follow(int(handle.version()), mark):
                    return True
                if stumbles == ATTEMPTS:
                    raise refused
        raise LakeError(
            f"Could not write to table {self.name} at {self.uri}: other writers were faster {_COMMIT_ATTEMPTS} times. "
            f"Run the same command again; if other runs use this lake, wait for them. Last refusal: {refused}"
        ) from refused

    def _attempt(self, handle: Any, data: pa.Table, transaction: str, mark: str) -> Exception | None:
        """Commit once; what stood in the way if that may pass, None if it was done."""
        import deltalake
        from deltalake.exceptions import CommitFailedError, DeltaError

        properties = deltalake.CommitProperties(
            custom_metadata={_MARK: mark}, app_transactions=[deltalake.Transaction(transaction, 0)]
        )
        try:
            deltalake.write_deltalake(handle, data, mode="append", commit_properties=properties)
        except (DeltaError, OSError) as error:
            if not isinstance(error, CommitFailedError) and not passing(error):
                raise
            return error
        version = int(handle.version())
        self._transactions.follow(version - 1)  # Others that came between.
        self._transactions.add(version, transaction)
        return None


def _delete(handle: Any, stage_key: str) -> None:
    if handle.metadata().configuration.get("delta.appendOnly") == "true":
        handle.alter.set_table_properties({"delta.appendOnly": "false"})
    handle.delete(f"stage_key = '{stage_key}'")


def _ids_by_status(batches: Iterator[pa.RecordBatch]) -> dict[str, set[str]]:
    items: dict[str, set[str]] = {}
    for batch in batches:
        for item, status in zip(batch["item_id"].to_pylist(), batch["status"].to_pylist(), strict=True):
            items.setdefault(status, set()).add(item)
    return items
