"""The open loop: on time whatever the server does, honest about its own lateness, and stopped without loss."""

import asyncio
import math
import resource
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_server import DONE, loaded, text, usage

from batchpilot.core import SLO
from batchpilot.serving.load import run as load_run
from batchpilot.serving.load.answers import Answered
from batchpilot.serving.load.files import TOO_MANY
from batchpilot.serving.load.flight import Flight, clock_ms
from batchpilot.serving.load.prompts import Prompts
from batchpilot.workloads.table import RequestTable

ANSWER = (text(" a"), text(" b", "length"), usage(2), DONE)
RELAXED = SLO(1e6, 1e6)


def table(count, gap_ms=0.0, output=2):
    return RequestTable.from_arrays(np.arange(count) * gap_ms, 20, output, slos=RELAXED)


class Blocking:
    """Answers at once, but its first answer keeps the whole event loop busy, as a client that cannot keep up."""

    def __init__(self, now_ms, busy_s):
        self.now_ms, self.busy_s = now_ms, busy_s

    async def complete(self, asked):
        busy_s, self.busy_s = self.busy_s, 0.0
        time.sleep(busy_s)
        now_ms = self.now_ms()
        return Answered("length", 200, now_ms, now_ms, asked.output_tokens, counted=True)


def flown(requests, busy_s=0.0):
    async def run():
        now_ms = clock_ms()
        flight = Flight(Blocking(now_ms, busy_s), requests, Prompts(requests.prompt_tokens, 4.0), now_ms)
        await flight.fly(5.0)
        return flight.result("any", 4.0)

    return asyncio.run(run())


def test_a_client_that_stood_still_says_so_and_hides_nothing():
    result = flown(table(10, gap_ms=20.0), busy_s=0.15)
    late, ttft = result.late_ms, result.outcome.ttft_ms
    assert np.all(ttft >= late), "latencies count from the moment a request was due"
    assert (late[1:6] > 20.0).all()
    assert late[1] > late[3] > late[5]


@given(st.lists(st.floats(0.0, 60.0), min_size=1, max_size=8).map(sorted))
@settings(max_examples=10, deadline=None)
def test_no_request_goes_out_before_it_is_due(arrival_ms):
    result = flown(RequestTable.from_arrays(arrival_ms, 20, 2, slos=RELAXED))
    assert np.all(result.late_ms >= 0)
    assert result.outcome.count("length") == len(arrival_ms)


async def _never(exchange):
    exchange.stream(text(" a"), ends=False)
    await asyncio.sleep(60)


def test_stopping_keeps_what_has_ended_and_cancels_the_rest():
    def script(exchange):
        return _never(exchange) if exchange.body["max_tokens"] == 9 else exchange.stream(*ANSWER)

    output = np.where(np.arange(100) % 2, 9, 2)
    requests = RequestTable.from_arrays(np.arange(100) * 50.0, 20, output, slos=RELAXED)
    result, _ = loaded(script, requests, stop=0.6)
    outcome = result.outcome
    assert result.interrupted
    assert result.planned == 100
    assert 2 <= len(outcome.requests) < 100
    assert outcome.count("length") + outcome.count("cancelled") == len(outcome.requests)
    assert (outcome.slo_attainment, outcome.goodput_fraction) == (1.0, 1.0)
    assert np.isfinite(result.late_ms).all()


def test_stopping_before_the_first_request_leaves_nothing():
    result, served = loaded(_never, table(3), stop=0.0)
    assert (len(result.outcome.requests), served.asked) == (0, [])


def test_progress_is_told_of_every_request():
    told = []
    loaded(lambda exchange: exchange.stream(*ANSWER), table(5, gap_ms=5.0), on_progress=told.append)
    assert [progress.ended for progress in told][-1] == 5
    assert all(progress.ended <= progress.sent <= progress.total == 5 for progress in told)
    assert len(told) == 10


@pytest.fixture
def open_files():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_two_thousand_streams_are_open_at_a_time(open_files):
    if open_files[1] < 5000:
        pytest.skip("this machine allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, open_files[1]))
    everybody = asyncio.Event()
    count = 2000

    async def script(exchange):
        script.came += 1
        if script.came == count:
            everybody.set()
        await everybody.wait()
        exchange.stream(*ANSWER)

    script.came = 0
    result, served = loaded(script, table(count), grace_s=60.0)
    assert result.outcome.count("length") == served.most_open == count


def test_running_out_of_open_files_is_told_as_the_clients_own(open_files, monkeypatch):
    monkeypatch.setattr(load_run, "allow_many_files", lambda: None)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, open_files[1]))
    result, _ = loaded(_never, table(200), grace_s=0.5)
    assert result.outcome.count("failed") > 0
    assert any(TOO_MANY in detail for detail in result.details)


def test_prompts_off_the_wanted_length_are_noticed():
    result, _ = loaded(lambda exchange: exchange.stream(*ANSWER[:-2], usage(2, prompt=30), DONE), table(4))
    assert result.prompt_ratio == 1.5
    result, _ = loaded(lambda exchange: exchange.stream(text(" a", "length"), DONE), table(4))
    assert math.isnan(result.prompt_ratio)
