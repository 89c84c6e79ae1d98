"""How long scoring by rules takes: a file of predictions read, graded and summed up.

    python -m perf.score_predictions [--n 100000] [--benchmark videomme,mvbench,nextqa] [--most 10]

Items, options and replies are made up, replies in the forms that models use (a letter, a letter with its text, a
sentence, an explanation, none). One process, so its seconds of processor are what it takes where nothing else runs;
those are printed for each step. Ends with 1 where a benchmark takes longer by any of its protocols than the most
(promised: 10 s for 100,000 predictions).
"""

import argparse
import csv
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.grades import Call, Graded
from benchmarks.items import Item, Prediction
from benchmarks.registry import benchmark
from benchmarks.videomme import DOMAINS, DURATIONS, SUB_CATEGORIES, TASK_TYPES

LETTERS = "ABCDE"
WORDS = ["the", "man", "woman", "dog", "picks", "up", "opens", "walks", "to", "red", "blue", "door", "table", "then"]


def text(draw: random.Random, n: int) -> str:
    """A text of n words."""
    return " ".join(draw.choices(WORDS, k=n))


def videomme(folder: Path, n: int, draw: random.Random) -> Path:
    """An annotation file of n questions, three a video."""
    videos = [
        {
            "video_id": f"{video:05d}",
            "duration": draw.choice(DURATIONS),
            "domain": draw.choice(DOMAINS),
            "sub_category": draw.choice(SUB_CATEGORIES),
            "questions": [
                {
                    "question_id": f"{video:05d}-{number}",
                    "task_type": draw.choice(TASK_TYPES),
                    "question": text(draw, 12),
                    "options": [f"{letter}. {text(draw, 5)} {letter}." for letter in "ABCD"],
                    "answer": draw.choice("ABCD"),
                }
                for number in range(3)
            ],
        }
        for video in range((n + 2) // 3)
    ]
    path = folder / "videomme.json"
    path.write_text(json.dumps(videos))
    return path


def mvbench(folder: Path, n: int, draw: random.Random) -> Path:
    """An annotation file of n questions of one task."""
    rows = []
    for number in range(n):
        candidates = [f"{text(draw, 4)} {letter}" for letter in "ABCD"]
        row = {"video": f"{number // 4}.mp4", "question": text(draw, 12), "candidates": candidates}
        rows.append({**row, "answer": draw.choice(candidates)})
    path = folder / "action_sequence.json"
    path.write_text(json.dumps(rows))
    return path


def nextqa(folder: Path, n: int, draw: random.Random) -> Path:
    """An annotation file of n questions, eight a video."""
    path = folder / "nextqa.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "question", "answer", "qid", "type", "a0", "a1", "a2", "a3", "a4"])
        for number in range(n):
            options = [f"{text(draw, 3)} {letter}" for letter in LETTERS]
            kind = draw.choice(["CW", "CH", "TN", "TC", "TP", "DC", "DL", "DO"])
            writer.writerow([number // 8, text(draw, 10), draw.randrange(5), number % 8, kind, *options])
    return path


MAKERS: dict[str, Callable[[Path, int, random.Random], Path]] = {
    "videomme": videomme,
    "mvbench": mvbench,
    "nextqa": nextqa,
}


def reply(item: Item, draw: random.Random) -> str:
    """What a model may say."""
    place = draw.randrange(len(item.options))
    letter, option = LETTERS[place], item.options[place]
    return draw.choice(
        [
            letter,
            f"({letter})",
            f"{letter}. {option}",
            f"The best answer is {letter}.",
            f"Answer: {letter}",
            option,
            f"({letter}) because {text(draw, 20)}",
            f"{text(draw, 60)}. So the correct answer is **{letter}**, not A.",
            text(draw, 15),
            "",
        ]
    )


def measure(name: str, n: int, folder: Path) -> float:
    """Prints the seconds of each step; returns those of the slowest protocol, with reading."""
    draw = random.Random(0)
    made = benchmark(name)
    begun = time.process_time()
    items = made.read({"": MAKERS[name](folder, n, draw)}).items
    print(f"{name}: {len(items):,} items made and read in {time.process_time() - begun:.2f} s")
    files = made.write(folder / "predictions", items, {item.id: Prediction((reply(item, draw),)) for item in items})
    begun = time.process_time()
    predictions = made.read_predictions(files, items).by_id
    reading = time.process_time() - begun
    slowest = 0.0
    for protocol in made.protocols:
        begun = time.process_time()
        grades = [(item, made.grade(item, "", predictions.get(item.id), protocol)) for item in items]
        graded = [
            Graded(item, "", predictions.get(item.id), grade) for item, grade in grades if not isinstance(grade, Call)
        ]
        grading = time.process_time() - begun
        values = [metric.value for metric in made.metrics(graded, protocol)]
        summing = time.process_time() - begun - grading
        total = reading + grading + summing
        slowest = max(slowest, total)
        print(
            f"  {protocol:10} read {reading:5.2f} s  grade {grading:5.2f} s  {len(values):3} metrics {summing:5.2f} s"
            f"  total {total:5.2f} s"
        )
    return slowest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100_000)
    parser.add_argument("--benchmark", default=",".join(MAKERS))
    parser.add_argument("--most", type=float, default=10.0, help="seconds")
    given = parser.parse_args()
    slowest = []
    for name in given.benchmark.split(","):
        with tempfile.TemporaryDirectory() as folder:
            slowest.append(measure(name, given.n, Path(folder)))
    return int(max(slowest) > given.most)


if __name__ == "__main__":
    sys.exit(main())
