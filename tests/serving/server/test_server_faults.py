"""Faults and what a client sees of them. `serving` looks afterwards that no request, block, task or thread is left."""

import concurrent.futures
import contextlib
import gc
import json
import resource
import threading
import time

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")

from policy_samples import make_description, make_network, make_policy_bytes, model_bytes  # noqa: E402
from running_server import TUNER, ask, is_empty, serving, tiny_runner, wait_for  # noqa: E402

from batchpilot.serving.server.answering import Answer  # noqa: E402
from batchpilot.serving.server.generation import Generation, Order  # noqa: E402
from batchpilot.tuners.policy.seal import seal  # noqa: E402

POLICY = f"{TUNER}/policy"


@pytest.fixture(scope="module")
def shared(runner):
    """A server for faults that leave it as it was."""
    with serving(tiny_runner()) as (service, url, _):
        yield service, url


def said(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["text"]


def status(url):
    return httpx.get(f"{url}{TUNER}/status").json()


def policy_with(weights):
    """A sealed policy file whose first layer's weights are all the same number."""
    network = make_network(make_description().table.sizes)
    network.weights[0][:] = weights
    return seal(model_bytes(network, make_description().to_metadata()))


def test_of_two_policies_uploaded_at_once_one_is_on_trial_and_requests_go_on(shared):
    service, url = shared
    with concurrent.futures.ThreadPoolExecutor(9) as pool:
        good = said(ask(url))
        together = threading.Barrier(8)

        def upload(number):
            together.wait()
            return httpx.post(f"{url}{POLICY}", content=make_policy_bytes(seed=number), params={"share": 0.5})

        answers = [pool.submit(upload, number) for number in range(8)]
        assert said(ask(url)) == good
        assert [answer.result().status_code for answer in answers] == [200] * 8
        trial = status(url)["trial"]
        assert (trial["verdict"], trial["candidate"]) == ("running", "policy")
        assert httpx.delete(f"{url}{POLICY}").json()["withdrawn"] is True
        assert httpx.delete(f"{url}{POLICY}").json()["withdrawn"] is False
        wait_for(lambda: service.session.limits().batch_size == 32)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-9], lambda data: b"", lambda data: data[:99] + b"?" + data[100:]]
)
def test_a_corrupt_policy_is_refused_and_the_tuner_stays(shared, damage):
    service, url = shared
    before = status(url)["trial"], service.control.staged.decider
    answer = httpx.post(f"{url}{POLICY}", content=damage(make_policy_bytes()))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "policy")
    assert (status(url)["trial"], service.control.staged.decider) == before
    said(ask(url))


@pytest.mark.parametrize("weights", [np.nan, np.inf])
def test_a_policy_that_could_only_say_nan_is_refused(shared, weights):
    _, url = shared
    answer = httpx.post(f"{url}{POLICY}", content=policy_with(weights))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "policy")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_policy_that_overflows_to_nan_as_it_runs_harms_nobody(runner):
    with serving(runner) as (service, url, _):
        good = said(ask(url))
        data = policy_with(np.finfo(np.float32).max)
        assert httpx.post(f"{url}{POLICY}", content=data, params={"share": 1.0}).status_code == 200
        for _ in range(5):
            windows = service.session.status()["windows"]
            assert said(ask(url)) == good
            wait_for(lambda before=windows: service.session.status()["windows"] > before)
        assert service.session.status()["tuner_errors"] == 0
        assert service.session.limits().batch_size >= 1


def test_a_policy_whose_upload_breaks_off_changes_nothing(shared):
    _, url = shared
    before = status(url)["trial"]

    def half():
        yield make_policy_bytes()[:100]
        raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        httpx.post(f"{url}{POLICY}", content=half())
    assert status(url)["trial"] == before
    said(ask(url))


def test_a_full_disk_keeps_nobody_from_uploading_since_nothing_is_written(shared, tmp_path):
    _, url = shared
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            (tmp_path / "file").write_bytes(b"x")
        uploaded, answered = httpx.post(f"{url}{POLICY}", content=make_policy_bytes()), ask(url)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert uploaded.status_code == 200
    assert httpx.delete(f"{url}{POLICY}").json()["withdrawn"] is True
    said(answered)


def test_a_wall_clock_that_jumps_is_not_looked_at(shared, monkeypatch):
    _, url = shared
    good = said(ask(url, max_tokens=50, timeout_s=20.0))
    real = time.time
    for days in (30, -30):
        monkeypatch.setattr(time, "time", lambda days=days: real() + 86400.0 * days)
        assert said(ask(url, max_tokens=50, timeout_s=20.0)) == good
    monkeypatch.undo()
    assert httpx.get(f"{url}/health").status_code == 200


class JumpingClock:
    """Seconds, which somebody may add to."""

    def __init__(self):
        self.ahead_s = 0.0

    def __call__(self):
        return time.perf_counter() + self.ahead_s


@pytest.mark.parametrize("tuner", ["static-32", "hybrid", "guarded-adaptive"])
def test_a_machine_that_slept_for_an_hour_goes_on_where_it_was(runner, tuner):
    clock = JumpingClock()
    with (
        serving(runner, clock=clock, tuner=tuner) as (service, url, _),
        concurrent.futures.ThreadPoolExecutor(4) as pool,
    ):
        good = said(ask(url, max_tokens=100))
        answers = [pool.submit(ask, url, max_tokens=100) for _ in range(4)]
        wait_for(lambda: service.engine.gauges.running > 0)
        clock.ahead_s = 3600.0
        codes = {answer.result().status_code for answer in answers}
        # A guard refuses what has waited for an hour before its turn, as it should.
        assert codes <= ({200, 503} if tuner == "guarded-adaptive" else {200})
        assert [said(ask(url, max_tokens=100)) for _ in range(5)] == [good] * 5
        assert httpx.get(f"{url}/health").status_code == 200
        assert service.session.status()["tuner_errors"] == 0


def test_a_stream_that_outlasts_the_time_of_grace_is_told_so_in_the_stream(runner):
    with (
        serving(runner, grace_s=0.1) as (_, url, server),
        httpx.stream(
            "POST", f"{url}/v1/completions", json={"model": "tiny", "prompt": "x", "max_tokens": 2000, "stream": True}
        ) as answer,
    ):
        lines = (line for line in answer.iter_lines() if line)
        next(lines)
        server.drain()
        *_, told, last = lines
        assert last == "data: [DONE]"
        assert json.loads(told.removeprefix("data: "))["error"]["code"] == "shutting_down"


def test_all_answers_of_a_request_fail_together_when_the_engine_fails_on_one(runner):
    with serving(runner) as (_, url, _server):
        runner.faults[:] = [None] + ["memory"] * 8
        answer = ask(url, n=2, max_tokens=20)
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "engine_failure")
        runner.faults.clear()
        said(ask(url))


def test_a_client_of_several_answers_that_leaves_frees_them_all(shared):
    service, url = shared
    body = {"model": "tiny", "prompt": ["x", "y", "z"], "n": 2, "max_tokens": 1500, "stream": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=body) as answer:
        next(answer.iter_lines())
        assert service.engine.open == 6
    wait_for(lambda: is_empty(service))


def test_clients_that_come_and_go_leave_nothing(shared):
    service, url = shared
    with concurrent.futures.ThreadPoolExecutor(16) as pool:

        def impatient(number):
            body = {"model": "tiny", "prompt": "x" * 50, "max_tokens": 500, "stream": number % 2 == 0}
            with contextlib.suppress(httpx.TimeoutException):
                httpx.post(
                    f"{url}/v1/completions", json=body, timeout=httpx.Timeout(5.0, read=0.002 * (number % 7 + 1))
                )

        list(pool.map(impatient, range(60)))
        wait_for(lambda: is_empty(service))
        assert service.session.status()["odd_events"] == 0
        said(ask(url))


def test_requests_that_are_over_leave_no_object(runner):
    before = living()
    with serving(tiny_runner()) as (service, url, _):

        def one(number):
            changes = [{}, {"stream": True}, {"n": 2}, {"stop": ["\n", "a"]}, {"max_tokens": 10**9}][number % 5]
            return ask(url, user=f"user {number}", prompt=f"question {number}", **changes).status_code

        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            assert set(pool.map(one, range(100))) == {200, 400}
        wait_for(lambda: is_empty(service))
    # Looked at once its threads have ended, which hold their last request as long as they run; `service` lives.
    assert not [entry for entry in living() if not any(entry is known for known in before)]


def living():
    """What there is of requests."""
    gc.collect()
    return [entry for entry in gc.get_objects() if type(entry) in (Generation, Order, Answer)]
