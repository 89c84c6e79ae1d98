"""Keys from Prefect Secret blocks, put where the workers look for them: into the environment, and nowhere else."""

import os
from collections.abc import Iterable
from typing import cast

from prefect.blocks.system import Secret

from models.endpoint_settings import JudgeEndpoint


def put_keys(endpoints: Iterable[JudgeEndpoint]) -> dict[str, str]:
    """Sets the variable `api_key_env` of each endpoint that names a block; returns what was set.

    That is to be given to the workers: those of a Ray that was there before do not inherit it.

    Raises:
        ValueError: there is no such block, or it is empty.
    """
    given: dict[str, str] = {}
    for endpoint in endpoints:
        if endpoint.api_key_block is None:
            continue
        assert endpoint.api_key_env is not None  # The settings refuse a block without a variable.
        try:
            key = cast(Secret[str], Secret.load(endpoint.api_key_block)).get()
        except ValueError as error:
            raise ValueError(
                f"The judge {endpoint.model!r} wants its key from the Prefect Secret block {endpoint.api_key_block!r}, "
                "which does not exist: make it in the UI under Blocks, or give api_key_env alone."
            ) from error
        if not key:
            raise ValueError(f"The Prefect Secret block {endpoint.api_key_block!r} is empty: put the key into it.")
        given[endpoint.api_key_env] = str(key)
    os.environ.update(given)
    return given
