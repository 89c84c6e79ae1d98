"""Content-addressed files beside the tables: blobs/<first two digits>/<sha256>, a file or a folder.

A blob appears whole or not at all and is verified when it is read. It is written before the row that names it.
"""

import hashlib
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from storage.errors import LakeError, explained
from storage.files import files_of

MANIFEST = ".manifest"  # Of a folder, in the form of `sha256sum`, sorted by name; its own hash is the folder's name.
_OPEN_TABLES = 8


class Blobs:
    """The blobs of a lake. May be used by several threads; pickles as its root."""

    def __init__(self, root: str) -> None:
        """`root` is a lake's root as Lake has it."""
        self.root = root
        self._files = files_of(root)
        self._lock = threading.RLock()
        self._verified: set[str] = set()
        self._tables: OrderedDict[str, pa.Table] = OrderedDict()

    def __repr__(self) -> str:
        return f"Blobs({self.root!r})"

    def __reduce__(self) -> tuple[type["Blobs"], tuple[str]]:
        return (Blobs, (self.root,))

    def put(self, data: bytes) -> str:
        """Keep `data` and return its SHA-256 in hex. Written once: equal data give the blob that is there."""
        blob = hashlib.sha256(data).hexdigest()
        with explained(f"write blob {blob}", self.root):
            self._files.write(_path(blob), data)
        return blob

    def get(self, blob: str) -> bytes:
        """The bytes of a blob. Raises LakeError when it is missing or its bytes do not hash to its name."""
        with explained(f"read blob {blob}", self.root):
            try:
                data = self._files.read(_path(blob))
            except FileNotFoundError:
                raise self._missing(blob) from None
        if hashlib.sha256(data).hexdigest() != blob:
            raise _damaged(blob, f"{self.root}/{_path(blob)}")
        return data

    def exists(self, blob: str) -> bool:
        """Whether a blob, a file or a complete folder, is in the lake."""
        with explained(f"look for blob {blob}", self.root):
            return self._files.has(_path(blob)) or self._files.has(f"{_path(blob)}/{MANIFEST}")

    def put_folder(self, folder: Path) -> str:
        """Keep a folder's files (links followed, empty folders left out) and return the hash of its manifest.

        Raises LakeError when the folder is missing or holds no file.
        """
        with explained("keep the folder", str(folder)):
            names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
            names = [name for name in names if name != MANIFEST]
            if not names or any("\n" in name for name in names):
                raise LakeError(f"Cannot keep the folder {folder}: it must hold files, with no line break in a name.")
            manifest = "".join(f"{_digest(folder / name)}  {name}\n" for name in names).encode()
        blob = hashlib.sha256(manifest).hexdigest()
        with explained(f"write blob {blob}", self.root):
            # All of them also where they are there already: that makes them fresh (storage.files.FRESH_S).
            for name in names:
                self._files.copy_in(folder / name, f"{_path(blob)}/{name}")
            # The manifest last: it is what makes the folder complete.
            self._files.write(f"{_path(blob)}/{MANIFEST}", manifest)
        return blob

    def folder(self, blob: str) -> Path:
        """A folder on disk with the files of a folder blob, verified, to be read only.

        Raises LakeError when it is missing, incomplete or damaged.
        """
        with self._lock, explained(f"read blob {blob}", self.root):
            manifest = self._local(blob, f"{_path(blob)}/{MANIFEST}")
            if blob not in self._verified:
                _verify(blob, manifest, blob)
                for line in manifest.read_text().splitlines():
                    digest, name = line.split("  ", maxsplit=1)
                    _verify(blob, self._local(blob, f"{_path(blob)}/{name}"), digest)
                self._verified.add(blob)
        return manifest.parent

    def put_arrow(self, table: pa.Table) -> str:
        """Keep an Arrow table as an uncompressed IPC file; how the table is cut in chunks does not change its name."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table.combine_chunks())
        return self.put(sink.getvalue().to_pybytes())

    def open_arrow(self, blob: str) -> pa.Table:
        """The Arrow table of a blob, memory-mapped. Raises LakeError when it is missing, damaged or no Arrow file.

        Its bytes are hashed at the first opening in a process; the last few tables stay open.
        """
        with self._lock, explained(f"read blob {blob}", self.root):
            if blob not in self._tables:
                place = self._local(blob, _path(blob))
                if blob not in self._verified:
                    _verify(blob, place, blob)
                    self._verified.add(blob)
                self._tables[blob] = pa.ipc.open_file(pa.memory_map(str(place))).read_all()
            self._tables.move_to_end(blob)
            if len(self._tables) > _OPEN_TABLES:
                self._tables.popitem(last=False)
            return self._tables[blob]

    def peek_arrow(self, blob: str, columns: Sequence[str]) -> pa.Table:
        """Some columns of an Arrow blob, without reading the others. Raises LakeError when it is missing or no Arrow.

        For small columns beside large ones: nothing is hashed, and nothing is copied from a bucket.
        """
        with explained(f"read blob {blob}", self.root):
            try:
                with self._files.opened(_path(blob)) as file:
                    source = pa.PythonFile(file, mode="r")
                    schema = pa.ipc.open_file(source).schema
                    chosen = [schema.get_field_index(name) for name in columns]
                    options = pa.ipc.IpcReadOptions(included_fields=chosen)
                    return pa.ipc.open_file(source, options=options).read_all()
            except FileNotFoundError:
                raise self._missing(blob) from None

    def _local(self, blob: str, path: str) -> Path:
        try:
            place = self._files.local(path)
        except FileNotFoundError:
            raise self._missing(blob) from None
        if not place.is_file():
            raise self._missing(blob)
        return place

    def _missing(self, blob: str) -> LakeError:
        return LakeError(
            f"Blob {blob} is not, or not as what was asked for (file or folder), in the lake at {self.root}: "
            "restore it, or run the stage that made it on a new lake."
        )


def _path(blob: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", blob):
        raise LakeError(f"{blob!r} is not the name of a blob: that is a SHA-256 in hex, as `put` returns it.")
    return f"blobs/{blob[:2]}/{blob}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verify(blob: str, place: Path, digest: str) -> None:
    if _digest(place) != digest:
        raise _damaged(blob, str(place))


def _damaged(blob: str, where: str) -> LakeError:
    return LakeError(
        f"Blob {blob} is damaged: {where} does not hash to its name. Delete that file; if it was no copy in a cache, "
        "restore it, or put the same bytes again."
    )
