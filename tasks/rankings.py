"""Stage `rankings`: the candidates of each instruction in order, best first, for training on ranks (Oracle-RLAIF)."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.endpoint_settings import JudgeEndpoint
from models.rankings import Group, NoRanking, Ranking
from models.settings import Sampling
from models.slots import SlotVocabulary
from storage.lake import Lake
from tasks.fanout import Outcome, StageFailure
from tasks.grading import Grader
from tasks.groups import candidate_groups
from tasks.judge_endpoint import endpoint_speaker, say_whose_rows
from tasks.judge_prompts import RankPrompts
from tasks.model_ref import ModelRef
from tasks.pictures import MissingFramesError, Pictures
from tasks.preferences import MODELS, JudgeSettings, PreferencesConfig, new_endpoint_judge, new_judge
from tasks.stage import RunContext, Stage, StageRef, StageResult, run_stage
from tasks.tokens import MissingTokensError, VisualTokens
from tasks.training import final_adapter
from tasks.truth import TruthRanker

if TYPE_CHECKING:
    from models.listwise import Speaker
    from models.parallel import Team
    from models.rankings import Ranker

logger = logging.getLogger(__name__)

Method = Literal["reward", "tournament", "listwise", "truth"]
REMOTE = "endpoint"  # What the tournament's judge is called in its own configuration.


class RankingsConfig(BaseModel):
    """How answers are put in order."""

    model_config = ConfigDict(extra="forbid")

    method: Method = Field(
        "reward",
        description="reward: a reward model's scores; tournament: a judge compares every two; listwise: one prompt "
        "that shows all answers; truth: the true answers, as an upper bound and never to train on.",
    )
    frame_set: str = Field("policy", description="Frame set that the ranker is shown.")
    narrative: bool = Field(
        False,
        description="Whether the narrative of the video is handed to whoever ranks; a reward model reads it only where "
        "it was trained to.",
    )
    judging: PreferencesConfig = Field(
        default_factory=lambda: PreferencesConfig.model_validate({}),
        description="Method tournament: how two answers are compared; frame_set and narrative above hold, not its own.",
    )
    endpoint: JudgeEndpoint | None = Field(
        None,
        description="Methods tournament and listwise: an OpenAI-compatible endpoint in the local model's place; a "
        "tournament then asks it for verdicts.",
    )
    prompts: RankPrompts = Field(default=RankPrompts(), description="Method listwise: what the model is asked.")
    sampling: Sampling = Field(
        default=Sampling(temperature=0.0, max_new_tokens=128),
        description="Method listwise: how the reply is drawn; temperature 0 takes the likeliest words.",
    )
    attempts: int = Field(
        3, ge=1, description="Method listwise: how often a group is asked about until its reply is an order."
    )
    slots: SlotVocabulary | None = Field(
        None, description="Method truth: words of the slot score; null: exact match says which answer is right."
    )
    batch_size: int = Field(16, ge=1, description="Methods reward and listwise: answers or prompts a forward.")
    shard_size: int = Field(64, ge=1, description="Instructions that are committed together.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.narrative and self.method == "truth":
            raise ValueError("method 'truth' reads no narrative: set narrative to false")
        if self.method == "tournament" and self.judging.max_pairs is not None:
            raise ValueError("a tournament needs every pair: leave judging.max_pairs out")
        if self.method == "tournament" and self.judging.judge not in MODELS:
            raise ValueError(f"a tournament asks models, not {self.judging.judge!r}: for a remote one, set endpoint")
        if self.endpoint is not None and self.method not in ("tournament", "listwise"):
            raise ValueError(f"method {self.method!r} asks no endpoint: leave it out")
        return self

    @property
    def judge(self) -> PreferencesConfig:
        """How the tournament's judge compares."""
        shown: dict[str, Any] = {"frame_set": self.frame_set, "narrative": self.narrative}
        if self.endpoint is not None:
            shown |= {"method": "verdict", "judge": REMOTE, "endpoints": {REMOTE: self.endpoint}}
        return self.judging.model_copy(update=shown)

    def asked(self) -> dict[str, str]:
        """The prompt that is used, if any."""
        if self.method == "tournament":
            return self.judge.asked
        if self.method == "listwise":
            name = "listwise_context" if self.narrative else "listwise"
            return {name: getattr(self.prompts, name)}
        return {}

    def decisive(self) -> dict[str, Any]:
        """What decides a ranking besides prompt and model; the other methods' settings do not."""
        own = {
            "reward": {"batch_size"},
            "tournament": set[str](),
            "listwise": {"attempts"} if self.endpoint is not None else {"sampling", "attempts", "batch_size"},
            "truth": {"slots"},
        }
        settings = self.model_dump(mode="json", include={"method", "frame_set", "narrative", *own[self.method]})
        return settings | ({"judging": self.judge.decisive()} if self.method == "tournament" else {})

    @property
    def drawn(self) -> bool:
        """Whether rankings depend on chance."""
        return self.method == "listwise" and self.endpoint is None and self.sampling.temperature > 0


def rankings(
    ctx: RunContext,
    config: RankingsConfig,
    candidates: StageResult,
    shown: StageResult,
    captions: StageResult | None,
    model: ModelRef | JudgeEndpoint | None,
    arm: str,
    *,
    reward: StageResult | None = None,
    instructions: StageResult | None = None,
) -> StageResult:
    """Rank the candidates of every instruction, one row a candidate.

    Equal candidates share their average rank. A group whose candidates are all equal is kept, all at one rank, and the
    number of such groups is logged: they teach nothing, but they were asked. A group is quarantined when it has one
    candidate, when a candidate was cut by the token limit, when the narrative to read is missing, and when the ranker
    gives no order of it.

    Args:
        ctx: the run.
        config: how to rank.
        candidates: the answers.
        shown: the visual tokens of `model`, or the frames for one behind an endpoint.
        captions: the narratives, where the ranker is to read them.
        model: who judges or orders; of a reward model the one that it was trained on; None for method truth.
        arm: what the rows are called.
        reward: the reward model, for method reward.
        instructions: the true answers, for method truth; no other method is handed them.

    Raises:
        ValueError: the method lacks one of these, or `model` is not the endpoint that the configuration names.
        StageFailure: an endpoint answers nobody or has used up its budget; what it said is in its ledger.
    """
    _check(config, captions, model, reward, instructions)
    if (model if isinstance(model, JudgeEndpoint) else None) != config.endpoint:
        raise ValueError(f"Rankings {arm!r} were handed another model than rankings.endpoint says.")
    narrated = captions.ref if captions is not None and config.narrative else None
    scored = reward.ref if reward is not None and config.method == "reward" else None
    true = instructions.ref if instructions is not None and config.method == "truth" else None
    stage = Stage(
        name="rankings",
        table="rankings",
        config={**config.decisive(), "arm": arm},
        inputs=(candidates.ref, shown.ref, *(ref for ref in (narrated, scored, true) if ref is not None)),
        model=None if model is None else model.identity,
        prompts=config.asked(),
        seed=ctx.seed if config.drawn else 0,
        shard_size=config.shard_size,
        # Truths stand in no item, so another file's would be taken for the same.
        reuse=not config.drawn and true is None,
        label=f"rankings {arm}",
    )
    settings = RankSettings(ctx.lake_root, shown.ref, model, config, arm, scored, true, ctx.pool.workers)
    groups = (candidates.ref, shown.ref, narrated)
    result = run_stage(ctx, stage, lambda: _items(ctx.lake, groups, scored), RankGroups, settings)
    if isinstance(model, JudgeEndpoint) and not ctx.looks_only:
        say_whose_rows(ctx.lake, result.ref, model.model)
    if not result.cached:
        _report_equal(ctx.lake, result)
    return result


def _check(
    config: RankingsConfig,
    captions: StageResult | None,
    model: ModelRef | JudgeEndpoint | None,
    reward: StageResult | None,
    instructions: StageResult | None,
) -> None:
    lacking = [
        name
        for name, needed, given in (
            ("the captions", config.narrative, captions),
            ("a model", config.method != "truth", model),
            ("a reward model", config.method == "reward", reward),
            ("the instructions with the true answers", config.method == "truth", instructions),
        )
        if needed and given is None
    ]
    if lacking:
        raise ValueError(f"Rankings by method {config.method!r} need {' and '.join(lacking)}; hand them to the stage.")


def _items(
    lake: Lake, groups: tuple[StageRef, StageRef, StageRef | None], reward: StageRef | None
) -> list[dict[str, Any]]:
    weights = {} if reward is None else {"reward": final_adapter(lake, reward)}
    return [{**item, **weights} for item in candidate_groups(lake, *groups)]


def _report_equal(lake: Lake, result: StageResult) -> None:
    rows = lake.table(result.table).read(result.key, columns=["item_id", "distinct"]).to_pylist()
    equal = len({row["item_id"] for row in rows if row["distinct"] == 1})
    logger.info("%s: in %d of %d groups all candidates are equal", result.label, equal, result.ok)


@dataclass(frozen=True)
class RankSettings:
    """What a worker needs."""

    lake: str
    shown: StageRef
    model: ModelRef | JudgeEndpoint | None
    config: RankingsConfig
    arm: str
    reward: StageRef | None = None
    truth: StageRef | None = None
    workers: int = 1
    attempt: int = 0

    def at_attempt(self, attempt: int) -> RankSettings:
        """An endpoint is asked anew in each attempt; a local model would only be loaded anew."""
        return replace(self, attempt=attempt) if isinstance(self.model, JudgeEndpoint) else self


class RankGroups:
    """Ranks all groups of a shard together, so that batches are full."""

    def __init__(self, settings: RankSettings) -> None:
        lake = Lake(settings.lake)
        self._shown: VisualTokens | Pictures
        if isinstance(settings.model, JudgeEndpoint):
            self._shown = Pictures(lake, settings.shown, settings.model.max_side, settings.model.jpeg_quality)
        else:
            self._shown = VisualTokens(lake, settings.shown)
        self._ranker = new_ranker(lake, settings)
        self._config = settings.config
        self._arm = settings.arm

    def process(self, items: list[dict[str, Any]], seed: int) -> list[Outcome]:
        from models.endpoint import EndpointError

        groups = [self._group(item) for item in items]
        try:
            ranked = iter(self._ranker.rank([group for group in groups if isinstance(group, Group)], seed))
        except EndpointError as error:
            raise StageFailure(str(error)) from None
        return [
            self._outcome(item, group, next(ranked))
            if isinstance(group, Group)
            else Outcome(item["item_id"], None, group)
            for item, group in zip(items, groups, strict=True)
        ]

    def _group(self, item: dict[str, Any]) -> Group | str:
        """What is asked about an instruction, or why nothing can be."""
        if item["fault"]:
            return str(item["fault"])
        if len(item["candidates"]) < 2:
            return "it has one candidate, and an order needs two; raise candidates.n"
        try:
            frames = self._shown.frames(item["video"], self._config.frame_set)
        except (MissingTokensError, MissingFramesError) as error:
            return str(error)
        answers = tuple(text for _, text in item["candidates"])
        return Group(item["item_id"], item["question"], frames, answers, item["narrative"])

    def _outcome(self, item: dict[str, Any], group: Group, ranking: Ranking | NoRanking) -> Outcome:
        if isinstance(ranking, NoRanking):
            return Outcome(item["item_id"], None, ranking.reason)
        shared = self._about(item, group, ranking)
        rows = [
            {
                **shared,
                "candidate": number,
                "text": text,
                "rank": ranking.ranks[i],
                "score": None if ranking.scores is None else ranking.scores[i],
                "place": None if ranking.places is None else ranking.places[i],
            }
            for i, (number, text) in enumerate(item["candidates"])
        ]
        return Outcome(item["item_id"], rows)

    def _about(self, item: dict[str, Any], group: Group, ranking: Ranking) -> dict[str, Any]:
        return {
            "instruction": item["item_id"],
            "video": item["video"],
            "question": item["question"],
            "group_size": len(group.answers),
            "distinct": len(group.distinct()),
            "method": self._config.method,
            "frame_set": self._config.frame_set,
            "with_narrative": self._config.narrative,
            "narrative": item["narrative"],
            "arm": self._arm,
            "reply": ranking.reply,
            "attempts": ranking.attempts,
            "answered_by": ranking.answered_by,
        }


def new_ranker(lake: Lake, settings: RankSettings, team: Team | None = None) -> Ranker:
    """The ranker that a configuration describes; `team`: the workers that rank the same groups by a local model."""
    from models.listwise import LocalSpeaker
    from models.parallel import ALONE
    from models.rankers import RewardRanker, TournamentRanker
    from models.reward_model import RewardModel

    config = settings.config
    if settings.truth is not None:
        return TruthRanker(Grader(config.slots), _true_answers(lake, settings.truth))
    assert settings.model is not None  # checked by `rankings`
    if isinstance(settings.model, JudgeEndpoint):
        return _remote_ranker(settings.model, settings)
    lm = settings.model.load(lake)
    if settings.reward is not None:
        reward = RewardModel.load(lm, lake.blobs.folder(final_adapter(lake, settings.reward)))
        return RewardRanker(reward, batch_size=config.batch_size)
    if config.method == "tournament":
        return TournamentRanker(new_judge(lm, config.judge, team))
    speaker = LocalSpeaker(lm, config.sampling, batch_size=config.batch_size, team=team or ALONE)
    return _listwise(speaker, config)


def _remote_ranker(model: JudgeEndpoint, settings: RankSettings) -> Ranker:
    from models.rankers import TournamentRanker

    config, limits = settings.config, (settings.workers, settings.attempt)
    if config.method == "tournament":
        way = JudgeSettings(settings.lake, settings.shown, model, config.judge, settings.arm, *limits)
        return TournamentRanker(new_endpoint_judge(model, way))
    speaker = endpoint_speaker(model, lake=settings.lake, workers=settings.workers, attempt=settings.attempt)
    return _listwise(speaker, config)


def _listwise(speaker: Speaker, config: RankingsConfig) -> Ranker:
    from models.listwise import ListwiseRanker

    texts = {"text": config.prompts.listwise, "context_text": config.prompts.listwise_context}
    return ListwiseRanker(speaker, **texts, attempts=config.attempts)


def _true_answers(lake: Lake, instructions: StageRef) -> dict[str, str | None]:
    rows = lake.table(instructions.table).read(instructions.key, columns=["item_id", "answer"]).to_pylist()
    return {row["item_id"]: row["answer"] for row in rows}
