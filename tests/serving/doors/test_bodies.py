"""Bodies that are held at once have a bound together, and small ones are taken beside any."""

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchpilot.serving.doors.bodies import ALWAYS_TAKEN, Bodies, BodiesFullError

MOST = 10 * ALWAYS_TAKEN


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4 * ALWAYS_TAKEN)), max_size=60))
def test_whatever_comes_no_more_is_held_than_the_bound_and_nothing_in_the_end(parts):
    bodies = Bodies(MOST)
    with ExitStack() as held:
        shares = [held.enter_context(bodies.share(None)) for _ in range(10)]
        taken = [0] * 10
        for who, size in parts:
            try:
                shares[who].grow(size)
            except BodiesFullError:
                assert sum(max(each - ALWAYS_TAKEN, 0) for each in taken) + size > MOST - ALWAYS_TAKEN
                break
            taken[who] += size
            assert bodies.held_bytes == sum(max(each - ALWAYS_TAKEN, 0) for each in taken) <= MOST
    assert bodies.held_bytes == 0


def test_what_is_told_is_refused_before_it_comes_and_a_small_body_never():
    bodies = Bodies(MOST)
    with bodies.share(None) as share:
        share.grow(MOST + ALWAYS_TAKEN)
        with pytest.raises(BodiesFullError, match="try again in"), bodies.share(ALWAYS_TAKEN + 1):
            pass
        with bodies.share(ALWAYS_TAKEN) as small:
            small.grow(ALWAYS_TAKEN)
    assert bodies.held_bytes == 0
