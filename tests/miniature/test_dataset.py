"""The world as users bring theirs: mp4 files that decode to what was rendered, and the rows that ask about them."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from pixels import seen

from benchmarks.custom import Custom
from miniature.dataset import encode, write
from miniature.lessons import SLOTS
from miniature.world import FPS, FRAMES_PER_EVENT, QUESTIONS, SIZE, Frames, render, sample_scene
from storage.formats.vlm_rlaif import Instruction, read_instructions

SIZES = {"sft": 12, "rl": 3, "benchmark": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "data"
    _write(folder)
    return folder


def _write(folder: Path, seed: int = 0, hallucination: dict[str, float] | None = None) -> None:
    write(
        folder, sft=SIZES["sft"], rl=SIZES["rl"], benchmark=SIZES["benchmark"], seed=seed, hallucination=hallucination
    )


def _decoded(path: Path) -> tuple[Frames, list[float]]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    times = [frame.time for frame in frames]
    assert None not in times
    return np.stack([frame.to_ndarray(format="rgb24") for frame in frames]), [float(time or 0) for time in times]


def _rows(folder: Path, split: str) -> list[Instruction]:
    rows, notices = read_instructions(folder / f"{split}.json")
    assert not notices
    return rows


@pytest.mark.parametrize("seed", range(4))
def test_a_video_decodes_to_the_frames_that_were_rendered(tmp_path: Path, seed: int) -> None:
    scene = sample_scene(np.random.default_rng(seed))
    frames = render(scene)
    encode(frames, tmp_path / "video.mp4")
    decoded, times = _decoded(tmp_path / "video.mp4")
    assert decoded.shape == frames.shape
    assert times == pytest.approx([number / FPS for number in range(len(frames))])
    assert np.abs(decoded.astype(float) - frames).mean() < 5  # of 255, edges of figures included
    assert (seen(decoded[:FRAMES_PER_EVENT]), seen(decoded[FRAMES_PER_EVENT:])) == scene.events


def test_videos_play_everywhere(folder: Path) -> None:
    with av.open(str(next((folder / "videos").iterdir()))) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height, stream.average_rate) == (SIZE, SIZE, FPS)


def test_two_writes_give_the_same_bytes_and_another_seed_gives_others(folder: Path, tmp_path: Path) -> None:
    for name, seed in (("again", 0), ("other", 1)):
        _write(tmp_path / name, seed)
    files = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    assert len(files) == sum(SIZES.values()) + len(SIZES) + 1, (
        "videos, instructions, and the benchmark in a user's form"
    )
    for file in files:
        assert (folder / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
        assert (folder / file).read_bytes() != (tmp_path / "other" / file).read_bytes()


@pytest.mark.parametrize("split", SIZES)
def test_every_video_has_every_question_once(folder: Path, split: str) -> None:
    rows = _rows(folder, split)
    assert len(rows) == SIZES[split] * len(QUESTIONS)
    assert len({row.id for row in rows}) == len(rows)
    for video in {row.video for row in rows}:
        assert (folder / "videos" / video).is_file()
        assert [row.question for row in rows if row.video == video] == [question.text for question in QUESTIONS]


def _truths(folder: Path, row: Instruction) -> float:
    """The share of a row's facts that its video shows, by an eye of its own."""
    frames, _ = _decoded(folder / "videos" / row.video)
    events = (seen(frames[:FRAMES_PER_EVENT]), seen(frames[FRAMES_PER_EVENT:]))
    shown = f"first {events[0]}. then {events[1]}."
    return SLOTS.score(shown, row.answer or "")


def _described(folder: Path, split: str) -> list[float]:
    return [_truths(folder, row) for row in _rows(folder, split) if row.kind == "describe"]


@pytest.mark.parametrize("split", ["rl", "benchmark"])
def test_answers_to_measure_against_are_what_the_video_shows(folder: Path, split: str) -> None:
    assert _described(folder, split) == [1.0] * SIZES[split]


def test_only_the_answers_of_sft_hallucinate_and_as_much_as_told(folder: Path, tmp_path: Path) -> None:
    assert np.mean(_described(folder, "sft")) < 0.9
    _write(tmp_path, hallucination={"videos": 0.0})
    assert _described(tmp_path, "sft") == [1.0] * SIZES["sft"]


def test_answers_of_one_video_tell_one_story(folder: Path) -> None:
    rows = _rows(folder, "sft")
    for video in {row.video for row in rows}:
        answers = {row.question: row.answer or "" for row in rows if row.video == video}
        told = SLOTS.parse(answers["describe the video."])
        for question in QUESTIONS:
            for (_, slot), value in SLOTS.parse(answers[question.text]).items():
                assert question.kind == "describe" or told[question.event, slot] == value


def test_an_unknown_kind_of_hallucination_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="size_noise"):
        _write(tmp_path, hallucination={"size_noise": 0.5})


def test_the_benchmark_is_there_in_a_users_form_too(folder: Path) -> None:
    rows = {row.id: row for row in _rows(folder, "benchmark")}
    found = Custom(scoring="contains").read({"": folder / "benchmark.jsonl"})
    assert not found.faults
    assert {item.id: (item.video, *item.questions, item.answer) for item in found.items} == {
        name: (row.video, row.question, row.answer) for name, row in rows.items()
    }
