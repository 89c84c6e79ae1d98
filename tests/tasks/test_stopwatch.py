"""Own work and waiting, told apart on spans of time that are given."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tasks.stopwatch import Stopwatch

MOMENTS = st.integers(0, 60)
SPANS = st.lists(st.tuples(MOMENTS, st.integers(0, 20)), max_size=8).map(
    lambda spans: [(start, start + length) for start, length in spans]
)


def watched(waiting: list[tuple[int, int]], working: list[tuple[int, int]]) -> Stopwatch:
    watch = Stopwatch()
    watch._waiting, watch._working = list(waiting), list(working)
    return watch


@given(moments=st.sets(MOMENTS, max_size=10), working=SPANS)
def test_idle_is_each_second_of_waiting_without_a_worker(moments: set[int], working: list[tuple[int, int]]) -> None:
    ordered = sorted(moments)
    waiting = [span for number, span in enumerate(pairwise(ordered)) if number % 2 == 0]
    seconds = [second for start, end in waiting for second in range(start, end)]
    idle = [second for second in seconds if not any(start <= second < end for start, end in working)]
    assert watched(waiting, working).idle_seconds() == len(idle)
