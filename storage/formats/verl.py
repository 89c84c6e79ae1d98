"""verl (https://github.com/volcengine/verl): Parquet with `videos: [{"video": [frame paths]}]`, a row a pair.

verl samples its own answers to `prompt`; the judged ones stand in `extra_info`, for a reward function, and
`reward_model.ground_truth` is the preferred one, which its reward managers ask for.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.formats.pairs import Pair, asked, media_of, media_value, question_in
from storage.formats.parquet import read_parquet, write_parquet

FILE = "train.parquet"
LOAD = f"""\
Start verl in this folder (the paths of the frames are relative to it) with `data.train_files={FILE}`
`data.video_key=videos` and a reward function of your own: it is handed `ground_truth`, here the answer that the judge
prefers, and `extra_info` with both. A question stands once for each of its pairs.
"""
_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_ROWS_IN_MEMORY = 4096


def write(folder: Path, pairs: Iterable[Pair]) -> None:
    """Write preferences: all of them with a video's file, or all of them with frames. Raises FormatError for both."""
    waiting = iter(pairs)
    first = list(islice(waiting, 1))
    video = pa.string() if first and isinstance(first[0].media, str) else pa.list_(pa.string())
    rows = (_row(pair, index) for index, pair in enumerate(chain(first, waiting)))
    write_parquet(folder / FILE, _schema(video), rows, _ROWS_IN_MEMORY)


def read(folder: Path) -> Iterator[Pair]:
    """The preferences that `write` wrote."""
    for number, row in enumerate(read_parquet(folder / FILE, _ROWS_IN_MEMORY), start=1):
        where = f"{folder / FILE} row {number}"
        info = row["extra_info"]
        question = question_in(row["prompt"][0]["content"], where)
        media = media_of(row["videos"][0]["video"], where)
        yield Pair(info["id"], question, info["chosen"], info["rejected"], media)


def _schema(video: pa.DataType) -> pa.Schema:
    return pa.schema(
        [
            ("data_source", pa.string()),
            ("prompt", _MESSAGES),
            ("videos", pa.list_(pa.struct([("video", video)]))),
            ("ability", pa.string()),
            ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
            (
                "extra_info",
                pa.struct(
                    [("index", pa.int64()), ("id", pa.string()), ("chosen", pa.string()), ("rejected", pa.string())]
                ),
            ),
        ]
    )


def _row(pair: Pair, index: int) -> dict[str, Any]:
    return {
        "data_source": "rlaif",
        "prompt": [{"role": "user", "content": asked(pair.question)}],
        "videos": [{"video": media_value(pair)}],
        "ability": "video",
        "reward_model": {"style": "preference", "ground_truth": pair.chosen},
        "extra_info": {"index": index, "id": pair.id, "chosen": pair.chosen, "rejected": pair.rejected},
    }
