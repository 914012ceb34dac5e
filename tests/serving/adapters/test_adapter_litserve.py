"""The adapter in LitServe: its loop on a real queue, and a real server over HTTP."""

import asyncio
import importlib
import os
import queue
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

litserve = pytest.importorskip("litserve")

from adapter_tuners import ScriptedTuner  # noqa: E402
from litserve.utils import LitAPIStatus  # noqa: E402

from batchpilot.core import Limits  # noqa: E402
from batchpilot.serving.adapters import litserve_loop  # noqa: E402
from batchpilot.serving.adapters.versions import UnknownVersionError  # noqa: E402
from batchpilot.serving.session.session import TunerSession  # noqa: E402

HELPERS = Path(__file__).parents[2] / "helpers"


class Answers:
    """A transport that remembers what was sent, and stops the loop after as many answers as were asked for."""

    def __init__(self, requests, asked) -> None:
        self.requests, self.asked, self.sent = requests, asked, {}

    def send(self, item, consumer_id):
        """Keep a response."""
        uid, (data, status, _, _) = item
        self.sent[uid] = (data, status)
        if len(self.sent) == self.asked:
            self.requests.put((None, None, None, None))


class Doubling(litserve.LitAPI):
    """Twice the input; an input of None cannot be doubled."""

    def setup(self, device):
        """Nothing to set up."""

    def decode_request(self, request):
        """The request is the input."""
        return request

    def predict(self, batch):
        """Twice each."""
        return [2 * value for value in batch]

    def encode_response(self, output):
        """The answer is the response."""
        return output


def serve(inputs, *limits, then_raises=False, window_ms=1e-3):
    """Answers to inputs that all wait, and the loop that gave them; a window a batch."""
    tuner = ScriptedTuner(*limits, then_raises=then_raises)
    session = TunerSession(tuner, window_ms=window_ms)
    session.on_step(0, 0, 0, 0.0)  # windows end at steps from now on
    loop = litserve_loop.TunedLoop(lambda: session)
    loop._restart_workers = False
    api = Doubling(max_batch_size=2, batch_timeout=0.01)
    api.request_timeout = 30
    api.pre_setup()
    requests = queue.Queue()
    answers = Answers(requests, len(inputs))
    now = litserve_loop.time.monotonic()
    for number, value in enumerate(inputs):
        requests.put((0, f"{number}", now, value))
    callbacks = litserve.callbacks.CallbackRunner()
    loop(api, "cpu", 0, requests, answers, {}, callbacks)
    return answers.sent, loop, tuner


def test_every_request_gets_its_answer():
    sent, loop, _ = serve(range(10), Limits(4))
    assert sent == {f"{number}": (2 * number, LitAPIStatus.OK) for number in range(10)}
    assert (loop.reports.session.running, loop.reports.session.status()["odd_events"]) == (0, 0)


def test_batches_are_as_large_as_the_tuner_says():
    _, _, tuner = serve(range(30), *[Limits(1)] * 5, Limits(4), Limits(8))
    sizes = [window.completions for window in tuner.heard if window.completions]
    assert sum(sizes) == 30
    assert sizes[0] < 8
    assert max(sizes) == 8


def test_a_batch_takes_what_waits_however_short_the_timeout():
    api = Doubling(max_batch_size=2, batch_timeout=1e-3)
    api.request_timeout = 30
    session = TunerSession(ScriptedTuner(Limits(200)))
    requests = queue.Queue()
    for number in range(300):
        requests.put((0, f"{number}", litserve_loop.time.monotonic(), number))
    loop = litserve_loop.TunedLoop(lambda: session)
    batch, _ = loop.get_batch_requests(api, SlowQueue(requests), Answers(requests, 1000))
    assert [uid for _, uid, _ in batch] == [f"{number}" for number in range(200)]
    assert (api.max_batch_size, api.batch_timeout) == (200, 1e-3)


class SlowQueue:
    """A queue whose takings take 0.1 ms each, as those between processes do."""

    def __init__(self, requests) -> None:
        self.requests = requests

    def get(self, *arguments, **options):
        """The next request."""
        litserve_loop.time.sleep(1e-4)
        return self.requests.get(*arguments, **options)

    def get_nowait(self):
        """Likewise."""
        return self.requests.get_nowait()


def test_wait_follows_the_tuner_where_it_sets_one():
    api = Doubling(max_batch_size=2, batch_timeout=0.01)
    api.request_timeout = 30
    for limits, timeout_s in ((Limits(3), 0.01), (Limits(3, max_wait_ms=2.0), 0.002)):
        session = TunerSession(ScriptedTuner(limits))
        litserve_loop.TunedLoop(lambda session=session: session).get_batch_requests(api, queue.Queue(), None)
        assert (api.max_batch_size, api.batch_timeout) == (3, timeout_s)


def test_a_batch_that_raises_fails_its_requests_and_no_others():
    sent, loop, tuner = serve([1, None, 3, 4], Limits(2))
    assert [sent[uid][1] for uid in "0123"] == [LitAPIStatus.ERROR] * 2 + [LitAPIStatus.OK] * 2
    assert sum(window.failed_requests for window in tuner.heard) == 2
    assert loop.reports.session.running == 0


def test_a_tuner_that_raises_leaves_the_last_limits_in_force():
    sent, loop, _ = serve(range(20), Limits(1), Limits(3), then_raises=True)
    assert len(sent) == 20
    assert loop.reports.limits() == Limits(3)
    assert loop.reports.session.status()["tuner_errors"] > 0


def test_an_unknown_version_is_refused_on_import(monkeypatch):
    monkeypatch.setattr(litserve, "__version__", "1.0.0")
    with pytest.raises(UnknownVersionError, match=r"litserve is '1\.0\.0'"):
        importlib.reload(litserve_loop)


@pytest.fixture
def server():
    """The example's API in a process of its own, under a scripted tuner."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, HELPERS / "adapter_litserve_server.py", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(10)


def test_a_tuner_moves_the_batch_size_of_a_real_server(server):
    httpx = pytest.importorskip("httpx")

    async def play():
        sizes, enough = [], asyncio.Event()
        async with httpx.AsyncClient(base_url=server, timeout=30) as client:
            await wait_for_health(client, httpx)

            async def caller(value):
                while not enough.is_set():
                    answer = (await client.post("/predict", json={"input": value})).json()
                    assert answer["output"] == 2 * value
                    sizes.append(answer["batch_size"])
                    if answer["batch_size"] > 8:
                        enough.set()

            async with asyncio.timeout(120):  # no claim: a server whose batches never grow must not hang the suite
                await asyncio.gather(*(caller(value) for value in range(48)))
        return sizes

    sizes = asyncio.run(play())
    assert min(sizes) <= 2  # what the tuner begins with
    assert max(sizes) > 8  # what the server was started with


async def wait_for_health(client, httpx):
    """Wait until the server answers."""
    for _ in range(300):
        try:
            if (await client.get("/health")).status_code == 200:
                return
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.1)
    pytest.fail("the example's server did not come up in 30 s")
