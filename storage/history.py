"""Which files the versions of a table hold, read from its Delta log."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

from storage.files import files_of

_READERS = 16


@dataclass(frozen=True)
class _Commit:
    """A version: when it was made (ms since 1970), and the files that came and went with it."""

    made_ms: int
    added: tuple[str, ...]
    removed: tuple[str, ...]


def kept_files(root: str, table: str, newest: int, since: datetime | None) -> set[str]:
    """Paths, below the table's folder, of the files of every version up to `newest`.

    With `since` those of the version that was the newest at that moment, and of the later ones.
    """
    commits = list(_commits(root, table, newest))
    first = 0
    if since is not None:
        first = max((n for n, commit in enumerate(commits) if commit.made_ms < 1000 * since.timestamp()), default=0)
    kept: set[str] = set()
    for commit in commits[: first + 1]:
        kept = (kept - set(commit.removed)) | set(commit.added)
    return kept.union(*(commit.added for commit in commits[first + 1 :]))


def _commits(root: str, table: str, newest: int) -> Iterator[_Commit]:
    files = files_of(root)
    paths = [f"tables/{table}/_delta_log/{version:020}.json" for version in range(newest + 1)]
    with ThreadPoolExecutor(_READERS) as pool:
        for text in pool.map(files.read, paths):
            actions = [json.loads(line) for line in text.splitlines()]
            yield _Commit(
                made_ms=next(action["commitInfo"]["timestamp"] for action in actions if "commitInfo" in action),
                added=tuple(action["add"]["path"] for action in actions if "add" in action),
                removed=tuple(action["remove"]["path"] for action in actions if "remove" in action),
            )
