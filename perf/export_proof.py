"""What perf/export_proof.sh proves with: labels out of a real lake, exported in every format, and what they should say.

    python -m perf.export_proof FOLDER

Renders videos, keeps their frames, imports labels (plain ones, ties' worth of odd texts, other scripts) and writes
FOLDER/<format>/ and FOLDER/expected.json: [{"id", "question", "chosen", "rejected", "frames": [sha256 of each]}].
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import get_args

import numpy as np

from miniature.dataset import encode
from miniature.world import render, sample_scene
from storage.formats import trl
from storage.formats.official import OfficialRow, Turn, write_official
from storage.lake import Lake
from tasks.export import export
from tasks.export_config import ExportConfig, FormatName
from tasks.fanout import WorkerPool
from tasks.frames import FramesConfig, FrameSet, frames
from tasks.import_labels import ImportConfig, import_labels
from tasks.progress import SilentProgress
from tasks.stage import RunContext
from tasks.videos import VideosConfig, videos

FRAMES = 4
ANSWERS = [
    ("a red circle grows.", "a blue square moves up."),
    ("蝶々が飛ぶ。\nThen it lands.", "Ça ne bouge pas: « rien »."),
    ('"quoted", \\back\\slash and a tab\t.', "trailing space "),
    ("line\u2028separator and \u0085 next line", "emoji 🦋 and a long one " + "la " * 200),
]


def write_sources(folder: Path) -> None:
    """Three videos in nested folders, and a file of labels for them."""
    rng = np.random.default_rng(0)
    rows = []
    for number, name in enumerate(("clips/one.mp4", "clips/deep er/zwei ü.mp4", "three.mp4")):
        (folder / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        encode(render(sample_scene(rng)), folder / "videos" / name)
        for place, answers in enumerate(ANSWERS):
            question = Turn(f"<image>\nWhat happens in video {number}, {place}?", "human")
            outputs = [Turn(answer) for answer in answers]
            row = OfficialRow(f"{number}-{place}", (question,), video=name, output_1=outputs[0], output_2=outputs[1])
            rows.append(OfficialRow(**{**vars(row), "preference": 1 + (number + place) % 2}))
    write_official(folder / "RM.json", rows)


def label(folder: Path) -> Lake:
    """A lake with the frames and the labels."""
    lake = Lake(folder / "lake")
    source = VideosConfig(folder=str(folder / "videos"))
    sampled = FramesConfig(sets=(FrameSet(name="policy", n=FRAMES),), image_format="png")
    with WorkerPool(1) as pool:
        ctx = RunContext(lake.root, "proof", pool, SilentProgress(), max_quarantined=0, seed=0)
        kept = frames(ctx, sampled, videos(ctx, source), source)
        config = ImportConfig(file=str(folder / "RM.json"), format="vlm-rlaif", arm="proof")
        import_labels(ctx, config, kept.ref)
    return lake


def main() -> None:
    """Write everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    write_sources(folder)
    lake = label(folder)
    for name in get_args(FormatName):
        export(lake, ExportConfig(name, folder / name))
    expected = [
        {
            "id": pair.id,
            "question": pair.question,
            "chosen": pair.chosen,
            "rejected": pair.rejected,
            "frames": [hashlib.sha256(data).hexdigest() for data in pair.pictures],
        }
        for pair in trl.read(folder / "trl")
    ]
    (folder / "expected.json").write_text(json.dumps(expected))
    print(f"{len(expected)} pairs, {FRAMES} frames each, in {folder}")


if __name__ == "__main__":
    main()
