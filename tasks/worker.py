"""What runs inside one Ray worker process: built processors, kept between calls."""

import faulthandler
import gc
import hashlib
import os
import pickle
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from models.memory import LATEST, ran_out
from storage.errors import LakeError
from tasks.expense import NOTHING, Expense, empty_gpu_cache, forget_gpu_peak, holds_much, metered


@dataclass(frozen=True)
class Outcome:
    """What became of one item: its rows (status ok), or None and the reason for quarantine.

    A quarantined outcome may carry no rows; an ok outcome carries at least one. `reason` on an ok outcome is a note.
    """

    item_id: str
    rows: list[dict[str, Any]] | None
    reason: str | None = None


class Processor(Protocol):
    """The work of a stage. Built once a worker process for each `settings`: models are loaded in `__init__`.

    One that also has `close()` is closed when its worker gives it up.
    """

    def __init__(self, settings: Any) -> None: ...

    def process(self, items: list[dict[str, Any]], seed: int) -> list[Outcome]:
        """One outcome an item, in the order of `items`. An exception here is blamed on the items, one by one."""
        ...


@dataclass(frozen=True)
class Reply:
    """A call's answer: outcomes, a failure that an item may cause, or one that none can; and what the call cost."""

    outcomes: list[Outcome] | None = None
    failure: str | None = None
    fatal: Exception | None = None
    expense: Expense = NOTHING


class ProcessorError(RuntimeError):
    """A processor broke its contract (one outcome an item, same order): a bug, whatever the items."""


class StageFailure(RuntimeError):
    """A stage cannot go on, whatever its items: it is neither repeated nor written down as a quarantine."""


class OutOfMemory(StageFailure):
    """A model had no memory for a pass: the pass was too large, whatever its items. The text says what was tried."""

    @classmethod
    def of(cls, error: Exception, doing: str) -> "OutOfMemory":
        """`doing`: what is told where no model has begun a pass."""
        return cls(f"in {LATEST.tried or doing}: {str(error).splitlines()[0]}")


class _Watchdog:
    """Ends this process when an item takes too long, even inside native code that holds the interpreter's lock."""

    limit_s: float | None = None

    def feed(self) -> None:
        if self.limit_s is not None:
            faulthandler.dump_traceback_later(self.limit_s, exit=True)

    def rest(self) -> None:
        self.limit_s = None
        faulthandler.cancel_dump_traceback_later()


_watchdog = _Watchdog()


def next_item() -> None:
    """A processor says that it begins another item of its call: the item's time limit starts anew.

    Without it the limit counts for the whole call, as many times as there are items.
    """
    _watchdog.feed()


def last_item_done() -> None:
    """A processor says that no item is under way any more: what follows (writing what all gave) is not timed here."""
    _watchdog.rest()


class WorkerProcess:
    """The Ray actor. Knows no stage: processors arrive pickled and stay loaded until the driver evicts them."""

    def __init__(self, search_path: list[str]) -> None:
        """`search_path`: the driver's sys.path, so that whatever the driver imported unpickles here."""
        sys.path.extend(folder for folder in search_path if folder not in sys.path)
        for name, value in {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}.items():
            os.environ[name] = value
        self._processors: dict[str, Processor] = {}

    def ping(self) -> int:
        """The process id: proof that the process is up."""
        return os.getpid()

    def equip(self, environment: dict[str, str]) -> None:
        """Takes variables into the environment: a Ray that was there before the run does not have them."""
        os.environ.update(environment)

    def prepare(self, key: str, payload: bytes, evict: Sequence[str]) -> Reply:
        """Builds the processor of `payload`, a pickled (class, settings); `fatal` is what its construction raised.

        The memory of those that it evicts, and of those that came to their end, is free before, unless it is little.
        """
        self._drop(evict)
        free_memory()
        forget_gpu_peak()
        LATEST.tried = None
        began = time.monotonic()
        try:
            with uncollected():
                processor, settings = pickle.loads(payload)
                self._processors[key] = processor(settings)
        except Exception as error:
            return Reply(fatal=portable(OutOfMemory.of(error, "loading the model") if ran_out(error) else error))
        if "torch" in sys.modules:
            # Two torch threads beside a busy process were up to 10 times slower; OMP_NUM_THREADS is read only once.
            sys.modules["torch"].set_num_threads(1)
        return Reply(expense=Expense(load_seconds=time.monotonic() - began))

    def process(self, key: str, items: list[dict[str, Any]], seed: int, item_timeout_s: float | None = None) -> Reply:
        """Runs the processor `key` over `items`; the process ends when one that says `next_item` passes the limit."""
        with metered() as spent:
            reply = self._reply(key, items, seed, item_timeout_s)
        return replace(reply, expense=spent.expense)

    def _reply(self, key: str, items: list[dict[str, Any]], seed: int, item_timeout_s: float | None) -> Reply:
        if key not in self._processors:
            return Reply(fatal=ProcessorError("the worker was asked for a processor that it never built"))
        _watchdog.limit_s = item_timeout_s
        try:
            outcomes = self._processors[key].process(items, seed)
        except (LakeError, ProcessorError, StageFailure) as error:
            self._drop([key])  # It has come to its end: whoever goes on begins with a new one.
            return Reply(fatal=portable(error))
        except Exception as error:
            if ran_out(error):
                self._drop([key])
                return Reply(fatal=OutOfMemory.of(error, "this call"))
            return Reply(failure=f"{type(error).__name__}: {error}".rstrip(": "))
        finally:
            _watchdog.rest()
        wrong = contract_breach(items, outcomes)
        return (
            Reply(fatal=ProcessorError(f"{type(self._processors[key]).__name__}: {wrong}"))
            if wrong
            else Reply(outcomes)
        )

    def _drop(self, keys: Iterable[str]) -> None:
        """Gives up processors; one that has something to close (`close`) closes it."""
        for key in keys:
            if (close := getattr(self._processors.pop(key, None), "close", None)) is not None:
                close()


@contextmanager
def uncollected() -> Iterator[None]:
    """Python looks for circles of references only afterwards: imports and models make a million objects that stay, and
    looking through them again and again was a quarter of the time that a first processor took to build.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def free_memory() -> None:
    """Gives back what nobody holds any more, on the card too.

    A model is a circle of references: left to Python's own collection it may stay on the card for a whole stage. A
    small process without a card leaves it to that: a look at all objects was a tenth of its time on the miniature.
    """
    if not holds_much():
        return
    gc.collect()
    empty_gpu_cache()


def contract_breach(items: list[dict[str, Any]], outcomes: list[Outcome]) -> str | None:
    """What is wrong with the outcomes of `items`, or None."""
    asked, got = [item["item_id"] for item in items], [outcome.item_id for outcome in outcomes]
    if asked != got:
        return f"asked for {len(asked)} items {asked[:3]}..., got outcomes for {len(got)} {got[:3]}..."
    for outcome in outcomes:
        if outcome.rows is None and not outcome.reason:
            return f"item {outcome.item_id} is quarantined without a reason"
        if outcome.rows is not None and not outcome.rows:
            return f"item {outcome.item_id} is ok without a row"
    return None


def portable(error: Exception) -> Exception:
    """`error` with its traceback as a note, or its text in a RuntimeError where it does not survive pickling."""
    error.add_note("In the worker:\n" + "".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def derive_seed(*parts: object) -> int:
    """A seed in [0, 2**63) that depends on every part and on nothing else."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
