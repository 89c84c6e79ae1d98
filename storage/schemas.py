"""The columns of every table. Arrow types; times in seconds, sizes in pixels or bytes.

Content tables begin with the provenance columns. A quarantined row holds those alone, so a column that every `ok`
row must have is nullable in the schema and named in REQUIRED. Rows hold no clock, host or worker, except in `runs`.
"""

import pyarrow as pa

_STRING, _INT, _LONG, _REAL, _BOOL = pa.string(), pa.int32(), pa.int64(), pa.float64(), pa.bool_()

PROVENANCE = [
    pa.field("item_id", _STRING, nullable=False),
    pa.field("status", _STRING, nullable=False),  # "ok" or "quarantined"
    pa.field("reason", _STRING),  # Why it is quarantined.
    pa.field("item_key", _STRING, nullable=False),  # Hash of everything that decides this item's result.
    pa.field("run", _STRING, nullable=False),
    pa.field("stage_key", _STRING, nullable=False),
    pa.field("shard", _INT, nullable=False),
    pa.field("model", _STRING),
    pa.field("prompt_hash", _STRING),
    pa.field("seed", _LONG, nullable=False),
]

STATE_SUFFIX = "-state"  # Behind a training's stage key: its states in `checkpoints`, needed until it is complete.

_FRAME_SET = pa.struct(
    [("name", _STRING), ("clip", _INT), ("start", _REAL), ("end", _REAL), ("indices", pa.list_(_INT))]
)
_CLIP = pa.struct([("clip", _INT), ("start", _REAL), ("end", _REAL), ("text", _STRING), ("n_tokens", _INT)])

# A name with "?" may be null in an ok row.
_CONTENT: dict[str, dict[str, pa.DataType]] = {
    "videos": {"video": _STRING, "content": _STRING, "bytes": _LONG},
    "frames": {
        "video": _STRING,
        "content": _STRING,
        "blob?": _STRING,
        "row?": _INT,
        "reader?": _STRING,
        "decodes?": _INT,  # How many readers went through the file: a second one where the first could not go on.
        "fps?": _REAL,  # 0: not known, as of a folder of frames; times and the duration then count frames.
        "duration?": _REAL,
        "width?": _INT,
        "height?": _INT,
        "rotation?": _INT,
        "timestamps?": pa.list_(_REAL),  # Of the frames kept, ascending.
        "frame_index?": pa.list_(_LONG),  # Their places in decoding order.
        "sets?": pa.list_(_FRAME_SET),  # Which of the frames kept form which named set.
    },
    "visual_tokens": {
        "video": _STRING,
        "tower": _STRING,
        "blob?": _STRING,
        "row?": _INT,
        "n_frames?": _INT,  # That went through the tower: one that stands in two of its units went twice.
        "sets?": pa.list_(_FRAME_SET),  # As in `frames`; the indices are those of the kept tokens.
    },
    "instructions": {
        "video": _STRING,
        "question": _STRING,
        "answer?": _STRING,
        "kind?": _STRING,
        "split": _STRING,
        "source?": _STRING,
    },
    "captions": {
        "video": _STRING,
        "instruction?": _STRING,  # Where the narrative was written for a question: the item is then the instruction.
        "question?": _STRING,
        "narrative?": _STRING,
        "clips?": pa.list_(_CLIP),
        "summary_tokens?": _INT,  # Where the narrative is a summary of the clips' captions.
    },
    "candidates": {
        "instruction": _STRING,
        "video": _STRING,
        "question": _STRING,
        "candidate?": _INT,
        "text?": _STRING,
        "n_tokens?": _INT,
        "finished?": _BOOL,
        "logprob?": _REAL,
    },
    "preferences": {
        "instruction": _STRING,
        "video": _STRING,
        "question": _STRING,
        "a?": _INT,
        "b?": _INT,
        "answer_a?": _STRING,
        "answer_b?": _STRING,
        "preferred?": _STRING,  # "a", "b" or "tie"
        "p_a?": _REAL,
        "score_a?": _REAL,
        "score_b?": _REAL,
        "method": _STRING,
        "frame_set?": _STRING,  # This and the next are null in labels from a file that does not tell.
        "with_narrative?": _BOOL,
        "narrative?": _STRING,
        "p_a_first?": _REAL,  # a was shown first.
        "p_a_second?": _REAL,
        "consistent?": _BOOL,
        # Of a judge behind an endpoint, over all its calls for the pair; cost in the currency of its prices.
        "reply_first?": _STRING,
        "reply_second?": _STRING,
        "reason_first?": _STRING,
        "reason_second?": _STRING,
        "input_tokens?": _LONG,
        "output_tokens?": _LONG,
        "latency_s?": _REAL,
        "cost?": _REAL,
        "answered_by?": _STRING,  # The models that its replies named.
        "arm": _STRING,
    },
    "rankings": {  # One row a candidate of a ranked group.
        "instruction": _STRING,
        "video": _STRING,
        "question": _STRING,
        "candidate": _INT,
        "text": _STRING,
        "rank": _REAL,  # 0 is the best; equal candidates share the average of their ranks.
        "score?": _REAL,  # What was sorted by, higher is better; none where the ranker gave an order.
        "group_size": _INT,
        "distinct": _INT,  # Answers of the group that differ; 1: all are equal, and all ranks too.
        "method": _STRING,  # "reward", "tournament", "listwise" or "truth"
        "frame_set": _STRING,
        "with_narrative": _BOOL,
        "narrative?": _STRING,
        "arm": _STRING,
        "place?": _INT,  # Listwise: where in the prompt the answer stood, from 0.
        "reply?": _STRING,  # Listwise: the order as the model wrote it.
        "attempts": _INT,  # How often the ranker was asked; 0 where there was nothing to ask.
        "answered_by?": _STRING,  # Listwise: the model that the reply of an endpoint named.
    },
    "checkpoints": {
        "role": _STRING,  # "sft", "reward", "policy" or "value"
        "step": _INT,
        "final": _BOOL,
        "blob?": _STRING,  # Folder: adapter and head.
        "state?": _STRING,  # Folder: what training continues from; beside a blob: what a further stage does.
        "base": _STRING,
        "merged?": pa.list_(_STRING),  # Blobs of adapters that are merged into the base before this one stands on it.
        "arm?": _STRING,
        "metrics": _STRING,  # JSON
    },
    "metrics": {"step": _INT, "name": _STRING, "value": _REAL, "arm?": _STRING},
    "scores": {
        "checkpoint": _STRING,
        "instruction": _STRING,
        "video": _STRING,
        "question": _STRING,
        "kind": _STRING,
        "answer": _STRING,
        "decoding": _STRING,  # "greedy" or "sampled"
        "response?": _STRING,
        "n_tokens?": _INT,
        "finished?": _BOOL,
        "exact?": _REAL,
        "slot?": _REAL,
    },
    "questions": {  # Of benchmarks; benchmarks.items.Item.
        "benchmark": _STRING,
        "place": _INT,  # In the annotation file, from 0.
        "video": _STRING,  # Where none was found, as the file names it; the row's reason says so.
        "named": _STRING,  # The video as the file names it.
        "questions": pa.list_(_STRING),
        "answer": _STRING,
        "options": pa.list_(_STRING),
        "start?": _REAL,  # The part of the video that is asked about.
        "end?": _REAL,
        "aspects": pa.list_(_STRING),
        "groups": _STRING,  # JSON
        "source": _STRING,  # JSON
    },
    "predictions": {
        "benchmark": _STRING,
        "checkpoint": _STRING,
        "question": _STRING,  # The item of `questions`.
        "video": _STRING,
        "frame_set": _STRING,
        "n_frames": _INT,
        "requests": pa.list_(_STRING),  # What the model was asked, as text.
        "replies": pa.list_(_STRING),
        "finished": pa.list_(_BOOL),
        "scores": pa.list_(_REAL),  # Log-probability of each option, nats.
        "n_tokens": pa.list_(_INT),  # Of each option where they are scored, else of each reply.
        "preferred": pa.list_(_REAL),  # P(first option is better), by the order in which they were shown.
        "answered_by?": _STRING,  # The models that the replies of an endpoint named.
    },
    "grades": {  # One row an aspect of a prediction.
        "benchmark": _STRING,
        "checkpoint": _STRING,
        "question": _STRING,
        "video": _STRING,
        "aspect": _STRING,
        "protocol": _STRING,
        "judge?": _STRING,  # Who decided, with version; none where rules did.
        "outcome": _STRING,  # "ok" or why there is no grade (benchmarks.grades.Status).
        "correct?": _BOOL,
        "score?": _REAL,
        "parsed?": _STRING,
        "reply?": _STRING,  # The judge's last.
        "attempts": _INT,  # How often the judge was asked.
        "cost?": _REAL,
        "answered_by?": _STRING,  # The model that the reply of an endpoint named.
    },
    "stages": {
        "stage": _STRING,
        "config": _STRING,  # JSON
        "inputs": _STRING,  # JSON list of {"stage", "table", "key", "version"}
        "output_table": _STRING,
        "items": _LONG,
        "ok": _LONG,
        "quarantined": _LONG,
    },
}

# The event log of runs: no provenance, not partitioned, appended to.
_RUNS: dict[str, pa.DataType] = {
    "run": _STRING,
    "event_id": _STRING,
    "at": pa.timestamp("us", tz="UTC"),
    # run_started, run_finished, run_failed, run_cancelled; stage_finished, stage_left; labels_began, labels_told
    "event": _STRING,
    "stage?": _STRING,
    "stage_key?": _STRING,
    "cached?": _BOOL,
    "ok?": _LONG,
    "quarantined?": _LONG,
    "seconds?": _REAL,
    "detail?": _STRING,  # JSON
}


def _fields(columns: dict[str, pa.DataType]) -> list[pa.Field]:
    return [pa.field(name.removesuffix("?"), kind) for name, kind in columns.items()]


SCHEMAS: dict[str, pa.Schema] = {name: pa.schema(PROVENANCE + _fields(columns)) for name, columns in _CONTENT.items()}
SCHEMAS["runs"] = pa.schema(_fields(_RUNS))

# Columns that every ok row has.
REQUIRED: dict[str, frozenset[str]] = {
    name: frozenset(column for column in columns if not column.endswith("?"))
    for name, columns in {**_CONTENT, "runs": _RUNS}.items()
}

_ORDER_IN_ITEM: dict[str, list[str]] = {
    "visual_tokens": ["tower"],
    "candidates": ["candidate"],
    "preferences": ["arm", "method", "frame_set", "with_narrative", "a", "b"],
    "rankings": ["arm", "method", "candidate"],
    "checkpoints": ["role", "arm", "step"],
    "metrics": ["step", "name", "arm"],
    "scores": ["checkpoint", "decoding"],
    "predictions": ["benchmark", "checkpoint"],
    "grades": ["benchmark", "checkpoint", "protocol", "aspect"],
}
# Rows are read in the order of these columns, which is total.
ORDER: dict[str, list[str]] = {
    **{name: ["stage_key", "shard", "item_id", *_ORDER_IN_ITEM.get(name, [])] for name in _CONTENT},
    "runs": ["at", "event_id"],
}
