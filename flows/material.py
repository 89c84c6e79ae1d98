"""What every labelling begins with: videos, questions, visual tokens and narratives."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from flows.parameters import DataConfig, Labelling, ModelsConfig, Parameters
from flows.steps import Pending, Steps, Trained
from models.endpoint_settings import JudgeEndpoint
from models.human_judge import Person
from models.shape import SEVERAL_AXES
from tasks.captions import captions
from tasks.frames import frames
from tasks.instructions import InstructionsConfig, instructions
from tasks.model_files import model_type
from tasks.model_ref import ModelRef
from tasks.preferences import SELF, PreferencesConfig
from tasks.progress import Progress
from tasks.videos import VideosConfig, videos
from tasks.visual_tokens import visual_tokens


@dataclass(frozen=True)
class Material:
    """What the model that is tuned and the labeler are shown. `seen` are the first one's visual tokens."""

    base: ModelRef
    labeler: ModelRef
    sampled: Pending
    asked: Pending
    seen: Pending
    seen_by_labeler: Pending
    narrated: Pending

    def judge(
        self, config: PreferencesConfig, policy: Trained
    ) -> tuple[Pending, Pending, ModelRef | Trained | JudgeEndpoint | Person]:
        """What the preferences stage is handed: what the judge is shown, the narratives, and the judge.

        `policy` is the one that answered, for arms whose judge it is itself.
        """
        if (outside := config.endpoint or config.person) is not None:
            return self.sampled, self.narrated, outside
        if config.judge == SELF:
            return self.seen, self.narrated, policy
        return self.seen_by_labeler, self.narrated, self.labeler


def material(step: Steps, p: Labelling) -> Material:
    """The first stages of the graph."""
    base, labeler = plain_models(p.models, step.ctx.progress)
    check_engines(p, base.name)
    if not step.ctx.looks_only:  # To price four bits, nothing that makes them is needed.
        check_four_bits(p.models)
    source = VideosConfig(folder=p.data.videos)
    sampled = step(frames, p.frames, step(videos, source), source)
    asked = step(instructions, instruction_files(p.data), sampled)
    seen = step(visual_tokens, p.visual_tokens, sampled, base, label="policy")
    same_eyes = base.tower == labeler.tower
    seen_by_labeler = seen if same_eyes else step(visual_tokens, p.visual_tokens, sampled, labeler, label="labeler")
    by_question = (asked,) if p.captions.condition_on_question else ()
    narrated = step(captions, p.captions, seen_by_labeler, labeler, *by_question)
    return Material(base, labeler, sampled, asked, seen, seen_by_labeler, narrated)


def critic_base(step: Steps, p: Parameters, shown: Material, start: Trained) -> tuple[Trained | ModelRef, Pending]:
    """The base of reward model and critic, and its visual tokens: the policy's start, unless one is named."""
    if p.models.reward is None:
        return start, shown.seen
    base = ModelRef.of(p.models.reward, **p.models.how)
    known = {shown.labeler.tower: shown.seen_by_labeler, shown.base.tower: shown.seen}
    if (seen := known.get(base.tower)) is None:
        seen = step(visual_tokens, p.visual_tokens, shown.sampled, base, label="reward")
    return base, seen


def plain_models(models: ModelsConfig, progress: Progress) -> tuple[ModelRef, ModelRef]:
    """The model to tune and the labeler, as they come; to hash a large checkpoint takes a while."""
    bar = progress.start("models: hashing", 2)
    try:
        base = ModelRef.of(models.policy, **models.how)
        bar.advance()
        labeler = ModelRef.of(models.labeler, **models.how)
        bar.advance()
        return base, labeler
    finally:
        bar.finish()


def check_engines(p: Labelling, model: str) -> None:
    """Raises ValueError where a section's engine cannot draw answers for the model, or is not installed."""
    several_axes = model_type(model) in SEVERAL_AXES
    for at, engine in p.engines():
        if engine == "transformers":
            continue
        if several_axes:
            raise ValueError(
                f"{at}.engine {engine!r} cannot draw answers for {model}: it places visual tokens in time, "
                "row and column, and the engine is handed embeddings alone. Set it to transformers."
            )
        if find_spec(engine) is None:
            raise ValueError(
                f"{at}.engine {engine!r} is not installed: pip install 'video-rlaif[{engine}]', or set it to "
                "transformers."
            )


def check_four_bits(models: ModelsConfig) -> None:
    """Raises ValueError where weights are wanted in four bits and what rounds them is not installed."""
    if models.quantization != "none" and find_spec("bitsandbytes") is None:
        raise ValueError(
            f"models.quantization {models.quantization!r} needs bitsandbytes, which is not installed: "
            "pip install bitsandbytes, or set it to none."
        )


def instruction_files(data: DataConfig) -> InstructionsConfig:
    """The three splits."""
    return InstructionsConfig(files={"sft": data.sft, "rl": data.rl, "benchmark": data.benchmark})
