"""HTTP in a process of its own: the same answers and ends as in one process, whichever of the two goes first."""

import asyncio
import concurrent.futures
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")

from running_server import TUNER, ask, is_empty, serving, wait_for  # noqa: E402

from batchpilot.serving.server.front.wire import Wire  # noqa: E402

TOGETHER = 16


@pytest.fixture(scope="module")
def apart(runner):
    with serving(runner, apart=True) as (service, url, _):
        yield service, url


def read(path):
    """What a file of /proc says; nothing once its thread or process has ended, as it may meanwhile."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def children():
    """Processes that this one has started."""
    tasks = Path(f"/proc/{os.getpid()}/task").iterdir()
    return [int(pid) for task in tasks for pid in read(task / "children").split()]


def fronts():
    """Those of them that clients meet."""
    return [pid for pid in children() if b"server.front.door" in read(Path(f"/proc/{pid}/cmdline"))]


def streamed(url, **changes):
    body = {"model": "tiny", "prompt": "hello", "max_tokens": 12, "temperature": 0, "stream": True, **changes}
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=30.0) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_answers_are_those_of_one_process(apart, runner):
    _, url = apart
    with serving(runner, apart=False) as (_, other, _server):
        for changes in ({"max_tokens": 40}, {"n": 3, "temperature": 1.0, "seed": 5}, {"stop": ["a", "e"]}):
            said, told = (ask(where, **changes).json() for where in (url, other))
            assert (said["choices"], said["usage"]) == (told["choices"], told["usage"])
        said, told = (streamed(where, stream_options={"continuous_usage_stats": True}) for where in (url, other))
        assert [chunk["choices"] for chunk in said] == [chunk["choices"] for chunk in told]
        assert [chunk["usage"]["completion_tokens"] for chunk in said] == list(range(1, 13))


def test_what_is_no_completion_is_answered_by_the_engine_s_process(apart):
    service, url = apart
    assert httpx.get(f"{url}/health").json() == {"status": "ok"}
    assert "batchpilot:generation_tokens_total " in httpx.get(f"{url}/metrics").text
    assert "text/html" in httpx.get(f"{url}/").headers["content-type"]
    assert "/v1/completions" in httpx.get(f"{url}/openapi.json").json()["paths"]
    assert httpx.get(f"{url}/v1/completions").status_code == 405
    assert httpx.post(f"{url}{TUNER}/strategy", json={"strategy": "aimd"}).json()["strategy"] == "aimd"
    assert service.control.staged.decider.name == "aimd"
    assert httpx.post(f"{url}{TUNER}/config", json={"max_batch_size": 0}).status_code == 400


def test_many_clients_at_once_are_each_answered_and_counted(apart):
    service, url = apart
    before = _generated(url)
    with concurrent.futures.ThreadPoolExecutor(TOGETHER) as pool:
        streams = list(pool.map(lambda n: streamed(url, max_tokens=5 + n), range(TOGETHER)))
    assert [len(chunks) for chunks in streams] == [5 + n for n in range(TOGETHER)]
    assert _generated(url) - before == sum(5 + n for n in range(TOGETHER))
    wait_for(lambda: is_empty(service))


def _generated(url):
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith("batchpilot:generation_tokens_total "))


def test_a_client_that_leaves_mid_stream_frees_its_memory(apart):
    service, url = apart
    body = {"model": "tiny", "prompt": "x", "max_tokens": 2000, "stream": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=body) as answer:
        next(answer.iter_lines())
        assert service.engine.open == 1
    wait_for(lambda: is_empty(service))


def test_a_server_that_shuts_down_answers_what_runs_and_refuses_what_comes(runner):
    with serving(runner, apart=True) as (service, url, server), concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(ask, url, max_tokens=300) for _ in range(4)]
        wait_for(lambda: service.engine.open == 4)
        server.drain()
        late = ask(url)
        assert (late.status_code, late.json()["error"]["code"]) == (503, "shutting_down")
        assert [answer.result().status_code for answer in answers] == [200] * 4


@pytest.mark.filterwarnings("ignore")
def test_an_engine_that_dies_leaves_nobody_waiting(runner):
    with serving(runner, apart=True) as (_, url, _server):
        runner.faults[:] = ["defect"]
        assert [ask(url).status_code for _ in range(2)] == [500, 500]
        assert "a defect" in httpx.get(f"{url}/health").json()["status"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_front_that_is_killed_ends_the_server_and_frees_the_engine(runner):
    known = set(fronts())
    with serving(runner, apart=True) as (service, url, server), concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, url, max_tokens=2000)
        wait_for(lambda: service.engine.open == 1)
        (front,) = set(fronts()) - known
        os.kill(front, signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            answer.result()
        wait_for(lambda: is_empty(service))
        wait_for(lambda: not server.started)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_clients_hear_when_the_engine_s_process_is_killed_and_the_front_goes_too():
    arguments = ["serve", "--model", "tiny-llama", "--port", "0", "--tuner", "static-32", "--threads", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "batchpilot.runners.main", *arguments], stdout=subprocess.PIPE, text=True
    )
    try:
        url = next(line for line in process.stdout if "http://" in line).split(" on ")[1].split(",")[0]
        (front,) = map(int, read(Path(f"/proc/{process.pid}/task/{process.pid}/children")).split())
        body = {"model": "tiny-llama", "prompt": "x", "max_tokens": 2000, "stream": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=30.0) as answer:
            lines = (line for line in answer.iter_lines() if line)
            next(lines)
            process.kill()
            *_, told, last = lines
        assert json.loads(told.removeprefix("data: "))["error"]["code"] == "engine_failure"
        assert last == "data: [DONE]"
        wait_for(lambda: not Path(f"/proc/{front}").exists(), 20.0)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_port_that_is_taken_ends_the_server_with_a_status(runner):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        from batchpilot.serving.server.building import build_service
        from batchpilot.serving.server.config import ServerConfig
        from batchpilot.serving.server.running import make_server
        from batchpilot.serving.server.text import Bytes

        service = build_service(runner, Bytes(), ServerConfig("tiny"), tuner="static-32")
        server = make_server(service, port=taken.getsockname()[1], apart=True)
        with pytest.raises(SystemExit) as ended:
            server.run()
    assert ended.value.code not in (0, None)
    assert not service.engine._thread.is_alive()


def test_the_front_loads_neither_torch_nor_numba():
    code = "import sys, batchpilot.serving.server.front.door; print({'torch', 'numba', 'scipy'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"


@pytest.mark.parametrize("cut", [1, 3, 8, 11, 1000])
def test_messages_are_heard_wherever_they_are_cut(cut):
    async def heard():
        here, there = socket.socketpair()
        messages, lost = [], asyncio.Event()
        said, hears = Wire(lambda _: None, lambda: None), Wire(messages.append, lost.set)
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: hears, sock=there)
        data = b"".join(
            len(raw).to_bytes(8, "little") + raw for raw in map(pickle.dumps, [("a", 1), ("pieces", [(1, 2)] * 99)])
        )
        for start in range(0, len(data), cut):
            hears.data_received(data[start : start + cut])
        await loop.create_connection(lambda: said, sock=here)
        said.say("last", b"x" * 500_000)
        said.close()
        await lost.wait()
        return messages

    messages = asyncio.run(heard())
    assert messages[:2] == [("a", 1), ("pieces", [(1, 2)] * 99)]
    assert messages[2:] == [("last", b"x" * 500_000)]
