"""Published numbers: every one has a source, and other judges' are never compared."""

from pathlib import Path

import pytest
import yaml

from benchmarks.published import NOT_SAID, read_published
from benchmarks.registry import KNOWN
from storage.errors import FormatError

SHIPPED = read_published()

SECTION = {
    "benchmark": "msvd_qa", "kind": "published", "source": "https://a.example/b", "judge": "gpt-3.5-turbo",
    "snapshot": "0613", "scorer": "official", "values": {"M": {"accuracy": 0.5, "accuracy | type: x": 0.25}},
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
    # Where a source does not say whose script it took, neither do we, with a judge or without.
    unsaid = [one for one in SHIPPED if "PPLLaVA" in one.source or "2510.02561" in one.paper]
    assert {one.benchmark for one in unsaid} >= {"videomme", "mvbench"}
    assert {one.scorer for one in unsaid if one not in judged} == {NOT_SAID}


def test_what_a_paper_says_and_who_was_read_are_told_apart() -> None:
    papers = {"https://aclanthology.org/2024.acl-long.52/", "https://arxiv.org/abs/2510.02561"}
    assert {one.paper for one in SHIPPED if one.paper} == papers
    assert not any(one.source in papers for one in SHIPPED)
    assert all(one.secondary for one in SHIPPED if one.paper)


def test_losses_are_told_beside_gains() -> None:
    (note,) = {one.note for one in SHIPPED if (one.benchmark, one.model) == ("videomme", "Oracle-RLAIF 7B")}
    for lost in ("spatial perception -2.6", "spatial reasoning -3.8", "information synopsis -0.9"):
        assert lost in note


def test_unknown_conditions_are_not_said() -> None:
    videomme = [one for one in SHIPPED if one.benchmark == "videomme"]
    assert {one.subtitles for one in videomme} == {NOT_SAID}
    frames = {one.model: one.frames for one in videomme}
    assert (frames["GPT-4o"], frames["Gemini 2.5 Pro"], frames["Oracle-RLAIF 7B"]) == ("384", NOT_SAID, NOT_SAID)
    splits = {one.model: one.split for one in SHIPPED if one.benchmark == "nextqa"}
    assert splits == {"HGA": "validation", "Human": NOT_SAID}


def test_who_trained_again_is_told_from_who_published() -> None:
    said = {(one.kind, one.value) for one in SHIPPED if (one.benchmark, one.model) == ("msvd_qa", "VLM-RLAIF 7B")}
    assert said == {("published", 0.764), ("re-run", 0.685)}


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
        ({"secondary": "yes"}, "secondary"), ({"values": 3}, "values"), ({"scorer": ""}, "scorer"),
        ({"subtitles": "some"}, "subtitles"), ({"paper": "https://p.example"}, "secondary source"),
        ({"paper": "a paper", "secondary": True}, "https"), ({"source": "a digest", "secondary": True}, "https"),
    ],
)  # fmt: skip
def test_a_number_without_its_source_is_refused(tmp_path: Path, change: dict[str, object], word: str) -> None:
    with pytest.raises(FormatError, match=word):
        read_published(write(tmp_path, SECTION, {**SECTION, **change}))


def test_what_repeats_a_paper_may_have_no_address_of_its_own(tmp_path: Path) -> None:
    told = {**SECTION, "source": "a digest", "secondary": True, "paper": "https://p.example"}
    assert {(one.source, one.paper) for one in read_published(write(tmp_path, told))} == {
        ("a digest", "https://p.example")
    }


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
