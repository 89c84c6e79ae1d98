"""How far each ranker agrees with the truth on held-out groups of the miniature, and with the others: Kendall's tau-b.

    python -m perf.rankers runs/rankers [section.key=value ...]

Trains SFT and a reward model in the folder's lake (without PPO; done again, all of it is there), ranks the SFT model's
candidates to the benchmark questions in every way, and prints a table as Markdown.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.material import critic_base, material
from flows.parameters import Parameters
from flows.presets import load
from flows.steps import Trained
from storage.lake import Lake
from tasks.candidates import candidates
from tasks.fanout import WorkerPool
from tasks.preferences import PreferencesConfig, preferences
from tasks.prepare import prepare
from tasks.progress import TerminalProgress
from tasks.rank_agreement import RankAgreement, rank_agreement
from tasks.rankings import RankingsConfig, rankings
from tasks.reward_model import reward_model
from tasks.sft import sft
from tasks.stage import RunContext, StageResult
from tasks.study_page import markdown_table


@dataclass
class AtOnce:
    """Steps without Prefect: a stage is run when it is asked for."""

    ctx: RunContext

    def __call__(self, stage: Any, *inputs: Any, label: str | None = None, **named: Any) -> StageResult:  # noqa: ARG002
        given = [each.resolve(self.ctx.lake) if isinstance(each, Trained) else each for each in inputs]
        result: StageResult = stage(self.ctx, *given, **named)
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Where data and lake are written, and found again.")
    parser.add_argument("overrides", nargs="*", help="section.key=value on top of the preset miniature.")
    arguments = parser.parse_args()
    with stages_of_miniature(arguments.folder, arguments.overrides) as (step, p):
        print(table(step.ctx.lake, ranked(step, p)))


@contextmanager
def stages_of_miniature(folder: Path, overrides: Sequence[str]) -> Iterator[tuple[AtOnce, Parameters]]:
    """The miniature's data in a folder, and steps whose lake is there too."""
    p = load("miniature", [*_places(folder.absolute()), *overrides])
    with WorkerPool(p.run.workers) as pool:
        progress = TerminalProgress()
        ctx = RunContext(p.run.lake_root, p.run.name, pool, progress, max_quarantined=1.0, seed=p.run.seed)
        assert p.data.prepare is not None  # the preset has it
        prepare(p.data.prepare, progress)
        yield AtOnce(ctx), p


def _places(folder: Path) -> list[str]:
    data = folder / "data"
    files = [f"data.{split}={data / split}.json" for split in ("sft", "rl", "benchmark")]
    return [f"run.lake={folder / 'lake'}", f"data.prepare.folder={data}", f"data.videos={data / 'videos'}", *files]


def ranked(step: AtOnce, p: Parameters) -> dict[str, StageResult]:
    """The rankings of the held-out candidates by each ranker; "truth" is the first."""
    shown, arm = material(step, p), p.arms[0]  # type: ignore[arg-type]
    start = Trained(shown.base, merged=step(sft, p.sft, shown.asked, shown.seen, shown.base))
    answered = step(candidates, p.candidates, shown.asked, shown.seen, start)
    way = p.judging(arm)
    judged = step(preferences, way, answered, *shown.judge(way, start), arm.name)
    base, seen = critic_base(step, p, shown, start)  # type: ignore[arg-type]
    rewarded = step(reward_model, p.reward, [judged], shown.narrated, shown.asked, seen, base, arm.name)
    held_out = p.candidates.model_copy(update={"split": p.agreement.split, "limit": p.agreement.limit})
    tried = step(candidates, held_out, shown.asked, shown.seen, start)

    def rank(method: str, *inputs: Any, judge: PreferencesConfig | None = None, **given: Any) -> StageResult:
        frame_set = p.reward.frame_set if method == "reward" else arm.frame_set
        narrative = p.reward.reads_narrative if method == "reward" else judge is not None and judge.narrative
        own = {"frame_set": frame_set, "shard_size": 256, "batch_size": 64, "slots": p.agreement.slots}
        way = {"narrative": narrative} | ({} if judge is None else {"judging": judge})
        return step(rankings, RankingsConfig.model_validate({"method": method, **own, **way}), tried, *inputs, **given)

    results = {
        "truth": rank("truth", shown.seen, None, None, "truth", instructions=shown.asked),
        "reward": rank("reward", seen, shown.narrated, base, "reward", reward=rewarded),
    }
    for condition in p.agreement.conditions:
        if condition.frame_set == arm.frame_set:
            judge = p.judging(condition).model_copy(update={"max_pairs": None})
            name = f"tournament {condition.name}"
            results[name] = rank("tournament", *shown.judge(judge, start), condition.name, judge=judge)
    return results


def table(lake: Lake, results: dict[str, StageResult]) -> str:
    """Each ranker's agreement with the truth and with the reward model."""
    rows = {name: lake.table(each.table).read(each.key).to_pylist() for name, each in results.items()}
    head, lines = ["ranker", "groups", "quarantined", "tau-b with truth", "tau-b with reward", "seconds"], []
    for name, result in results.items():
        agreed = [_tau(rank_agreement(rows[name], rows[other])) for other in ("truth", "reward")]
        lines.append([name, str(result.ok), str(result.quarantined), *agreed, f"{result.work_seconds:.1f}"])
    return markdown_table(head, lines)


def _tau(agreed: RankAgreement) -> str:
    if agreed.tau is None:
        return "none"
    return f"{agreed.tau.value:.2f} [{agreed.tau.low:.2f}, {agreed.tau.high:.2f}], {agreed.tau.n} groups"


if __name__ == "__main__":
    main()
