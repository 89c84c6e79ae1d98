"""The page on which people judge: one showing at a time, from the desk onto HTML and back. It knows no HTTP."""

from __future__ import annotations

import base64
import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from models.human_judge import HumanChoice, Said, Showing
from tasks.judge_human import JPEG_QUALITY, MAX_SIDE
from tasks.pictures import MissingFramesError, Pictures, black_pictures
from tasks.stage import StageRef

if TYPE_CHECKING:
    from storage.lake import Lake
    from tasks.human_desk import Desk

LEASE_S = 600.0  # So long a showing is kept for the page that has it; then others may have it too.
LONGEST_REASON = 500  # Characters.
_CHOICES: dict[str, HumanChoice] = {each: each for each in get_args(HumanChoice)}
_PAGE = re.compile(r"[A-Za-z0-9_-]{8,64}")


class RefusedError(Exception):
    """A request is refused; the text says why to the person at the page."""

    def __init__(self, status: int, reason: str) -> None:
        """`status` is the one of HTTP."""
        super().__init__(reason)
        self.status = status


@dataclass
class _Lease:
    """A showing before somebody's eyes: on which page, and since when (seconds of the clock)."""

    page: str
    since: float


class JudgingPage:
    """What the page shows and takes. Used by several threads, one a request."""

    def __init__(
        self, lake: Lake, desk: Desk, arm: str | None, who: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Args:
        lake: where the frames are.
        desk: what waits, and where the answers go.
        arm: whose pairs are shown; None: those of all.
        who: the name that is kept with each answer; may be empty.
        clock: seconds.
        """
        self.token = secrets.token_urlsafe(24)
        self._desk = desk
        self._arm = arm
        self._who = who
        self._clock = clock
        self._leases: dict[str, _Lease] = {}
        self._lock = threading.Lock()
        # A method cannot be cached by decoration without keeping every instance alive.
        self._pictures = lru_cache(maxsize=8)(
            lambda table, key: Pictures(lake, StageRef("frames", table, key, 0), MAX_SIDE, JPEG_QUALITY)
        )

    def new_page(self) -> str:
        """The name of a new page."""
        return secrets.token_urlsafe(9)

    def html(self, page: str, nonce: str) -> str:
        """The page as it stands: a showing, or that nothing is left.

        Args:
            page: its name.
            nonce: what its style and script carry.

        Raises:
            RefusedError: it is no name of a page, or the frames of the showing are not in the lake.
        """
        if not _PAGE.fullmatch(page):
            raise RefusedError(400, "This is no name of a page. Open the address without what stands behind '?'.")
        key = self._hand_out(page)
        left = self._desk.left(self._arm)
        shared = {"nonce": nonce, "token": self.token, "page": page, "left": left}
        showing = None if key is None else self._desk.showing(key)
        if showing is None:
            return rendered(**shared, runs=self._desk.runs(self._arm))
        return rendered(**shared, showing=showing, longest=LONGEST_REASON, **self._frames(showing))

    def say(self, form: Mapping[str, str]) -> None:
        """Keeps what a page says of a showing; on disk when this returns. Said twice by one page, it counts once.

        Raises:
            RefusedError: something is missing or wrong, or somebody has said something else meanwhile.
        """
        page, key, choice = self._sender(form), form.get("key", ""), _CHOICES.get(form.get("choice", ""))
        reason = " ".join(form.get("reason", "").split())
        if self._desk.showing(key) is None:
            raise RefusedError(400, "Nothing of this kind waits here; the answer was not kept.")
        if choice is None:
            raise RefusedError(400, "The answer must be one of the buttons; it was not kept.")
        if choice == "cannot" and not reason:
            raise RefusedError(400, "Say in a few words why you cannot tell; somebody is to mend it.")
        if len(reason) > LONGEST_REASON:
            raise RefusedError(400, f"The reason has more than {LONGEST_REASON} characters; the answer was not kept.")
        said = Said(choice, reason, self._who, datetime.now(UTC).isoformat(timespec="seconds"), self._took(key, page))
        if not self._desk.say(key, said, page):
            raise RefusedError(409, "Somebody else has answered this one meanwhile; what was said first stands.")
        with self._lock:
            self._leases.pop(key, None)

    def undo(self, form: Mapping[str, str]) -> None:
        """Takes back what a page said last, which is then before it again; nothing where it said nothing.

        Raises:
            RefusedError: the token or the page's name is wrong.
        """
        page = self._sender(form)
        key = self._desk.undo(page)
        if key is not None:
            with self._lock:
                for mine in [each for each, lease in self._leases.items() if lease.page == page]:
                    del self._leases[mine]
                self._leases[key] = _Lease(page, self._clock())

    def _sender(self, form: Mapping[str, str]) -> str:
        if not secrets.compare_digest(form.get("token", "").encode(), self.token.encode()):
            raise RefusedError(403, "This page is from before the last start, or is not ours. Open the address anew.")
        page = form.get("page", "")
        if not _PAGE.fullmatch(page):
            raise RefusedError(400, "The page has no name; open the address anew.")
        return page

    def _took(self, key: str, page: str) -> float | None:
        with self._lock:
            lease = self._leases.get(key)
        return None if lease is None or lease.page != page else round(self._clock() - lease.since, 2)

    def _hand_out(self, page: str) -> str | None:
        """The showing that a page has, or the next that no other page has; when all are taken, the one taken first."""
        waiting = self._desk.waiting(self._arm)
        now = self._clock()
        with self._lock:
            held = {key: self._leases[key] for key in waiting if key in self._leases}
            mine = next((key for key, lease in held.items() if lease.page == page), None)
            if mine is not None or not waiting:
                return mine
            free = (key for key in waiting if key not in held or now - held[key].since > LEASE_S)
            key = next(free, None) or min(held, key=lambda each: held[each].since)
            self._leases[key] = _Lease(page, now)
            return key

    def _frames(self, showing: Showing) -> dict[str, Any]:
        """The pictures of a showing as data addresses with their captions, and whether they are black on purpose."""
        place = json.loads(showing.frames.place)
        pictures = self._pictures(place["table"], place["key"])
        try:
            files = pictures.frames(place["video"], place["frame_set"])
        except MissingFramesError as error:
            raise RefusedError(404, f"{error} Run the command again that sent you here.") from None
        seconds = pictures.seconds(place["video"], place["frame_set"])
        captions = [f"frame {n + 1}" for n in range(len(files))] if seconds is None else [*map(_moment, seconds)]
        shown = black_pictures(files) if place["blind"] else files
        addresses = [f"data:image/jpeg;base64,{base64.b64encode(each).decode()}" for each in shown]
        return {"frames": list(zip(addresses, captions, strict=True)), "blind": place["blind"]}


def rendered(**shown: Any) -> str:
    """The template as HTML; every text in it is escaped."""
    html: str = _template().render(**{"refused": None, "showing": None, **shown})
    return html


@lru_cache(maxsize=1)
def _template() -> Any:
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    return jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    ).get_template("judge.html.j2")


def _moment(seconds: float) -> str:
    """1:02.5 for 62.5 seconds."""
    minutes, rest = divmod(round(10 * seconds), 600)
    return f"{minutes}:{rest // 10:02d}.{rest % 10}"
