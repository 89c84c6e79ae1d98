"""The scores of several runs of one preset, side by side, as Markdown.

    for seed in 0 1 2; do rlaif run --preset miniature run.name=seed$seed run.seed=$seed; done
    python -m perf.seeds runs/seed0 runs/seed1 runs/seed2

Reads each run's summary.json. Recovery is (arm - sft) / (base - sft), base being the model before its hallucinating
SFT.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from tasks.study_page import markdown_table

MEASURES = ("greedy_exact", "greedy_slot", "sampled_exact")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="Folders with a summary.json.")
    summaries = [json.loads((run / "summary.json").read_text()) for run in parser.parse_args().runs]
    print("\n\n".join((scores(summaries), differences(summaries), judges(summaries), costs(summaries))))


def scores(summaries: list[dict[str, Any]]) -> str:
    """Every model's scores, one column a seed and their mean."""
    rows = []
    for model in summaries[0]["scores"]:
        for measure in MEASURES:
            values = [summary["scores"][model][measure] for summary in summaries]
            rows.append([model, measure, *map(_share, values), _share(statistics.mean(values))])
    return markdown_table(["model", "measure", *_seeds(summaries), "mean"], rows)


def differences(summaries: list[dict[str, Any]]) -> str:
    """Each arm's greedy exact score minus that of SFT on the same questions, with interval and recovery."""
    rows = []
    for arm in [model for model in summaries[0]["scores"] if model not in ("base", "sft")]:
        each = [_difference(summary["scores"], arm) for summary in summaries]
        values = [summary["scores"][arm]["minus_sft"]["greedy_exact"]["value"] for summary in summaries]
        rows.append([f"{arm} - sft", *each, f"{statistics.mean(values):+.3f}"])
    return markdown_table(["greedy exact", *_seeds(summaries), "mean"], rows)


def judges(summaries: list[dict[str, Any]]) -> str:
    """How often the judge agrees with ground truth on held-out pairs."""
    rows = []
    for condition in summaries[0]["judge_agreement"]:
        details = [summary["judge_agreement_details"][condition] for summary in summaries]
        agreements = [_share(summary["judge_agreement"][condition]) for summary in summaries]
        rows.append([condition, *agreements, ", ".join(str(detail["n"]) for detail in details)])
    return markdown_table(["judge", *_seeds(summaries), "pairs"], rows)


def costs(summaries: list[dict[str, Any]]) -> str:
    """What the runs took; a run that found stages done shows what was left to do."""
    names = ("wall_seconds", "cpu_seconds", "peak_rss_mib", "peak_pss_mib")
    rows = [[name, *(f"{summary[name]:,.0f}" for summary in summaries)] for name in names]
    return markdown_table(["cost", *_seeds(summaries)], rows)


def _difference(models: dict[str, Any], arm: str) -> str:
    minus = models[arm]["minus_sft"]["greedy_exact"]
    gain = models[arm]["greedy_exact"] - models["sft"]["greedy_exact"]
    recovery = gain / (models["base"]["greedy_exact"] - models["sft"]["greedy_exact"])
    return f"{minus['value']:+.3f} [{minus['low']:+.3f}, {minus['high']:+.3f}], recovery {recovery:.2f}"


def _seeds(summaries: list[dict[str, Any]]) -> list[str]:
    return [f"seed {summary['seed']}" for summary in summaries]


def _share(value: float) -> str:
    return f"{value:.3f}"


if __name__ == "__main__":
    main()
