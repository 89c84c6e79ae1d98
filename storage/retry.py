"""Storage that stumbles: which errors pass by themselves, and doing again what failed by them.

delta-rs and s3fs repeat most requests themselves; this is for what gets past them, such as an answer that is cut.
"""

import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

ATTEMPTS = 4
_FIRST_WAIT_S = 0.2
_PASSING = re.compile(
    r"error sending request|error decoding response|request or response body|connection (reset|closed|aborted)"
    r"|closed (the )?connection|incomplete|payload|timed? ?out|internal ?error|internal server|service ?unavailable"
    r"|slow ?down|server error|status: 5\d\d|broken pipe",
    flags=re.IGNORECASE,
)
_T = TypeVar("_T")


def passing(error: BaseException) -> bool:
    """Whether the storage may do the same thing if asked again."""
    return _PASSING.search(f"{type(error).__name__}: {error}") is not None


def patiently(work: Callable[[], _T]) -> _T:
    """What `work` gives, which is called again after errors that pass; it must be safe to repeat."""
    for attempt in range(ATTEMPTS - 1):
        try:
            return work()
        except Exception as error:
            if not passing(error):
                raise
        time.sleep(random.uniform(0.5, 1) * _FIRST_WAIT_S * 2**attempt)
    return work()
