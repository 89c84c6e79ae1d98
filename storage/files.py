"""Whole files in a lake, written once: in a folder, or in a bucket with a cache of copies on disk."""

import os
import shutil
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from storage import places


class Files(Protocol):
    """Files under a lake's root, by path relative to it. Missing ones raise FileNotFoundError, the rest OSError."""

    def read(self, path: str) -> bytes:
        """The bytes of a file."""
        ...

    def write(self, path: str, data: bytes) -> None:
        """Make a file, whole or not at all; one that is there already is left alone."""
        ...

    def copy_in(self, source: Path, path: str) -> None:
        """Like `write`, from a file on disk of any size."""
        ...

    def has(self, path: str) -> bool:
        """Whether the file is there."""
        ...

    def local(self, path: str) -> Path:
        """A file on disk with these bytes, to be read only."""
        ...


def files_of(root: str) -> Files:
    """The files of the lake at `root`."""
    return S3Files(root) if places.is_s3(root) else FolderFiles(root)


class FolderFiles:
    """Files of a lake in a folder: written beside their place and then renamed."""

    def __init__(self, root: str) -> None:
        self.root = Path(root)

    def read(self, path: str) -> bytes:
        return (self.root / path).read_bytes()

    def write(self, path: str, data: bytes) -> None:
        if not self._stands(path, len(data)):
            _replace(self.root / path, self.root / "blobs", lambda temporary: temporary.write_bytes(data))

    def copy_in(self, source: Path, path: str) -> None:
        if not self._stands(path, source.stat().st_size):
            _replace(self.root / path, self.root / "blobs", lambda temporary: shutil.copyfile(source, temporary))

    def has(self, path: str) -> bool:
        return (self.root / path).is_file()

    def local(self, path: str) -> Path:
        return self.root / path

    def _stands(self, path: str, size: int) -> bool:
        # A file of another size is left from a power cut: renamed, its bytes never on disk.
        place = self.root / path
        return place.is_file() and place.stat().st_size == size


class S3Files:
    """Files of a lake in a bucket; copies for `local` are kept under RLAIF_CACHE, by default ~/.cache/rlaif."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._opened: Any = None

    def read(self, path: str) -> bytes:
        return bytes(self._s3().cat_file(f"{self.root}/{path}"))

    def write(self, path: str, data: bytes) -> None:
        try:
            self._s3().pipe_file(f"{self.root}/{path}", data, mode="create")
        except FileExistsError:
            return

    def copy_in(self, source: Path, path: str) -> None:
        try:
            self._s3().put_file(str(source), f"{self.root}/{path}", mode="create")
        except FileExistsError:
            return

    def has(self, path: str) -> bool:
        return bool(self._s3().isfile(f"{self.root}/{path}"))

    def local(self, path: str) -> Path:
        cache = Path(os.environ.get("RLAIF_CACHE") or Path.home() / ".cache" / "rlaif")
        place = cache / path
        if not place.is_file():
            address = f"{self.root}/{path}"
            _replace(place, cache, lambda temporary: self._s3().get_file(address, str(temporary)))
        return place

    def _s3(self) -> Any:
        with self._lock:
            if self._opened is None:
                self._opened = places.s3_files()
            return self._opened


def _replace(place: Path, beside: Path, fill: Callable[[Path], object]) -> None:
    """Make the file `place` by filling a temporary one under `beside` (the same file system) and renaming it."""
    temporary = beside / ".tmp" / uuid.uuid4().hex
    temporary.parent.mkdir(parents=True, exist_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        fill(temporary)
        os.replace(temporary, place)
    finally:
        temporary.unlink(missing_ok=True)
