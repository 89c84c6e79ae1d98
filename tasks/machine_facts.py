"""What this machine is: gathered for tasks.doctor. Every question is asked for seconds, and leaves nothing behind."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path

from storage.errors import LakeError
from storage.places import check, is_s3
from tasks.doctor import Facts, Gpu, Model, Package
from tasks.model_files import TIMEOUT_S, faults_of, faults_of_config, hub_config, model_folder

PROJECT = "video-rlaif"
GIB = 2**30


def gather(workers: int, gpus: float) -> Facts:
    """The facts that no preset is needed for.

    Args:
        workers: that Ray is started for.
        gpus: that they take together.
    """
    import psutil
    import torch

    ray, ray_fault = _ray(workers, gpus)
    prefect, prefect_fault = _prefect()
    return Facts(
        python=platform.python_version(),
        packages=tuple(packages()),
        torch=torch.__version__,
        gpus=tuple(_gpus()),
        readers={name: _import_fault(name) for name in ("av", "decord")},
        memory_gib=psutil.virtual_memory().available / GIB,
        shared_mib=_shared_mib(),
        open_files=_open_files(),
        ray=ray,
        ray_fault=ray_fault,
        prefect=prefect,
        prefect_fault=prefect_fault,
        bitsandbytes=find_spec("bitsandbytes") is not None,
        vllm=find_spec("vllm") is not None,
        cluster=os.environ.get("RAY_ADDRESS") or None,
    )


def packages(requirements: Sequence[str] | None = None) -> Iterator[Package]:
    """What the project requires, as its installed metadata say; or these requirements."""
    from packaging.requirements import Requirement

    if requirements is None:
        try:
            requirements = metadata.requires(PROJECT) or []
        except metadata.PackageNotFoundError:
            yield Package(PROJECT, "installed", None, fits=False)
            return
    for requirement in map(Requirement, requirements):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed: str | None = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            installed = None
        fits = installed is not None and requirement.specifier.contains(installed, prereleases=True)
        yield Package(requirement.name, str(requirement.specifier), installed, fits)


def models_of(names: Sequence[str]) -> Iterator[Model]:
    """The models of a preset, each once."""
    for name in dict.fromkeys(names):
        folder = model_folder(name)
        yield _on_the_hub(name) if folder is None else Model(name, tuple(faults_of(folder)))


def lake_facts(root: str) -> tuple[str | None, float | None]:
    """Why the lake cannot be used, and the GiB that are free there; a folder that is not there is not made.

    A lake on S3 is opened as a run opens it: it then holds the object `.lake`.
    """
    if is_s3(root):
        return _lake_fault(root), None
    place = Path(root)
    while not place.exists():
        place = place.parent
    fault = _lake_fault(root) if place == Path(root) else _write_fault(place)
    return fault, shutil.disk_usage(place).free / GIB


def _lake_fault(root: str) -> str | None:
    try:
        check(root)
    except LakeError as error:
        return str(error)
    return None


def _write_fault(place: Path) -> str | None:
    try:
        with tempfile.TemporaryFile(dir=place):
            return None
    except OSError as error:
        return f"{place} cannot be written: {error.strerror}"


def _gpus() -> Iterator[Gpu]:
    import torch

    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        able = torch.cuda.get_device_capability(number) >= (8, 0)
        yield Gpu(torch.cuda.get_device_name(number), total / GIB, free / GIB, able)


def _import_fault(name: str) -> str | None:
    try:
        import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        return f"does not load: {error}"
    return None


def _shared_mib() -> float | None:
    place = Path("/dev/shm")
    return shutil.disk_usage(place).free / 2**20 if place.is_dir() else None


def _open_files() -> int:
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft


def _ray(workers: int, gpus: float) -> tuple[str, str | None]:
    """What Ray gives, and why it does not start."""
    from tasks.cluster import RayKeeper

    where = f"the cluster at {address}" if (address := os.environ.get("RAY_ADDRESS")) else "a local one starts"
    try:
        RayKeeper(workers, gpus).release()
    except Exception as error:  # Of Ray, whose errors have no common class.
        return where, f"{where}, but: {error}"
    return where, None


def _prefect() -> tuple[str, str | None]:
    address = os.environ.get("PREFECT_API_URL")
    if not address:
        return "no PREFECT_API_URL: each command starts a server of its own", None
    import httpx

    try:
        httpx.get(f"{address.rstrip('/')}/health", timeout=TIMEOUT_S).raise_for_status()
    except httpx.HTTPError as error:
        return address, f"the server at {address} does not answer: {error}"
    return address, None


def _on_the_hub(name: str) -> Model:
    """What the Hub tells of a model whose files are not on this machine."""
    if Path(name).is_absolute():
        return Model(name, None, hub="there is no such folder")
    try:
        config = hub_config(name)
    except Exception as error:  # Of several libraries, none of them ours.
        return Model(name, None, hub=f"{type(error).__name__}: {error}".splitlines()[0][:160])
    return Model(name, tuple(faults_of_config(config)) or None)
