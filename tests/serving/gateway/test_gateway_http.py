"""The gateway over HTTP: what passes unchanged, what is refused, and what a client sees when things break."""

import asyncio
import json
import threading
import time
from contextlib import ExitStack, contextmanager

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("httptools")
pytest.importorskip("uvicorn")

from gateway_servers import example, serving, wait_until  # noqa: E402

from batchpilot import Limits  # noqa: E402
from batchpilot.baselines import StaticTuner  # noqa: E402
from batchpilot.core import SLO  # noqa: E402
from batchpilot.serving.gateway import Gateway, GatewaySettings  # noqa: E402
from batchpilot.serving.session.session import TunerSession  # noqa: E402
from batchpilot.tuners import make_tuner  # noqa: E402

STEPS = example()


def engine(slowdown=0.1, **bounds):
    return STEPS.StepEngine(STEPS.slower(slowdown), **bounds)


@contextmanager
def gateway_before(upstream, tuner=None, **settings):
    session = TunerSession(tuner or StaticTuner(Limits(64)), window_ms=50.0)
    with serving(Gateway(session, GatewaySettings(upstream, poll_s=0.05, **settings))) as address:
        yield address


@contextmanager
def both(tuner=None, slowdown=0.1, **settings):
    """An upstream's engine, its address and the gateway's."""
    with ExitStack() as stack:
        steps = engine(slowdown)
        upstream = stack.enter_context(serving(STEPS.App(steps)))
        yield steps, upstream, stack.enter_context(gateway_before(upstream, tuner, **settings))


def ask(tokens=4, *, stream=True, prompt="a prompt of some length"):
    return {"model": "steps", "prompt": prompt, "max_tokens": tokens, "stream": stream}


def post(address, body, **options):
    return httpx.post(f"{address}/v1/completions", json=body, timeout=20, trust_env=False, **options)


def status(address):
    return httpx.get(f"{address}/gateway/status", trust_env=False).json()


async def many(address, count, tokens=4):
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=20, limits=limits, trust_env=False) as client:
        sent = [client.post(f"{address}/v1/completions", json=ask(tokens)) for _ in range(count)]
        return await asyncio.gather(*sent)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/completions", ask()),
        ("POST", "/v1/completions", ask(stream=False)),
        ("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "stream": True}),
        ("POST", "/v1/completions", {"neither": 1}),
        ("GET", "/v1/models", None),
        ("POST", "/nowhere?a=%20b&c", {"any": "thing"}),
        ("DELETE", "/v1/models", None),
    ],
)
def test_answers_come_back_byte_for_byte(method, path, body):
    with both() as (_, upstream, gateway):
        direct, through = (
            httpx.request(method, address + path, json=body, trust_env=False) for address in (upstream, gateway)
        )
    assert through.status_code == direct.status_code
    assert through.content == direct.content
    assert through.headers.multi_items() == direct.headers.multi_items()


class Echo:
    """Answers with what it was asked, under a status and headers of its own."""

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        heard = {
            "target": scope["raw_path"].decode() + "?" + scope["query_string"].decode(),
            "headers": [[name.decode(), value.decode()] for name, value in scope["headers"]],
            "body": body.decode("latin-1"),
        }
        content = json.dumps(heard).encode()
        headers = [(b"content-length", str(len(content)).encode()), (b"x-twice", b"1"), (b"x-twice", b"2")]
        await send({"type": "http.response.start", "status": 418, "headers": headers})
        await send({"type": "http.response.body", "body": content})


@pytest.mark.parametrize("path", ["/v1/completions?x=%2F", "/v1/embeddings"])
def test_requests_go_on_as_they_came(path):
    sent = b'{"prompt":  "odd   spacing",\n "unknown": [1,2]}'
    with serving(Echo()) as upstream, gateway_before(upstream + "/base") as gateway:
        headers = {"authorization": "Bearer secret", "x-custom": "kept", "connection": "x-hop", "x-hop": "dropped"}
        answer = httpx.post(gateway + path, content=sent, headers=headers, trust_env=False)
    heard = answer.json()
    told = dict(heard["headers"])
    assert answer.status_code == 418
    assert answer.headers.get_list("x-twice") == ["1", "2"]
    assert heard["body"].encode("latin-1") == sent
    assert heard["target"].rstrip("?") == "/base" + path
    assert (told["authorization"], told["x-custom"]) == ("Bearer secret", "kept")
    assert "x-hop" not in told
    assert told["host"] == upstream.removeprefix("http://")


def test_concurrency_at_the_upstream_never_exceeds_the_limit():
    with both(StaticTuner(Limits(3))) as (steps, _, gateway):
        most, done = 0, threading.Event()

        def watch():
            nonlocal most
            while not done.is_set():
                most = max(most, len(steps.running) + len(steps.waiting))
                time.sleep(0.0005)

        watcher = threading.Thread(target=watch)
        watcher.start()
        answers = asyncio.run(many(gateway, 24))
        done.set()
        watcher.join()
        ended = status(gateway)
    assert [answer.status_code for answer in answers] == [200] * 24
    assert most == 3
    assert (ended["ended"], ended["output_tokens"]) == ({"finished": 24}, 96)
    assert (ended["running"], ended["waiting"], ended["queued_tokens"]) == (0, 0, 0)


def test_every_refusal_is_a_503_with_a_reason_and_none_is_lost():
    with both(StaticTuner(Limits(2, max_queued_tokens=30)), slowdown=0.5) as (_, _, gateway):
        answers = asyncio.run(many(gateway, 30))
        ended = status(gateway)["ended"]
    refused = [answer for answer in answers if answer.status_code == 503]
    assert refused
    assert len(refused) + sum(answer.status_code == 200 for answer in answers) == 30
    for answer in refused:
        assert answer.json()["error"]["code"] == "refused_on_arrival"
        assert "prompt tokens are queued" in answer.json()["error"]["message"]
        assert int(answer.headers["retry-after"]) >= 1
    assert ended == {"finished": 30 - len(refused), "refused_on_arrival": len(refused)}


def test_guard_refuses_by_what_it_has_measured():
    with both(StaticTuner(Limits(1, ttft_guard=1.0)), slowdown=1.0, slo=SLO(150.0, 50.0)) as (_, _, gateway):
        for _ in range(5):
            post(gateway, ask(1))
        answers = asyncio.run(many(gateway, 10, tokens=10))
    codes = [answer.json()["error"]["code"] for answer in answers if answer.status_code == 503]
    assert any(answer.status_code == 200 for answer in answers)
    assert codes
    assert set(codes) == {"refused_by_guard"}


def test_a_client_that_leaves_frees_its_place_and_cancels_upstream():
    with both(StaticTuner(Limits(1))) as (steps, _, gateway):
        with httpx.stream("POST", f"{gateway}/v1/completions", json=ask(100_000), trust_env=False) as answer:
            # Kept, as an iterator that is thrown away closes the answer.
            lines = answer.iter_lines()
            next(lines)
            assert len(steps.running) == 1
        wait_until(lambda: not steps.running)
        assert post(gateway, ask()).status_code == 200
        assert status(gateway)["ended"] == {"cancelled": 1, "finished": 1}


def test_a_client_that_leaves_while_it_waits_is_never_sent():
    with both(StaticTuner(Limits(1))) as (steps, _, gateway), ExitStack() as holding:
        held = holding.enter_context(
            httpx.stream("POST", f"{gateway}/v1/completions", json=ask(100_000), trust_env=False)
        ).iter_lines()
        next(held)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{gateway}/v1/completions", json=ask(), timeout=0.2, trust_env=False)
        wait_until(lambda: status(gateway)["waiting"] == 0)
        assert len(steps.running) + len(steps.waiting) == 1
        assert status(gateway)["ended"] == {"cancelled": 1}


def test_upstream_that_restarts_is_told_and_then_served_from_again():
    with ExitStack() as stack:
        first = ExitStack()
        upstream = first.enter_context(serving(STEPS.App(engine())))
        gateway = stack.enter_context(gateway_before(upstream))
        assert post(gateway, ask()).status_code == 200
        first.close()
        dead = post(gateway, ask())
        assert dead.status_code in (502, 503)
        assert dead.json()["error"]["code"] in ("upstream_unreachable", "upstream_broke_off")
        elsewhere = httpx.get(f"{gateway}/v1/models", trust_env=False)
        assert (elsewhere.status_code, elsewhere.headers["retry-after"]) == (503, "2")
        wait_until(lambda: status(gateway)["upstream_reachable"] is False)
        stack.enter_context(serving(STEPS.App(engine()), port=int(upstream.rpartition(":")[2])))
        assert post(gateway, ask()).status_code == 200
        wait_until(lambda: status(gateway)["upstream_reachable"] is True)
        assert status(gateway)["ended"] == {"finished": 2, "failed": 1}


class BreaksOff:
    """Sends part of an answer and then drops the connection."""

    def __init__(self, part, kind):
        self.part, self.kind = part, kind

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            return
        await receive()
        length = [] if self.kind == b"text/event-stream" else [(b"content-length", b"1000")]
        head = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", self.kind), *length]}
        await send(head)
        await send({"type": "http.response.body", "body": self.part, "more_body": True})


@pytest.mark.parametrize(
    ("part", "apart"),
    [
        (b'data: {"choices": [{"text": "hi"}]}\n\n', b""),
        (b'data: {"choices": [{"text": "hi"}]}\r\r', b""),
        (b'data: {"choices": [{"text": "hi"}]}\n', b"\n\n"),
        (b'data: {"choices": [{"te', b"\n\n"),
    ],
)
def test_a_stream_that_breaks_off_ends_with_an_error_event_of_its_own(part, apart):
    with serving(BreaksOff(part, b"text/event-stream")) as upstream, gateway_before(upstream) as gateway:
        answer = post(gateway, ask())
        ended = status(gateway)
    assert answer.content.startswith(part + apart + b"data: ")
    last = json.loads(answer.content[len(part + apart + b"data: ") :])
    assert last["error"]["code"] == "upstream_broke_off"
    assert "[DONE]" not in answer.text
    assert (ended["ended"], ended["running"]) == ({"failed": 1}, 0)


def test_a_whole_answer_that_breaks_off_is_cut_off_for_the_client_too():
    with serving(BreaksOff(b'{"half": ', b"application/json")) as upstream, gateway_before(upstream) as gateway:
        with pytest.raises(httpx.RemoteProtocolError):
            post(gateway, ask(stream=False))
        wait_until(lambda: status(gateway)["ended"] == {"failed": 1})


def test_an_upstream_that_says_nothing_is_given_up():
    class Silent:
        async def __call__(self, scope, receive, send):
            if scope["type"] == "http":
                await asyncio.sleep(30)

    with serving(Silent()) as upstream, gateway_before(upstream, silence_timeout_s=0.3) as gateway:
        answer = post(gateway, ask())
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_silent")


class Raises(StaticTuner):
    """A tuner whose every window raises."""

    def tell(self, metrics):
        raise RuntimeError("tuner at fault")


def test_a_tuner_that_raises_stops_nobody():
    with both(Raises(Limits(4))) as (_, _, gateway):
        assert post(gateway, ask()).status_code == 200
        wait_until(lambda: status(gateway)["tuner_errors"] > 0)
        assert post(gateway, ask()).status_code == 200
        told = status(gateway)
    assert "tuner at fault" in told["tuner_last_error"]
    assert told["limits"]["batch_size"] == 4


def test_a_tuner_hears_windows_with_steps_and_moves_the_limit():
    with both(make_tuner("aimd")) as (_, _, gateway):
        before = status(gateway)["limits"]["batch_size"]
        deadline = time.monotonic() + 10
        while status(gateway)["limits"]["batch_size"] == before and time.monotonic() < deadline:
            asyncio.run(many(gateway, 20, tokens=8))
        told = status(gateway)
    assert told["limits"]["batch_size"] != before
    assert (told["odd_events"], told["tuner_errors"]) == (0, 0)


def test_requests_that_reach_the_upstream_another_way_take_places():
    with both(StaticTuner(Limits(4))) as (_, upstream, gateway), ExitStack() as others:
        held = [
            others.enter_context(
                httpx.stream("POST", f"{upstream}/v1/completions", json=ask(100_000), trust_env=False)
            ).iter_lines()
            for _ in range(3)
        ]
        assert all(next(lines) for lines in held)
        wait_until(lambda: status(gateway)["requests_of_others"] == 3)
        told = status(gateway)
    assert (told["upstream_server"], told["upstream_running"]) == ("vLLM", 3)


def test_own_metrics_are_in_prometheus_format():
    with both(StaticTuner(Limits(7, ttft_guard=1.5))) as (_, _, gateway):
        post(gateway, ask(3))
        page = httpx.get(f"{gateway}/metrics", trust_env=False).text
    lines = [line for line in page.splitlines() if not line.startswith("#")]
    values = dict(line.rsplit(" ", 1) for line in lines)
    assert values['batchpilot_gateway:limit{limit="batch_size"}'] == "7"
    assert values['batchpilot_gateway:limit{limit="ttft_guard"}'] == "1.5"
    assert values['batchpilot_gateway:requests_total{outcome="finished"}'] == "1"
    assert values["batchpilot_gateway:generation_tokens_total"] == "3"


def test_a_body_beyond_the_bound_is_refused():
    with both(largest_body_mb=0.001) as (_, _, gateway):
        answer = post(gateway, ask(prompt="x" * 2000))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


def test_the_openai_client_chats_streams_and_hears_refusals():
    openai = pytest.importorskip("openai")
    with both(StaticTuner(Limits(1, max_queued_tokens=1))) as (_, _, gateway):
        client = openai.OpenAI(base_url=f"{gateway}/v1", api_key="none", max_retries=0)
        said = [{"role": "user", "content": "hello"}]
        whole = client.chat.completions.create(model="steps", messages=said, max_tokens=3)
        assert whole.usage.completion_tokens == 3
        wait_until(lambda: status(gateway)["running"] == 0)
        parts = list(client.chat.completions.create(model="steps", messages=said, max_tokens=3, stream=True))
        assert "".join(part.choices[0].delta.content for part in parts) == " hi hi hi"
        wait_until(lambda: status(gateway)["running"] == 0)
        endless = client.chat.completions.create(model="steps", messages=said, max_tokens=10**6, stream=True)
        next(iter(endless))
        with pytest.raises(openai.APIStatusError, match="at its limit"):
            client.chat.completions.create(model="steps", messages=said, max_tokens=3)
        endless.close()
