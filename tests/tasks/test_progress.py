import io
import threading
import time

from rich.console import Console

from tasks.progress import SilentProgress, TerminalProgress


def screen(terminal: bool = True) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_what_ends_soon_is_not_shown() -> None:
    console = screen()
    bar = TerminalProgress(console, shown_after_s=5).start("frames", 3)
    bar.advance(3)
    bar.finish()
    bar.finish()
    assert text(console) == ""


def test_what_lasts_shows_count_rate_and_time_left() -> None:
    console = screen()
    bar = TerminalProgress(console, shown_after_s=0.05).start("frames", 30)
    for _ in range(15):
        bar.advance()
        time.sleep(0.05)
    bar.finish()
    shown = text(console)
    assert "/30" in shown
    assert "/s" in shown
    assert "0:00:0" in shown, "time left"
    assert "frames: 15 of 30 in" in shown.splitlines()[-1]


def test_several_bars_at_once_from_several_threads() -> None:
    console = screen()
    progress = TerminalProgress(console, shown_after_s=0.01)

    def work(label: str) -> None:
        bar = progress.start(label, 20)
        for _ in range(20):
            bar.advance()
            time.sleep(0.01)
        bar.finish()

    threads = [threading.Thread(target=work, args=(label,)) for label in ("frames", "captions", "scores")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(f"{label}: 20 of 20 in" in text(console) for label in ("frames", "captions", "scores"))


def test_a_log_file_gets_one_line() -> None:
    console = screen(terminal=False)
    bar = TerminalProgress(console, shown_after_s=0.01).start("frames", 2)
    bar.advance(2)
    time.sleep(0.05)
    bar.finish()
    assert len(text(console).splitlines()) == 1


def test_silence() -> None:
    bar = SilentProgress().start("frames", 2)
    bar.advance()
    bar.finish()
