"""Stage `preferences`: a model judges which of an instruction's candidates is better. Ground truth is never read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from models.endpoint_settings import JudgeEndpoint
from models.human_judge import Person
from storage.lake import Lake
from tasks.answering import forward_tokens_field
from tasks.fanout import Outcome, StageFailure
from tasks.groups import candidate_groups
from tasks.judge_endpoint import (
    AGAIN,
    endpoint_judge,
    say_what_the_budget_counts,
    say_whose_rows,
)
from tasks.judge_human import SaidPairs, heard
from tasks.judge_prompts import JudgePrompts
from tasks.judged_pairs import comparisons_of, pairs_outcome
from tasks.model_ref import ModelRef
from tasks.pictures import Pictures, black_pictures
from tasks.stage import RunContext, Stage, StageRef, StageResult, run_stage
from tasks.tokens import VisualTokens

if TYPE_CHECKING:
    from models.comparisons import Judge
    from models.parallel import Team
    from models.sequences import Footage
    from models.video_lm import VideoLM

LOCAL = "local"
SELF = "self"
HUMAN = "human"
MODELS = (LOCAL, SELF)  # Judges whose weights are here.
Method = Literal["likelihood", "verdict"]
LabelNoise = Annotated[float, Field(ge=0, le=0.5)]
TURNED = (
    "Fraction of the decided labels that are turned round, for studies of what wrong labels cost. Which ones "
    "is drawn by the pair alone: what is turned at one fraction is turned at every larger one, whatever the seed."
)


class JudgingConfig(BaseModel):
    """One way to judge."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9_]+$", description="Its name in tables and in the report.")
    narrative: bool = Field(description="Whether the judge reads the narrative of the video.")
    frame_set: str = Field(description="Which of frames.sets the judge is shown.")
    method: Method = Field(
        description="likelihood: log-probability of each answer; verdict: of A and B after a prompt that shows both."
    )
    judge: str = Field(
        LOCAL,
        description="local: the labeler; self: the policy after its supervised fine-tuning, which reads the labeler's "
        "narratives; human: people, asked by `rlaif judge`; else the name of one of preferences.endpoints.",
    )
    blind: bool = Field(
        False,
        description="Black frames in the video's place, to check the judge: a label that needs no video is suspicious.",
    )

    label_noise: LabelNoise = Field(0.0, description=TURNED)

    def blinded(self) -> JudgingConfig:
        """The same way without the video: neither its frames nor what the narrative tells of them."""
        blind = {"name": f"{self.name}_blind", "blind": True, "narrative": False, "label_noise": 0.0}
        return self.model_copy(update=blind)


class JudgesConfig(BaseModel):
    """How judges compare answers, whatever the arm; an arm adds its own way (JudgingConfig)."""

    model_config = ConfigDict(extra="forbid")

    endpoints: dict[str, JudgeEndpoint] = Field(
        default={}, description="Judges behind OpenAI-compatible endpoints, by the name that an arm asks for."
    )
    prompts: JudgePrompts = Field(default=JudgePrompts(), description="What the judge is asked.")
    max_pairs: int | None = Field(
        None, ge=1, description="Judge only this many pairs of an instruction, always the same ones; null: all."
    )
    tie_margin: float = Field(1e-3, ge=0, description="Scores (likelihood) or log-odds (verdict) this close tie, nats.")
    reduction: Literal["sum", "mean"] = Field(
        "sum", description="Method likelihood: score an answer by the sum or the mean over its tokens."
    )
    min_choice_mass: float = Field(
        0.2, ge=0, le=1, description="Method verdict: least probability of A and B together; below, it is no verdict."
    )
    batch_size: int = Field(16, ge=1, description="Answers (likelihood) or prompts (verdict) judged together.")
    forward_tokens: int | None = forward_tokens_field()
    shard_size: int = Field(64, ge=1, description="Instructions that are committed together.")

    @field_validator("endpoints")
    @classmethod
    def _free_names(cls, endpoints: dict[str, JudgeEndpoint]) -> dict[str, JudgeEndpoint]:
        if taken := sorted({*MODELS, HUMAN} & set(endpoints)):
            raise ValueError(f"an endpoint cannot be called {taken[0]!r}, which is the name of another judge")
        return endpoints

    def check_judge(self, judge: str, method: Method) -> None:
        """Raises ValueError when no judge has the name `judge`, or it cannot judge by `method`."""
        if judge in MODELS:
            return
        if judge != HUMAN and judge not in self.endpoints:
            known = ", ".join([*MODELS, HUMAN, *self.endpoints])
            raise ValueError(f"judge {judge!r} is none of preferences.endpoints; known: {known}")
        if method != "verdict" and judge == HUMAN:
            raise ValueError(f"judge {judge!r} is a person, who gives no method {method!r}: use verdict")
        if method != "verdict":
            raise ValueError(f"judge {judge!r} is behind an endpoint, which gives no method {method!r}: use verdict")


class PreferencesConfig(JudgesConfig):
    """How one judge compares answers."""

    method: Method = Field(
        "verdict",
        description="likelihood: log-probability of each answer; verdict: of A and B after a prompt that shows both.",
    )
    frame_set: str = Field("policy", description="Frame set that the judge is shown.")
    narrative: bool = Field(True, description="Whether the judge reads the narrative of the video.")
    judge: str = Field(
        LOCAL, description="local: the labeler; self: the policy; human: people; else the name of one of the endpoints."
    )
    blind: bool = Field(False, description="Black frames in the video's place, to check the judge.")
    label_noise: LabelNoise = Field(0.0, description=TURNED)

    @model_validator(mode="after")
    def _known_judge(self) -> Self:
        self.check_judge(self.judge, self.method)
        return self

    @property
    def endpoint(self) -> JudgeEndpoint | None:
        """The endpoint that judges; None for models whose weights are here and for people."""
        return None if self.judge in (*MODELS, HUMAN) else self.endpoints[self.judge]

    @property
    def person(self) -> Person | None:
        """The people who judge; None for other judges."""
        return Person() if self.judge == HUMAN else None

    @property
    def prompt_name(self) -> str:
        """Which of the prompts is used."""
        kind = HUMAN if self.judge == HUMAN else self.method if self.endpoint is None else "endpoint"
        return f"{kind}_context" if self.narrative else kind

    @property
    def asked(self) -> dict[str, str]:
        """The texts that decide the verdicts."""
        texts = {self.prompt_name: getattr(self.prompts, self.prompt_name)}
        return texts if self.endpoint is None else {**texts, "again": AGAIN}

    def decisive(self) -> dict[str, Any]:
        """What decides a verdict besides prompt and model; settings of other methods and judges do not."""
        local = {"min_choice_mass", "batch_size", "forward_tokens", "reduction"}
        other = local if self.endpoint is not None else {*local, "tie_margin"}
        if self.judge in MODELS:
            other = {"min_choice_mass" if self.method == "likelihood" else "reduction"}
        # Left out where they are off, so that labels made before there were such things keep their keys.
        off = {name for name in ("blind", "label_noise") if not getattr(self, name)}
        return self.model_dump(mode="json", exclude={"prompts", "shard_size", "judge", "endpoints", *other, *off})


def preferences(
    ctx: RunContext,
    config: PreferencesConfig,
    candidates: StageResult,
    shown: StageResult,
    captions: StageResult | None,
    model: ModelRef | JudgeEndpoint | Person,
    arm: str,
) -> StageResult:
    """Judge the pairs of each instruction's candidates, one row a pair; equal candidates are ties and are kept.

    `shown` are the visual tokens of the local judge `model`, or the frames for one behind an endpoint and for people.
    An instruction is quarantined when a candidate was cut by the token limit, when its video has no narrative but the
    judge is to read one, and when the judge gives no verdict on one of its pairs. An endpoint that answers nobody, or
    has used up its budget, ends the stage; what it answered is in its ledger, and the same stage goes on from there.
    People who have still to be asked end it likewise; what they say is kept at their desk.

    Raises:
        ValueError: the judge is to read narratives, but there are no captions; or `model` is not the judge that the
            configuration names.
        StageFailure: the endpoint.
        StageError: people have still to be asked; the text says how.
    """
    if (model if isinstance(model, JudgeEndpoint | Person) else None) != (config.endpoint or config.person):
        raise ValueError(f"Arm {arm!r} judges by {config.judge!r}, but was handed another judge.")
    if config.narrative and captions is None:
        raise ValueError(f"Arm {arm!r} judges with the narrative, but no captions were made; run the captions stage.")
    narrated = captions.ref if captions is not None and config.narrative else None
    stage = Stage(
        name="preferences",
        table="preferences",
        config={**config.decisive(), "arm": arm},
        inputs=(candidates.ref, shown.ref, *([narrated] if narrated else [])),
        model=model.identity,
        prompts=config.asked,
        seed=0,  # Nothing is drawn.
        shard_size=config.shard_size,
        reuse=True,
        label=f"preferences {arm}",
    )
    if isinstance(model, JudgeEndpoint) and model.budget is not None and not ctx.looks_only:
        say_what_the_budget_counts(ctx.lake_root, model.model)
    settings = JudgeSettings(ctx.lake_root, shown.ref, model, config, arm, ctx.pool.workers)
    items = partial(candidate_groups, ctx.lake, candidates.ref, shown.ref, narrated)
    if isinstance(model, Person):
        return run_stage(ctx, stage, partial(heard, ctx, items, shown.ref, config, arm), SaidPairs, settings)
    judged = run_stage(ctx, stage, items, JudgePairs, settings)
    if isinstance(model, JudgeEndpoint) and not ctx.looks_only:
        say_whose_rows(ctx.lake, judged.ref, model.model)
    return judged


@dataclass(frozen=True)
class JudgeSettings:
    """What a worker needs."""

    lake: str
    shown: StageRef
    model: ModelRef | JudgeEndpoint | Person
    config: PreferencesConfig
    arm: str
    workers: int = 1
    attempt: int = 0

    def at_attempt(self, attempt: int) -> JudgeSettings:
        """An endpoint is asked anew in each attempt; a local judge would only be loaded anew."""
        return replace(self, attempt=attempt) if isinstance(self.model, JudgeEndpoint) else self


class JudgePairs:
    """Judges all pairs of a shard's instructions together, so that batches are full."""

    def __init__(self, settings: JudgeSettings) -> None:
        lake = Lake(settings.lake)
        self._shown: VisualTokens | Pictures
        self._judge: Judge
        self._lm: VideoLM | None = None
        assert not isinstance(settings.model, Person)  # What people said is no work for a model: SaidPairs.
        if isinstance(settings.model, JudgeEndpoint):
            self._shown = Pictures(lake, settings.shown, settings.model.max_side, settings.model.jpeg_quality)
            self._judge = new_endpoint_judge(settings.model, settings)
        else:
            self._shown = VisualTokens(lake, settings.shown)
            self._lm = settings.model.load(lake)
            self._judge = new_judge(self._lm, settings.config)
        self._black: dict[int, Footage] = {}
        self._config = settings.config
        self._arm = settings.arm

    def process(self, items: list[dict[str, Any]], seed: int) -> list[Outcome]:  # noqa: ARG002 - nothing is drawn
        from models.endpoint import EndpointError

        most = self._config.max_pairs
        asked = [comparisons_of(item, most, self._frames) for item in items]
        try:
            verdicts = iter(self._judge.judge([pair for each in asked if not isinstance(each, str) for pair in each]))
        except EndpointError as error:
            raise StageFailure(str(error)) from None
        return [
            Outcome(item["item_id"], None, each)
            if isinstance(each, str)
            else pairs_outcome(item, [next(verdicts) for _ in each], self._config, self._arm)
            for item, each in zip(items, asked, strict=True)
        ]

    def _frames(self, video: str) -> Any:
        """Visual tokens, or pictures for an endpoint; as many black ones where the judge is blind."""
        shown = self._shown.frames(video, self._config.frame_set)
        if not self._config.blind:
            return shown
        if isinstance(shown, tuple):
            return black_pictures(shown)
        from models.encoding import blank_like

        assert self._lm is not None
        if len(shown) not in self._black:
            self._black[len(shown)] = blank_like(self._lm, shown)
        return self._black[len(shown)]


def new_endpoint_judge(model: JudgeEndpoint, settings: JudgeSettings) -> Judge:
    """The judge behind an endpoint that a configuration describes."""
    config = settings.config
    return endpoint_judge(
        model,
        lake=settings.lake,
        workers=settings.workers,
        text=config.prompts.endpoint,
        context_text=config.prompts.endpoint_context,
        tie_margin=config.tie_margin,
        attempt=settings.attempt,
    )


def new_judge(lm: VideoLM, config: PreferencesConfig, team: Team | None = None) -> Judge:
    """The judge that a configuration describes; `team`: the workers that judge the same comparisons together."""
    from models.judge import LikelihoodJudge, VerdictJudge
    from models.parallel import ALONE

    shared: dict[str, Any] = {
        "text": getattr(config.prompts, config.method),
        "context_text": getattr(config.prompts, f"{config.method}_context"),
        "tie_margin": config.tie_margin,
        "batch_size": config.batch_size,
        "forward_tokens": config.forward_tokens,
        "team": team or ALONE,
    }
    if config.method == "likelihood":
        return LikelihoodJudge(lm, reduction=config.reduction, **shared)
    return VerdictJudge(lm, min_choice_mass=config.min_choice_mass, **shared)
