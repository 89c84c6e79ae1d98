"""Whole files in a lake, written once: in a folder, or in a bucket with a cache of copies on disk."""

import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from storage import places
from storage.retry import patiently

# A file that is put again is made new once it is this old, so that nobody takes it for one that nobody wants.
FRESH_S = 3600.0
PART_BYTES = 2**16  # Fetched at once where a file is read in parts.


@dataclass(frozen=True)
class Found:
    """A file of a listing: its path below the lake's root, its size, and when it was made (seconds since 1970)."""

    path: str
    bytes: int
    made: float


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

    def opened(self, path: str) -> IO[bytes]:
        """The file, to read parts of it without fetching the rest."""
        ...

    def listing(self, folder: str) -> Iterator[Found]:
        """Every file below a folder, which may be missing."""
        ...

    def remove(self, path: str, older_than: float) -> bool:
        """Remove a file unless it was made, or put again, after `older_than`; whether it was there and is gone."""
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

    def opened(self, path: str) -> IO[bytes]:
        return (self.root / path).open("rb")

    def listing(self, folder: str) -> Iterator[Found]:
        for above, _, names in os.walk(self.root / folder):
            for name in names:
                place = Path(above, name)
                try:
                    status = place.stat()
                except FileNotFoundError:
                    continue
                yield Found(place.relative_to(self.root).as_posix(), status.st_size, status.st_mtime)

    def remove(self, path: str, older_than: float) -> bool:
        place, aside = self.root / path, self.root / "blobs" / ".tmp" / uuid.uuid4().hex
        aside.parent.mkdir(parents=True, exist_ok=True)
        try:
            if place.stat().st_mtime > older_than:
                return False
            # Out of the way first: who puts it from now on writes it anew, who was quicker has made it fresh.
            os.rename(place, aside)
        except FileNotFoundError:
            return False
        if aside.stat().st_mtime > older_than:
            os.rename(aside, place)
            return False
        aside.unlink()
        return True

    def _stands(self, path: str, size: int) -> bool:
        place = self.root / path
        try:
            status = place.stat()
            # A file of another size is left from a power cut: renamed, its bytes never on disk.
            if not place.is_file() or status.st_size != size:
                return False
            if status.st_mtime < time.time() - FRESH_S:
                os.utime(place)
        except FileNotFoundError:
            return False
        return True


class S3Files:
    """Files of a lake in a bucket; copies for `local` are kept under RLAIF_CACHE, by default ~/.cache/rlaif."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._opened: Any = None

    def read(self, path: str) -> bytes:
        return bytes(patiently(lambda: self._s3().cat_file(f"{self.root}/{path}")))

    def write(self, path: str, data: bytes) -> None:
        self._put(path, len(data), lambda place, mode: self._s3().pipe_file(place, data, mode=mode))

    def copy_in(self, source: Path, path: str) -> None:
        size = source.stat().st_size
        self._put(path, size, lambda place, mode: self._s3().put_file(str(source), place, mode=mode))

    def has(self, path: str) -> bool:
        return self._info(path) is not None

    def listing(self, folder: str) -> Iterator[Found]:
        entries = patiently(lambda: self._s3().find(f"{self.root}/{folder}", detail=True))
        above = len(self.root) - len("s3://") + 1
        for name, info in entries.items():
            yield Found(name[above:], int(info["size"]), info["LastModified"].timestamp())

    def remove(self, path: str, older_than: float) -> bool:
        info = self._info(path)
        if info is None or info["LastModified"].timestamp() > older_than:
            return False
        patiently(lambda: self._s3().rm_file(f"{self.root}/{path}"))
        return True

    def _put(self, path: str, size: int, send: Callable[[str, str], object]) -> None:
        info = self._info(path)
        if info is not None and info["size"] == size and info["LastModified"].timestamp() > time.time() - FRESH_S:
            return
        # What is there already holds the same bytes, so it may be written over to make it new.
        mode = "create" if info is None else "overwrite"
        try:
            patiently(lambda: send(f"{self.root}/{path}", mode))
        except FileExistsError:
            return

    def _info(self, path: str) -> dict[str, Any] | None:
        try:
            info: dict[str, Any] = patiently(lambda: self._s3().info(f"{self.root}/{path}"))
        except FileNotFoundError:
            return None
        return info if info["type"] == "file" else None

    def opened(self, path: str) -> IO[bytes]:
        if (copy := _cache() / path).is_file():
            return copy.open("rb")
        file: IO[bytes] = patiently(lambda: self._s3().open(f"{self.root}/{path}", "rb", block_size=PART_BYTES))
        return file

    def local(self, path: str) -> Path:
        cache = _cache()
        place = cache / path
        if not place.is_file():
            address = f"{self.root}/{path}"
            _replace(place, cache, lambda temporary: patiently(lambda: self._s3().get_file(address, str(temporary))))
        return place

    def _s3(self) -> Any:
        with self._lock:
            if self._opened is None:
                self._opened = places.s3_files()
            return self._opened


def _cache() -> Path:
    return Path(os.environ.get("RLAIF_CACHE") or Path.home() / ".cache" / "rlaif")


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
