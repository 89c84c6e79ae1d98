import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import FormatError
from storage.formats.vlm_rlaif import Instruction, read_instructions, write_instructions

HUMAN = {"from": "human", "value": "<image>\nWhat moves?"}
GPT = {"from": "gpt", "value": "A ball."}


def row(**changes: Any) -> dict[str, Any]:
    """A good row with changes; a change to None takes the key away."""
    raw = {"id": "a", "video": "v/a.mp4", "conversations": [HUMAN, GPT], **changes}
    return {key: value for key, value in raw.items() if value is not None}


def written(folder: Path, content: Any, name: str = "rows.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


text = st.text(min_size=1, max_size=20).filter(
    lambda value: value == value.strip() and "<image>" not in value and "<video>" not in value
)
instructions = st.lists(
    st.builds(
        Instruction,
        id=text,
        video=text,
        question=text,
        answer=st.none() | text,
        kind=st.none() | text,
        source=st.none() | text,
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda row: row.id,
)


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_what_is_written_is_read_back(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("round") / name

    @settings(deadline=None)
    @given(instructions)
    def round_trip(rows: list[Instruction]) -> None:
        write_instructions(path, rows)
        assert read_instructions(path) == (rows, [])

    round_trip()
    assert [file.name for file in path.parent.iterdir()] == [name]


@settings(deadline=None)
@given(st.builds(Instruction, id=st.text(), video=st.text(), question=st.text(), answer=st.text()))
def test_any_row_comes_back_or_is_refused(tmp_path_factory: pytest.TempPathFactory, instruction: Instruction) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    try:
        write_instructions(path, [instruction])
    except FormatError:
        return
    assert read_instructions(path) == ([instruction], [])


def test_official_rows_are_read(tmp_path: Path) -> None:
    rows = [
        row(id="b", video=None, images=["dir/x/f_01.jpg", "dir/x/f_02.jpg"], uid=0, src_data="llava"),
        row(id=7, video=None, image="y/f_01.jpg", conversations=[{"from": "human", "value": "Who?\n<image>"}]),
        row(kind="colour", conversations=[HUMAN, {"from": "gpt", "value": ""}]),
    ]
    read, notices = read_instructions(written(tmp_path, rows))
    assert read == [
        Instruction("b", "dir/x", "What moves?", "A ball.", None, "llava"),
        Instruction("7", "y", "Who?"),
        Instruction("a", "v/a.mp4", "What moves?", None, "colour"),
    ]
    assert notices == [
        f"{tmp_path / 'rows.json'}: 2 rows name frame images: the folder of the frames is taken as the video."
    ]


def test_role_is_read_as_from_and_said_once(tmp_path: Path) -> None:
    turns = [{"role": "user", "value": "What?"}, {"role": "assistant", "value": "That."}]
    rows = [row(id=str(n), conversations=turns) for n in range(3)] + [row(id="old")]
    read, notices = read_instructions(written(tmp_path, rows))
    assert [(r.question, r.answer) for r in read[:3]] == [("What?", "That.")] * 3
    assert len(notices) == 1
    assert "3 rows name a turn's speaker 'role' instead of 'from'" in notices[0]


def test_of_several_turns_the_first_two_are_taken_and_it_is_said(tmp_path: Path) -> None:
    longer = [HUMAN, GPT, {"from": "human", "value": "Why?"}, {"from": "gpt", "value": "The wind."}]
    read, notices = read_instructions(written(tmp_path, [row(conversations=longer), row(id="b")]))
    assert [(r.question, r.answer) for r in read] == [("What moves?", "A ball.")] * 2
    assert len(notices) == 1
    assert "1 rows go on after the first answer" in notices[0]


def test_json_lines_with_blank_lines_a_mark_and_strange_separators(tmp_path: Path) -> None:
    lines = ["\ufeff" + json.dumps(row()), "", json.dumps(row(id="b", kind="a\u2028b\u0085c"), ensure_ascii=False)]
    read, _ = read_instructions(written(tmp_path, "\r\n".join(lines) + "\n"))
    assert [r.id for r in read] == ["a", "b"]
    assert read[1].kind == "a\u2028b\u0085c"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("[]", "is empty"),
        ("[{", "not JSON"),
        ('{"id": "a",\n "video": "v"}', r"row 1: not JSON.*one JSON row a line"),
        (["text"], "row 1: is a str, not a JSON object"),
        ([row(), row(id="b", anwser="x")], r"row 2 \(id 'b'\): unknown key anwser; known keys are id, src_data"),
        ([row(video=None)], r"row 1 \(id 'a'\): names no video"),
        ([row(images=["x/a.jpg"])], "names both video and images"),
        ([row(video=None, images=["x/a.jpg", "y/b.jpg"])], r"one folder.*\['x', 'y'\]"),
        ([row(video=None, images=["a.jpg"])], "one folder"),
        ([row(video=None, images=[1])], "paths of frame images"),
        ([row(video=3)], "video must be a text"),
        ([row(id=None)], "row 1: has no id"),
        ([row(id=" ")], "id must be a text"),
        ([row(), row()], r"row 2 \(id 'a'\): row 1 has this id too"),
        ([row(conversations=None)], "conversations must be a list"),
        ([row(conversations=[])], "has no human turn"),
        ([row(conversations=[GPT])], "has no human turn"),
        ([row(conversations=[GPT, HUMAN])], "a human turn comes first, then a gpt turn"),
        ([row(conversations=[HUMAN, GPT, GPT])], "a human turn comes first, then a gpt turn"),
        ([row(conversations=[{"from": "human", "value": "<image>\n "}])], "asks nothing"),
        ([row(conversations=[{"from": "robot", "value": "x"}])], "unknown speaker"),
        ([row(conversations=[{"value": "x"}])], "must name its speaker once"),
        ([row(conversations=[{**HUMAN, "content": "x"}])], "turn 1: unknown key content"),
        ([row(kind="\ud800")], "half of a surrogate pair"),
    ],
)
def test_faults_are_named_with_their_row(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=message) as fault:
        read_instructions(written(tmp_path, content))
    assert "rows.json" in str(fault.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.json").write_bytes(b"[\xe9]")
    for path in (tmp_path / "absent.json", tmp_path, tmp_path / "latin.json"):
        with pytest.raises(FormatError, match="cannot be read"):
            read_instructions(path)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [Instruction("a", "v", "q"), Instruction("a", "w", "q")],
        [Instruction("a", "v", " q")],
        [Instruction("a", "v", "where is <video> said?")],
        [Instruction("a", "v", "q", answer="")],
    ],
)
def test_rows_that_would_not_come_back_are_not_written(rows: list[Instruction], tmp_path: Path) -> None:
    with pytest.raises(FormatError):
        write_instructions(tmp_path / "rows.json", rows)
    assert list(tmp_path.iterdir()) == []


def test_a_real_file_of_reinforcement_learning_rows(test_data: Path, tmp_path: Path) -> None:
    path = test_data / "annotations" / "shapes" / "vlmrlaif_style_RL.json"
    # Two clips of one name lie behind these frames, so four ids stand for two questions each.
    with pytest.raises(FormatError, match=r"row 61 \(id 'mmaction2_test_0'\): row 57 has this id too"):
        read_instructions(path)
    raw = {row["id"]: row for row in json.loads(path.read_text())}
    rows, notices = read_instructions(written(tmp_path, list(raw.values())))
    assert [row.id for row in rows] == list(raw)
    assert rows[0] == Instruction(
        "askanything_hitting_baseball_0",
        "askanything_hitting_baseball",
        "What sport is the person practising?",
        "Baseball batting",
    )
    assert len(rows) == 155
    assert len(notices) == 1
    write_instructions(tmp_path / "again.json", rows)
    assert read_instructions(tmp_path / "again.json") == (rows, [])


def test_real_rows_for_a_reward_model_are_refused(test_data: Path) -> None:
    with pytest.raises(FormatError, match=r"unknown key output_1, output_2, preference; .*reward model"):
        read_instructions(test_data / "annotations" / "shapes" / "vlmrlaif_style_RM.json")
