"""The errors of storage: what went wrong, where, and what to do next. Never a secret in them."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager


class LakeError(RuntimeError):
    """The lake cannot do what was asked; the message says what, where and what to do next."""


class FormatError(ValueError):
    """A file of instructions is not in the format it should have; the message names file, row and key."""


_AGAIN = "then run the same command again: committed shards are kept"
_NEXT_STEPS = [
    (
        r"no space left|disk quota|file too large|os error (28|122|27)\b",
        f"the disk is full: free space there, {_AGAIN}",
    ),
    (
        r"read-?only file ?system|permission denied|not permitted|accessdenied|forbidden|os error (30|13|1)\b",
        f"it may not be written or read by this user: give access to it or choose another lake, {_AGAIN}",
    ),
    (r"nosuchbucket|bucket does not exist", "the bucket does not exist: create it, or correct the name of the lake"),
    (
        r"invalidaccesskey|signaturedoesnotmatch|unable to locate credentials|nocredential|expiredtoken|metadata token",
        "the credentials were refused or are missing: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    ),
    (
        r"could not connect|error sending request|endpointconnection|timed? ?out|dispatch failure|name or service",
        f"the storage did not answer: check AWS_ENDPOINT_URL and the network, {_AGAIN}",
    ),
    (
        r"not a directory|is a directory|file exists|invalid table location|os error (20|21|17)\b",
        "something of the wrong kind (a file for a folder, or a folder for a file) is in the way: move it away, "
        "or choose another lake",
    ),
]
_LIBRARIES = {"deltalake", "_internal", "pyarrow", "botocore", "aiobotocore", "aiohttp"}
_SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")


def scrub(text: str) -> str:
    """Return `text` without terminal colours, credentials of the environment and passwords in URLs."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    text = re.sub(r"(\w+://)[^/\s@]+@", r"\1***@", text)
    for name in _SECRET_VARIABLES:
        secret = os.environ.get(name)
        if secret:
            text = text.replace(secret, "***")
    return text


def next_step(text: str) -> str:
    """What a person can do about an error with this text."""
    for pattern, advice in _NEXT_STEPS:
        if re.search(pattern, text, flags=re.IGNORECASE):
            return advice
    return "if running the same command again does not help, the text above says what the storage refused"


def describe(error: BaseException, doing: str, where: str) -> LakeError:
    """Turn an error of the file system or of a storage library into a LakeError."""
    text = " ".join(scrub(f"{type(error).__name__}: {error}").split())
    return LakeError(f"Could not {doing} at {scrub(where)}: {next_step(text)}. ({text[:600]})")


def _from_storage(error: Exception) -> bool:
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in _LIBRARIES


@contextmanager
def explained(doing: str, where: str) -> Iterator[None]:
    """Inside, errors of the file system and of the storage libraries become LakeErrors; bugs stay what they are."""
    try:
        yield
    except Exception as error:
        if not _from_storage(error):
            raise
        # The cause is shown by tracebacks, so it may stay only where it holds no secret.
        raise describe(error, doing, where) from (error if scrub(str(error)) == str(error) else None)
