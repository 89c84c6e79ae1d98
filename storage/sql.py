"""Questions to a lake in SQL: an in-memory DuckDB over the tables' live Parquet files."""

import re
from typing import Any

import pyarrow as pa

from storage import places
from storage.errors import LakeError, explained, scrub
from storage.lake import Lake
from storage.schemas import SCHEMAS
from storage.tables import Table


def query(lake: Lake, sql: str, params: dict[str, Any] | None = None) -> pa.Table:
    """Run one statement ($name takes params["name"]) in which every existing table is a view of its name.

    Raises LakeError when the statement is wrong or a file cannot be read.
    """
    import duckdb

    with explained("query the lake", lake.root), duckdb.connect(":memory:") as connection:
        connection.execute("SET autoinstall_known_extensions = false; SET TimeZone = 'UTC'")
        if places.is_s3(lake.root):
            connection.register_filesystem(places.s3_files())
        # Making a view opens a file of it, so only those that the statement can mean.
        named = set(re.findall(r"\w+", sql.lower())) & set(SCHEMAS)
        try:
            for name in sorted(named or SCHEMAS):
                _make_view(connection, lake.table(name))
            answer = connection.sql(sql, params=params)
            return pa.table({}) if answer is None else answer.to_arrow_table()
        except duckdb.Error as error:
            raise LakeError(
                f"DuckDB refused the query: {scrub(str(error))}\nTables of {lake.root}: {', '.join(lake.tables())}."
            ) from error


def _make_view(connection: Any, table: Table) -> None:
    files = table.live_files()
    if files:
        quoted = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
        columns = ", ".join(_column(table.name, column) for column in SCHEMAS[table.name].names)
        # Not hive_partitioning: it also reads columns out of the folders above the lake (run=3/lake).
        source = f"read_parquet([{quoted}], hive_partitioning = false, filename = true)"
        connection.execute(f"CREATE VIEW {table.name} AS SELECT {columns} FROM {source}")
    elif table.version() >= 0:
        connection.register(table.name, SCHEMAS[table.name].empty_table())


def _column(table: str, column: str) -> str:
    if column == "stage_key" and "shard" in SCHEMAS[table].names:
        # The partition is not in the files; the greedy .* finds the innermost folder.
        return "regexp_extract(filename, '.*/stage_key=([^/]+)/', 1) AS stage_key"
    return f'"{column}"'
