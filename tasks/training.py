"""What the training stages share: their journal in the lake, their examples, and the row they end with.

A training stage has one item: the training itself. While it runs, its worker commits states (table `checkpoints`, under
the stage's key with "-state" behind it) and curves (table `metrics`); a run that was killed continues from the last
state to the same bytes.
"""

from __future__ import annotations

import json
import logging
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from models.memory import ran_out
from storage.lake import Lake, event
from tasks.boards import Board
from tasks.fanout import Outcome, StageFailure
from tasks.fitting import Fit, without_faults
from tasks.journal import LakeJournal, ReadJournal, checkpoint_row
from tasks.model_ref import ModelRef
from tasks.progress import SilentProgress
from tasks.segments import Segment
from tasks.stage import RunContext, Stage, StageRef, StageResult, run_stage
from tasks.tokens import VisualTokens

if TYPE_CHECKING:
    from models.canaries import Probe
    from models.parallel import Team
    from models.sequences import Prompt
    from models.training import Journal, NotFiniteError
    from models.video_lm import VideoLM

logger = logging.getLogger(__name__)

POLL_S = 2.0
PROBED = 16


@dataclass(frozen=True)
class Training:
    """What a worker needs to train and to keep its journal.

    Attributes:
        lake: the lake's root.
        run: name of the run.
        key: the stage's key.
        role: what comes out: "sft", "reward" or "policy".
        arm: which arm of the run, if any.
        model: the model to begin with.
        tokens: its visual tokens.
        instructions: the questions.
        config: the stage's pydantic model.
        seed: of everything random.
    """

    lake: str
    run: str
    key: str
    role: str
    arm: str | None
    model: ModelRef
    tokens: StageRef
    instructions: StageRef
    config: Any
    seed: int

    @classmethod
    def of(
        cls,
        ctx: RunContext,
        stage: Stage,
        role: str,
        arm: str | None,
        model: ModelRef,
        tokens: StageResult,
        instructions: StageResult,
        config: Any,
        **more: Any,
    ) -> Self:
        """The training of a stage, with its seed; `more` are the fields of a subclass."""
        shared = (ctx.lake_root, ctx.run, stage.key, role, arm, model, tokens.ref, instructions.ref, config, stage.seed)
        return cls(*shared, **more)


def train(
    ctx: RunContext,
    stage: Stage,
    training: Training,
    trainer: type,
    steps: int,
    save_every: int,
    segment: Segment | None = None,
    board: str | None = None,
) -> StageResult:
    """Run a training stage: one item, whose progress is read from the states that its worker commits.

    Args:
        ctx: the run.
        stage: as `training` says.
        training: what the worker needs.
        trainer: the Trainer.
        steps: of the whole training.
        save_every: steps between saved states.
        segment: which of the steps are this stage's; None: all.
        board: what the curves are called where they are shown; None: what the stage is called.
    """
    quiet = replace(ctx, progress=SilentProgress())  # the steps are shown, not the one item
    with _progress(ctx, stage, segment or Segment.of(steps), save_every, board):
        return run_stage(quiet, stage, lambda: [{"item_id": training.arm or training.role}], trainer, training)


@contextmanager
def _progress(ctx: RunContext, stage: Stage, segment: Segment, save_every: int, board: str | None) -> Iterator[None]:
    done = threading.Event()
    saves = [*(step for step in range(save_every, segment.until, save_every) if step > segment.begin), segment.until]
    keys = [*(each.key for each in segment.before), stage.key]

    def watch() -> None:
        if ctx.lake.table("stages").committed(stage.key, [-1]):
            return
        # A table handle of its own: the stage's own thread uses the context's.
        table = Lake(ctx.lake_root).table("metrics")
        name = stage.label or stage.name
        bar, shown = ctx.progress.start(f"{name} steps", segment.until - segment.begin), segment.begin
        with Board(ctx.boards, board or name) as curves:
            try:
                ended = False
                while not ended:
                    ended = done.wait(POLL_S)  # once more after the end, so that the bar shows it
                    reached = max(table.committed(stage.key, saves), default=segment.begin)
                    bar.advance(reached - shown)
                    shown = reached
                    curves.show(table, keys, reached)
            finally:
                bar.finish()

    thread = threading.Thread(target=watch, name=f"progress-{stage.name}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def final_adapter(lake: Lake, training: StageRef) -> str:
    """The blob of the adapter that a training stage ended with."""
    return final_adapters(lake, training)[-1]


def final_adapters(lake: Lake, training: StageRef) -> tuple[str, ...]:
    """The blob of the adapter that a training stage ended with, after those that were merged before it, in order."""
    rows = lake.table(training.table).read(training.key, columns=["final", "blob", "merged"]).to_pylist()
    (row,) = (row for row in rows if row["final"])
    return (*(row["merged"] or ()), row["blob"])


class Trainer(ABC):
    """A processor whose one item is a training: what goes wrong concerns the stage, not an item.

    Attributes:
        team: the workers that train together; the first of them keeps the journal.
    """

    whole_stage = True

    def __init__(self, training: Any, team: Team | None = None) -> None:
        """`team`: the workers that train together; None: this one alone."""
        from models.parallel import ALONE

        self.training = training
        self.team: Team = team or ALONE
        self.learned_from: Sequence[dict[str, Any]] = ()  # By the numbers that a step of the training gives.

    def process(self, _items: list[dict[str, Any]], _seed: int) -> list[Outcome]:
        from models.training import NotFiniteError, TrainingError

        lake = Lake(self.training.lake)
        try:
            step, blob, metrics = self.train(lake)
        except NotFiniteError as error:
            raise StageFailure(self._named(lake, error)) from error
        except Exception as error:  # a full disk too: written down as a quarantine it would stay for ever
            if ran_out(error):
                raise
            what = f"{self.training.role} {self.training.arm or ''}".rstrip()
            kind = "" if isinstance(error, (TrainingError, ValueError)) else f"{type(error).__name__}: "
            raise StageFailure(f"{what}: {kind}{error}") from error
        row = {**checkpoint_row(self.training, step, final=True, metrics=metrics), "blob": blob}
        if (state := self.state_to_go_on_from(lake)) is not None:
            row["state"] = state
        return [Outcome(self.training.arm or self.training.role, [row])]

    def _named(self, lake: Lake, error: NotFiniteError) -> str:
        """What to tell of a step that failed, once its batch stands in the lake."""
        about = ("item_id", "instruction", "video", "question", "answer_a", "answer_b")
        rows = [self.learned_from[number] for number in error.items]
        batch = [{name: row[name] for name in about if name in row} for row in rows]
        detail = json.dumps({"error": str(error), "items": batch}, ensure_ascii=False)
        training = self.training
        if self.team.rank == 0:
            lake.log([{**event(training.run, "training_stopped", detail=detail), "stage_key": training.key}])
        self.team.gather(None)  # all found it, and whoever says so ends them all: the first has written it by now
        what = f"{training.role} {training.arm or ''}".rstrip()
        first = ", ".join(str(row.get("instruction") or row.get("item_id")) for row in batch[:3])
        return (
            f"{what}: {error} The step's {len(batch)} items ({first}, ...) are kept in table runs of the lake, event "
            "training_stopped."
        )

    def state_to_go_on_from(self, lake: Lake) -> str | None:  # noqa: ARG002 - a training that ends needs no lake for it
        """The blob of the state that a further stage begins with; None where the training ends here."""
        return None

    def journal(self, lake: Lake, begun: StageRef | None = None) -> Journal:
        """Where the training leaves its states and curves, and goes on from. Of several workers the first writes."""
        journal = LakeJournal(lake, self.training, begun)
        return journal if self.team.rank == 0 else ReadJournal(journal)

    def model(self, lake: Lake) -> VideoLM:
        """The model to begin with; of several workers each may have a part of it."""
        lm: VideoLM = self.training.model.load(lake, self.team)
        return lm

    def kept(self, lake: Lake, save: Callable[[Path], None]) -> str:
        """The blob of the folder that `save` writes an adapter to; of several workers the first writes it."""
        if self.team.rank:
            return ""
        with tempfile.TemporaryDirectory() as folder:
            save(Path(folder))
            return lake.blobs.put_folder(Path(folder))

    @abstractmethod
    def train(self, lake: Lake) -> tuple[int, str, dict[str, float]]:
        """Train to the end: steps done, blob of the adapter's folder, and the metrics that are kept with it."""


class Lazy(Sequence[Any]):
    """A sequence whose members are made when they are asked for: thousands of visual tokens would fill the memory.

    Attributes:
        rows: what they are made of.
    """

    def __init__(self, rows: Sequence[Any], make: Callable[[Any], Any]) -> None:
        self.rows, self._make = rows, make

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self._make(self.rows[index])


class Questions:
    """The instructions of a split as prompts, in a fixed order.

    Attributes:
        rows: item_id, video, question and answer of each.
        unseen: how many of the split are left out, because their video has no visual tokens (that stage says why).
    """

    def __init__(self, lake: Lake, training: Training, split: str, frame_set: str, lm: VideoLM) -> None:
        columns = ["item_id", "status", "split", "video", "question", "answer", "kind"]
        table = lake.table(training.instructions.table).read(training.instructions.key, columns=columns)
        self.tokens = VisualTokens(lake, training.tokens)
        self.frame_set = frame_set
        self.lm = lm
        asked = [row for row in table.to_pylist() if row["status"] == "ok" and row["split"] == split]
        self.rows = [row for row in asked if row["video"] in self.tokens]
        self.unseen = len(asked) - len(self.rows)
        if self.unseen:
            logger.warning("%d of %d questions of %r have no visual tokens", self.unseen, len(asked), split)
        self._split, self._learning = split, training.config.training
        self.keep(self.rows)

    def fit(self, answer: Callable[[dict[str, Any]], int]) -> Fit:
        """Go on with the questions that leave room for `answer` tokens in the model's window; the rest is logged.

        Returns:
            What measured them.

        Raises:
            ValueError: there is none.
        """
        fit = Fit(self.lm, self.tokens, self.frame_set)
        what = f"questions of {self._split!r}"
        self.keep(without_faults(self.rows, lambda row: fit.fault(row["question"], row["video"], answer(row)), what))
        return fit

    def keep(self, rows: list[dict[str, Any]]) -> None:
        """Go on with these of the rows.

        Raises:
            ValueError: there is none.
        """
        if not rows:
            raise ValueError(
                f"Split {self._split!r} of the instructions holds no usable question; look at data.{self._split}, and "
                "at the quarantines of frames, visual tokens and captions."
            )
        self.rows = rows

    def prompt(self, row: dict[str, Any]) -> Prompt:
        return self.lm.prompt(row["question"], self.tokens.frames(row["video"], self.frame_set))

    def probe(self, answer: Callable[[dict[str, Any]], str]) -> Probe:
        """A few questions spread over the split, for the canaries; call it before the first adapter.

        They go through the model within the limits of the training's own passes.
        """
        from models.batches import Limits
        from models.canaries import Probe
        from models.encoding import blank_like

        chosen = self.rows[:: max(1, len(self.rows) // PROBED)][:PROBED]
        prompts = [self.prompt(row) for row in chosen]
        black = blank_like(self.lm, self.tokens.frames(chosen[0]["video"], self.frame_set))
        return Probe.take(
            self.lm,
            prompts,
            [self.lm.prompt(row["question"], black) for row in chosen],
            [
                self.lm.response_ids(answer(row))[: self.lm.window - len(prompt.ids)]
                for row, prompt in zip(chosen, prompts, strict=True)
            ],
            Limits(self._learning.forward_batch, self._learning.forward_tokens),
        )
