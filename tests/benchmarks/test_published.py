"""Published numbers: every one has a source, and other judges' are never compared."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.published import Published, comparable, read_published
from benchmarks.registry import KNOWN
from storage.errors import FormatError

SHIPPED = read_published()

SECTION = {
    "benchmark": "msvd_qa", "kind": "published", "source": "https://a.example/b", "judge": "gpt-3.5-turbo",
    "snapshot": "0613", "values": {"M": {"accuracy": 0.5, "accuracy | type: x": 0.25}},
}  # fmt: skip


def write(tmp_path: Path, *sections: object) -> Path:
    path = tmp_path / "published.yaml"
    path.write_text(yaml.safe_dump(list(sections)))
    return path


def test_the_shipped_numbers_are_sound() -> None:
    found = SHIPPED
    assert len(found) > 200
    assert {one.benchmark for one in found} <= set(KNOWN)
    assert all(0 <= one.value <= (5 if one.metric == "score" else 1) for one in found)
    judged = {"msvd_qa", "msrvtt_qa", "tgif_qa", "activitynet_qa", "video_chatgpt", "tempcompass"}
    assert all(bool(one.judge) == (one.benchmark in judged) for one in found)


def test_numbers_that_are_known_by_heart() -> None:
    found = SHIPPED
    hound = {
        one.snapshot: one.value
        for one in found
        if (one.benchmark, one.metric, one.model) == ("msvd_qa", "accuracy", "Video-LLaVA 7B")
    }
    assert hound == {"0301": 0.8144, "0613": 0.7175, "1106": 0.7476}
    vlm_rlaif = [one for one in found if one.benchmark == "video_chatgpt" and one.model == "VLM-RLAIF 7B"]
    aspects = {one.group: one.value for one in vlm_rlaif if one.group != "overall"}
    assert list(aspects.values()) == [3.63, 3.25, 4.00, 3.23, 3.32]
    # The mean that others print is the mean of the five.
    (mean,) = [one.value for one in vlm_rlaif if one.group == "overall"]
    assert mean == round(sum(aspects.values()) / 5, 2)


def test_what_was_scored_by_another_script_is_not_called_official() -> None:
    judged = [one for one in SHIPPED if one.judge and (one.model, one.kind) == ("VLM-RLAIF 7B", "published")]
    assert {one.benchmark for one in judged} == {"video_chatgpt", "msvd_qa", "msrvtt_qa", "activitynet_qa"}
    assert {one.scorer for one in judged} == {"vlm_rlaif"}
    # Where a source does not say whose script it took, neither do we.
    unsaid = [one for one in SHIPPED if one.judge and ("PPLLaVA" in one.source or "2510.02561" in one.source)]
    assert {one.scorer for one in unsaid if one not in judged} == {"not said"}


def test_who_trained_again_is_told_from_who_published() -> None:
    said = {(one.kind, one.value) for one in SHIPPED if (one.benchmark, one.model) == ("msvd_qa", "VLM-RLAIF 7B")}
    assert said == {("published", 0.764), ("re-run", 0.685)}


ONE = Published(
    "msvd_qa", "accuracy", "M", 0.5, "published", "https://a.example", judge="gpt-3.5-turbo", snapshot="0613"
)


@pytest.mark.parametrize(
    "change",
    [
        {"judge": "gpt-4o"}, {"snapshot": "1106"}, {"snapshot": ""}, {"judge": "", "snapshot": ""}, {"metric": "score"},
        {"group": "type: 3"}, {"benchmark": "tgif_qa"}, {"scorer": "llava_hound"},
    ],
)  # fmt: skip
def test_other_judges_items_and_scorers_are_not_comparable(change: dict[str, str]) -> None:
    assert not comparable(ONE, replace(ONE, **change))  # type: ignore[arg-type]


def test_a_judge_without_a_snapshot_is_comparable_inside_one_source_alone() -> None:
    unsaid = replace(ONE, snapshot="")
    assert comparable(unsaid, replace(unsaid, model="N", value=0.7, kind="re-run"))
    assert not comparable(unsaid, replace(unsaid, source="https://b.example"))
    assert comparable(ONE, replace(ONE, source="https://b.example"))
    unjudged = replace(ONE, judge="", snapshot="")
    assert comparable(unjudged, replace(unjudged, source="https://b.example"))


@given(st.data())
def test_comparable_is_an_equivalence(data: st.DataObject) -> None:
    shipped = st.sampled_from(SHIPPED)
    one, other, third = data.draw(shipped), data.draw(shipped), data.draw(shipped)
    assert comparable(one, one)
    assert comparable(one, other) == comparable(other, one)
    assert not (comparable(one, other) and comparable(other, third)) or comparable(one, third)


def test_groups_stand_behind_a_bar(tmp_path: Path) -> None:
    found = read_published(write(tmp_path, SECTION))
    assert [(one.metric, one.group, one.value) for one in found] == [
        ("accuracy", "overall", 0.5), ("accuracy", "type: x", 0.25),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"source": ""}, "source"), ({"source": "http://a"}, "https"), ({"benchmark": ""}, "benchmark"),
        ({"kind": "heard"}, "kind"), ({"judge": ""}, "snapshot"), ({"by": "me"}, "by"), ({"values": {}}, "values"),
        ({"values": {"M": {"accuracy": "high"}}}, "no number"), ({"values": {"M": {"accuracy": True}}}, "no number"),
        ({"values": {"M": {"accuracy": float("nan")}}}, "no number"), ({"values": {"M": 3}}, "metric"),
        ({"secondary": "yes"}, "secondary"), ({"values": 3}, "values"),
    ],
)  # fmt: skip
def test_a_number_without_its_source_is_refused(tmp_path: Path, change: dict[str, object], word: str) -> None:
    with pytest.raises(FormatError, match=word):
        read_published(write(tmp_path, SECTION, {**SECTION, **change}))


def test_a_number_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="twice"):
        read_published(write(tmp_path, SECTION, SECTION))


def test_a_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    for text in ("a: [", "3", ""):
        path.write_text(text)
        with pytest.raises(FormatError, match=r"p\.yaml"):
            read_published(path)
    with pytest.raises(FormatError, match="absent"):
        read_published(tmp_path / "absent.yaml")
