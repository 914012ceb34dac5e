"""Who waits at a gateway's gate, who goes next and who is refused. Needs no HTTP."""

import asyncio

import pytest
from gateway_gates import Door
from hypothesis import given
from hypothesis import strategies as st

from batchpilot import Limits
from batchpilot.core.limits import DISCIPLINES
from batchpilot.serving.gateway.waiting import RefusedError


def test_concurrency_stays_within_the_batch_size():
    async def run():
        door = Door(batch_size=2)
        tickets = [door.ticket() for _ in range(5)]
        tasks = [await door.come(ticket) for ticket in tickets]
        assert [task.done() for task in tasks] == [True, True, False, False, False]
        door.gate.leave(tickets[0])
        await asyncio.sleep(0)
        assert [task.done() for task in tasks] == [True, True, True, False, False]
        door.limits = Limits(8)
        door.gate.move()
        await asyncio.gather(*tasks)

    asyncio.run(run())


def test_requests_come_in_while_the_prompts_without_a_first_token_are_below_the_limit():
    async def run():
        door = Door(batch_size=2, max_queued_tokens=15)
        first, second, third = (door.ticket(10) for _ in range(3))
        await (await door.come(first))
        await (await door.come(second))
        with pytest.raises(
            RefusedError, match=r"20 prompt tokens are queued, 10 would be added; .* below 15"
        ) as refused:
            await (await door.come(third))
        assert refused.value.code == "refused_on_arrival"
        door.gate.hear_tokens(first, 1)
        waiting = await door.come(door.ticket(10))
        assert (door.gate.queued_tokens, waiting.done()) == (20, False)
        door.gate.leave(second)
        await waiting

    asyncio.run(run())


def test_a_prompt_beyond_the_whole_limit_goes_at_once_or_not_at_all():
    async def run():
        door = Door(batch_size=1, max_queued_tokens=15)
        long = door.ticket(100)
        await (await door.come(long))
        door.gate.hear_tokens(long, 1)
        with pytest.raises(RefusedError, match="0 prompt tokens are queued, 100 would be added"):
            await (await door.come(door.ticket(100)))

    asyncio.run(run())


@pytest.mark.parametrize(("discipline", "order"), [("fcfs", [1, 2, 3]), ("spf", [3, 2, 1]), ("priority", [2, 1, 3])])
def test_the_next_is_who_the_discipline_names(discipline, order):
    async def run():
        door = Door(batch_size=1, discipline=discipline)
        first = door.ticket()
        await door.come(first)
        went = []
        for number, (prompt, priority) in enumerate([(30, 1), (20, 0), (10, 2)], 1):
            door.now_ms += 1
            ticket = door.ticket(prompt, priority=priority)
            task = await door.come(ticket)
            task.add_done_callback(lambda _, number=number, ticket=ticket: went.append((number, ticket)))
        door.gate.leave(first)
        for _ in range(3):
            await asyncio.sleep(0.001)
            door.gate.leave(went[-1][1])
        assert [number for number, _ in went] == order

    asyncio.run(run())


def test_fair_sharing_serves_the_user_who_had_less():
    async def run():
        door = Door(batch_size=1, discipline="fair")
        first = door.ticket()
        await door.come(first)
        went = []
        for name in ("busy", "busy", "quiet"):
            task = await door.come(door.ticket(100, user=name))
            task.add_done_callback(lambda _, name=name: went.append(name))
        for _ in range(3):
            door.gate.leave(next(iter(door.gate.inside)))
            await asyncio.sleep(0.001)
        assert went == ["busy", "quiet", "busy"]

    asyncio.run(run())


def test_guard_refuses_who_can_no_longer_be_served_in_time_before_the_turn_comes():
    async def run():
        door = Door(batch_size=1, ttft_guard=1.0)
        await door.taught(first_token_ms=400.0)
        first, second = door.ticket(), door.ticket()
        await door.come(first)
        waiting = await door.come(second)
        door.now_ms += 500.0
        door.gate.sweep()
        await asyncio.sleep(0)
        assert not waiting.done()
        door.now_ms += 150.0
        door.gate.sweep()
        with pytest.raises(RefusedError, match="waited 650 ms and would need") as refused:
            await waiting
        assert refused.value.code == "refused_by_guard"
        assert 1 <= refused.value.retry_after_s <= 30

    asyncio.run(run())


def test_guard_lets_everyone_try_while_nothing_is_known():
    async def run():
        door = Door(batch_size=4, ttft_guard=0.001)
        waiting = await door.come(door.ticket())
        await waiting
        assert waiting.done()
        assert waiting.exception() is None

    asyncio.run(run())


def test_guard_that_refuses_everybody_tries_anew_and_forgets_what_was_a_hiccup():
    async def run():
        door = Door(batch_size=4, ttft_guard=1.0)
        await door.taught(first_token_ms=20_000.0)
        for _ in range(3):
            tried = door.ticket()
            await (await door.come(tried))
            with pytest.raises(RefusedError, match="would need"):
                await (await door.come(door.ticket()))
            door.now_ms += 50.0
            door.gate.hear_tokens(tried, 1)
            door.gate.leave(tried)
            door.now_ms += 1000.0
        for _ in range(2):
            await (await door.come(door.ticket()))

    asyncio.run(run())


def test_nothing_is_learned_of_the_upstream_while_the_gateway_stood_still():
    async def run():
        door = Door(batch_size=4)
        for late in (False, True) * 5:
            door.gate.sweep()
            ticket = door.ticket()
            await door.come(ticket)
            for _ in range(40):
                door.now_ms += 250.0 if late else 50.0
                if not late:
                    door.gate.sweep()
            door.gate.hear_tokens(ticket, 1)
            door.gate.leave(ticket)
        assert door.gate.predicted_ttft_ms(10) == pytest.approx(2000.0)

    asyncio.run(run())


def test_a_client_that_leaves_the_line_holds_no_place():
    async def run():
        door = Door(batch_size=1)
        first, gone, last = (door.ticket() for _ in range(3))
        await door.come(first)
        leaving, waiting = await door.come(gone), await door.come(last)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        door.gate.leave(gone)
        door.gate.leave(first)
        await waiting
        door.gate.leave(last)
        assert (len(door.gate.line), len(door.gate.inside), door.gate.line.tokens) == (0, 0, 0)

    asyncio.run(run())


@given(
    st.lists(
        st.tuples(st.sampled_from(["come", "leave", "cancel", "limits"]), st.integers(0, 30), st.integers(1, 50)),
        max_size=40,
    ),
    st.sampled_from(sorted(DISCIPLINES)),
)
def test_no_ticket_is_lost_or_let_through_twice(moves, discipline):
    async def run():
        door = Door(batch_size=2, max_queued_tokens=120, discipline=discipline)
        tasks = {}
        for move, which, size in moves:
            known = list(tasks)
            if move == "come":
                ticket = door.ticket(size)
                tasks[ticket] = await door.come(ticket)
            elif move == "limits":
                door.limits = door.limits.replace(batch_size=1 + which % 4)
                door.gate.move()
            elif known:
                ticket = known[which % len(known)]
                tasks[ticket].cancel()
                await asyncio.gather(tasks[ticket], return_exceptions=True)
                door.gate.leave(ticket)
            assert door.gate.line.tokens == sum(ticket.completion.prompt_tokens for ticket in door.gate.line)
            assert not (set(door.gate.line) & set(door.gate.inside))
        for ticket in tasks:
            tasks[ticket].cancel()
            door.gate.leave(ticket)
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        assert (len(door.gate.line), len(door.gate.inside), door.gate.line.tokens) == (0, 0, 0)

    asyncio.run(run())
