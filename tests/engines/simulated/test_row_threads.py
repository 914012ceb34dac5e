import multiprocessing
import threading

import pytest

from batchpilot.engines.simulated.threads import in_threads


@pytest.mark.parametrize(("rows", "parts"), [(1, 1), (5, 1), (5, 2), (7, 3)])
def test_every_row_is_run_once(rows, parts):
    ran = []
    in_threads(lambda first, end: ran.append((first, end)), rows, parts)
    assert len(ran) == parts
    assert sorted(row for some in ran for row in range(*some)) == list(range(rows))


def test_the_parts_run_side_by_side():
    meeting = threading.Barrier(2, timeout=20)
    in_threads(lambda first, end: meeting.wait() and None, 2, 2)
    assert not meeting.broken


def test_what_a_part_raises_is_raised():
    def run(first, end):
        if first:
            raise RuntimeError(f"row {first} is stuck")

    with pytest.raises(RuntimeError, match="row 1 is stuck"):
        in_threads(run, 2, 2)


def _forked(told):
    in_threads(lambda first, end: told.put(first), 2, 2)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="processes cannot be forked here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own():
    in_threads(lambda first, end: None, 2, 2)
    forking = multiprocessing.get_context("fork")
    told = forking.Queue()
    child = forking.Process(target=_forked, args=(told,))
    child.start()
    assert {told.get(timeout=20), told.get(timeout=20)} == {0, 1}
    child.join(20)
    assert child.exitcode == 0
