"""The parameters of a run: one section a stage, in the order of the flow.

Each section is a parameter of its own in the flows, because Prefect replaces a parameter whole when it merges.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from flows.can_run import check_engine, check_weights
from storage.places import absolute
from tasks.agreement import AgreementConfig
from tasks.audit_limits import AuditConfig
from tasks.benchmark import BenchmarkConfig
from tasks.boards import TrackerName
from tasks.candidates import CandidatesConfig
from tasks.captions import CaptionsConfig
from tasks.dpo import SelfDpoConfig
from tasks.evaluation.sections import EvaluationConfig, check_frames
from tasks.frames import FramesConfig
from tasks.group_policy import GrpoConfig
from tasks.policy import PpoConfig
from tasks.preferences import LOCAL, MODELS, JudgesConfig, JudgingConfig, PreferencesConfig
from tasks.prepare import PrepareConfig
from tasks.report import ReportConfig
from tasks.reward_model import RewardConfig
from tasks.sft import SftConfig
from tasks.visual_tokens import VisualTokensConfig


def _at_home(place: str) -> str:
    return str(Path(place).expanduser()) if place.startswith("~") else place


# A folder, file, address or Hub id; ~ is the user's home.
Place = Annotated[str, AfterValidator(_at_home)]


class RunConfig(BaseModel):
    """What the run is called, where its results go and how many processes work on it."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name of the run.")
    lake: Place | None = Field(None, description="Folder or s3://bucket/prefix; empty: runs/{name}/lake.")
    s3_block: str | None = Field(
        None,
        description="Prefect Secret block with the credentials and endpoint of an s3:// lake, as JSON of AWS_* names; "
        "empty: they are taken from the environment.",
    )
    folder: Place | None = Field(None, description="Folder for report.html and summary.json; empty: runs/{name}.")
    seed: int = Field(0, ge=0, description="All randomness of the run follows from it.")
    workers: int = Field(2, ge=1, description="Worker processes; changes the speed, not the result.")
    gpus_per_worker: float = Field(0, ge=0, description="GPUs for each worker; a fraction shares one.")
    training_workers: int = Field(
        1,
        ge=1,
        description="How many of the workers train together (SFT, reward model, policy), each with gpus_per_worker; "
        "changes the speed, and the result by rounding only.",
    )
    strategy: Literal["ddp", "zero2", "zero3"] = Field(
        "ddp",
        description="What workers that train together divide besides the work (deployments/deepspeed). ddp: nothing; "
        "zero2: gradients and optimiser; zero3: the weights of the frozen base too, for one that no single GPU holds.",
    )
    max_quarantined: float = Field(
        0.05, ge=0, le=1, description="Largest share of a stage's items that may fail before the run stops."
    )

    retries: int = Field(
        0,
        ge=0,
        description="How often quarantined items are tried again, also those of earlier runs of this lake; raise it by "
        "one after a time limit, a full memory or a lost disk was the reason. What comes after a stage is done again "
        "only where an item was healed.",
    )

    trackers: tuple[TrackerName, ...] = Field(
        (),
        description="Where training curves are shown besides TensorBoard: mlflow, wandb. They must be installed, and "
        "take server, project and key from their own variables (MLFLOW_*, WANDB_*).",
    )

    @model_validator(mode="after")
    def _trains(self) -> Self:
        if self.training_workers > self.workers:
            raise ValueError(f"training_workers {self.training_workers} must be at most workers, {self.workers}")
        if self.training_workers > 1 and self.gpus_per_worker % 1:
            raise ValueError("training_workers above 1 need whole GPUs: set gpus_per_worker to 0, 1, 2, ...")
        if self.training_workers == 1 and self.strategy != "ddp":
            raise ValueError(f"strategy {self.strategy} divides among training_workers: set at least 2 of them, or ddp")
        return self

    @property
    def lake_root(self) -> str:
        """The lake's absolute folder, or its address."""
        return absolute(self.lake or f"runs/{self.name}/lake")

    @property
    def results(self) -> Path:
        """The absolute folder of the report."""
        return Path(self.folder or f"runs/{self.name}").absolute()


class DataConfig(BaseModel):
    """The videos and the questions about them, in the row format of VLM-RLAIF."""

    model_config = ConfigDict(extra="forbid")

    videos: Place = Field(description="Folder of videos, searched with its sub-folders.")
    sft: Place = Field(description="Instructions with answers, for supervised fine-tuning.")
    rl: Place = Field(description="Instructions to practise on: candidates are sampled and judged, answers not used.")
    benchmark: Place = Field(description="Held-out instructions with answers, for the scores.")
    prepare: PrepareConfig | None = Field(None, description="What writes the data when it is not there yet.")


class ModelsConfig(BaseModel):
    """The two models: the one that is tuned, and the one that captions and judges."""

    model_config = ConfigDict(extra="forbid")

    policy: Place = Field(description="Model to tune: a local folder or a Hub id.")
    labeler: Place = Field(description="Model that writes the captions and judges: a local folder or a Hub id.")
    reward: Place | None = Field(
        None,
        description="Model that carries reward model and critic, often a larger one (published: 13B beside a policy of "
        "7B); empty: the policy after its supervised fine-tuning.",
    )
    device: str = Field(
        "cpu",
        pattern=r"^(cpu|mps|(cuda|xpu)(:[0-9]+)?)$",
        description="Torch device of both: cpu, cuda, cuda:0 ... A worker that has one GPU sees it as cuda.",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="Torch dtype of both.")
    quantization: Literal["none", "nf4"] = Field(
        "none",
        description="nf4: keep the weights of the language models in four bits (NF4, as QLoRA); a sixth of the memory "
        "and other answers. Needs CUDA and bitsandbytes.",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Trainings keep only each layer's input for the backward pass and compute the rest again: less "
        "memory for a third more time. Changes no result, and no stage's name.",
    )
    sampling_copy: bool = Field(
        True,
        description="Sample rollouts from a copy with the adapter merged in: faster for small models. The copy takes "
        "the memory of the language model a second time. Only in float32: half precision would round updates away.",
    )
    fit_memory: bool = Field(
        False,
        description="On a GPU, cut the steps of trainings by what fits into its memory, as a first pass shows, and by "
        "less where it runs out; forward_batch and forward_tokens stay the most. Changes no more than last digits.",
    )

    @property
    def how(self) -> dict[str, Any]:
        """How each of the models is loaded (ModelRef.of)."""
        return self.model_dump(exclude={"policy", "labeler", "reward"})


Route = Literal["ppo", "grpo", "grpo_rank", "self_dpo"]


class Arm(JudgingConfig):
    """One way to label, and how a policy learns from it."""

    route: Route = Field(
        "ppo",
        description="ppo: a reward model and a critic (VLM-RLAIF); grpo: a reward model and groups; grpo_rank: the "
        "arm's judge only ranks, while the policy learns (Oracle-RLAIF); self_dpo: rounds in which the policy is its "
        "own captioner and judge (ISR-DPO).",
    )


# Each arm has its own preferences and policy, and a reward model where its route has one.
Arms = Annotated[list[Arm], Field(min_length=1)]


REWARDED = ("ppo", "grpo")  # Routes with a reward model.
RESERVED = frozenset({"base", "sft"})


class Labelling(BaseModel):
    """The sections of a labelling: what comes before reward model and policy."""

    model_config = ConfigDict(extra="forbid")

    run: RunConfig
    data: DataConfig
    models: ModelsConfig
    frames: FramesConfig
    visual_tokens: VisualTokensConfig
    sft: SftConfig
    captions: CaptionsConfig
    candidates: CandidatesConfig
    preferences: JudgesConfig
    arms: Arms

    @model_validator(mode="after")
    def _fits(self) -> Self:
        names = [way.name for way in self._ways()]
        if len(set(names)) < len(names):
            raise ValueError(f"the names of arms and agreement.conditions must differ: {', '.join(names)}")
        if taken := RESERVED.intersection(names):
            raise ValueError(
                f"arms and agreement.conditions cannot be called {', '.join(taken)}: these name checkpoints"
            )
        sets = [one.name for one in self.frames.sets]
        unused = self._unused()
        sections = {name: section for name, section in self if hasattr(section, "frame_set") and name not in unused}
        for name, asks in [*sections.items(), *((way.name, way) for way in self._ways())]:
            if asks.frame_set not in sets:
                raise ValueError(f"{name}: frame_set {asks.frame_set!r} is none of frames.sets ({', '.join(sets)})")
        untold = self._judged() - set(self.captions.splits) if self.captions.condition_on_question else set()
        if untold:
            raise ValueError(
                f"captions.splits lacks {', '.join(sorted(untold))}: candidates of these instructions are judged, and "
                "with captions.condition_on_question each needs a narrative of its own"
            )
        captioned = next(one for one in self.frames.sets if one.name == self.captions.frame_set)
        if captioned.n > self.captions.max_frames:
            raise ValueError(
                f"captions: a clip of frame set {captioned.name!r} has {captioned.n} frames, more than "
                f"captions.max_frames {self.captions.max_frames}: give the set more clips of fewer frames, or raise "
                "the limit if the captioner can take them"
            )
        for way in self._ways():
            self.preferences.check_judge(way.judge, way.method)
        return self

    @model_validator(mode="after")
    def _can_run(self) -> Self:
        check_weights(self.run, self.models)
        for at, engine in self.engines():
            check_engine(self.run, self.models, at, engine)
        return self

    def engines(self) -> Iterator[tuple[str, str]]:
        """What draws answers, by the place of its setting."""
        for name, section in self:
            for at, asks in ((name, section), (f"{name}.training", getattr(section, "training", None))):
                if (engine := getattr(asks, "engine", None)) is not None:
                    yield at, engine

    def _ways(self) -> list[JudgingConfig]:
        """Every way in which the run judges."""
        return [*self.arms]

    def _judged(self) -> set[str]:
        """The splits whose answers are judged."""
        return {self.candidates.split}

    def _unused(self) -> set[str]:
        """Sections that no arm needs."""
        return set()

    def judging(self, way: JudgingConfig) -> PreferencesConfig:
        """How an arm's, or a condition's, pairs are judged."""
        asked = way.model_dump(exclude={"name", "route"})
        return PreferencesConfig.model_validate({**dict(self.preferences), **asked})

    @property
    def labelled(self) -> list[Arm]:
        """The arms whose labels are given before anything learns from them: all but those that label in rounds."""
        return [arm for arm in self.arms if arm.route != "self_dpo"]


def _check_route(arm: Arm) -> None:
    """Raises ValueError where an arm's route cannot use the labels that the arm asks for."""
    judges = {"grpo_rank": MODELS, "self_dpo": (LOCAL,)}.get(arm.route)
    if judges is None:
        return
    if arm.judge not in judges or arm.blind:
        raise ValueError(
            f"arm {arm.name!r}: route {arm.route} judges again and again while it trains: set judge to "
            f"{' or '.join(judges)} and blind to false"
        )
    if arm.route == "grpo_rank" and arm.label_noise:
        raise ValueError(
            f"arm {arm.name!r}: route grpo_rank learns from orders, not from labels: leave label_noise out"
        )


class Parameters(Labelling):
    """All sections of a preset."""

    reward: RewardConfig
    ppo: PpoConfig
    grpo: GrpoConfig = GrpoConfig()
    self_dpo: SelfDpoConfig = SelfDpoConfig()
    agreement: AgreementConfig
    audit: AuditConfig = AuditConfig()
    benchmark: BenchmarkConfig
    evaluate: EvaluationConfig | None = None
    report: ReportConfig

    @model_validator(mode="after")
    def _shows_what_is_sampled(self) -> Self:
        if self.evaluate is not None:
            check_frames(self.evaluate.benchmarks, self.frames)
        return self

    @model_validator(mode="after")
    def _narrates_what_is_sampled(self) -> Self:
        if "self_dpo" in self._unused():
            return self
        asked, sets = self.self_dpo.narrative.frame_set, [one.name for one in self.frames.sets]
        if asked not in sets:
            raise ValueError(f"self_dpo.narrative: frame_set {asked!r} is none of frames.sets ({', '.join(sets)})")
        return self

    def _ways(self) -> list[JudgingConfig]:
        return [*self.arms, *self.blind_twins(), *self.agreement.conditions]

    @model_validator(mode="after")
    def _can_learn(self) -> Self:
        for arm in self.arms:
            _check_route(arm)
            if arm.route == "grpo_rank":
                self.grpo.ranking(self.judging(arm))  # Raises what does not fit.
            if arm.route in REWARDED and self.reward.refresh_every:
                self._can_refresh(arm)
        return self

    def _can_refresh(self, arm: Arm) -> None:
        every, iterations = self.reward.refresh_every, self._iterations(arm)
        if every >= iterations:
            raise ValueError(
                f"reward.refresh_every {every} must be below the {iterations} iterations of {arm.route}, by which arm "
                f"{arm.name!r} learns: set it to 0 where the reward model is to stay as it is"
            )
        if arm.judge != LOCAL:
            raise ValueError(
                f"arm {arm.name!r}: with reward.refresh_every it judges again and again while the policy trains: set "
                "judge to local, or reward.refresh_every to 0"
            )

    def _iterations(self, arm: Arm) -> int:
        return (self.grpo if arm.route == "grpo" else self.ppo).training.iterations

    def segments(self, arm: Arm) -> list[range]:
        """The iterations of an arm of routes ppo and grpo, cut where its reward model is refreshed."""
        iterations = self._iterations(arm)
        every = self.reward.refresh_every or iterations
        return [range(begin, min(begin + every, iterations)) for begin in range(0, iterations, every)]

    def _unused(self) -> set[str]:
        routes = {arm.route for arm in self.arms}
        needed = {"grpo": {"grpo", "grpo_rank"}, "self_dpo": {"self_dpo"}}
        return {section for section, by in needed.items() if not by & routes}

    def _judged(self) -> set[str]:
        read = any(arm.route == "grpo_rank" and arm.narrative for arm in self.arms) and self.grpo.ranker != "truth"
        ranked = [self.grpo.split] if read else []
        return {self.candidates.split, *ranked, *([self.agreement.split] if self.agreement.conditions else [])}

    def blind_twins(self) -> list[JudgingConfig]:
        """How the arms' pairs are judged blind for the limit that needs it; arms that differ in narrative share it."""
        twins: dict[tuple[str, str, str], JudgingConfig] = {}
        for arm in self.labelled if self.audit.max_blind_agreement is not None else ():
            if not arm.blind:
                twins.setdefault((arm.judge, arm.method, arm.frame_set), arm.blinded())
        return [*twins.values()]
