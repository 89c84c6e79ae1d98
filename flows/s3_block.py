"""Credentials and endpoint of a lake on S3 from a Prefect block, for as long as a run or a command lasts."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from storage.places import S3_VARIABLES

_WHO = "run.s3_block or --s3-block"


class BlockError(ValueError):
    """The block of `run.s3_block` or `--s3-block` cannot be used; the message never holds its value."""


@contextmanager
def s3_environment(block: str | None) -> Iterator[dict[str, str]]:
    """Inside, this process's environment has the values of a Secret block; Ray's workers are to be given them too.

    The block holds JSON: {"AWS_ENDPOINT_URL": ..., "AWS_ACCESS_KEY_ID": ..., "AWS_SECRET_ACCESS_KEY": ..., ...}. It
    stands above what the environment says. None changes nothing. Raises BlockError.
    """
    given = {} if block is None else _values(block)
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield given
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _values(block: str) -> dict[str, str]:
    from prefect.blocks.system import Secret

    try:
        value: Any = Secret.load(block).get()  # type: ignore[union-attr]
    except ValueError as error:
        raise BlockError(
            f"{_WHO}: this Prefect server has no Secret block {block!r}. Make one in the UI (Blocks, Secret) with the "
            f"JSON of {', '.join(S3_VARIABLES)}, or leave the block out and set these in the environment."
        ) from error
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            value = None  # Not as the cause: its text could show what the block holds.
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise BlockError(f"{_WHO}: block {block!r} must hold a JSON object whose values are strings.")
    unknown = len(set(value) - set(S3_VARIABLES))
    if unknown:
        raise BlockError(
            f"{_WHO}: {unknown} names in block {block!r} are none of {', '.join(S3_VARIABLES)}; take them out."
        )
    # A session token of the environment does not belong to the block's keys.
    return {"AWS_SESSION_TOKEN": "", **value} if "AWS_ACCESS_KEY_ID" in value else value
