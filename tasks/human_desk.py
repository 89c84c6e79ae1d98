"""The desk of the people who judge: what waits for them and what they said, in one SQLite file beside the lake.

What was said is committed at once and kept by a hash of what was shown, so nothing is asked twice.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from models.human_judge import Said, Showing, Strip
from storage import places
from storage.errors import LakeError
from tasks.ledger import ledger_path

_BUSY_S = 60.0
_SEED = 0  # Of the order of the queue.
_FORGET = "DELETE FROM said WHERE number = ?"

_TABLES = """
CREATE TABLE IF NOT EXISTS showings (
    key TEXT PRIMARY KEY, half INTEGER NOT NULL, draw TEXT NOT NULL, content TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS wanted (
    run TEXT NOT NULL, arm TEXT NOT NULL, item TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (run, arm, item, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS said (
    number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, choice TEXT NOT NULL, reason TEXT NOT NULL,
    who TEXT NOT NULL, page TEXT NOT NULL, at TEXT NOT NULL, seconds REAL
);
"""
# An item that nobody can tell is decided: the rest of its pairs need nobody.
_OPEN = """
NOT EXISTS (SELECT 1 FROM said d WHERE d.key = w.key)
AND NOT EXISTS (
    SELECT 1 FROM wanted o JOIN said d ON d.key = o.key
    WHERE o.run = w.run AND o.arm = w.arm AND o.item = w.item AND d.choice = 'cannot'
)
"""
_WAITING = f"""
SELECT s.key FROM showings s WHERE s.key IN (
    SELECT w.key FROM wanted w WHERE (:arm IS NULL OR w.arm = :arm) AND {_OPEN}
) ORDER BY s.half, s.draw, s.key
"""
_QUEUES = f"""
SELECT w.run, w.arm, count(DISTINCT CASE WHEN {_OPEN} THEN w.key END) FROM wanted w
WHERE :arm IS NULL OR w.arm = :arm GROUP BY w.run, w.arm ORDER BY w.run, w.arm
"""
_DONE = """
SELECT count(DISTINCT w.key) FROM wanted w JOIN said d ON d.key = w.key WHERE :arm IS NULL OR w.arm = :arm
"""


@dataclass(frozen=True)
class Left:
    """How much of a queue is left: showings, two a pair."""

    waiting: int
    said: int

    @property
    def total(self) -> int:
        return self.waiting + self.said


@dataclass(frozen=True)
class Queue:
    """What an arm of a run asked for; `waiting` showings of it are unanswered. Others may ask for the same."""

    run: str
    arm: str
    waiting: int

    def __str__(self) -> str:
        return f"run {self.run}, arm {self.arm}: {self.waiting}"


class Desk:
    """A desk's file. Several processes and threads may use it; each call is a transaction of its own."""

    def __init__(self, path: Path) -> None:
        """Makes the file where it is missing, with its folder. Raises LakeError when it cannot be used."""
        self._path = path
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._opened() as db:
                db.executescript(_TABLES)

    def want(self, run: str, arm: str, pairs: Iterable[tuple[str, tuple[Showing, Showing]]]) -> None:
        """Queues what a run's arm asks for, in the place of what it asked for before.

        Args:
            run: the run's name.
            arm: the arm's name.
            pairs: of each pair its item and its two showings.
        """
        with self._transaction() as db:
            db.execute("DELETE FROM wanted WHERE run = ? AND arm = ?", [run, arm])
            for item, both in pairs:
                for showing, half, draw in _placed(both):
                    content = json.dumps(asdict(showing))
                    # The frames' place may be another by now, and the old one gone.
                    db.execute(
                        "INSERT INTO showings VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET content = ?",
                        [showing.key, half, draw, content, content],
                    )
                    db.execute("INSERT OR IGNORE INTO wanted VALUES (?, ?, ?, ?)", [run, arm, item, showing.key])

    def drop(self, run: str, arm: str | None = None) -> None:
        """Takes what a run asked for off the desk, of one arm or of all; what was said is kept.

        Showings that another run or arm asks for too still wait. The run queues again when it comes here again.
        """
        with self._transaction() as db:
            db.execute("DELETE FROM wanted WHERE run = ?1 AND (?2 IS NULL OR arm = ?2)", [run, arm])

    def queues(self, arm: str | None = None) -> list[Queue]:
        """What each run and arm asked for, also where all of it is answered; of one arm or of all."""
        with self._transaction() as db:
            return [Queue(*row) for row in db.execute(_QUEUES, {"arm": arm})]

    def waiting(self, arm: str | None = None) -> list[str]:
        """Keys of the showings that wait, in the order in which they are shown; of one arm or of all."""
        with self._transaction() as db:
            return [key for (key,) in db.execute(_WAITING, {"arm": arm})]

    def left(self, arm: str | None = None) -> Left:
        """How many showings wait and how many are done, of one arm or of all."""
        with self._transaction() as db:
            waiting = len(db.execute(_WAITING, {"arm": arm}).fetchall())
            (done,) = db.execute(_DONE, {"arm": arm}).fetchone()
        return Left(waiting, done)

    def arms(self) -> list[str]:
        """The arms with a queue, also where all of it is answered."""
        with self._transaction() as db:
            return [arm for (arm,) in db.execute("SELECT DISTINCT arm FROM wanted ORDER BY arm")]

    def runs(self, arm: str | None = None) -> list[str]:
        """The runs that asked for this arm, or for any."""
        with self._transaction() as db:
            rows = db.execute("SELECT DISTINCT run FROM wanted WHERE ?1 IS NULL OR arm = ?1 ORDER BY run", [arm])
            return [run for (run,) in rows]

    def showing(self, key: str) -> Showing | None:
        """The showing with that key; None where there is none."""
        with self._transaction() as db:
            row = db.execute("SELECT content FROM showings WHERE key = ?", [key]).fetchone()
        if row is None:
            return None
        content = json.loads(row[0])
        return Showing(**{**content, "frames": Strip(**content["frames"])})

    def said(self) -> dict[str, Said]:
        """All that was said, by the key of the showing."""
        with self._transaction() as db:
            rows = db.execute("SELECT key, choice, reason, who, at, seconds FROM said").fetchall()
        return {key: Said(*values) for key, *values in rows}

    def say(self, key: str, said: Said, page: str) -> bool:
        """Keeps what was said, on disk when this returns. What was said first stands.

        Args:
            key: of the showing.
            said: what was said of it.
            page: which page said it.

        Returns:
            Whether it stands: False where another page, or this one, had said something else before.
        """
        with self._transaction() as db:
            values = [key, said.choice, said.reason, said.who, page, said.at, said.seconds]
            db.execute(
                "INSERT OR IGNORE INTO said (key, choice, reason, who, page, at, seconds) VALUES (?, ?, ?, ?, ?, ?, ?)",
                values,
            )
            kept = db.execute("SELECT choice, page FROM said WHERE key = ?", [key]).fetchone()
        return bool(kept == (said.choice, page))

    def undo(self, page: str) -> str | None:
        """Takes back the last thing that a page said, which then waits again; returns its key, None for nothing."""
        with self._transaction() as db:
            row = db.execute(
                "SELECT number, key FROM said WHERE page = ? ORDER BY number DESC LIMIT 1", [page]
            ).fetchone()
            if row is None:
                return None
            db.execute(_FORGET, [row[0]])
        return str(row[1])

    def ask_again(self, arm: str | None = None) -> int:
        """Takes back every "cannot tell" of an arm, or of all; returns how many."""
        with self._transaction() as db:
            rows = db.execute(
                "SELECT DISTINCT d.number FROM said d JOIN wanted w ON w.key = d.key "
                "WHERE d.choice = 'cannot' AND (?1 IS NULL OR w.arm = ?1)",
                [arm],
            ).fetchall()
            db.executemany(_FORGET, rows)
        return len(rows)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._explained(), self._opened() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """A connection with SQLite's own journal and fsyncs: a person's work must outlive a loss of power too."""
        db = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None)
        try:
            yield db
        finally:
            db.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise LakeError(
                f"The desk of the people who judge, {self._path}, cannot be used ({error}): free space there, give "
                "access to it, or restore it; what they said stands nowhere else until its stage is complete."
            ) from error


def desk_path(lake_root: str) -> Path:
    """Where the desk of a lake is: beside its ledger."""
    ledger = ledger_path(lake_root)
    return ledger.with_name(f"{ledger.stem}_human.sqlite" if places.is_s3(lake_root) else "human_desk.sqlite")


def _placed(both: tuple[Showing, Showing]) -> list[tuple[Showing, int, str]]:
    """The two showings of a pair, each with its half of the queue and its place in there.

    Every pair is shown once before any is shown in its other order, and both halves have the same order: so the two
    showings of a pair are as far apart as the queue allows. Which order comes first is drawn.
    """
    one, two = sorted(both, key=lambda each: each.key)
    draw = hashlib.sha256(f"{_SEED} {one.key} {two.key}".encode()).hexdigest()
    turned = int(draw[-1], 16) % 2
    return [(one, turned, draw), (two, 1 - turned, draw)]
