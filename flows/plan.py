"""What a run of these parameters will cost: its graph is walked twice, over a sample and over what the lake holds."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from flows.material import instruction_files
from flows.parameters import REWARDED, Parameters
from flows.rlaif import figure
from flows.s3_block import s3_environment
from flows.walk import NoWork, Visit, Walk
from storage.lake import Lake
from storage.places import is_s3
from tasks.audit_limits import LIMITS
from tasks.dpo import round_name
from tasks.expense import Expense
from tasks.fanout import WorkerPool
from tasks.plan import SAMPLE, Line, Plan, Size, digest, in_the_lake, scaled
from tasks.plan_endpoint import MOST, priced
from tasks.plan_sample import VIDEOS, write_sample
from tasks.preferences import LOCAL, MODELS, JudgingConfig
from tasks.prepare import prepare
from tasks.progress import Progress
from tasks.report import machine
from tasks.segments import refresh_name, segment_name
from tasks.stage import RunContext, StageResult
from tasks.videos import VideosConfig

POLICIES = ("policy", "policy_by_rewards", "policy_by_ranks")
STEPS = {"sft": 4, "reward_model": 4, "policy_by_pairs": 4} | dict.fromkeys(
    POLICIES, 3
)  # The first of them warms up and is not counted.
BY_PAIRS = ("audit", "agreement")
BY_VIDEO = ("videos", "frames", "visual_tokens")


def make_plan(p: Parameters, progress: Progress, *, sample: int = SAMPLE, price_per_hour: float | None = None) -> Plan:
    """The price of a run with these parameters. Nothing is written but data that the preset itself prepares.

    Endpoints are not called: what they will cost is told from the sampled pairs and the ledger.

    Args:
        p: the parameters.
        progress: shows what the sample does.
        sample: questions of each split that it runs.
        price_per_hour: of the machines that the workers run on.

    Raises:
        StageError, FormatError: videos or questions cannot be used.
    """
    if p.data.prepare is not None:
        prepare(p.data.prepare, progress)
    with tempfile.TemporaryDirectory(prefix="rlaif-plan-") as place:
        folder = Path(place)
        files = instruction_files(p.data).files
        counts = write_sample(VideosConfig(folder=p.data.videos).place, files, sample, folder)
        small = sample_of(p, folder)
        measured, start = _measure(small, progress)
        done = what_is_done(p, progress)
        scale = _Scale(p, small, counts, sample, _judged(small, measured))
        lines = _named(measured, [scale.line(each, done.get(each.name)) for each in measured])
    return Plan(
        counts=_told(p, counts),
        lines=lines,
        workers=p.run.workers,
        sample=sample,
        machine=machine(),
        digest=digest(p.model_dump(mode="json")),
        price_per_hour=price_per_hour,
        notes=[*_faults(done), *_notes(p, sample, start)],
    )


def sample_of(p: Parameters, folder: Path) -> Parameters:
    """The same run over the sample in `folder`: few steps, a local judge, nothing that stops it for its quality."""
    values = p.model_dump(mode="json")
    values["run"] |= {"lake": str(folder / "lake"), "folder": str(folder), "workers": 1, "retries": 0}
    values["run"] |= {"training_workers": 1, "strategy": "ddp"}
    values["run"] |= {"max_quarantined": 1.0, "s3_block": None}
    values["data"] |= {split: str(folder / f"{split}.json") for split in ("sft", "rl", "benchmark")}
    values["data"] |= {"videos": str(folder / VIDEOS), "prepare": None}
    values["sft"]["training"] |= _short("sft", p.sft.training.steps)
    values["reward"]["training"] |= _short("reward_model", p.reward.training.steps) | {"held_out": 0.0}
    for section, training in (("ppo", p.ppo.training), ("grpo", p.grpo.training)):
        iterations = _few_iterations(training.iterations, p.reward.refresh_every)
        values[section]["training"] |= {"iterations": iterations, "save_every": iterations, "max_unfinished": 1.0}
        values[section]["training"]["monitors"]["action"] = "warn"
    values["reward"]["refresh_every"] = min(p.reward.refresh_every, 1) * STEPS["policy"]
    values["self_dpo"]["training"] |= _short("policy_by_pairs", p.self_dpo.training.steps) | {"held_out": 0.0}
    values["preferences"] |= {"endpoints": {}, "tie_margin": 0.0}  # A sample's pairs are few: none is to be lost.
    for way in [*values["arms"], *values["agreement"]["conditions"]]:
        way["judge"] = way["judge"] if way["judge"] in MODELS else LOCAL
    # Limits that nothing can break: one of them asks for labels of its own, which cost something.
    never = {"max_position_bias": 0.5, "max_length_bias": 1.0, "min_consistency": 0.0, "max_blind_agreement": 1.0}
    values["audit"] |= {name: never[name] for name in LIMITS if values["audit"][name] is not None}
    return Parameters.model_validate(values)


def _short(stage: str, steps: int) -> dict[str, int]:
    fewer = min(STEPS[stage], steps)
    return {"steps": fewer, "save_every": fewer}


def _few_iterations(iterations: int, refresh_every: int) -> int:
    """Of the sample's policies; where a reward model is refreshed, a few in each segment, of which there are as many as
    in the whole: each of their stages has a line of its own.
    """
    if not refresh_every:
        return min(STEPS["policy"], iterations)
    return STEPS["policy"] * -(-iterations // refresh_every)


def _measure(small: Parameters, progress: Progress) -> tuple[list[Visit], float]:
    """The sample's stages, and the seconds that Ray took to start."""
    run = small.run
    with WorkerPool(1, run.gpus_per_worker) as pool:
        pool.start()
        ctx = RunContext(run.lake_root, "plan", pool, progress, run.max_quarantined, run.seed)
        walk = Walk(ctx)
        figure(walk, small)  # type: ignore[arg-type]
        return walk.visits, pool.start_seconds


def what_is_done(p: Parameters, progress: Progress) -> dict[str, Visit]:
    """What the lake holds of the run, by stage. A lake that is not there is not made."""
    root = p.run.lake_root
    if not is_s3(root) and not Path(root).is_dir():
        return {}
    pool: Any = NoWork()
    walk = Walk(RunContext(root, p.run.name, pool, progress, 1.0, p.run.seed, p.run.retries, looks_only=True))
    with s3_environment(p.run.s3_block):
        if "stages" in Lake(root).tables():
            figure(walk, p)  # type: ignore[arg-type]
    return {visit.name: visit for visit in walk.visits}


@dataclass(frozen=True)
class _Scale:
    """How much larger the run is than its sample.

    Attributes:
        whole: the run's parameters.
        small: the sample's.
        counts: videos, and questions by split, of the whole.
        sample: most questions of a split in the sample.
        judged: what judging cost there, by method.
    """

    whole: Parameters
    small: Parameters
    counts: dict[str, int]
    sample: int
    judged: dict[str, Expense]

    def line(self, seen: Visit, done: Visit | None) -> Line:
        """A stage's line."""
        size = self._size(seen)
        if done is not None and done.result is not None:
            return in_the_lake(seen.name, size.items, seen.needs)
        if done is not None and done.left is not None and not size.training and seen.stage not in BY_PAIRS:
            size = replace(size, to_do=min(done.left, size.items))
        if seen.result is None:
            return Line(seen.name, size.items, size.to_do, needs=seen.needs, note=seen.fault)
        spent = seen.result.expense
        if seen.stage == "videos":  # Hashing is the driver's work.
            spent = Expense(seconds=seen.result.seconds)
        if seen.stage == "preferences":
            return self._judging(seen.name, size, seen.result, seen.needs)
        return scaled(seen.name, size, spent, self.whole.run.workers, seen.needs)

    def _size(self, seen: Visit) -> Size:
        if seen.stage in STEPS:
            sampled, items = (_steps(p, seen.stage, seen.name) for p in (self.small, self.whole))
            return Size(sampled, items, items, training=True)
        items = self._items(seen)
        if seen.stage in BY_PAIRS:  # A few items, whose work grows with the pairs.
            return Size(min(items, self.sample), items, items)
        sampled = 1 if seen.result is None else seen.result.items
        shard_size = int(getattr(getattr(self.whole, seen.stage, None), "shard_size", 256))
        return Size(sampled, items, items, shards=-(-items // shard_size))

    def _items(self, seen: Visit) -> int:
        """Items of the whole stage; of the labels that it is about for audit and agreement."""
        p, counts = self.whole, self.counts
        if seen.stage in BY_VIDEO:
            return counts["videos"]
        if seen.stage == "instructions":
            return sum(count for name, count in counts.items() if name != "videos")
        if seen.stage == "captions":
            of_round = seen.name != seen.stage  # By the policy itself.
            config = p.self_dpo.narrative if of_round else p.captions
            splits = (p.candidates.split,) if of_round else p.captions.splits
            return sum(counts[split] for split in splits) if config.condition_on_question else counts["videos"]
        if seen.stage == "benchmark":
            return _limited(counts[p.benchmark.split], p.benchmark.limit)
        held_out = {"held out", *(condition.name for condition in p.agreement.conditions)}
        if seen.stage == "agreement" or seen.name.removeprefix(seen.stage).strip() in held_out:
            return _limited(counts[p.agreement.split], p.agreement.limit)
        return _limited(counts[p.candidates.split], p.candidates.limit)

    def _judging(self, name: str, size: Size, sampled: StageResult, needs: tuple[str, ...]) -> Line:
        """A judge's line. Equal answers are not judged, but how many will be equal only the trained model knows."""
        p = self.whole
        label = name.removeprefix("preferences ")
        way = p.judging(_ways(p)[label])
        answers = p.self_dpo.candidates(p.candidates).n if label in _rounds(p) else p.candidates.n
        pairs = len([*combinations(range(answers), 2)])
        pairs = pairs if way.max_pairs is None else min(pairs, way.max_pairs)
        calls = answers if way.method == "likelihood" else 2 * pairs
        if way.person is not None:
            told = f"people answer up to {size.to_do * calls:,} times, each pair in both orders"
            return Line(name, size.items, size.to_do, needs=needs, note=told)
        if way.endpoint is not None:
            shown = next(each for each in p.frames.sets if each.name == way.frame_set)
            lake = Lake(self.small.run.lake_root)
            line = Line(name, size.items, size.to_do, needs=needs)
            return priced(line, size.to_do * calls, lake, sampled.ref, way, shown.n * shown.clips, p.run.lake_root)
        spent = sampled.expense if sampled.expense.calls else self.judged.get(way.method)
        if spent is None or not spent.calls:
            return Line(name, size.items, size.to_do, needs=needs, note="all answers of the sample were equal")
        asked = replace(size, sampled=spent.calls, items=size.items * calls, to_do=size.to_do * calls)
        line = scaled(name, asked, spent, p.run.workers, needs)
        return replace(line, items=size.items, to_do=size.to_do, note=MOST)


def _named(measured: Sequence[Visit], lines: Sequence[Line]) -> list[Line]:
    """The lines by the names that the stages give themselves, as in every report."""
    names = {seen.name: _own_name(seen) for seen in measured}
    return [replace(line, name=names[line.name], needs=tuple(names[each] for each in line.needs)) for line in lines]


def _own_name(seen: Visit) -> str:
    return seen.name if seen.result is None else seen.result.label or seen.result.stage


def _judged(small: Parameters, measured: Sequence[Visit]) -> dict[str, Expense]:
    methods = {name: way.method for name, way in _ways(small).items()}
    found: dict[str, Expense] = {}
    for seen in measured:
        if seen.stage == "preferences" and seen.result is not None:
            method = methods[seen.name.removeprefix("preferences ")]
            found[method] = found.get(method, Expense()) + seen.result.expense
    return found


def _ways(p: Parameters) -> dict[str, JudgingConfig]:
    """Every way in which the run judges, by the label of its stage."""
    ways = [*p.labelled, *p.blind_twins(), *p.agreement.conditions]
    return {way.name: way for way in ways} | _rounds(p) | _refreshes(p)


def _rounds(p: Parameters) -> dict[str, JudgingConfig]:
    """How the policy judges itself, by round."""
    ways: dict[str, JudgingConfig] = {}
    for arm in p.arms:
        for number in range(1, p.self_dpo.rounds + 1) if arm.route == "self_dpo" else ():
            name = round_name(arm.name, number)
            ways |= {name: arm, f"{name}_blind": arm.blinded()}
    return ways


def _refreshes(p: Parameters) -> dict[str, JudgingConfig]:
    """How the answers of policies that learn are judged, by refresh."""
    ways: dict[str, JudgingConfig] = {}
    for arm in p.arms:
        for number in range(1, len(p.segments(arm))) if arm.route in REWARDED else ():
            name = refresh_name(arm.name, number)
            ways |= {name: arm, f"{name}_blind": arm.blinded()}
    return ways


def _segments(p: Parameters) -> dict[str, int]:
    """Iterations of each segment of a policy, by the label of its stage."""
    steps: dict[str, int] = {}
    for arm in p.arms:
        if arm.route in REWARDED:
            *begun, last = map(len, p.segments(arm))
            steps |= {segment_name(arm.name, number): count for number, count in enumerate(begun, 1)} | {arm.name: last}
    return steps


def _steps(p: Parameters, stage: str, name: str) -> int:
    if (iterations := _segments(p).get(name.removeprefix(stage).strip())) is not None and stage in POLICIES:
        return iterations
    steps = {"sft": p.sft.training.steps, "reward_model": p.reward.training.steps}
    steps["policy_by_pairs"] = p.self_dpo.training.steps
    return steps.get(stage, p.grpo.training.iterations)


def _limited(count: int, limit: int | None) -> int:
    return count if limit is None else min(count, limit)


def _faults(done: dict[str, Visit]) -> list[str]:
    """What went wrong in the lake: the run will meet it too."""
    return [f"{each.name}, as the lake holds it: {each.fault}" for each in done.values() if each.broken]


def _told(p: Parameters, counts: dict[str, int]) -> dict[str, int]:
    """What goes in."""
    captioned = next(one for one in p.frames.sets if one.name == p.captions.frame_set)
    frames = sum(one.n * one.clips for one in p.frames.sets)
    videos = counts["videos"]
    return {"videos": videos, "clips": videos * captioned.clips, "frames": videos * frames} | {
        split: count for split, count in counts.items() if split != "videos"
    }


def _notes(p: Parameters, sample: int, start: float) -> list[str]:
    notes = [f"Ray and the workers take {start:.0f} s more to start; the report and the commits are not counted."]
    batches: Sequence[tuple[str, int]] = [
        ("captions", p.captions.batch_size),
        ("candidates", p.candidates.batch_size),
        ("preferences", p.preferences.batch_size),
        ("benchmark", p.benchmark.batch_size),
    ]
    larger = [name for name, batch in batches if batch > sample]
    if larger:
        notes.append(
            f"Batches of {', '.join(larger)} are larger than the sample of {sample}: the whole takes less time an item "
            "and more memory than told here (--sample makes it larger)."
        )
    if p.models.device == "cpu":
        notes.append("Memory is a worker's resident memory: the models run on the CPU.")
    return notes
