"""What a run would cost on cards that are not here, by arithmetic: the flow's graph is sketched, each stage computed.

It uses the same graph as the run and as the measured plan (flows.plan), and no weights: only each model's config.json.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

from flows.parameters import Parameters
from flows.plan_counts import counts_of
from flows.rlaif import figure
from flows.shapes import shape_of
from flows.sketch import Sketch, named_folder
from flows.steps import Rewarded, Trained
from flows.walk import Visit
from models.shape import ModelShape
from tasks.model_ref import ModelRef
from tasks.plan import Line, Plan, digest
from tasks.plan_costs import CARDS, GIB, LEARNED_BYTES, Assumptions, Costs, Work

NOT_MEASURED = (
    "Computed from the models' sizes and the assumptions below, not measured. Judging is told at its most: equal "
    "answers are not judged."
)
TOGETHER = "A training on {0} workers is assumed to be {0} times as fast as on one: nothing is lost between them."
TRAININGS = ("sft", "reward_model", "policy", "policy_by_rewards", "policy_by_ranks", "policy_by_pairs")


def compute_plan(
    p: Parameters,
    assumed: Assumptions,
    counts: Mapping[str, int] | None = None,
    price_per_hour: float | None = None,
    shapes: Callable[[str], ModelShape] = shape_of,
) -> Plan:
    """The price of a run with these parameters on such cards. Nothing is loaded, run or written.

    Args:
        p: the parameters.
        assumed: the card, and what else cannot be known.
        counts: videos, sft, rl, benchmark where they are known better than by what is here.
        price_per_hour: of all machines together.
        shapes: the sizes of a model by name.

    Raises:
        ShapeError: the sizes of a model cannot be found.
        FormatError: a file of questions cannot be read.
    """
    known, told = counts_of(p, counts or {})
    computed = _Computed(p, known, assumed, shapes)
    told += [TOGETHER.format(p.run.training_workers)] if p.run.training_workers > 1 else []
    return Plan(
        counts=known,
        lines=computed.lines,
        workers=p.run.workers,
        sample=0,
        machine=f"{p.run.workers} workers, each with the card {assumed.card} (assumed)",
        digest=digest(p.model_dump(mode="json")),
        price_per_hour=price_per_hour,
        notes=[NOT_MEASURED, *told, *computed.sources, computed.disk, "Assumed: " + ", ".join(assumed.told())],
    )


def gpu_memory(
    p: Parameters, assumed: Assumptions, shapes: Callable[[str], ModelShape] = shape_of
) -> tuple[str, float]:
    """The stage that takes most of a worker's card, and its GiB."""
    made = compute_plan(p, assumed, shapes=shapes)
    line = max(made.lines, key=lambda each: each.memory_mib or 0.0)
    return line.name, (line.memory_mib or 0.0) / 1024


def lake_gib(p: Parameters, assumed: Assumptions, shapes: Callable[[str], ModelShape] = shape_of) -> float:
    """What the kept frames and visual tokens take of the lake's disk, in GiB."""
    counts, _ = counts_of(p, {})
    return _Computed(p, counts, assumed, shapes).kept / GIB


@dataclass(frozen=True)
class _Sized:
    """A stage's units, its work, and into how many calls it is cut."""

    items: int
    work: Work
    shards: int = 1
    on_card: bool = True
    note: str | None = None


class _Computed:
    """Every stage of a run. `kept`: bytes of frames and visual tokens in the lake."""

    def __init__(
        self,
        p: Parameters,
        counts: dict[str, int],
        assumed: Assumptions,
        shapes: Callable[[str], ModelShape],
    ) -> None:
        self.p, self.counts, self.assumed = p, counts, assumed
        self.size = assumed.frame_size(p.frames.max_side)
        self.clips_kept = sum(each.clips for each in p.frames.sets)
        self.frames_kept = sum(each.n * each.clips for each in p.frames.sets)
        self.again = p.models.gradient_checkpointing
        self.kept = 0.0
        named = dict.fromkeys(each for each in (p.models.policy, p.models.labeler, p.models.reward) if each)
        self._shapes = {name: shapes(name) for name in named}
        self.sources = [
            f"{name}: {shape.parameters / 1e9:.3g} B weights ({shape.source})." for name, shape in self._shapes.items()
        ]
        self.lines = self._lines()

    @property
    def disk(self) -> str:
        return f"Frames and visual tokens take about {self.kept / GIB:,.1f} GiB of the lake."

    def _lines(self) -> list[Line]:
        with tempfile.TemporaryDirectory(prefix="rlaif-sketch-") as place:
            folders = {
                name: named_folder(Path(place, str(number)), name, shape.model_type)
                for number, (name, shape) in enumerate(self._shapes.items())
            }
            self._by_folder = {folder: self._shapes[name] for name, folder in folders.items()}
            models = self.p.models.model_copy(
                update={
                    key: folders[name]
                    for key in ("policy", "labeler", "reward")
                    if (name := getattr(self.p.models, key))
                }
            )
            sketch = Sketch()
            figure(sketch, self.p.model_copy(update={"models": models}))  # type: ignore[arg-type]
            return [self._line(seen, given) for seen, given in sketch.visits]

    def _line(self, seen: Visit, given: dict[str, Any]) -> Line:
        of = _STAGES.get(seen.stage)
        sized = _Sized(0, Work(), on_card=False) if of is None else of(self, given)
        run, work = self.p.run, sized.work
        workers = run.training_workers if seen.stage in TRAININGS else max(1, min(run.workers, sized.shards))
        on_card = sized.on_card and run.gpus_per_worker > 0
        reserve = self.assumed.reserve_gib * GIB if sized.on_card else 0.0
        memory = (work.memory + reserve) / 2**20 if work.memory else None
        note, gib = sized.note, CARDS[self.assumed.card].gib
        if memory is not None and memory / 1024 > gib and on_card:
            note = f"needs {memory / 1024:.0f} GiB of the {gib:g} GiB of {self.assumed.card}"
        return Line(
            seen.name,
            sized.items,
            sized.items,
            round(work.calls),
            round(work.input_tokens),
            round(work.output_tokens),
            memory_mib=memory,
            on_gpu=on_card,
            seconds=work.seconds,
            wall_seconds=work.seconds / workers,
            needs=seen.needs,
            note=note,
        )

    def _costs(self, model: ModelRef | Trained) -> Costs:
        plain = model.base if isinstance(model, Trained) else model
        return Costs(self._by_folder[plain.name], self.assumed, self.p.models.dtype, self.p.models.quantization)

    def _video(self, costs: Costs, frame_set: str, *, clip: bool = False) -> int:
        """Tokens of a frame set, or of one clip of it."""
        shown = next(each for each in self.p.frames.sets if each.name == frame_set)
        return costs.shape.video_tokens(shown.n * (1 if clip else shown.clips), self.size)

    def _prompt(self, costs: Costs, frame_set: str) -> int:
        return self._video(costs, frame_set) + self.assumed.question_tokens

    @cached_property
    def _narrative(self) -> int:
        """Tokens of a narrative."""
        shown = next(each for each in self.p.frames.sets if each.name == self.p.captions.frame_set)
        return shown.clips * min(self.assumed.caption_tokens, self.p.captions.sampling.max_new_tokens)

    def _answer(self, limit: int) -> int:
        return min(self.assumed.answer_tokens, limit)

    def _limited(self, split: str, limit: int | None) -> int:
        return self.counts[split] if limit is None else min(limit, self.counts[split])

    def _frames(self, _: dict[str, Any]) -> _Sized:
        videos = self.counts["videos"]
        self.kept += videos * self.frames_kept * self.size[0] * self.size[1] * 0.3  # A JPEG of quality 95.
        work = Work(seconds=videos * self.frames_kept * self.assumed.decode_ms / 1e3)
        return _Sized(videos, work, -(-videos // self.p.frames.shard_size), on_card=False)

    def _visual_tokens(self, given: dict[str, Any]) -> _Sized:
        costs, videos = self._costs(given["model"]), self.counts["videos"]
        work = costs.tower(videos * self.frames_kept, self.size)
        kept = costs.shape.kept_tokens(self.frames_kept, self.size, self.clips_kept)
        self.kept += videos * kept * costs.shape.hidden * costs.bytes
        return _Sized(videos, work, -(-videos // given["config"].shard_size))

    def _captions(self, given: dict[str, Any]) -> _Sized:
        costs, config = self._costs(given["model"]), given["config"]
        items = (
            sum(self.counts[split] for split in config.splits)
            if config.condition_on_question
            else self.counts["videos"]
        )
        shown = next(each for each in self.p.frames.sets if each.name == config.frame_set)
        prompt = self._video(costs, config.frame_set, clip=True) + self.assumed.question_tokens
        told = (self.assumed.caption_tokens, config.sampling.max_new_tokens)
        work = costs.sample(items * shown.clips, prompt, 1, *told, config.batch_size)
        return _Sized(items, work, -(-items // config.shard_size))

    def _candidates(self, given: dict[str, Any]) -> _Sized:
        costs, config = self._costs(given["model"]), given["config"]
        items, limit = self._limited(config.split, config.limit), config.sampling.max_new_tokens
        prompt = self._prompt(costs, config.frame_set)
        work = costs.sample(items, prompt, config.n, self.assumed.answer_tokens, limit, config.batch_size)
        return _Sized(items, work, -(-items // config.shard_size))

    def _preferences(self, given: dict[str, Any]) -> _Sized:
        config, model = given["config"], given["model"]
        items = self._limited(self.p.candidates.split, self.p.candidates.limit)
        if not isinstance(model, ModelRef | Trained):
            return _Sized(
                items, Work(), on_card=False, note="endpoints and people: `rlaif plan --measured` prices them"
            )
        calls = items * self._judgements(config, self.p.candidates.n)
        costs = self._costs(model)
        return _Sized(items, self._judged(costs, config, calls), -(-items // config.shard_size))

    def _judgements(self, config: Any, answers: int) -> int:
        """Passes of the judge's model for a question."""
        pairs = len([*combinations(range(answers), 2)])
        return answers if config.method == "likelihood" else 2 * min(pairs, config.max_pairs or pairs)

    def _judged(self, costs: Costs, config: Any, calls: float) -> Work:
        shown = 2 if config.method == "verdict" else 1
        read = self._prompt(costs, config.frame_set) + (self._narrative if config.narrative else 0)
        return costs.read(calls, read + shown * self.assumed.answer_tokens, config.batch_size)

    def _benchmark(self, given: dict[str, Any]) -> _Sized:
        costs, config = self._costs(given["model"]), given["config"]
        items, prompt = self._limited(config.split, config.limit), self._prompt(costs, config.frame_set)
        both = (config.greedy, config.sampled)
        done = [
            costs.sample(items, prompt, 1, self.assumed.answer_tokens, how.max_new_tokens, config.batch_size)
            for how in both
        ]
        return _Sized(items, done[0] + done[1], -(-items // config.shard_size))

    def _sft(self, given: dict[str, Any]) -> _Sized:
        costs, config = self._costs(given["model"]), given["config"]
        return _Sized(config.training.steps, self._learn(costs, config, self.assumed.answer_tokens, 1))

    def _pairs(self, given: dict[str, Any]) -> _Sized:
        """DPO: the reference reads what the policy learns from."""
        costs, config = self._costs(given["model"]), given["config"]
        written = 2 * self._answer(self.p.candidates.sampling.max_new_tokens)
        tokens = self._prompt(costs, config.frame_set) + written
        calls = config.training.steps * config.training.batch_size
        return _Sized(config.training.steps, costs.read(calls, tokens) + self._learn(costs, config, written, 1))

    def _reward_model(self, given: dict[str, Any]) -> _Sized:
        costs, config = self._costs(given["model"]), given["config"]
        written = 2 * (self._answer(self.p.candidates.sampling.max_new_tokens) + self.assumed.question_tokens)
        form = config.training.form
        scored = written if form.kind == "likelihood" else 0
        return _Sized(config.training.steps, self._learn(costs, config, written, scored / max(1, written)))

    def _learn(self, costs: Costs, config: Any, written: float, scored: float) -> Work:
        training = config.training
        tokens = self._prompt(costs, config.frame_set) + written
        adapter = costs.shape.lora(training.lora.modules, training.lora.rank)
        calls = training.steps * training.batch_size
        return costs.learn(calls, tokens, written * scored, training.forward_batch, adapter, again=self.again)

    def _policy(self, given: dict[str, Any]) -> _Sized:
        """PPO: a critic beside the policy."""
        config = given["config"]
        drawn, updated = self._rollouts(given)
        reward: Rewarded = given["reward"]
        critic = self._costs(reward.model)
        training, lora = config.training, reward.config.training.lora
        answers = drawn.calls
        tokens = self._prompt(critic, reward.config.frame_set) + self._answer(training.sampling.max_new_tokens)
        scored = critic.read(2 * answers, tokens + self.assumed.question_tokens)  # Reward and value.
        adapter = critic.shape.lora(lora.modules, lora.rank)
        values = critic.learn(answers * training.epochs, tokens, 0, training.forward_batch, adapter, again=self.again)
        own = self._costs(given["model"])
        mine = own.shape.lora(training.lora.modules, training.lora.rank)
        other = not self._same(reward.model, given["model"])
        # What lies on the card while the other one learns: weights, and the states of both adapters.
        beside = (
            self._twin(own, training.lora.modules) + mine * LEARNED_BYTES + adapter * 4 + (own.weights if other else 0)
        )
        theirs = replace(scored + values, memory=values.memory + beside)
        critics = adapter * (LEARNED_BYTES + 4) + (critic.weights if other else 0)
        ours = replace(drawn + updated, memory=max(drawn.memory, updated.memory) + critics)
        return self._in_steps(given, ours + theirs)

    def _by_rewards(self, given: dict[str, Any]) -> _Sized:
        config, reward = given["config"], given["reward"]
        work, updated = self._rollouts(given)
        judge = self._costs(reward.model)
        tokens = self._prompt(judge, reward.config.frame_set) + self._answer(config.training.sampling.max_new_tokens)
        scored = judge.read(work.calls, tokens + self.assumed.question_tokens, config.training.forward_batch)
        other = 0.0 if self._same(reward.model, given["model"]) else judge.weights
        whole = work + updated + scored
        return self._in_steps(given, replace(whole, memory=whole.memory + other))

    def _by_ranks(self, given: dict[str, Any]) -> _Sized:
        config, way, model = given["config"], given["judging"], given["labeler"]
        work, updated = self._rollouts(given)
        whole = work + updated
        if isinstance(model, ModelRef | Trained) and config.ranker != "truth":
            training, costs = config.training, self._costs(model)
            groups = training.iterations * training.prompts
            calls = groups * (1 if config.ranker == "listwise" else self._judgements(way, training.samples))
            ranked = self._judged(costs, way, calls)
            whole = replace(whole + ranked, memory=whole.memory + costs.weights)
        return self._in_steps(given, whole)

    def _rollouts(self, given: dict[str, Any]) -> tuple[Work, Work]:
        """Sampling with the two readings after it, and the updates; of the policy's own model."""
        costs, config = self._costs(given["model"]), given["config"]
        training = config.training
        made = given.get("iterations")
        iterations = training.iterations if made is None else len(made)
        prompts, prompt = iterations * training.prompts, self._prompt(costs, config.frame_set)
        answers, limit = prompts * training.samples, training.sampling.max_new_tokens
        written = self._answer(limit)
        at_once = min(training.forward_batch, training.prompts * training.samples)
        drawn = costs.sample(prompts, prompt, training.samples, self.assumed.answer_tokens, limit, at_once)
        shared = prompt / training.samples + written  # Answers to a question share its prompt.
        twice = costs.read(2 * answers, shared, at_once)
        adapter = costs.shape.lora(training.lora.modules, training.lora.rank)
        learned = costs.learn(answers * training.epochs, shared, written, at_once, adapter, again=self.again)
        twin = self._twin(costs, training.lora.modules)
        sampled = replace(drawn + twice, calls=answers, memory=max(drawn.memory, twice.memory) + twin)
        return sampled, replace(learned, memory=learned.memory + twin)

    def _twin(self, costs: Costs, modules: str) -> float:
        models = self.p.models
        return costs.twin(modules) if models.sampling_copy and models.quantization == "none" else 0.0

    def _in_steps(self, given: dict[str, Any], work: Work) -> _Sized:
        made = given.get("iterations")
        return _Sized(given["config"].training.iterations if made is None else len(made), work)

    def _same(self, model: ModelRef | Trained, other: ModelRef | Trained) -> bool:
        """Whether both stand on one base in memory."""
        return isinstance(model, Trained) and isinstance(other, Trained) and model.base.name == other.base.name


_STAGES: dict[str, Callable[[_Computed, dict[str, Any]], _Sized]] = {
    "frames": _Computed._frames,
    "visual_tokens": _Computed._visual_tokens,
    "captions": _Computed._captions,
    "candidates": _Computed._candidates,
    "preferences": _Computed._preferences,
    "benchmark": _Computed._benchmark,
    "sft": _Computed._sft,
    "reward_model": _Computed._reward_model,
    "policy": _Computed._policy,
    "policy_by_rewards": _Computed._by_rewards,
    "policy_by_ranks": _Computed._by_ranks,
    "policy_by_pairs": _Computed._pairs,
}
