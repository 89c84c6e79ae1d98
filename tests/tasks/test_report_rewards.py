"""What the report says of reward models."""

from __future__ import annotations

import json
from pathlib import Path

from small import committed

from storage.lake import Lake
from tasks.report_rewards import Reward, rewards_of

MEASURED = {
    "pairs": 90.0,
    "held_out_pairs": 10.0,
    "held_out_accuracy": 0.9,
    "held_out_truth_pairs": 7.0,
    "held_out_truth_accuracy": 0.8,
    "held_out_calibration_error": 0.05,
    "held_out_margin_longer": 1.5,
}


def test_the_last_row_of_each_training_is_read_and_what_is_missing_stays_unknown(tmp_path: Path) -> None:
    table = Lake(tmp_path / "lake").table("checkpoints")
    results = {}
    for name, metrics in (("with", MEASURED), ("without", {"pairs": 3.0, "held_out_pairs": 0.0})):
        final = {"role": "reward", "step": 2, "final": True, "base": "base", "metrics": json.dumps(metrics)}
        rows = [{"item_id": name, "status": "ok", "item_key": name, "run": "test", "seed": 0, **final}]
        results[name] = committed(table, rows, f"key-{name}")
    measured, bare = rewards_of(Lake(tmp_path / "lake"), results)
    assert measured == Reward("with", 90, 10, 0.9, 0.8, 7, 0.05, (1.5, None))
    assert bare == Reward("without", 3, 0, None, None, 0, None, (None, None))
