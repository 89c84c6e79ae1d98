"""The official files of VLM-RLAIF come back as they were."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import FormatError
from storage.formats.official import SPEAKERS, OfficialRow, Turn, read_official, write_official

HUMAN = {"from": "human", "value": "<image>\nWhat moves?"}
RM = {"output_1": {"value": "Golf"}, "output_2": {"from": "llm", "value": "Tennis"}, "preference": 2}

text = st.text(min_size=1, max_size=12).filter(str.strip)
turns = st.builds(Turn, st.text(max_size=12), st.sampled_from(sorted(SPEAKERS)), st.sampled_from(["from", "role"]))
outputs = st.builds(Turn, st.text(max_size=12)) | turns
media = st.one_of(
    st.fixed_dictionaries({"images": st.lists(text, min_size=1, max_size=3).map(tuple)}),
    st.fixed_dictionaries({"image": text}),
    st.fixed_dictionaries({"video": text}),
)
rows = st.builds(
    lambda given, shown: OfficialRow(**given, **shown),
    st.fixed_dictionaries(
        {"id": text | st.integers(), "conversations": st.lists(turns, max_size=4).map(tuple)},
        optional={
            "src_data": text,
            "uid": st.integers(0, 10**9),
            "kind": text,
            "output_1": outputs,
            "output_2": outputs,
            "preference": st.sampled_from([1, 2]),
        },
    ),
    media,
)


def row(**changes: Any) -> dict[str, Any]:
    raw = {"id": "a", "images": ["v/1.jpg"], "conversations": [HUMAN], **changes}
    return {key: value for key, value in raw.items() if value is not None}


def written(folder: Path, content: list[Any], name: str = "rows.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_any_rows_come_back_equal(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("round") / name

    @given(st.lists(rows, min_size=1, max_size=4))
    def round_trip(given_rows: list[OfficialRow]) -> None:
        write_official(path, given_rows)
        assert read_official(path) == given_rows

    round_trip()
    assert [file.name for file in path.parent.iterdir()] == [name]


@pytest.mark.parametrize("shape", ["RL", "RM"])
def test_real_files_are_written_as_they_were(shape: str, test_data: Path, tmp_path: Path) -> None:
    path = test_data / "annotations" / "shapes" / f"vlmrlaif_style_{shape}.json"
    read = read_official(path)
    write_official(tmp_path / "again.json", read)
    assert len(read) == 159
    assert json.loads((tmp_path / "again.json").read_text()) == json.loads(path.read_text())


def test_every_key_of_every_file_is_kept(tmp_path: Path) -> None:
    several = [HUMAN, {"from": "gpt", "value": "A ball."}, {"role": "user", "value": "Why?"}]
    raws = [
        row(src_data="anet", conversations=several),
        row(uid=7, conversations=[{"role": "user", "value": "Who?"}, {"role": "assistant", "value": ""}]),
        row(id=12, images=None, image="v/1.jpg", **RM),
        row(images=None, video="clips/a.mp4", kind="colour"),
    ]
    path = written(tmp_path, raws)
    write_official(tmp_path / "again.json", read_official(path))
    assert json.loads((tmp_path / "again.json").read_text()) == raws


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (row(uid="7"), r"row 1 \(id 'a'\): uid must be a whole number"),
        (row(uid=True), "uid must be a whole number"),
        (row(preference=3), "preference must be 1 or 2"),
        (row(preference="1"), "preference must be 1 or 2"),
        (row(output_1="Golf"), "output_1: is a str, not a JSON object"),
        (row(output_1={"from": "llm"}), "output_1: a turn has no value"),
        (row(output_1={"from": "judge", "value": "x"}), "output_1: unknown speaker"),
        (row(conversations=[HUMAN, {"from": "gpt", "role": "gpt", "value": "x"}]), "turn 2: .*name its speaker once"),
        (row(images="v/1.jpg"), "images must be a list of paths"),
        (row(images=["v/\ud800.jpg"]), "half of a surrogate pair"),
        (row(output_3={}), "unknown key output_3; known keys are id, .*output_1, output_2, preference"),
    ],
)
def test_faults_are_named(raw: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=message):
        read_official(written(tmp_path, [raw]))


def test_half_of_a_surrogate_pair_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="half of a surrogate pair"):
        write_official(tmp_path / "rows.json", [OfficialRow("a", (Turn("\ud800", "human"),), image="v/1.jpg")])
    assert list(tmp_path.iterdir()) == []
