"""Several real servers behind one gateway: killed, hung, slowed and restarted under load."""

import asyncio
from contextlib import ExitStack, contextmanager

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("httptools")
pytest.importorskip("uvicorn")

from gateway_fleets import before_all, processes, upstreams, watched  # noqa: E402
from gateway_servers import example, serving, wait_until  # noqa: E402

from batchpilot.serving.gateway.upstreams.spec import ROUTERS  # noqa: E402

STEPS = example()


@contextmanager
def two(one, another, router):
    """A gateway's address before two engines."""
    with ExitStack() as stack:
        urls = [stack.enter_context(serving(STEPS.App(engine))) for engine in (one, another)]
        yield stack.enter_context(before_all(urls, router=router))[0]


def served_whole(seen, tokens):
    return [one for one in seen if one.complete and one.tokens == tokens]


def nothing_is_left(gateway):
    wait_until(lambda: all(one["running"] == one["waiting"] == 0 for one in upstreams(gateway)))


def test_of_a_server_that_is_killed_and_restarted_only_answers_that_had_begun_are_lost():
    with processes(3) as servers, before_all([one.url for one in servers], health_s=0.2) as (gateway, _):
        dying = servers[1]
        events = [(1.0, dying.kill), (2.0, dying.start)]
        seen = asyncio.run(watched(gateway, 120, 0.025, 12, events))
        lost = [one for one in seen if not one.complete]
        assert all(one.status == 200 and one.tokens > 0 and one.upstream == dying.url for one in lost)
        assert len(served_whole(seen, 12)) == len(seen) - len(lost)
        wait_until(lambda: not any(one["suspected"] for one in upstreams(gateway)))
        again = asyncio.run(watched(gateway, 12, 0.01, 2))
        assert len(served_whole(again, 2)) == 12
        assert dying.url in {one.upstream for one in again}
        nothing_is_left(gateway)


def test_what_waits_at_a_server_that_hangs_is_answered_by_another():
    with processes(2) as servers, before_all([one.url for one in servers], health_s=0.2) as (gateway, _):
        events = [(0.3, servers[0].hang)]
        # One request at a time would be served: the others wait for their first token as it hangs.
        waiting = asyncio.run(watched(gateway, 60, 0.02, 4, [*events, (2.5, servers[0].kill)]))
        lost = [one for one in waiting if not one.complete]
        assert all(one.tokens > 0 and one.upstream == servers[0].url for one in lost)
        assert len(served_whole(waiting, 4)) == len(waiting) - len(lost)
        nothing_is_left(gateway)


@pytest.mark.parametrize("router", ["least-requests", "least-tokens", "predicted-ttft", "prefix"])
def test_a_server_that_slows_down_gets_fewer_requests(router):
    slow, quick = STEPS.StepEngine(STEPS.slower(0.1)), STEPS.StepEngine(STEPS.slower(0.1))
    with two(slow, quick, router) as gateway:
        asyncio.run(watched(gateway, 30, 0.005, 4))
        before = [one["sent"] for one in upstreams(gateway)]
        slow.parameters = STEPS.slower(8.0)
        seen = asyncio.run(watched(gateway, 60, 0.02, 4))
        after = [one["sent"] for one in upstreams(gateway)]
        assert len(served_whole(seen, 4)) == 60
        assert after[0] - before[0] < after[1] - before[1]


@pytest.mark.parametrize("router", ROUTERS)
def test_every_rule_serves_everybody(router):
    engines = [STEPS.StepEngine(STEPS.slower(0.05)) for _ in range(2)]
    with two(*engines, router) as gateway:
        seen = asyncio.run(watched(gateway, 40, 0.002, 3))
        assert len(served_whole(seen, 3)) == 40
        assert all(one["sent"] > 0 for one in upstreams(gateway))
        nothing_is_left(gateway)
