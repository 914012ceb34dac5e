"""The reference server as its clients meet it: a real uvicorn, a real (tiny) model, the real OpenAI client."""

import concurrent.futures
import json
import threading

import pytest

pytest.importorskip("torch")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")
openai = pytest.importorskip("openai")

from running_server import TUNER, ask, is_empty, serving, wait_for  # noqa: E402


def cancelled(url):
    """Requests whose clients left, as the server counts them."""
    counted = 'batchpilot:request_unserved_total{reason="cancelled"} '
    (line,) = [line for line in httpx.get(f"{url}/metrics").text.splitlines() if line.startswith(counted)]
    return float(line.removeprefix(counted))


def test_the_openai_client_chats(client):
    answer = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "hi"}], max_completion_tokens=7
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.role == "assistant"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len("user: hi\nassistant: "), 7)


def test_what_is_streamed_is_what_is_answered_whole(client):
    question = {"model": "tiny", "prompt": "once upon", "max_tokens": 20, "temperature": 0}
    whole = client.completions.create(**question)
    chunks = list(client.completions.create(**question, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == [20]
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"


def test_a_chat_is_streamed_a_chunk_a_token(client):
    stream = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "hi"}], max_tokens=5, stream=True
    )
    deltas = [chunk.choices[0].delta for chunk in stream]
    assert [delta.role for delta in deltas] == ["assistant", None, None, None, None]


def test_drawn_answers_follow_their_seed(server):
    _, url = server
    same = {ask(url, temperature=1.0, seed=7, max_tokens=12).json()["choices"][0]["text"] for _ in range(3)}
    other = ask(url, temperature=1.0, seed=8, max_tokens=12).json()["choices"][0]["text"]
    assert len(same) == 1
    assert other not in same


def test_an_answer_ends_before_its_stop_string_and_counts_as_served(server):
    service, url = server
    whole = ask(url, max_tokens=30).json()["choices"][0]["text"]
    stop = whole[10:12]
    choice = ask(url, max_tokens=30, stop=[stop, "never said at all"]).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (whole[: whole.index(stop)], "stop")
    wait_for(lambda: is_empty(service))


def test_a_client_that_leaves_mid_stream_frees_its_memory_at_once(server):
    service, url = server
    with (
        httpx.Client(timeout=30.0) as http,
        http.stream(
            "POST",
            f"{url}/v1/completions",
            json={"model": "tiny", "prompt": "x" * 500, "max_tokens": 1500, "stream": True},
        ) as answer,
    ):
        next(answer.iter_lines())
        assert service.engine.gauges.kv_used_fraction > 0
    wait_for(lambda: is_empty(service))
    assert 'request_unserved_total{reason="cancelled"}' in httpx.get(f"{url}/metrics").text


def test_the_openai_client_cancels_a_stream(server, client):
    service, url = server
    before = cancelled(url)
    stream = client.completions.create(
        model="tiny", prompt="x", max_tokens=1500, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    stream.close()
    wait_for(lambda: is_empty(service))
    assert cancelled(url) == before + 1


def test_a_client_that_leaves_before_a_whole_answer_frees_its_memory(server):
    service, url = server
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{url}/v1/completions", json={"model": "tiny", "prompt": "x", "max_tokens": 2000}, timeout=0.3)
    wait_for(lambda: is_empty(service))


def test_many_requests_at_once_are_each_answered_once_and_leave_nothing_behind(server):
    service, url = server
    wait_for(lambda: is_empty(service))
    alone = [ask(url, prompt=f"question {k}", max_tokens=3 + k % 9).json()["choices"][0]["text"] for k in range(16)]
    before = served(url)
    limits = httpx.Limits(max_connections=32)
    with httpx.Client(timeout=60.0, limits=limits) as http, concurrent.futures.ThreadPoolExecutor(32) as pool:

        def one(k):
            body = {"model": "tiny", "prompt": f"question {k % 16}", "max_tokens": 3 + k % 16 % 9, "temperature": 0}
            return k, http.post(f"{url}/v1/completions", json={**body, "priority": ("high", "low")[k % 2]})

        answers = list(pool.map(one, range(320)))
    assert {answer.status_code for _, answer in answers} == {200}
    assert all(answer.json()["choices"][0]["text"] == alone[k % 16] for k, answer in answers)
    assert all(answer.json()["usage"]["completion_tokens"] == 3 + k % 16 % 9 for k, answer in answers)
    assert served(url) - before == 320
    wait_for(lambda: is_empty(service))
    assert service.session.status()["odd_events"] == 0


def served(url):
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("batchpilot:request_success_total"))


@pytest.mark.parametrize(
    ("changes", "status", "param"),
    [
        ({"prompt": ""}, 400, "prompt"),
        ({"prompt": []}, 400, "prompt"),
        ({"prompt": [300]}, 400, None),
        ({"prompt": [-1]}, 400, "prompt"),
        ({"prompt": "x" * 9000}, 400, "max_tokens"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": 10**9}, 400, "max_tokens"),
        ({"temperature": -1}, 400, "temperature"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"top_p": 0}, 400, "top_p"),
        ({"n": 0}, 400, "n"),
        ({"n": 129}, 400, "n"),
        ({"n": 65, "prompt": ["x", "y"]}, 400, "n"),
        ({"prompt": ["x", ""]}, 400, "prompt"),
        ({"prompt": ["x", [1]]}, 400, "prompt"),
        ({"prompt": {"text": "x"}}, 400, "prompt"),
        ({"stop": ["a"] * 17}, 400, "stop"),
        ({"min_tokens": 3}, 400, "min_tokens"),
        ({"min_tokens": 5, "ignore_eos": True}, 400, "min_tokens"),
        ({"stop": [""]}, 400, "stop"),
        ({"slo": "someday"}, 400, "slo"),
        ({"priority": "urgent"}, 400, "priority"),
        ({"ttft_ms": 0}, 400, "ttft_ms"),
        ({"timeout_s": 0}, 400, "timeout_s"),
        ({"best_of": 3}, 400, "best_of"),
        ({"model": "tyni"}, 404, "model"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_field_and_the_reason(server, changes, status, param):
    _, url = server
    answer = ask(url, **changes)
    error = answer.json()["error"]
    assert answer.status_code == status
    assert error["message"]
    assert param is None or error["param"].startswith(param)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"model": "tiny", "prompt": "\\ud800"}', b"\xff\xfe"])
def test_bodies_that_are_no_request_are_refused(server, content):
    _, url = server
    answer = httpx.post(f"{url}/v1/completions", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_the_openai_client_understands_the_errors(client):
    with pytest.raises(openai.BadRequestError, match="max_tokens"):
        client.completions.create(model="tiny", prompt="x", max_tokens=10**6)
    with pytest.raises(openai.NotFoundError, match="tiny"):
        client.completions.create(model="tyni", prompt="x")


def test_models_health_readiness_and_metrics_tell_what_is_served(server):
    _, url = server
    assert httpx.get(f"{url}/v1/models").json()["data"][0]["id"] == "tiny"
    assert httpx.get(f"{url}/health").json() == {"status": "ok"}
    assert httpx.get(f"{url}/ready").json() == {"status": "ready"}
    text = httpx.get(f"{url}/metrics").text
    for name in (
        "num_requests_running",
        "num_requests_waiting",
        "kv_cache_usage_perc",
        "time_to_first_token_seconds_bucket",
        "request_time_per_output_token_seconds_bucket",
        "e2e_request_latency_seconds_bucket",
        "generation_tokens_total",
        'tuner_limit{limit="batch_size"}',
    ):
        assert f"batchpilot:{name}" in text


def test_a_request_beyond_the_room_is_refused_with_a_time_to_come_again(runner):
    gate = threading.Event()
    with serving(runner, room=1) as (service, url, _), concurrent.futures.ThreadPoolExecutor(1) as pool:
        runner.faults[:] = [gate]
        first = pool.submit(ask, url, max_tokens=50)
        wait_for(lambda: service.engine.open == 1)
        second = threading.Thread(target=lambda: refused.append(ask(url)))
        refused = []
        second.start()
        wait_for(lambda: service.engine.open == 2)
        gate.set()
        second.join()
        assert (refused[0].status_code, refused[0].json()["error"]["code"]) == (503, "refused_on_arrival")
        assert 1 <= int(refused[0].headers["retry-after"]) <= 60
        assert first.result().status_code == 200


def test_the_ttft_guard_refuses_what_would_come_too_late(runner):
    with serving(runner, tuner="guarded-default") as (service, url, _):
        answer = ask(url, ttft_ms=0.001)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "refused_by_guard")
        assert "retry-after" in answer.headers
        assert ask(url).status_code == 200
        wait_for(lambda: is_empty(service))


def test_a_client_is_told_no_when_the_guard_gives_it_up_though_a_long_step_runs(runner):
    gate, pool = threading.Event(), concurrent.futures.ThreadPoolExecutor(1)
    with serving(runner, tuner="guarded-default") as (service, url, _), pool:
        assert ask(url).status_code == 200
        runner.faults[:] = [gate]
        first = pool.submit(ask, url, max_tokens=2, ttft_ms=60_000.0)
        wait_for(lambda: not runner.faults)
        told = ask(url, ttft_ms=200.0)
        assert not gate.is_set()  # the step runs on
        assert (told.status_code, told.json()["error"]["code"]) == (503, "refused_by_guard")
        gate.set()
        assert first.result().status_code == 200
        wait_for(lambda: is_empty(service))
        wait_for(lambda: sum(window["refused_by_guard"] for window in service.history.rows()) == 1)


def test_steps_that_run_out_of_memory_are_tried_again(runner):
    with serving(runner) as (service, url, _):
        good = ask(url).json()["choices"][0]["text"]
        runner.faults[:] = ["memory", None, "error"]
        assert ask(url).json()["choices"][0]["text"] == good
        assert "batchpilot:failed_steps_total 2.0" in httpx.get(f"{url}/metrics").text
        wait_for(lambda: is_empty(service))


def test_an_engine_that_cannot_serve_a_request_says_so_and_goes_on(runner):
    with serving(runner) as (service, url, _):
        runner.faults[:] = ["memory"] * 4
        answer = ask(url)
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "engine_failure")
        assert ask(url).status_code == 200
        wait_for(lambda: is_empty(service))


def test_a_failure_mid_stream_is_told_in_the_stream(runner):
    with serving(runner) as (_, url, _server):
        runner.faults[:] = [None, None] + ["memory"] * 4
        body = {"model": "tiny", "prompt": "x", "max_tokens": 9, "stream": True}
        lines = [
            line for line in httpx.post(f"{url}/v1/completions", json=body, timeout=20.0).text.splitlines() if line
        ]
        assert lines[-1] == "data: [DONE]"
        assert json.loads(lines[-2].removeprefix("data: "))["error"]["code"] == "engine_failure"


def test_a_stalled_engine_is_unwell_requests_give_up_and_it_recovers(runner):
    gate = threading.Event()
    with serving(runner, stall_s=0.2) as (service, url, _):
        runner.faults[:] = [gate]
        answer = ask(url, timeout_s=0.5)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
        health = httpx.get(f"{url}/health")
        assert (health.status_code, "in one step" in health.json()["status"]) == (503, True)
        gate.set()
        wait_for(lambda: is_empty(service))
        assert httpx.get(f"{url}/health").status_code == 200
        assert ask(url).status_code == 200


@pytest.mark.filterwarnings("ignore")
def test_an_engine_that_dies_leaves_nobody_waiting(runner):
    with serving(runner) as (_, url, _server):
        runner.faults[:] = ["defect"]
        assert ask(url).status_code == 500
        assert ask(url).status_code == 500
        assert "a defect" in httpx.get(f"{url}/health").json()["status"]
        assert httpx.get(f"{url}/ready").status_code == 503


def test_a_shutdown_finishes_what_runs_and_refuses_what_comes(runner):
    with serving(runner) as (service, url, server), concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(ask, url, max_tokens=300) for _ in range(8)]
        wait_for(lambda: service.engine.open == 8)
        server.drain()
        late = ask(url)
        assert (late.status_code, late.json()["error"]["code"]) == (503, "shutting_down")
        assert httpx.get(f"{url}/ready").status_code == 503
        assert [answer.result().status_code for answer in answers] == [200] * 8


def test_a_shutdown_cancels_what_outlasts_the_time_of_grace(runner):
    with serving(runner, grace_s=0.1) as (service, url, server), concurrent.futures.ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(ask, url, max_tokens=2000) for _ in range(2)]
        wait_for(lambda: service.engine.open == 2)
        server.drain()
        codes = [(answer.result().status_code, answer.result().json()["error"]["code"]) for answer in answers]
        assert codes == [(503, "shutting_down")] * 2
        wait_for(lambda: is_empty(service))


def test_a_tuner_that_raises_is_shown_and_does_not_disturb(runner):
    with serving(runner) as (service, url, _):

        def tell(_):
            raise RuntimeError("a bug in the tuner")

        service.control.staged.decider.tell = tell
        assert ask(url, max_tokens=100).status_code == 200
        wait_for(lambda: httpx.get(f"{url}{TUNER}/status").json()["tuner_errors"] > 0)
        status = httpx.get(f"{url}{TUNER}/status").json()
        assert status["tuner_last_error"] == "RuntimeError: a bug in the tuner"
        assert status["current_batch_size"] == 32
