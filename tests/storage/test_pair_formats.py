"""Preferences in the formats of other libraries: what is written comes back."""

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import FormatError
from storage.formats import hound, llamafactory, ms_swift, rm, trl, verl
from storage.formats.pairs import Pair, fault_of, folder_of

FORMATS = [hound, llamafactory, ms_swift, rm, trl, verl]
FRAMES = ("frames/a/b c.mp4/001.jpg", "frames/a/b c.mp4/002.jpg")
PAIR = Pair("rl/1#0-1", "What moves?", "A ball.", "A cat.", FRAMES, True, (b"one", b"two"))

said = st.text(min_size=1, max_size=20).filter(lambda text: fault_of(text) is None)
name = st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda text: bool(text.strip()) and text not in (".", "..")
)
paths = st.lists(name, min_size=2, max_size=4).map("/".join)
framed = st.tuples(paths, st.integers(1, 3)).map(
    lambda shown: tuple(f"{shown[0]}/{n:03d}.jpg" for n in range(shown[1]))
)


def pairs_with(media: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Pair]]:
    one = st.builds(Pair, said, said, said, said, media, st.booleans())
    return st.lists(one, min_size=1, max_size=5)


def held(pair: Pair, form: ModuleType) -> Pair:
    """What a format has room for."""
    order = pair.chosen_second if form is rm else False
    media = folder_of(pair) if form is hound else pair.media
    return replace(pair, chosen_second=order, media=media, pictures=pair.pictures if form is trl else ())


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("kind", ["frames", "files"])
def test_any_pairs_come_back(form: ModuleType, kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    if form is trl and kind == "files":
        pytest.skip("TRL's rows hold pictures")
    folder = tmp_path_factory.mktemp("round")

    @given(pairs_with(framed if kind == "frames" else paths))
    def round_trip(pairs: list[Pair]) -> None:
        if form is trl:
            pairs = [replace(pair, pictures=tuple(path.encode() for path in pair.media)) for pair in pairs]
        form.write(folder, pairs)
        assert list(form.read(folder)) == [held(pair, form) for pair in pairs]

    round_trip()
    assert not [file for file in folder.iterdir() if file.name.startswith(".")]


def test_llamafactorys_rows_have_the_shape_of_its_own_files(test_data: Path, tmp_path: Path) -> None:
    for path in sorted((test_data / "annotations" / "llamafactory").glob("*.json")):
        rows = llamafactory.read_rows(path)
        llamafactory.write_rows(tmp_path / "again.json", rows)
        raws = json.loads(path.read_text())
        assert len(rows) == len(raws) > 0
        assert json.loads((tmp_path / "again.json").read_text()) == raws
    llamafactory.write(tmp_path, [PAIR])
    (ours,) = json.loads((tmp_path / llamafactory.FILE).read_text())
    theirs = json.loads((test_data / "annotations" / "llamafactory" / "mllm_video_demo.json").read_text())[0]
    assert set(theirs) <= set(ours)
    assert set(theirs["messages"][0]) == set(ours["messages"][0]) == set(ours["chosen"])
    assert theirs["messages"][0]["content"].startswith("<video>")
    assert ours["messages"][0]["content"] == "<video>What moves?"


def test_llamafactorys_dataset_info_names_what_is_there(tmp_path: Path) -> None:
    llamafactory.write(tmp_path, [PAIR])
    (info,) = json.loads((tmp_path / "dataset_info.json").read_text()).values()
    (row,) = json.loads((tmp_path / info["file_name"]).read_text())
    assert info["ranking"] is True
    assert set(info["columns"].values()) <= set(row)
    assert row["chosen"] == {info["tags"]["role_tag"]: "assistant", info["tags"]["content_tag"]: "A ball."}


def test_hounds_real_rows_are_written_as_they_were(test_data: Path, tmp_path: Path) -> None:
    path = test_data / "annotations" / "shapes" / "hound_style_dpo.jsonl"
    rows = hound.read_hound(path)
    assert len(rows) == 159
    hound.write_hound(tmp_path / "again.jsonl", rows)
    assert (tmp_path / "again.jsonl").read_text() == path.read_text()


def test_the_order_of_the_answers_is_kept_where_there_is_one(tmp_path: Path) -> None:
    rm.write(tmp_path, [PAIR, replace(PAIR, id="2", chosen_second=False)])
    raws = json.loads((tmp_path / rm.FILE).read_text())
    assert [(raw["output_1"]["value"], raw["preference"]) for raw in raws] == [("A cat.", 2), ("A ball.", 1)]
    assert raws[0]["conversations"][0] == {"from": "human", "value": "<image>\nWhat moves?"}
    assert raws[0]["images"] == list(FRAMES)


def test_trl_rows_hold_their_pictures(tmp_path: Path) -> None:
    trl.write(tmp_path, [PAIR])
    table = pq.read_table(tmp_path / trl.FILE)
    assert json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["images"]["feature"] == {
        "_type": "Image"
    }
    (row,) = table.to_pylist()
    assert [image["bytes"] for image in row["images"]] == [b"one", b"two"]
    assert row["prompt"] == [{"role": "user", "content": "What moves?"}]
    with pytest.raises(FormatError, match="has them not"):
        trl.write(tmp_path, [replace(PAIR, pictures=())])


def test_verl_rows_name_their_frames(tmp_path: Path) -> None:
    verl.write(tmp_path, [PAIR])
    (row,) = pq.read_table(tmp_path / verl.FILE).to_pylist()
    assert row["videos"] == [{"video": list(FRAMES)}]
    assert row["reward_model"]["ground_truth"] == "A ball."


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.__name__)
def test_a_file_that_is_another_is_refused(form: ModuleType, tmp_path: Path) -> None:
    (tmp_path / form.FILE).write_text('[{"id": "x", "other": 1}]')
    with pytest.raises(FormatError, match=form.FILE):
        list(form.read(tmp_path))


@pytest.mark.parametrize(
    ("texts", "fault"),
    [
        (("What?", "A ball.", "A cat."), None),
        (("Is <video> said?", "Yes."), "its question holds <video>"),
        (("What?", "An <image>."), "its answer holds <image>"),
        (("What?", " \n"), "its answer is blank"),
    ],
)
def test_what_no_format_can_hold_is_said(texts: tuple[str, ...], fault: str | None) -> None:
    found = fault_of(*texts)
    assert found == fault if fault is None else found is not None and fault in found
