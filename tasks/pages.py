"""What every HTML page of the project shares: templates, filters, freedom from this machine's places."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tasks.report_plots import dashes
from tasks.report_scores import points, sign


def render(template: str, portable: Callable[[str], str], **shown: Any) -> str:
    """A template of this room as HTML. Every text is escaped and freed of places; figures and styles are our own.

    Args:
        template: its file in tasks/templates.
        portable: takes this machine's places out of a text (`without_places`).
        shown: what the template names.
    """
    import jinja2
    import yaml
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: portable(value) if type(value) is str and not value.startswith("data:") else value,
    )
    environment.filters |= {
        "percent": lambda share: f"{100 * share:.1f}\u00a0%",
        "points": points,
        "duration": duration,
        "times": lambda number: "once" if f"{number:.2f}" == "1.00" else f"{number:.2f} times",
        "svg": Markup,
        "yaml": lambda value: yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100),
    }
    environment.globals["sign"] = sign
    # The legend's line is drawn three units wide, and dash patterns count in line widths.
    environment.globals["dashes"] = lambda series: " ".join(f"{3 * length:g}" for length in dashes(series))
    return environment.get_template(template).render(**shown)


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def thousands(value: int | None) -> str:
    """A count with three digits at most where it is large: 3,280, 75.4 k, 2.45 M; "?" for None."""
    if value is None:
        return "?"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= max(size, 1e4):
            return f"{value / size:.3g} {unit}"
    return f"{value:,}"


def without_places(here: Path) -> Callable[[str], str]:
    """A function that takes this machine's folders out of a text: what is below `here` becomes relative."""
    project = Path(__file__).resolve().parent.parent
    names = {str(here): ".", str(project): "${project}", tempfile.gettempdir(): "<tmp>", str(Path.home()): "~"}
    kept = {place: name for place, name in reversed(names.items()) if len(place) > 1}
    # The longest first, and whole parts of a path alone.
    places = "|".join(re.escape(place) for place in sorted(kept, key=len, reverse=True))
    pattern = re.compile(rf"(?<![\w.-])({places})(/|(?![\w.-]))")

    def clean(text: str) -> str:
        found = pattern.sub(lambda match: f"{kept[match[1]]}{match[2]}".removeprefix("./"), text)
        return "." if text and not found else found

    return clean


def write(path: Path, text: str) -> None:
    """The text as the file's content, whole or not at all."""
    # Two runs of one folder may end at the same moment.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """A JSON value with every text in it changed."""
    if isinstance(value, Mapping):
        return {str(key): map_texts(each, change) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [map_texts(each, change) for each in value]
    return value if value is None or isinstance(value, bool | int | float) else change(str(value))
