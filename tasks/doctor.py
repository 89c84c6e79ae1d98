"""What stands between this machine and a run: checks of facts that were gathered elsewhere (tasks.machine_facts).

Nothing here looks at the machine, so every check can be tried with any facts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

State = Literal["ok", "warning", "failed"]
FILES_AT_LEAST, FILES_GOOD = 1024, 8192  # Open files; Ray asks for many.
SHARED_MIB = 512.0  # Of /dev/shm: Ray's object store is 200 MiB.
SPARE = 1.1  # A computed need may be a tenth too low.


@dataclass(frozen=True)
class Check:
    """What was looked at.

    Attributes:
        name: of the check.
        state: failed: a run would fail. warning: it may, or be slow.
        said: what was found.
        advice: what to do; empty where all is well.
    """

    name: str
    state: State
    said: str
    advice: str = ""


@dataclass(frozen=True)
class Package:
    """A library: what is installed (None: nothing), and whether that is what the project asks for."""

    name: str
    wanted: str
    installed: str | None
    fits: bool


@dataclass(frozen=True)
class Gpu:
    """A GPU that torch sees."""

    name: str
    gib: float
    free_gib: float
    bfloat16: bool


@dataclass(frozen=True)
class Model:
    """A model of the preset.

    Attributes:
        name: as the preset has it.
        faults: of its files on this machine, or of its config.json on the Hub; None: there is no folder, none in the
            Hub's cache, and nothing is wrong with what the Hub tells.
        hub: why the Hub does not give it; None: it does, or was not asked because the files are here.
    """

    name: str
    faults: tuple[str, ...] | None
    hub: str | None = None


@dataclass(frozen=True)
class Facts:
    """What this machine is. Sizes in GiB; a fault is None where all went well; `cluster` is Ray's address, if any."""

    python: str
    packages: tuple[Package, ...]
    torch: str
    gpus: tuple[Gpu, ...]
    readers: dict[str, str | None]
    memory_gib: float
    shared_mib: float | None
    open_files: int
    ray: str
    ray_fault: str | None
    prefect: str
    prefect_fault: str | None
    bitsandbytes: bool = False
    vllm: bool = False
    cluster: str | None = None
    lake: str | None = None
    lake_fault: str | None = None
    disk_gib: float | None = None
    models: tuple[Model, ...] = ()
    missing_data: tuple[str, ...] = ()


@dataclass(frozen=True)
class Needs:
    """What a preset asks of a machine.

    Attributes:
        device: of its models.
        dtype: of its models.
        workers: processes.
        gpus_per_worker: of each.
        worker_gib: most memory that a worker takes, of its GPU or resident, computed; None: unknown.
        busiest: the stage that takes it.
        disk_gib: frames and visual tokens in the lake; None: unknown.
        unknown: why these are not known.
        four_bit: whether a base is kept in 4 bits.
        vllm: whether vLLM is to draw answers.
    """

    device: str
    dtype: str
    workers: int
    gpus_per_worker: float
    worker_gib: float | None = None
    busiest: str = ""
    disk_gib: float | None = None
    unknown: str | None = None
    four_bit: bool = False
    vllm: bool = False

    @property
    def on_card(self) -> bool:
        """Whether its models run on GPUs."""
        return self.device.startswith("cuda") or self.gpus_per_worker > 0


@dataclass(frozen=True)
class Report:
    """All checks. `healthy`: none failed."""

    checks: list[Check] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        return all(check.state != "failed" for check in self.checks)


def examine(facts: Facts, needs: Needs | None = None) -> Report:
    """The checks of a machine, and with `needs` those of a preset on it."""
    checks = [*_software(facts), *_machine(facts)]
    if needs is not None:
        checks += [*_cards(facts, needs), *_memory(facts, needs), *_models(facts), *_places(facts, needs)]
    return Report(checks)


def _check(name: str, good: bool, said: str, advice: str, otherwise: State = "failed") -> Check:
    return Check(name, "ok", said) if good else Check(name, otherwise, said, advice)


def _software(facts: Facts) -> Iterator[Check]:
    fits = facts.python.startswith("3.11.")
    yield _check("python", fits, facts.python, "use Python 3.11: the pins were proved together with it", "warning")
    wrong = [each for each in facts.packages if not each.fits]
    told = [f"{each.name} {each.installed or 'is not installed'} (wanted {each.wanted or 'any'})" for each in wrong]
    said = ", ".join(told) or f"{len(facts.packages)} as pinned; torch {facts.torch}"
    yield _check("packages", not wrong, said, "install with -c constraints.txt (`make` does)")
    for name, fault in facts.readers.items():
        what = "reads videos" if fault is None else fault
        yield _check(f"reader {name}", fault is None, what, f"reinstall {name}; without it no video is decoded")


def _machine(facts: Facts) -> Iterator[Check]:
    files = f"{facts.open_files:,}"
    if facts.open_files < FILES_GOOD:
        state: State = "failed" if facts.open_files < FILES_AT_LEAST else "warning"
        yield Check("open files", state, files, f"raise the limit: ulimit -n {FILES_GOOD * 8}")
    else:
        yield Check("open files", "ok", files)
    if facts.shared_mib is not None:
        said = f"{facts.shared_mib:,.0f} MiB free in /dev/shm"
        advice = f"give it {SHARED_MIB:g} MiB (docker run --shm-size=1g): Ray goes to the disk otherwise"
        yield _check("shared memory", facts.shared_mib >= SHARED_MIB, said, advice, "warning")
    yield _check(
        "Ray", facts.ray_fault is None, facts.ray_fault or facts.ray, "see the text; unset RAY_ADDRESS for one here"
    )
    advice = "start it (`make up`), or unset PREFECT_API_URL: a command then starts its own"
    yield _check("Prefect", facts.prefect_fault is None, facts.prefect_fault or facts.prefect, advice)


def _cards(facts: Facts, needs: Needs) -> Iterator[Check]:
    if needs.on_card:
        yield _gpus(facts, needs)
    if facts.gpus and needs.dtype == "bfloat16":
        able = all(each.bfloat16 for each in facts.gpus)
        advice = "set models.dtype=float32 (float16 is not trained in), or use a card of compute capability 8.0"
        yield _check("bfloat16", able, "supported" if able else "not supported by every card", advice)
    if needs.four_bit:
        found = "installed" if facts.bitsandbytes else "is not installed"
        yield _check("bitsandbytes", facts.bitsandbytes, found, "pip install bitsandbytes, for a base in 4 bits")
    if needs.vllm:
        found = "installed" if facts.vllm else "is not installed"
        yield _check("vLLM", facts.vllm, found, "pip install 'video-rlaif[vllm]', or set engine to transformers")


def _gpus(facts: Facts, needs: Needs) -> Check:
    wanted = max(needs.workers * needs.gpus_per_worker, 1.0)
    seen = ", ".join(f"{each.name} ({each.gib:.0f} GiB)" for each in facts.gpus) or "none"
    if facts.cluster is not None:
        said = f"{wanted:g} wanted of the cluster at {facts.cluster}; on this machine: {seen}"
        return Check("GPUs", "warning", said, "look at `ray status`: from here only this machine's cards are seen")
    advice = "lower run.workers or run.gpus_per_worker, or check driver and CUDA_VISIBLE_DEVICES"
    if not facts.gpus and "+cpu" in facts.torch:
        advice = "this torch was built for the CPU: install the CUDA build"
    return _check("GPUs", len(facts.gpus) >= wanted, f"{seen}; {wanted:g} wanted", advice)


def _memory(facts: Facts, needs: Needs) -> Iterator[Check]:
    if needs.worker_gib is None:
        advice = "run `rlaif plan` for the same preset; it says what is missing"
        yield Check("memory", "warning", f"not estimated: {needs.unknown}", advice)
        return
    on_card = needs.gpus_per_worker > 0
    state: State
    workers = max(1.0, 1 / needs.gpus_per_worker) if on_card else needs.workers
    need, said = needs.worker_gib * workers, f"about {needs.worker_gib:.1f} GiB a worker in {needs.busiest} (computed)"
    if on_card and not facts.gpus:
        state = "failed" if facts.cluster is None else "warning"
        yield Check("memory", state, f"{said}; there is no card", "see GPUs")
        return
    free = min(each.free_gib for each in facts.gpus) if on_card else facts.memory_gib
    where = "free on the card" if on_card else f"free for {needs.workers} workers"
    advice = "lower forward_batch and batch_size, frames a set or max_new_tokens, or take " + (
        "a larger card" if on_card else "fewer workers"
    )
    state = "ok" if need * SPARE <= free else "warning" if need <= free else "failed"
    yield Check("memory", state, f"{said}; {free:.1f} GiB {where}", "" if state == "ok" else advice)


def _models(facts: Facts) -> Iterator[Check]:
    for model in facts.models:
        name = f"model {model.name}"
        if model.faults is None:
            there = model.hub is None
            said = "not on this machine; the Hub has it" if there else f"neither a folder nor on the Hub: {model.hub}"
            advice = (
                "correct the name, convert the checkpoint (`rlaif convert`), or reach the Hub (HF_ENDPOINT, HF_TOKEN)"
            )
            yield _check(name, there, said, advice)
            continue
        said = "; ".join(model.faults) or "complete, on this machine"
        yield _check(name, not model.faults, said, "take another checkpoint, or mend it or download it again")


def _places(facts: Facts, needs: Needs) -> Iterator[Check]:
    if facts.lake is not None:
        advice = "see the text; run.lake=... names another place"
        yield _check("lake", facts.lake_fault is None, facts.lake_fault or f"{facts.lake} can be written", advice)
    if facts.disk_gib is not None:
        need = needs.disk_gib
        said = f"{facts.disk_gib:,.0f} GiB free" + (f"; about {need:,.0f} GiB wanted (computed)" if need else "")
        advice = "free space, take another run.lake, or fewer frames a set"
        yield _check("disk", facts.disk_gib >= SPARE * (need or 1.0), said, advice)
    missing = ", ".join(facts.missing_data)
    advice = "put your own places behind the command: data.videos=... data.sft=... data.rl=... data.benchmark=..."
    yield _check("data", not missing, f"not there: {missing}" if missing else "all files are there", advice)
