"""The page of an audit and the page of moved labels, read as a browser would read them."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from labels import Said, asked, complete, labelled
from small import keep_scenes, scenes
from test_report import Elements, plain

from storage.lake import Lake
from tasks.audit_limits import AuditConfig
from tasks.audit_page import audit_page
from tasks.audit_tables import headline
from tasks.label_versions import LabelVersion, latest_versions
from tasks.moves_page import moves_page
from tasks.stage import StageError

HOSTILE = "<script>alert('x')</script> & \"$\\frac{1}{0}$\" </article>"
TRUTHS: dict[str, str | None] = {f"q{n}": "it is red." if n % 2 else "it is a blue circle." for n in range(12)}


def said(lean: float = 0.0, hostile: str = "") -> list[Said]:
    pairs = []
    for n, (item, _) in enumerate(TRUTHS.items()):
        p = 1 / (1 + math.exp(-(3 * math.sin(7 * n) + lean)))
        pairs.append((item, hostile or "it is a blue circle.", "it is red.", "a" if p > 0.5 else "b", round(p, 3)))
    return pairs


def svgs(page: str) -> list[ET.Element]:
    """Every figure, parsed: a malformed one raises."""
    return [ET.fromstring(text) for text in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Two judges, one with two orders that leans to the first; the first judge blind; frames of some videos."""
    lake = Lake(tmp_path / "lake")
    shown = dict(zip((f"q{n}.mp4" for n in range(4)), scenes(4).values(), strict=True))
    frames = keep_scenes(lake, shown)
    complete(lake, frames, {})
    inputs = (asked(lake, TRUTHS), frames)
    orders = dict.fromkeys(TRUTHS, (0.9, 0.2))
    labelled(lake, "plain", said(), inputs=inputs)
    labelled(lake, "plain_blind", said(), blind=True, inputs=inputs)
    labelled(lake, "verdict", said(1.0), method="verdict", orders=orders, inputs=inputs, prompt="4567")
    return lake


def page_of(lake: Lake, versions: list[LabelVersion], target: Path) -> str:
    return audit_page(lake, AuditConfig(resamples=100), versions, target, "rlaif audit here").read_text()


def test_the_page_shows_measures_figures_and_examples(lake: Lake, tmp_path: Path) -> None:
    page = page_of(lake, latest_versions(lake), tmp_path / "new" / "audit.html")
    text = plain(page).replace("\u00a0", " ")
    assert "verdict prefers the answer shown first in 100.0 % of the showings" in text
    assert "100.0 % of the labels of plain need no video: plain_blind sees none and gives them too (kappa 1.00)" in text
    assert "rlaif audit here" in text
    for trouble in ("the order decides", "sure and wrong", "longer and worse", "needs no video", "judges disagree"):
        assert trouble in text, trouble
    assert len(svgs(page)) >= 8
    assert 'src="data:image/png;base64,' in page
    for tag, attributes in Elements(page).found:
        assert tag not in {"script", "iframe", "object", "embed"}
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("data:", "#"))


def test_the_same_labels_give_the_same_page(lake: Lake, tmp_path: Path) -> None:
    versions = latest_versions(lake)
    assert page_of(lake, versions, tmp_path / "one.html") == page_of(lake, versions, tmp_path / "two.html")


def test_parts_that_the_labels_lack_are_said(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    labelled(lake, "alone", [("q1", "red", "red", "tie", 0.5)])
    text = plain(page_of(lake, latest_versions(lake), tmp_path / "audit.html"))
    for lacking in (
        "Nothing here could tell a bias of alone",
        "No judge was shown an order",
        "No two answers of a pair differ in length",
        "No answer to these questions is known to be true",
        "No two versions here judged the same pairs",
        "No pair shows any of the troubles",
    ):
        assert lacking in text


def test_hostile_answers_and_narratives_stay_texts(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    inputs = (asked(lake, TRUTHS),)
    labelled(lake, "one", said(0.0, HOSTILE), narrative=True, told=HOSTILE, inputs=inputs)
    labelled(lake, "two", said(4.0, HOSTILE), inputs=inputs)
    page = page_of(lake, latest_versions(lake), tmp_path / "audit.html")
    assert "<script" not in page
    assert plain(page).count(" ".join(HOSTILE.split())) >= 2
    assert svgs(page)


def test_labels_without_a_pair_make_no_page(tmp_path: Path) -> None:
    from small import committed

    lake = Lake(tmp_path / "lake")
    lost = {"item_id": "q1", "status": "quarantined", "reason": "cut", "item_key": "k", "run": "r", "seed": 0}
    empty = committed(lake.table("preferences"), [lost], "empty")
    complete(lake, empty, {"arm": "empty", "narrative": False, "method": "likelihood", "frame_set": "x"})
    with pytest.raises(StageError, match="No pair of empty was judged; `rlaif status"):
        page_of(lake, latest_versions(lake), tmp_path / "audit.html")


def test_without_findings_there_is_nothing_to_say() -> None:
    assert headline([]) == ("There are no labels to audit.", [])


def moved(lake: Lake, folder: Path, **now: Any) -> str:
    inputs = (asked(lake, TRUTHS),)
    before = [
        ("q1", "it is red.", "it is blue.", "a", 0.9),
        ("q2", "a red.", "b blue.", "tie", 0.5),
        ("q3", "it is red.", "it is blue.", "a", 0.7),
        ("q4", "x", "y", "a", 0.7),
    ]
    after = [
        ("q1", "it is blue.", "it is red.", "a", 0.8),  # turned round, and the answers too
        ("q2", "a red.", "b blue.", "b", 0.4),
        ("q3", "it is red.", "it is blue.", "a", 0.7),
        ("q5", "x", "y", "a", 0.7),
    ]
    old = labelled(lake, "arm", before, key="old", narrative=True, told="a red one.", inputs=inputs)
    new = labelled(lake, "arm", after, key="new", narrative=True, inputs=inputs, **now)
    return moves_page(lake, "night", {"arm": (old, new)}, folder).read_text()


def test_the_page_of_moved_labels_says_what_moved_and_why(tmp_path: Path) -> None:
    page = moved(Lake(tmp_path / "lake"), tmp_path / "run", model="new judge", prompt="4567", told="a blue one.")
    assert (tmp_path / "run" / "moves.html").is_file()
    text = plain(page).replace("\u00a0", " ")
    assert "arm: 2 of 3 labels moved (66.7 %); 1 pair is new; 1 pair is gone." in text
    assert "another judge (judge before, new judge now); another prompt (hash 0123 before, 4567 now)" in text
    for kind in ("Turned round: 1 of 1", "No longer a tie: 1 of 1", "New: 1 of 1", "Gone: 1 of 1"):
        assert kind in text
    assert "The same: " not in text, "what stayed needs no examples"
    # "it is blue." comes first in the alphabet: before it had 0.1, now it has 0.8.
    turned = text[text.index("Turned round: 1 of 1") :]
    assert re.search(r"Judge, after A( ✗)? ?p\(A\) 0.80 Judge, before B( ✓)? ?p\(A\) 0.10", turned)
    assert re.search(r"Narrative that the judge read ?a blue one\. ?Narrative before ?a red one\.", turned)
    assert "<script" not in page
    Elements(page)


def test_labels_that_stayed_are_said_to_have_stayed(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    same = labelled(lake, "arm", said())
    text = plain(moves_page(lake, "night", {"arm": (same, same)}, tmp_path).read_text()).replace("\u00a0", " ")
    assert "0 of 12 labels moved (0.0 %)." in text
    assert "Nothing differs in how they were made." in text
    assert "No label moved." in text


def test_first_labels_are_all_new(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    first = labelled(lake, "arm", said())
    page = moves_page(lake, "night", {"arm": (None, first), "other": (None, first)}, tmp_path).read_text()
    assert plain(page).count("12 pairs were labelled for the first time.") >= 3
    assert "New: 4 of 12" in plain(page)
