"""What is promised at the gate is held: who is told no and when, and what counts as a promise kept."""

import asyncio
import json
import math
import time

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("httptools")
pytest.importorskip("uvicorn")

from gateway_scripts import ANSWER, OK, STREAM, WHOLE, before, chunked, post, saying, status  # noqa: E402

from batchpilot import Limits  # noqa: E402
from batchpilot.core import SLO  # noqa: E402
from batchpilot.core.limits import DISCIPLINES  # noqa: E402
from batchpilot.serving.gateway.completions import Completion  # noqa: E402
from batchpilot.serving.gateway.gate import Gate  # noqa: E402
from batchpilot.serving.gateway.waiting import RefusedError, Ticket  # noqa: E402


class Door:
    """A gate on the wall clock, which has seen first tokens come `first_ms` after a prompt of so many tokens."""

    def __init__(self, first_ms=lambda tokens: 50.0, **limits):
        self.gate = Gate(lambda: Limits(**limits), lambda: 1000.0 * time.monotonic())
        self.numbers = 0
        for tokens in (10, 1000) * 5:
            self.gate.service.hear_first_token(tokens, first_ms(tokens))

    def ticket(self, prompt_tokens=10, ttft_ms=300.0, streams=True, **completion):
        self.numbers += 1
        turn = asyncio.get_running_loop().create_future()
        asked = Completion(prompt_tokens, streams, None, SLO(ttft_ms, 50.0), **completion)
        return Ticket(self.numbers, asked, 1000.0 * time.monotonic(), turn)

    async def come(self, ticket):
        task = asyncio.ensure_future(self.gate.pass_through(ticket))
        await asyncio.sleep(0)
        return task


@pytest.mark.parametrize("discipline", sorted(DISCIPLINES))
def test_who_waits_is_told_within_the_promise_without_a_sweep_and_before_the_turn_comes(discipline):
    async def run():
        door = Door(batch_size=1, ttft_guard=1.0, discipline=discipline)
        await door.come(door.ticket())
        waiting = [await door.come(door.ticket(prompt, ttft_ms=ttft)) for prompt, ttft in ((10, 100.0), (900, 200.0))]
        done, _ = await asyncio.wait(waiting, timeout=10)
        assert len(done) == 2
        for task, ttft_ms in zip(waiting, (100.0, 200.0), strict=True):
            refused = task.exception()
            assert isinstance(refused, RefusedError)
            assert refused.code == "refused_by_guard"
            assert f"{ttft_ms:.0f} ms are allowed" in refused.reason

    asyncio.run(run())


def test_the_moment_is_when_the_own_first_token_would_come_too_late():
    async def run():
        door = Door(batch_size=1, ttft_guard=1.0)
        await door.come(door.ticket(ttft_ms=math.inf))
        ticket = door.ticket(ttft_ms=60_000.0)
        await door.come(ticket)
        left_s = ticket.timer.when() - asyncio.get_running_loop().time()
        assert 59.0 < left_s < 60.0 - 0.050
        door.gate.leave(ticket)
        assert ticket.timer is None

    asyncio.run(run())


def test_answers_that_do_not_stream_hold_up_nobody_once_their_prompts_are_computed():
    async def run():
        door = Door(first_ms=lambda tokens: 0.1 * tokens, batch_size=64, ttft_guard=1.0)
        for _ in range(4):
            await (await door.come(door.ticket(1000, ttft_ms=math.inf, streams=False)))
        assert door.gate.queued_tokens == 4000
        last = max(ticket.sent_ms for ticket in door.gate.inside)
        while 1000.0 * time.monotonic() < last + 150.0:
            await asyncio.sleep(0.02)
        assert (door.gate.queued_tokens, len(door.gate.inside)) == (0, 4)
        await (await door.come(door.ticket(1000)))

    asyncio.run(run())


def test_a_request_for_several_texts_takes_as_many_places_or_goes_alone():
    async def run():
        door = Door(batch_size=4)
        first = door.ticket(choices=3)
        await (await door.come(first))
        waiting = await door.come(door.ticket(choices=2))
        assert not waiting.done()
        door.gate.leave(first)
        await waiting
        alone = Door(batch_size=4)
        await (await alone.come(alone.ticket(choices=9)))

    asyncio.run(run())


def whole(body, kind=b"application/json"):
    return OK + b"Content-Type: %b\r\nContent-Length: %d\r\n\r\n" % (kind, len(body)) + body


def stream(*events):
    return STREAM + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(*(b"data: %b\n\n" % event for event in events))


TEXT = b'{"choices": [{"text": "a"}]}'
ERROR = json.dumps({"error": {"message": "out of memory", "code": 500}}).encode()
FULL = json.dumps({"error": {"message": "queue is full", "code": 503}}).encode()


@pytest.mark.parametrize(
    ("answer", "counted"),
    [
        (whole(b""), "failed"),
        (whole(b"<html>log in</html>", b"text/html"), "failed"),
        (whole(b"{}"), "failed"),
        (whole(ERROR), "failed"),
        (whole(FULL), "refused_upstream"),
        (whole(ANSWER.replace(b"stop", b"abort")), "failed"),
        (stream(TEXT), "failed"),
        (stream(b"[DONE]"), "failed"),
        (stream(TEXT, ERROR, b"[DONE]"), "failed"),
        (stream(FULL, b"[DONE]"), "refused_upstream"),
        (stream(b'{"choices": [{"text": "", "finish_reason": "abort"}]}', b"[DONE]"), "refused_upstream"),
        (stream(TEXT, b'{"choices": [{"text": "", "finish_reason": "error"}]}', b"[DONE]"), "failed"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "failed"),
        (stream(TEXT, b'{"choices": [{"text": "", "finish_reason": "stop"}]}'), "finished"),
        (stream(TEXT, b"[DONE]"), "finished"),
        (WHOLE, "finished"),
    ],
)
def test_only_an_answer_is_a_promise_kept(answer, counted):
    script, _ = saying(answer)
    with before(script) as gateway:
        post(gateway)
        told = status(gateway)
    assert told["ended"] == {counted: 1}
    assert told["kept_promises"] == (counted == "finished")
    assert (told["last_fault"] is None) == (counted != "failed")


def test_times_of_what_was_served_refused_and_failed_are_kept_apart():
    answers = [WHOLE, b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", whole(b"{}")]

    def script(connection, request):
        connection.sendall(answers.pop(0))
        return True

    with before(script) as gateway:
        for _ in range(3):
            post(gateway)
        told = status(gateway)
        page = httpx.get(f"{gateway}/metrics", trust_env=False).text
    assert told["ended"] == {"finished": 1, "refused_upstream": 1, "failed": 1}
    for name in ("ttft_ms", "e2e_ms", "time_to_refusal_ms", "time_to_failure_ms"):
        assert told[f"{name}_p50"] == told[f"{name}_p95"] > 0.0
    assert told["tpot_ms_p50"] is None
    for name in ("time_to_first_token", "time_to_refusal", "time_to_failure"):
        assert f'batchpilot_gateway:{name}_seconds{{quantile="0.95"}} 0.' in page
