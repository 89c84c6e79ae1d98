"""Text-to-video retrieval by answer likelihood: R@1 and R@5.

The protocol is ours. VLM-RLAIF reports zero-shot retrieval on MSVD and MSRVTT (arXiv 2402.03746) but released neither
a script nor a description of it, so there is no official protocol to reproduce.

Every video is shown with one question, and the log-probability of every caption as its answer is taken. A caption then
ranks the videos by **its own** log-probability under each of them. One caption is compared with itself alone, so
neither its length nor how common its words are matters; what does is how much likelier a video makes it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks.benchmark import ByRules, check_protocol
from benchmarks.choice_scores import read_scores, usable, write_scores
from benchmarks.files import json_of_file, kind_of_file, one_file
from benchmarks.grades import Call, Grade, Graded
from benchmarks.items import Annotations, Item, Prediction, Predictions, Request, Shown
from benchmarks.metrics import Floats, Metric, mean
from benchmarks.rows import Row, RowError, Rows, cell, rows_of_file, wanted
from storage.errors import FormatError

MOST = 10_000_000  # log-probabilities: 3,000 videos and 3,000 captions are days of work for a 7B model
SAID_BELOW = 1_000  # videos: MSRVTT's usual gallery has so many

_VIDEO = ("video", "video_id", "video_name", "videoID")
_CAPTION = ("caption", "sentence", "captions", "sentences", "text")


@dataclass(frozen=True)
class Retrieval(ByRules):
    """Text-to-video retrieval. An item is a video; its options are all captions of its pool.

    A caption that several videos have is one query, and the best placed of them counts. The rank is the worst that
    the log-probabilities allow: videos that tie with the right one stand before it, and so does a video without
    scores, so that a failed video never makes another easier to find. A query whose own video has no scores is a miss.

    Attributes:
        pool: videos among which a caption is searched; 0: all. All against all costs videos x captions
            log-probabilities; with a pool, videos are dealt by a hash of their names into pools of this many (a few
            more where it does not divide).
        captions: queries of a video, the first ones in the file; 0: all.
        split: of files that name the split of their videos (MSRVTT_data.json); "": all. Other files are taken whole.
        prompt: what the model is asked about a video.
        at: the k of R@k.
    """

    pool: int = 0
    captions: int = 0
    split: str = "test"
    prompt: str = "Describe the video in one sentence."
    at: tuple[int, ...] = (1, 5)

    name: ClassVar[str] = "retrieval"
    source: ClassVar[str] = "https://arxiv.org/abs/2402.03746"
    protocols: ClassVar[tuple[str, ...]] = ("strict",)
    files: ClassVar[Mapping[str, str]] = {
        "": "videos and their captions: CSV, JSON or JSON lines of video and caption, or MSRVTT's own JSON"
    }
    max_new_tokens: ClassVar[int] = 0
    temperature: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", tuple(self.at))
        if self.pool == 1 or self.pool < 0 or self.captions < 0 or not self.at or min(self.at) < 1:
            raise ValueError("retrieval: pool is 0 or at least 2, captions at least 0, every k of at least 1.")

    @property
    def texts(self) -> Mapping[str, str]:
        return {"prompt": self.prompt}

    def read(self, files: Mapping[str, Path]) -> Annotations:
        """The videos of a file with their captions. A video without one, or a row that is none, is a fault.

        Raises:
            FormatError: the file cannot be read, has fewer than two videos with captions, or so many that `MOST`
                log-probabilities would not do.
        """
        path = one_file(self.name, files)
        rows, gallery = Rows(), _Gallery()
        for where, row in _caption_rows(path, self.split, rows):
            try:
                gallery.add(row)
            except RowError as error:
                rows.fault(error.kind, where, str(error))
        return Annotations(tuple(self._items(path, gallery)), tuple(rows.faults))

    def _items(self, path: Path, gallery: _Gallery) -> Iterable[Item]:
        kept = {
            video: tuple(captions)[: self.captions or None] for video, captions in gallery.captions.items() if captions
        }
        if len(kept) < 2:
            raise FormatError(f"{path}: has {len(kept)} videos with captions; retrieval needs two or more.")
        pools = _pools(list(kept), self.pool)
        work = sum(len(videos) * sum(len(kept[video]) for video in videos) for videos in pools)
        if work > MOST:
            raise FormatError(
                f"{path}: {len(kept)} videos and their captions need {work:,} log-probabilities; set `captions` "
                "(1 keeps the first of each video) or `pool` (100 searches among that many)."
            )
        for videos in pools:
            options = tuple(dict.fromkeys(caption for video in videos for caption in kept[video]))
            for video in videos:
                item = Item(id=video, video=video, questions=(self.prompt,), answer=kept[video][0], options=options)
                yield replace(item, source={"video": video, "captions": list(kept[video]), "gallery": len(videos)})

    def ask(self, item: Item, shown: Shown) -> tuple[Request, ...]:
        """One request a video: the log-probability of every caption of its pool."""
        del shown
        return (Request(text=self.prompt, choices=item.options),)

    def grade(self, item: Item, aspect: str, prediction: Prediction | None, protocol: str) -> Grade | Call:
        """Whether a video has its scores. No video is right or wrong by itself: captions rank videos."""
        del aspect
        check_protocol(self, protocol)
        if prediction is None:
            return Grade("missing")
        return Grade("ok" if usable(prediction.scores, len(item.options)) else "unparsed")

    def metrics(self, graded: Sequence[Graded], protocol: str) -> list[Metric]:
        """R@k, one value a query (a caption); intervals draw the queries of a video together. Where a caption was
        searched among fewer videos than `SAID_BELOW` or than the file has, the name says among how many: chance alone
        finds 5 in 5.
        """
        check_protocol(self, protocol)
        ranks: list[float] = []
        videos: list[str] = []
        pools = list(_by_options(graded))
        for pool in pools:
            for video, place in _ranks(pool):
                videos.append(video)
                ranks.append(place)
        smallest = min((len(pool) for pool in pools), default=0)
        limited = self.pool or any(len(pool) < pool[0].item.source["gallery"] for pool in pools)
        of = f" of {smallest}" if limited or smallest < SAID_BELOW else ""
        return [mean(f"R@{k}{of}", "overall", [float(place <= k) for place in ranks], videos) for k in self.at]

    def write(self, folder: Path, items: Sequence[Item], predictions: Mapping[str, Prediction]) -> list[Path]:
        """Writes `retrieval.jsonl`, our form: see `write_scores`."""
        return write_scores(folder / "retrieval.jsonl", items, predictions)

    def read_predictions(self, files: Sequence[Path], items: Sequence[Item]) -> Predictions:
        """Predictions from files that `write` wrote."""
        return read_scores(files, items)


@dataclass
class _Gallery:
    """Captions by video, without repetitions, in the order of the file."""

    captions: dict[str, dict[str, None]] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """Takes the captions of a row, all of them or none. Raises RowError where it has no video or no caption."""
        video = wanted(row, "no video", *_VIDEO)
        given = next((row[name] for name in _CAPTION if row.get(name)), None)
        captions = given if isinstance(given, list) else [cell(row, *_CAPTION)]
        if any(not isinstance(one, str) or not one.strip() for one in captions):
            raise RowError("no answer", f"video {video!r} has no caption here: fill it in.")
        texts = [one.strip() for one in captions]
        known = self.captions.setdefault(video, {})
        repeated = [text for text in texts if text in known]
        known.update(dict.fromkeys(texts))
        if repeated:
            raise RowError("duplicate", f"the caption {repeated[0][:60]!r} of video {video!r} was there before.")


def _caption_rows(path: Path, split: str, rows: Rows) -> Iterable[tuple[str, Row]]:
    if kind_of_file(path) not in {".csv", ".jsonl", ".parquet"}:
        try:
            value = json_of_file(path)
        except FormatError:
            value = None  # Lines of which one is broken, perhaps: `rows_of_file` reads the others, or says it again.
        if isinstance(value, dict) and isinstance(value.get("sentences"), list):
            return _msrvtt_rows(path, value, split, rows)
    return rows.objects(rows_of_file(path, "captions"))


def _msrvtt_rows(path: Path, value: Mapping[str, Any], split: str, rows: Rows) -> Iterable[tuple[str, Row]]:
    """The sentences of MSRVTT's own file {"videos": [{"video_id", "split"}], "sentences": [{"video_id", "caption"}]}
    that belong to videos of the split; a sentence of no listed video and a video without a sentence are faults.
    """
    videos = value["videos"] if isinstance(value.get("videos"), list) else []
    listed = {str(one.get("video_id")): str(one.get("split", "")) for one in videos if isinstance(one, dict)}
    splits = sorted(set(listed.values()) - {""})
    if split and splits and split not in splits:
        raise FormatError(f"{path}: has no split {split!r}; it has {', '.join(splits)}.")
    spoken_of: set[str] = set()
    for number, cells in enumerate(value["sentences"], start=1):
        where = f"{path.name} sentence {number}"
        if not rows.is_object(cells, where):
            continue
        video = str(cells.get("video_id"))
        spoken_of.add(video)
        if listed and video not in listed:
            rows.fault("no video", where, f"its video {video!r} is not in the file's list of videos.")
        elif not (split and splits) or listed[video] == split:
            yield where, cells
    for video, its_split in listed.items():
        if video not in spoken_of and (not (split and splits) or its_split == split):
            rows.fault("no answer", f"{path.name} video {video}", "has no sentence.")


def _pools(videos: Sequence[str], size: int) -> list[list[str]]:
    """Videos dealt into pools of `size` or a few more, by a hash of their names: the file's order does not matter."""
    if not size:
        return [list(videos)]
    shuffled = sorted(videos, key=lambda video: hashlib.sha256(video.encode()).digest())
    count = max(1, len(videos) // size)
    return [list(part) for part in np.array_split(np.array(shuffled, dtype=object), count)]


def _by_options(graded: Sequence[Graded]) -> Iterable[list[Graded]]:
    pools: dict[tuple[str, ...], list[Graded]] = {}
    for one in graded:
        pools.setdefault(one.item.options, []).append(one)
    return pools.values()


def _ranks(pool: Sequence[Graded]) -> Iterable[tuple[str, float]]:
    """The video and the rank of every query of a pool; a query is counted to the first video, by name, that has it."""
    options = pool[0].item.options
    scores = np.stack([_scores(one, len(options)) for one in pool])
    owners: dict[str, list[int]] = {}
    for place, one in enumerate(pool):
        for caption in one.item.source["captions"]:
            owners.setdefault(caption, []).append(place)
    # Captions whose videos are not among the items any more (a limit was set) are no queries.
    for column, caption in enumerate(options):
        if caption in owners:
            right = owners[caption]
            yield min(pool[place].item.video for place in right), _rank(scores[:, column], right)


def _scores(one: Graded, n: int) -> Floats:
    if one.prediction is None or not usable(one.prediction.scores, n):
        return np.full(n, np.nan)
    return np.array(one.prediction.scores, np.float64)


def _rank(column: Floats, right: Sequence[int]) -> float:
    """The rank of the best placed right video among those that are wrong; infinite where none has a score."""
    own = [column[place] for place in right if not math.isnan(column[place])]
    if not own:
        return math.inf
    wrong = np.delete(column, list(right))
    return 1.0 + float(np.sum(np.isnan(wrong) | (wrong >= max(own))))
