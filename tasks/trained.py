"""The adapters that trainings ended with: which there are in a lake, the one that a command asks for, and its base."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from models.quantization import Quantization
from tasks.label_versions import stages_by_use
from tasks.model_ref import ModelRef

if TYPE_CHECKING:
    from storage.lake import Lake

Role = Literal["policy", "reward", "sft"]
_STAGES: dict[Role, str] = {"policy": "policy", "reward": "reward_model", "sft": "sft"}
_DTYPES = ("float32", "bfloat16", "float16")
# Policies that stand on the way to an arm's: those of rounds (the last is the arm's) and of segments.
_ROUND = re.compile(r"_round_\d+$")
_ON_THE_WAY = re.compile(r"_(segment|refresh)_\d+$")


class AdapterError(ValueError):
    """There is no such adapter in the lake, or its base is another; the message says what there is."""


@dataclass(frozen=True)
class TrainedAdapter:
    """What a training ended with.

    Attributes:
        role: of the training.
        name: what its rows are called: the arm, or a round or segment of it; the role where there is no arm.
        key: the training's stage key.
        run: that trained it.
        base: the base's Hub id, or the name of its folder.
        model: identity of the model that it was trained on (tasks.model_ref.ModelRef.identity).
        below: blobs of the adapters that are merged into the base before it stands there, in order.
        blob: its own.
        metrics: what was measured at the end, as JSON.
        config: settings of the training, as JSON.
    """

    role: Role
    name: str
    key: str
    run: str
    base: str
    model: str
    below: tuple[str, ...]
    blob: str
    metrics: str
    config: str

    def __str__(self) -> str:
        return f"{self.role} {self.name} ({self.blob[:16]}, on {self.base})"

    @property
    def arm(self) -> str:
        """The arm whose policy it is; a round's is its arm's."""
        return _ROUND.sub("", self.name)

    @property
    def adapters(self) -> tuple[str, ...]:
        """Its blob after those below it."""
        return (*self.below, self.blob)


def trained_adapters(lake: Lake) -> list[TrainedAdapter]:
    """The adapters of all complete trainings, by role, the last used first."""
    return [found for role in get_args(Role) for row in stages_by_use(lake, _STAGES[role]) for found in _of(lake, row)]


def chosen_adapter(
    lake: Lake, arm: str | None = None, role: Role = "policy", blob: str | None = None
) -> TrainedAdapter:
    """The adapter that a run used last: of that role and arm, or of the only arm where none is named.

    Args:
        lake: where to look.
        arm: as the preset calls it; a round or segment has a name of its own.
        role: what it is.
        blob: the first characters of its blob, in the place of arm and role.

    Raises:
        AdapterError: there is none, or several and none is named.
    """
    found = trained_adapters(lake)
    if blob is not None:
        fitting = [each for each in found if each.blob.startswith(blob)]
    else:
        fitting = [each for each in found if each.role == role and _is_of(each, arm)]
    known = "\n".join(f"  {each}" for each in found) or "  none; train some with `rlaif run`"
    if not fitting:
        of_arm = "" if arm is None else f" of arm {arm!r}"
        asked = f"{role} adapter{of_arm}" if blob is None else f"adapter {blob!r}"
        raise AdapterError(f"{lake.root} holds no {asked}. There are:\n{known}")
    if len({each.arm for each in fitting}) > 1:
        raise AdapterError(f"{lake.root} holds adapters of several arms; name one with --arm. There are:\n{known}")
    return fitting[0]


def base_of(adapter: TrainedAdapter, given: str | None = None, *, any_base: bool = False) -> ModelRef:
    """The model that the adapter was trained on: base and adapters below it, with the dtype of the training.

    Args:
        adapter: whose base.
        given: a folder, a Hub id, or a Hub id with its commit (owner/name@commit); None: the adapter's own Hub id.
        any_base: take what is given even where it is not what the adapter was trained on.

    Raises:
        AdapterError: it is not there, or not the same.
    """
    name = given or adapter.base
    if given is None and not Path(name).is_dir() and "/" not in name:
        raise AdapterError(
            f"{adapter} was trained on a folder called {name!r}; where it is now only you know: --base FOLDER."
        )
    try:
        plain = ModelRef(name.partition("@")[0], name) if "@" in name and not Path(name).is_dir() else ModelRef.of(name)
    except ValueError as error:
        raise AdapterError(f"The base of {adapter}: {error}") from error
    known = [
        replace(plain, merged=adapter.below, dtype=dtype, quantization=bits)
        for dtype in _DTYPES
        for bits in get_args(Quantization)
    ]
    for each in known:
        if each.identity == adapter.model:
            return each
    if any_base:
        return known[0]
    raise AdapterError(
        f"{name} is not the model that {adapter} was trained on: its bytes, or its commit, differ. Name the right one "
        "with --base (a Hub id with its commit: owner/name@commit), or add --any-base to take this one all the same."
    )


def _is_of(adapter: TrainedAdapter, arm: str | None) -> bool:
    if arm is None:
        return _ON_THE_WAY.search(adapter.name) is None
    return arm in (adapter.name, adapter.arm)


def _of(lake: Lake, stage: dict[str, Any]) -> list[TrainedAdapter]:
    columns = ["status", "role", "final", "blob", "merged", "arm", "base", "metrics"]
    rows = lake.table("checkpoints").read(stage["item_id"], columns=columns).to_pylist()
    return [
        TrainedAdapter(
            role=row["role"],
            name=row["arm"] or row["role"],
            key=stage["item_id"],
            run=stage["run"],
            base=row["base"],
            model=stage["model"],
            below=tuple(row["merged"] or ()),
            blob=row["blob"],
            metrics=row["metrics"],
            config=stage["config"],
        )
        for row in rows
        if row["status"] == "ok" and row["final"] and row["blob"]
    ]
