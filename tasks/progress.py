"""Progress that a person sees: one Protocol, a terminal implementation and a silent one."""

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from rich.console import Console

SHOWN_AFTER_S = 2.0


class Bar(Protocol):
    """One thing under way."""

    def advance(self, count: int = 1) -> None: ...

    def finish(self) -> None:
        """Ends it, complete or not. Safe to call twice."""
        ...


class Progress(Protocol):
    """Where stages report. `start` and the bars may be used from several threads at once."""

    def start(self, label: str, total: int) -> Bar: ...


class SilentBar:
    """Reports to nobody."""

    def advance(self, count: int = 1) -> None: ...

    def finish(self) -> None: ...


class SilentProgress:
    """Shows nothing."""

    def start(self, label: str, total: int) -> Bar:  # noqa: ARG002 - the Protocol's arguments.
        return SilentBar()


@dataclass
class _TerminalBar:
    """A bar that appears once its work has lasted longer than SHOWN_AFTER_S."""

    owner: "TerminalProgress"
    label: str
    total: int
    done: int = 0
    task: int | None = None
    began: float = field(default_factory=time.monotonic)
    timer: threading.Timer | None = None

    def advance(self, count: int = 1) -> None:
        self.owner.moved(self, count)

    def finish(self) -> None:
        self.owner.ended(self)


class TerminalProgress:
    """Bars with count, rate and time left on a terminal; elsewhere one line for each thing that took long."""

    def __init__(self, console: "Console | None" = None, shown_after_s: float = SHOWN_AFTER_S) -> None:
        from rich.console import Console

        self.console = console or Console(stderr=True)
        self._shown_after_s = shown_after_s
        self._lock = threading.RLock()
        self._bars: Any = None
        self._visible = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._visible = 0
            self._stop()

    def start(self, label: str, total: int) -> Bar:
        bar = _TerminalBar(self, label, total)
        bar.timer = threading.Timer(self._shown_after_s, self._show, [bar])
        bar.timer.daemon = True
        bar.timer.start()
        return bar

    def moved(self, bar: _TerminalBar, count: int) -> None:
        with self._lock:
            bar.done += count
            if bar.task is not None and self._bars is not None:
                self._bars.update(bar.task, completed=bar.done, rate=_rate(bar))

    def ended(self, bar: _TerminalBar) -> None:
        with self._lock:
            if bar.timer is None:
                return
            bar.timer.cancel()
            bar.timer = None
            seconds = time.monotonic() - bar.began
            if bar.task is not None and self._bars is not None:
                self._bars.remove_task(bar.task)
                self._visible -= 1
                self._stop()
            if seconds >= self._shown_after_s:
                self.console.print(
                    f"{bar.label}: {bar.done} of {bar.total} in {seconds:.1f} s ({_rate(bar)})", highlight=False
                )

    def _show(self, bar: _TerminalBar) -> None:
        with self._lock:
            if bar.timer is None or not self.console.is_terminal:
                return
            if self._bars is None:
                self._bars = _bars(self.console)
                self._bars.start()
            bar.task = self._bars.add_task(bar.label, total=bar.total, completed=bar.done, rate=_rate(bar))
            self._visible += 1

    def _stop(self) -> None:
        if self._bars is not None and self._visible <= 0:
            self._bars.stop()
            self._bars = None


def _rate(bar: _TerminalBar) -> str:
    seconds = time.monotonic() - bar.began
    rate = bar.done / seconds if seconds > 0 else 0.0
    return f"{rate:.1f}/s" if rate >= 1 or not bar.done else f"{1 / rate:.1f} s each"


def _bars(console: "Console") -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        transient=True,
    )
