"""The ledger of a judge behind an endpoint: what was asked, answered and paid, in one SQLite file.

All processes of a machine share it: a call is reserved in one transaction before it is made, so that together they
pass neither the budget nor the rate limit, and none makes a call that another is making. A killed process leaves its
reservations, which stay spent; an answer once written is given again for nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.answers import Answer
from models.endpoint import Exhausted, Ticket, UnderWay
from models.endpoint_settings import JudgeEndpoint
from storage import places
from storage.errors import LakeError

# Money is counted in whole billionths, so that sums are exact.
_UNIT = 1e-9
_MINUTE_S = 60.0
# What a call may be delayed on its way: sixty seconds of the sender are at least that much less at the server.
_DRIFT_S = 1.0
_BUSY_S = 60.0

_TABLES = """
CREATE TABLE IF NOT EXISTS accounts (account TEXT PRIMARY KEY, spent INTEGER NOT NULL, free_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS calls (
    number INTEGER PRIMARY KEY, account TEXT NOT NULL, cost INTEGER NOT NULL, ends REAL, call TEXT, answer TEXT
);
CREATE UNIQUE INDEX IF NOT EXISTS answered ON calls (call) WHERE call IS NOT NULL;
CREATE INDEX IF NOT EXISTS pending ON calls (account) WHERE ends IS NOT NULL;
CREATE TABLE IF NOT EXISTS under_way (call TEXT PRIMARY KEY, number INTEGER NOT NULL, ends REAL NOT NULL,
    process INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS under_way_number ON under_way (number);
"""

# An answer is a list of Answer's fields in their order. One that an earlier version kept with a number that is none in
# JSON is left out.
_MEANS = """
SELECT count(*), avg(input_tokens), avg(output_tokens), avg(latency_s) FROM (
    SELECT json_extract(sound, '$[4]') AS input_tokens, json_extract(sound, '$[5]') AS output_tokens,
        json_extract(sound, '$[6]') AS latency_s
    FROM (SELECT CASE WHEN json_valid(answer) THEN answer END AS sound FROM calls WHERE account = ?)
) WHERE input_tokens IS NOT NULL AND output_tokens IS NOT NULL
"""


class _Turn:
    """One process at a time: a lock on a file beside the ledger, which the system releases when its holder dies.

    SQLite's own locks are kept too, but who waits for one of them sleeps for milliseconds, many times a transaction's
    length; and two processes that both open a new file are refused without a wait.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.with_name(f"{path.name}.lock").open("w")

    def __enter__(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True)
class Typical:
    """Means over an account's answered calls: tokens in and out, and seconds to the reply."""

    calls: int
    input_tokens: float
    output_tokens: float
    latency_s: float


class SqliteLedger:
    """One account of a ledger file. See models.endpoint.Ledger; opened anew in each process."""

    def __init__(self, path: Path, settings: JudgeEndpoint, clock: Callable[[], float] = time.time) -> None:
        """Args:
            path: the file; made where missing, with its folder.
            settings: the account, its budget, rate limit and time limit.
            clock: seconds since the epoch.

        Raises:
            LakeError: the file cannot be opened, or is no ledger.
        """
        self._path = path
        self._account = settings.account
        self._budget = None if settings.budget is None else math.floor(round(settings.budget / _UNIT, 3))
        self._shown_budget = settings.budget
        rate = settings.requests_per_minute
        self._interval = 0.0 if rate is None else (_MINUTE_S + _DRIFT_S) / rate
        self._timeout_s = settings.timeout_s
        self._clock = clock
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._turn = _Turn(path)
            with self._turn:
                self._db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
                # A commit in the write-ahead log outlives the process, if not the machine's power, without an fsync.
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = OFF")
                self._db.executescript(_TABLES)
                self._db.execute("INSERT OR IGNORE INTO accounts VALUES (?, 0, 0)", [self._account])

    def begin(self, call: str, bound: float) -> Answer | Ticket | Exhausted | UnderWay:
        cost = _units(bound)
        with self._transaction() as db:
            known, spent, free_at = db.execute(
                "SELECT (SELECT answer FROM calls WHERE call = ?), spent, free_at FROM accounts WHERE account = ?",
                [call, self._account],
            ).fetchone()
            if known is not None:
                return _answer(known)
            now = self._clock()
            if self._is_under_way(call, now):
                return UnderWay()
            if self._budget is not None and spent + cost > self._budget:
                return self._exhausted(spent, cost, now)
            at = max(now, free_at)
            db.execute(
                "UPDATE accounts SET spent = spent + ?, free_at = ? WHERE account = ?",
                [cost, at + self._interval, self._account],
            )
            ends = at + self._timeout_s + _DRIFT_S
            number = db.execute(
                "INSERT INTO calls (account, cost, ends) VALUES (?, ?, ?)", [self._account, cost, ends]
            ).lastrowid
            assert number is not None
            db.execute("INSERT OR REPLACE INTO under_way VALUES (?, ?, ?, ?)", [call, number, ends, os.getpid()])
            return Ticket(number, at)

    def end(self, ticket: Ticket, cost: float, call: str | None = None, answer: Answer | None = None) -> None:
        paid = _units(cost)
        text = None if answer is None else json.dumps(list(vars(answer).values()))
        with self._transaction() as db:
            db.execute("DELETE FROM under_way WHERE number = ?", [ticket.number])
            db.execute(
                "UPDATE accounts SET spent = spent + ? - (SELECT cost FROM calls WHERE number = ?) WHERE account = ?",
                [paid, ticket.number, self._account],
            )
            # Another process may have asked the same meanwhile; the first answer is kept.
            known = call and db.execute("SELECT 1 FROM calls WHERE call = ?", [call]).fetchone()
            if paid == 0 and answer is None:
                db.execute("DELETE FROM calls WHERE number = ?", [ticket.number])
                return
            db.execute(
                "UPDATE calls SET cost = ?, ends = NULL, call = ?, answer = ? WHERE number = ?",
                [paid, None if known else call, None if known else text, ticket.number],
            )

    def pause(self, seconds: float) -> None:
        with self._transaction() as db:
            db.execute(
                "UPDATE accounts SET free_at = max(free_at, ?) WHERE account = ?",
                [self._clock() + seconds, self._account],
            )

    def find(self, call: str) -> Answer | None:
        with self._explained():
            known = self._db.execute("SELECT answer FROM calls WHERE call = ?", [call]).fetchone()
        return None if known is None else _answer(known[0])

    def spent(self) -> float:
        """What this account has cost, reservations of calls under way included, in the currency of the prices."""
        with self._explained():
            (spent,) = self._db.execute("SELECT spent FROM accounts WHERE account = ?", [self._account]).fetchone()
        return float(spent * _UNIT)

    def answered(self) -> int:
        """How many answers of this account are kept."""
        with self._explained():
            (count,) = self._db.execute(
                "SELECT count(*) FROM calls WHERE account = ? AND call IS NOT NULL", [self._account]
            ).fetchone()
        return int(count)

    def typical(self) -> Typical | None:
        """What this account's answered calls came to on average; None before the first."""
        with self._explained():
            # By SQLite: every answer, with its log-probabilities, would otherwise be in memory at once.
            means = self._db.execute(_MEANS, [self._account]).fetchone()
        return Typical(*means) if means[0] else None

    def close(self) -> None:
        """Closes the file."""
        self._db.close()
        self._turn.close()

    def _is_under_way(self, call: str, now: float) -> bool:
        """Whether a process that lives is making this call, and may still end it."""
        found = self._db.execute("SELECT process FROM under_way WHERE call = ? AND ends > ?", [call, now]).fetchone()
        return found is not None and _lives(found[0])

    def _exhausted(self, spent: int, cost: int, now: float) -> Exhausted:
        """Calls that may still end count as coming back; those past their time limit were killed and stay spent."""
        (pending,) = self._db.execute(
            "SELECT coalesce(sum(cost), 0) FROM calls WHERE account = ? AND ends IS NOT NULL AND ends > ?",
            [self._account, now],
        ).fetchone()
        (lost,) = self._db.execute(
            "SELECT coalesce(sum(cost), 0) FROM calls WHERE account = ? AND ends IS NOT NULL AND ends <= ?",
            [self._account, now],
        ).fetchone()
        killed = f" ({lost * _UNIT:.4g} of it for calls that were under way when a run was killed)" if lost else ""
        text = (
            f"has used up its budget of {self._shown_budget:g}: {(spent - pending) * _UNIT:.6g} is spent{killed}, and "
            f"the next call may cost up to {cost * _UNIT:.4g}. Raise budget to go on"
        )
        assert self._budget is not None
        return Exhausted(waiting=pending > 0 and spent - pending + cost <= self._budget, text=text)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._explained(), self._turn:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise LakeError(
                f"The judge's ledger {self._path} cannot be used ({error}): free space there, give access to it, or, "
                "if it is damaged, move it away; calls that only it knows are then paid again."
            ) from error


def ledger_path(lake_root: str) -> Path:
    """Where the ledger of a lake is: in it when it is a folder, else under RLAIF_CACHE (by default ~/.cache/rlaif)."""
    if not places.is_s3(lake_root):
        return Path(lake_root) / "judge_ledger.sqlite"
    cache = Path(os.environ.get("RLAIF_CACHE") or Path.home() / ".cache" / "rlaif")
    return cache / "ledgers" / f"{hashlib.sha256(lake_root.encode()).hexdigest()[:16]}.sqlite"


def _lives(process: int) -> bool:
    """Whether there is such a process on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _units(money: float) -> int:
    """Money in billionths, rounded up."""
    return math.ceil(round(money / _UNIT, 3))


def _answer(text: str) -> Answer:
    values: list[Any] = json.loads(text)
    values[3] = [(token, likeliest) for token, likeliest in values[3]]
    return Answer(*values)
