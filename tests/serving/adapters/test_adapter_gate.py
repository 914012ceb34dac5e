"""Calls are held back while a batch runs, and let in by as many as the next one holds."""

import asyncio

from batchpilot.serving.adapters.gate import BatchGate


def played(scene):
    """The calls let in, in order, after each act of a scene on a gate of room 2."""

    async def play():
        gate, inside = BatchGate(), []
        gate.room = 2
        tasks = {}

        async def call(name):
            await gate.enter()
            inside.append(name)

        def come(*names):
            tasks.update({name: asyncio.create_task(call(name)) for name in names})

        seen = []
        for act in scene(gate, come, tasks):
            del act
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            seen.append("".join(inside))
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        return seen

    return asyncio.run(play())


def test_as_many_enter_as_a_batch_holds():
    def scene(gate, come, tasks):
        yield come("a", "b", "c")

    assert played(scene) == ["ab"]


def test_nobody_enters_while_a_batch_runs_and_the_next_ones_when_it_ends():
    def scene(gate, come, tasks):
        yield come("a")
        yield gate.begin()
        yield come("b", "c", "d")
        yield gate.end(1)
        yield gate.begin()
        yield gate.end(2)

    assert played(scene) == ["a", "a", "a", "abc", "abc", "abcd"]


def test_a_larger_room_counts_from_the_end_of_the_batch():
    def scene(gate, come, tasks):
        yield come("a", "b", "c", "d", "e")
        gate.begin()
        gate.room = 3
        yield None
        yield gate.end(2)

    assert played(scene) == ["ab", "ab", "abcde"]


def test_a_call_that_is_cancelled_while_it_waits_takes_no_place():
    def scene(gate, come, tasks):
        yield come("a", "b", "c", "d")
        gate.begin()
        yield tasks["c"].cancel()
        yield gate.end(2)

    assert played(scene) == ["ab", "ab", "abd"]


def test_a_call_that_is_cancelled_just_as_it_is_let_in_gives_its_place_back():
    def scene(gate, come, tasks):
        yield come("a", "b", "c", "d", "e")
        gate.begin()
        gate.end(2)
        yield tasks["c"].cancel()

    assert played(scene) == ["ab", "abde"]
