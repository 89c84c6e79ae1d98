"""A synthetic lake with everything the report reads, written through the real storage classes."""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from miniature.world import COLORS, QUESTIONS, SHAPES, Question, Scene, hallucinate, render, sample_scene
from storage.lake import Lake
from tasks.stage import StageResult

SKILL = {"base": 0.78, "sft": 0.52, "ppo_context": 0.66, "ppo_no_context": 0.5}
AGREEMENT = {
    "context_2": 0.872,
    "no_context_2": 0.799,
    "context_4": 0.866,
    "no_context_4": 0.861,
    "verdict_context_2": 0.828,
}
START = datetime(2030, 1, 1, tzinfo=UTC)


@dataclass
class Made:
    """The lake and what the report is called with."""

    lake: Lake
    results: dict[str, StageResult] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)

    def of(self, stage: str) -> dict[str, StageResult]:
        return {name.split("/")[1]: result for name, result in self.results.items() if name.startswith(f"{stage}/")}


class Maker:
    """Writes tables stage by stage."""

    def __init__(self, root: Path, *, videos: int, per_video: int, steps: int, hostile: str | None = None) -> None:
        self.made = Made(Lake(root))
        self.rng = np.random.default_rng(0)
        self.steps = steps
        self.hostile = hostile
        self.scenes = {f"clips/{place:04d}.mp4": sample_scene(self.rng) for place in range(videos)}
        self.asked: dict[str, tuple[str, Question]] = {}
        for video in self.scenes:
            for place in self.rng.choice(len(QUESTIONS), size=per_video, replace=False):
                self.asked[f"{video}#{place}"] = (video, QUESTIONS[place])
        self.clock = START

    def write(
        self, name: str, table: str, rows: list[dict[str, Any]], seconds: float, *, offset: float = 0.0, **more: Any
    ) -> StageResult:
        key = f"key-{name.replace('/', '-')}"
        full = [{"status": "ok", "item_key": f"k{row['item_id']}", "run": "demo", "seed": 0, **row} for row in rows]
        self.made.lake.table(table).commit_shard(full, stage_key=key, shard=0)
        counts = self.made.lake.table(table).count(key)
        stage, _, label = name.partition("/")
        result = StageResult(
            stage=stage,
            label=f"{stage} {label}" if label else None,
            table=table,
            key=key,
            version=0,
            items=sum(counts.values()),
            reused=0,
            seconds=seconds,
            work_seconds=seconds * 0.97,
            cached=False,
            **counts,
            **more,
        )
        self.clock += timedelta(seconds=seconds - offset)
        event = {"run": "demo", "event_id": name, "at": self.clock, "event": "stage_finished", "stage": stage}
        event |= {"stage_key": key, "cached": False, "seconds": seconds, **counts}
        self.made.lake.log([event])
        self.made.results[name] = result
        return result

    def videos(self) -> None:
        rows = [{"item_id": v, "video": v, "content": f"c{v}", "bytes": 3500} for v in self.scenes]
        self.write("videos", "videos", rows, 0.6)

    def frames(self) -> None:
        shown = [render(scene)[::2] for scene in self.scenes.values()]
        images = [[_png(frame) for frame in frames] for frames in shown]
        blob = self.made.lake.blobs.put_arrow(pa.table({"video": list(self.scenes), "frames": images}))
        sets = [_set("policy", range(8)), _set("judge_2", [2, 6])]
        rows: list[dict[str, Any]] = [
            {
                "item_id": video,
                "video": video,
                "content": f"c{video}",
                "blob": blob,
                "row": place,
                "decodes": 1,
                "timestamps": [0.0625 + 0.25 * k for k in range(8)],
                "sets": sets,
            }
            for place, video in enumerate(self.scenes)
        ]
        broken = [
            _broken(f"clips/broken{n}.mp4", f"clips/broken{n}.mp4: moov atom not found at byte 4{n}") for n in range(3)
        ]
        slow = _broken("clips/slow.mp4", self.hostile or "took longer than 20 s to decode <b>all</b>")
        self.write("frames", "frames", [*rows, *broken, slow], 19.4)

    def visual_tokens(self) -> None:
        rows = [{"item_id": v, "video": v, "tower": "3f09c1d2a4b5e6f7", "n_frames": 8} for v in self.scenes]
        self.write("visual_tokens", "visual_tokens", rows, 31.0)

    def instructions(self) -> None:
        rows = [
            {
                "item_id": item,
                "video": video,
                "question": question.text,
                "answer": question.answer(self.scenes[video]),
                "kind": question.kind,
                "split": "rl",
            }
            for item, (video, question) in self.asked.items()
        ]
        self.write("instructions", "instructions", rows, 0.4)

    def candidates(self, *, finished: bool = True) -> None:
        rows = [
            {"item_id": item, "instruction": item, "video": video, "question": question.text, "finished": finished}
            for item, (video, question) in self.asked.items()
        ]
        self.write("candidates", "candidates", rows, 14.0)

    def agreement(self) -> None:
        rows = []
        for name, value in AGREEMENT.items():
            for kind, shift in (("all", 0.0), ("action", -0.1), ("color", 0.06)):
                values = {"agreement": value + shift, "agreement_low": value + shift - 0.025}
                values |= {"agreement_high": value + shift + 0.024, "agreement_n": 738, "agreement_ties": 0.01}
                values |= {"agreement_choice": value + shift}
                if name.startswith("verdict"):
                    values |= {"agreement_consistent": 0.62, "agreement_first": 0.56}
                rows += [
                    {"item_id": name, "step": 0, "name": f"{measure}/{name}/{kind}", "value": float(found)}
                    for measure, found in values.items()
                ]
        self.write("agreement", "metrics", rows, 2.1)

    def audit(self) -> None:
        rows = []
        for name in ("ppo_context", "ppo_no_context"):
            values = {"audit_first": 0.61, "audit_first_low": 0.58, "audit_first_high": 0.64, "audit_first_n": 40.0}
            values |= {"audit_consistent": 0.7, "audit_consistent_low": 0.6, "audit_consistent_high": 0.8}
            values |= {"audit_consistent_n": 40.0}
            rows += [
                {"item_id": name, "step": 0, "name": f"{measure}/{name}/all", "value": value}
                for measure, value in values.items()
            ]
        self.write("audit", "metrics", rows, 0.5)

    def preferences(self, arm: str, *, narrative: bool) -> None:
        rows = []
        rng = np.random.default_rng(1)
        for item, (video, question) in self.asked.items():
            scene = self.scenes[video]
            texts = [question.answer(_mistaken(scene, rng)), question.answer(_mistaken(scene, rng))]
            truth = question.answer(scene)
            quality = [float(text == truth) - 0.3 * (not narrative) * (text.split()[-1] in truth) for text in texts]
            lead = 4 * (quality[0] - quality[1]) + rng.normal() * (1.5 if narrative else 3.0)
            tie = texts[0] == texts[1]
            rows.append(
                {
                    "item_id": item,
                    "instruction": item,
                    "video": video,
                    "question": question.text,
                    "a": 0,
                    "b": 1,
                    "answer_a": self.hostile or texts[0],
                    "answer_b": texts[1],
                    "preferred": "tie" if tie else "a" if lead > 0 else "b",
                    "p_a": 0.5 if tie else 1 / (1 + math.exp(-lead)),
                    "score_a": None if tie else -6 + lead / 2,
                    "score_b": None if tie else -6 - lead / 2,
                    "method": "likelihood",
                    "frame_set": "judge_2",
                    "with_narrative": narrative,
                    "narrative": (self.hostile or f"first {scene.events[0]}. then {scene.events[1]}.")
                    if narrative
                    else None,
                    "arm": arm,
                }
            )
        self.write(f"preferences/{arm}", "preferences", rows, 12.5)

    def training(
        self, name: str, role: str, curves: dict[str, Any], seconds: float, gap: float = 4e-4, **more: Any
    ) -> None:
        rows = [
            {"item_id": f"{step:06d}", "step": step, "name": metric, "value": float(values[step]), "arm": None}
            for metric, values in curves.items()
            for step in range(len(values))
        ]
        key = f"key-{name.replace('/', '-')}"
        full = [{"status": "ok", "item_key": "k", "run": "demo", "seed": 0, **row} for row in rows]
        self.made.lake.table("metrics").commit_shard(full, stage_key=key, shard=0)
        checks = {"adapter_canary": 2.31, "blank_canary": 0.94}
        if role == "policy":
            checks |= {"rollout_trainer_gap": gap, "unfinished_share": 0.0}
        row = {"item_id": role, "role": role, "step": self.steps, "final": True, "base": "miniature"}
        self.write(name, "checkpoints", [{**row, "metrics": json.dumps(checks)}], seconds, **more)

    def policy(self, arm: str, *, hacked: bool, offset: float) -> None:
        steps, t = self.steps, np.linspace(0, 1, self.steps)
        noise = lambda scale: self.rng.normal(size=steps) * scale  # noqa: E731
        curves = {
            "reward": (1.0 if hacked else 0.8) * (1 - np.exp(-3 * t)) + noise(0.08),
            "reward_true": 0.55 + (-0.02 if hacked else 0.2) * (1 - np.exp(-3 * t)) + noise(0.025),
            "kl": (1.4 if hacked else 0.7) * t**1.3 + abs(noise(0.02)),
            "response_length": 8.5 + (0.9 if hacked else 0.2) * t + noise(0.15),
            "unique_share": 0.4 - (0.18 if hacked else 0.09) * t + noise(0.015),
            "entropy": 0.8 * np.exp(-1.5 * t) + abs(noise(0.02)),
            "policy_loss": noise(0.01),
            "value_loss": 0.4 * np.exp(-2 * t) + abs(noise(0.02)),
            "clip_fraction": 0.05 + abs(noise(0.02)),
            "explained_variance": 0.7 * (1 - np.exp(-4 * t)) + noise(0.03),
            "learning_rate": 2e-4 * (1 - 0.9 * t),
        }
        self.training(f"policy/{arm}", "policy", curves, 88.0, offset=offset)

    def scores(self, label: str) -> None:
        rng = np.random.default_rng(len(label))
        rows = []
        for item, (video, question) in self.asked.items():
            for decoding in ("greedy", "sampled"):
                difficulty = {"color": 0.15, "shape": 0.12, "action": -0.15, "event": -0.1, "describe": -0.3}[
                    question.kind
                ]
                skill = SKILL[label] + difficulty - 0.08 * (decoding == "sampled")
                exact = float(rng.random() < skill)
                rows.append(
                    {
                        "item_id": item,
                        "checkpoint": label,
                        "instruction": item,
                        "video": video,
                        "question": question.text,
                        "kind": self.hostile or question.kind,
                        "answer": question.answer(self.scenes[video]),
                        "decoding": decoding,
                        "response": "it is red.",
                        "n_tokens": 4,
                        "finished": True,
                        "exact": exact,
                        "slot": max(exact, float(rng.random() < 0.3)),
                    }
                )
        self.write(f"benchmark/{label}", "scores", rows, 9.0)


def make(root: Path, *, videos: int = 6, per_video: int = 7, steps: int = 12, hostile: str | None = None) -> Made:
    """A lake with every stage of the miniature's run, two arms. `hostile` stands wherever a text is free."""
    maker = Maker(root, videos=videos, per_video=per_video, steps=steps, hostile=hostile)
    for part in (maker.videos, maker.instructions, maker.frames, maker.visual_tokens, maker.candidates):
        part()
    t = np.linspace(0, 1, steps)
    maker.training("sft/sft", "sft", {"loss": 1.2 * np.exp(-3 * t) + 0.3, "learning_rate": 1e-3 * (1 - t)}, 33.0)
    for arm, narrative in (("ppo_context", True), ("ppo_no_context", False)):
        maker.preferences(arm, narrative=narrative)
        accuracy = (0.93 if not narrative else 0.9) - 0.3 * np.exp(-5 * t)
        maker.training(f"reward_model/{arm}", "reward", {"loss": 0.69 - 0.4 * t, "accuracy": accuracy}, 24.0)
    maker.policy("ppo_context", hacked=False, offset=0)
    maker.policy("ppo_no_context", hacked=True, offset=84)
    maker.agreement()
    maker.audit()
    for label in SKILL:
        maker.scores(label)
    conditions = [
        {
            "name": name,
            "narrative": "no_context" not in name,
            "frame_set": f"judge_{name[-1]}",
            "method": "verdict" if "verdict" in name else "likelihood",
        }
        for name in AGREEMENT
    ]
    slots = {
        "color": list(COLORS),
        "shape": list(SHAPES),
        "action": ["left", "right", "up", "down", "grows", "shrinks"],
    }
    maker.made.parameters = {
        "run": {"name": "demo", "lake": "runs/demo/lake", "folder": str(root / "out"), "seed": 0, "workers": 2},
        "frames": {"sets": [{"name": "policy", "n": 8}, {"name": "judge_2", "n": 2}, {"name": "judge_4", "n": 4}]},
        "agreement": {"conditions": conditions, "slots": {"values": slots, "separator": "then"}},
        "arms": [
            {"name": "ppo_context", "narrative": True, "frame_set": "judge_2", "method": "likelihood"},
            {"name": "ppo_no_context", "narrative": False, "frame_set": "judge_2", "method": "likelihood"},
        ],
    }
    return maker.made


def _mistaken(scene: Scene, rng: np.random.Generator) -> Scene:
    return hallucinate(scene, rng, action_prior=0.5, color_noise=0.2, shape_noise=0.15)


def _png(frame: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="PNG")
    return buffer.getvalue()


def _set(name: str, indices: Any) -> dict[str, Any]:
    return {"name": name, "clip": 0, "start": 0.0, "end": 2.0, "indices": list(indices)}


def _broken(item: str, reason: str) -> dict[str, Any]:
    return {"item_id": item, "status": "quarantined", "reason": reason}
