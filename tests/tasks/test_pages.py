"""What pages share: times that a person reads, and no place of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.pages import duration, without_places


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (431.2, "7 min 11 s"),
        (7300, "2 h 01 min"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_places_become_relative() -> None:
    clean = without_places(Path("/srv/work"))
    assert clean("no video in /srv/work/runs/demo, see /srv/workshop") == "no video in runs/demo, see /srv/workshop"
    assert clean("/srv/work") == "."
    assert clean("") == ""
    assert clean(f"{Path.home()}/models/x") == "~/models/x"
    assert clean("7/8 of a/b") == "7/8 of a/b"
