"""The benchmarks by name."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from benchmarks.benchmark import Benchmark
from benchmarks.settings import checked

# Module and class; imported when they are asked for.
KNOWN = {
    "msvd_qa": ("zero_shot_qa", "MsvdQa"),
    "msrvtt_qa": ("zero_shot_qa", "MsrvttQa"),
    "tgif_qa": ("zero_shot_qa", "TgifQa"),
    "activitynet_qa": ("zero_shot_qa", "ActivityNetQa"),
    "activitynet_qa_exact": ("exact_match", "ActivityNetQaExact"),
    "video_chatgpt": ("video_chatgpt", "VideoChatGpt"),
    "llava_hound": ("hound", "LlavaHound"),
    "tempcompass": ("tempcompass", "TempCompass"),
    "videomme": ("videomme", "VideoMme"),
    "mvbench": ("mvbench", "MvBench"),
    "nextqa": ("nextqa", "NextQa"),
    "nextqa_open": ("nextqa_open", "NextQaOpen"),
    "retrieval": ("retrieval", "Retrieval"),
    "recognition": ("recognition", "Recognition"),
    "video_reward_bench": ("reward_bench", "VideoRewardBench"),
    "custom": ("custom", "Custom"),
}


def benchmark(name: str, **settings: Any) -> Benchmark:
    """The benchmark of that name; `settings` are its own fields, such as `subtitles`.

    Raises:
        ValueError: there is none of that name, it has no such setting, or a value that its setting cannot have.
    """
    if name not in KNOWN:
        raise ValueError(f"There is no benchmark {name!r}; known: {', '.join(KNOWN)}.")
    module, kind = KNOWN[name]
    made = getattr(import_module(f"benchmarks.{module}"), kind)
    found: Benchmark = made(**checked(name, made, settings))
    return found
