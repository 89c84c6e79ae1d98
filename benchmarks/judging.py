"""What the benchmarks with a judge share: the texts for the judge, and grades by group."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from benchmarks.grades import Call, Grade, Graded, Status
from benchmarks.metrics import Metric, mean, members
from storage.errors import FormatError

Value = Callable[[Grade], float | None]

_FOLDER = Path(__file__).parent / "prompts"
_NAME = re.compile(r"\{(\w+)\}")


def prompt(name: str, folder: str = "") -> str:
    """A text for a judge: from the file `<name>.txt` of `folder` where it has one, else from benchmarks/prompts. A file
    of one's own is read each time: between two runs of one process it may have been edited.

    Raises:
        FormatError: `folder` is none, has a file that is no known text, or its file cannot be read.
    """
    own = _own(Path(folder)).get(name) if folder else None
    return _text(own) if own else _ours(name)


@cache
def _ours(name: str) -> str:
    return _text(_FOLDER / f"{name}.txt")


def _own(folder: Path) -> dict[str, Path]:
    """The texts' files in a user's folder by name. A misnamed one would silently give way to ours: it is refused."""
    if not folder.is_dir():
        raise FormatError(f"{folder}: no such folder; `prompts` names a folder with texts for the judge.")
    known = sorted(path.name for path in _FOLDER.glob("*.txt"))
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith((".", "_"))]
    for path in files:
        if path.name not in {*known, "README.md"}:
            near = get_close_matches(path.name, known, n=1)
            meant = f"did you mean {near[0]}? " if near else ""
            raise FormatError(f"{path}: is no text for a judge; {meant}There are: {', '.join(known)}.")
    return {path.stem: path for path in files if path.suffix == ".txt"}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: cannot be read as a text: {error}.") from error


def filled(text: str, **said: str) -> str:
    """`text` with each {name} of `said` replaced by what it names, all at once; other braces stay."""
    return _NAME.sub(lambda found: said.get(found[1], found[0]), text)


def call(system: str, user: str, folder: str = "", **said: str) -> Call:
    """What a judge is asked with two texts of those names; `system` "" for none."""
    return Call(filled(prompt(user, folder), **said), prompt(system, folder) if system else None)


def without_end(reply: str) -> str:
    """A reply without the token that ends it in some files, and without blanks around it."""
    return reply.strip().removesuffix("</s>").strip()


def wrong(status: Status, *, parsed: str | None = None, judged: bool = False) -> Grade:
    """A grade that counts as wrong and as no points: how "strict" takes what could not be graded."""
    return Grade(status, False, 0.0, parsed, judged)


def by_group(graded: Sequence[Graded]) -> dict[str, list[Graded]]:
    """ "overall" with all of them, then "<name>: <value>" of each of the items' groups."""
    named = ((f"{name}: {value}", each) for each in graded for name, value in each.item.groups.items())
    return {"overall": list(graded), **members(named)}


def mean_of(
    name: str,
    group: str,
    graded: Iterable[Graded],
    value: Value,
    *,
    digits: int | None = None,
    scale: float = 1.0,
) -> Metric:
    """The mean of what `value` takes from the grades; those of which it takes None are left out."""
    graded = list(graded)
    values = [value(each.grade) for each in graded]
    return mean(name, group, values, [each.item.video for each in graded], digits=digits, scale=scale)


def verdict(grade: Grade) -> float | None:
    """1 for right, 0 for wrong, None for no verdict."""
    return None if grade.correct is None else float(grade.correct)


def points(grade: Grade) -> float | None:
    """The score, where there is one."""
    return grade.score


def strict_verdict(grade: Grade) -> float:
    """1 for right, else 0: what has no verdict is wrong."""
    return float(bool(grade.correct))


def strict_points(grade: Grade) -> float:
    """The score; 0 where there is none, or where it is out of range."""
    return grade.score or 0.0 if grade.status == "ok" else 0.0


def status_of(score: float | None, low: float = 0.0, high: float = 5.0) -> Status:
    """Of a score that a script takes as the judge gave it, 7 of 5 points too: it counts, and its status says so."""
    return "ok" if score is None or low <= score <= high else "off the scale"


def as_points(score: float | None) -> float | None:
    """A judge's score as a float, however many digits it has."""
    return None if score is None else float(max(-1e300, min(score, 1e300)))
