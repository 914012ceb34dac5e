"""What a gateway decides with: completions, the line, the gate, steps, the upstream's metrics. Needs no HTTP."""

import asyncio
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchpilot import Limits
from batchpilot.core import SLO
from batchpilot.core.limits import DISCIPLINES
from batchpilot.serving.answers import AnswerReader
from batchpilot.serving.gateway.completions import Completion, read_completion
from batchpilot.serving.gateway.gate import Gate
from batchpilot.serving.gateway.prompts import PICTURE_TOKENS
from batchpilot.serving.gateway.service import ServiceModel
from batchpilot.serving.gateway.settings import GatewaySettings
from batchpilot.serving.gateway.steps import StepWatcher
from batchpilot.serving.gateway.upstream_metrics import read_upstream_metrics
from batchpilot.serving.gateway.waiting import RefusedError, Ticket
from batchpilot.serving.texts import count_by_bytes

PROMISE = SLO(1000.0, 50.0)


def asked(body, headers=None):
    return read_completion(json.dumps(body).encode(), headers or {}, PROMISE, count_by_bytes)


def event(**data):
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def token(text):
    return event(choices=[{"index": 0, "text": text}])


class Door:
    """A gate on a clock of its own."""

    def __init__(self, **limits):
        self.limits = Limits(**limits)
        self.now_ms = 0.0
        self.gate = Gate(lambda: self.limits, lambda: self.now_ms)
        self.numbers = 0

    def ticket(self, prompt_tokens=10, **completion):
        self.numbers += 1
        turn = asyncio.get_running_loop().create_future()
        return Ticket(self.numbers, Completion(prompt_tokens, True, None, PROMISE, **completion), self.now_ms, turn)

    async def come(self, ticket):
        task = asyncio.ensure_future(self.gate.pass_through(ticket))
        await asyncio.sleep(0)
        return task

    async def taught(self, first_token_ms):
        """Let five requests pass that take so long each."""
        for _ in range(5):
            ticket = self.ticket()
            await self.come(ticket)
            self.now_ms += first_token_ms
            self.gate.hear_tokens(ticket, 1)
            self.gate.leave(ticket)


def test_prompt_is_counted_wherever_it_stands():
    parts = [{"type": "text", "text": "b" * 40}, {"type": "image_url", "image_url": {"url": "x"}}]
    messages = [{"role": "system", "content": "a" * 40}, {"role": "user", "content": parts}]
    assert asked({"messages": messages}).prompt_tokens == 20 + PICTURE_TOKENS
    assert asked({"prompt": "é" * 10}).prompt_tokens == 5
    assert asked({"prompt": [5, 6, 7]}).prompt_tokens == 3
    assert asked({"prompt": ["aaaa", "bbbbbbbb"]}).prompt_tokens == 3


def test_a_request_names_its_class_and_priority():
    read = asked({"prompt": "x", "max_tokens": 7, "user": "u"}, {"x-slo-class": "realtime", "x-priority": "high"})
    assert (read.slo.ttft_ms, read.priority, read.max_tokens, read.user) == (500.0, 0, 7, "u")
    assert asked({"prompt": "x", "priority": 4}, {"x-priority": "high"}).priority == 4
    assert asked({"prompt": "x"}, {"x-slo-class": "nonsense"}).slo == PROMISE


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(
    st.dictionaries(st.sampled_from(["prompt", "messages", "max_tokens", "priority", "user", "stream"]), json_values)
)
def test_no_field_can_break_the_gateway(body):
    async def run():
        read = asked(body)
        if read is not None:
            door = Door(batch_size=1, discipline="priority", ttft_guard=1.0)
            await (await door.come(Ticket(0, read, 0.0, asyncio.get_running_loop().create_future())))
            assert read.prompt_tokens >= 1

    asyncio.run(run())


@pytest.mark.parametrize("body", [b'{"prompt": "\\ud800"}', b'{"prompt": "x", "priority": 1%b}' % (b"0" * 400)])
def test_odd_but_valid_json_is_read(body):
    read = read_completion(body, {}, PROMISE, count_by_bytes)
    assert float(read.priority) >= 1
    assert read.prompt_tokens == 1


def test_what_is_nested_beyond_reason_is_left_to_the_upstream():
    assert read_completion(b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", {}, PROMISE, count_by_bytes) is None


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"text"', b"{}", b"\xff\xfe"])
def test_what_is_no_completion_request_is_left_to_the_upstream(body):
    assert read_completion(body, {}, PROMISE, count_by_bytes) is None


@given(st.lists(st.integers(1, 30), max_size=12))
def test_tokens_are_counted_however_the_stream_is_cut(cuts):
    stream = event(choices=[{"delta": {"role": "assistant", "content": ""}}])
    stream += token(" one") + b": a comment\r\n\r\n" + token(" two") + token("")
    stream += event(choices=[{"delta": {"tool_calls": [{"function": {"arguments": "x"}}]}}]) + b"data: [DONE]\n\n"
    reader, told = AnswerReader(streams=True), 0
    for cut in cuts:
        told += reader.hear(stream[:cut])
        stream = stream[cut:]
    told += reader.hear(stream)
    assert told == reader.tokens == 4, "an empty text in the middle is a token without a whole character"
    assert reader.ended


def test_a_usage_says_exactly():
    reader = AnswerReader(streams=True)
    reader.hear(token("two words"))
    reader.hear(event(choices=[], usage={"completion_tokens": 5}))
    reader.end()
    assert reader.tokens == 5
    whole = AnswerReader(streams=False)
    assert whole.hear(b'{"choices": [{"text": "hi"}], "usa') == 0
    whole.hear(b'ge": {"completion_tokens": 9}}')
    whole.end()
    assert whole.tokens == 9


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


def test_step_target_bounds_the_concurrency_by_the_time_per_token():
    model = ServiceModel()
    for requests in (1, 4, 8, 12, 16) * 3:
        model.hear_step(requests, 10.0 + 2.0 * requests)
    assert model.keeps_pace(14, 40.0)
    assert not model.keeps_pace(16, 40.0)
    assert model.keeps_pace(20, 1000.0)
    assert not model.keeps_pace(60, 1000.0), "beyond what was seen it grows by a quarter at a time"
    assert model.keeps_pace(4, 0.1), "so few always go"
    assert not model.keeps_pace(5, 0.1)
    model.hear_answer(8, 10.0 + 2.0 * 8 + 300.0)
    assert not model.keeps_pace(14, 40.0), "answers that were slower than the line take a margin"


def test_concurrency_starts_slowly_under_a_step_target():
    model = ServiceModel()
    assert model.keeps_pace(4, 50.0)
    assert not model.keeps_pace(5, 50.0)
    reached = 4
    for _ in range(12):
        model.hear_crowd(reached)
        while model.keeps_pace(reached + 1, 50.0):
            reached += 1
    assert reached > 64


def test_one_step_that_took_seconds_does_not_close_the_door_for_good():
    model = ServiceModel()
    for _ in range(5):
        model.hear_step(1, 20.0)
    model.hear_step(3, 14_000.0)
    assert not model.keeps_pace(5, 50.0)
    for _ in range(1000):
        model.hear_step(2 if model.keeps_pace(5, 50.0) else 4, 20.0)
    assert model.keeps_pace(5, 50.0)


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


def test_steps_show_in_the_tokens():
    watcher = StepWatcher()
    watcher.sent("a", 100, now_ms=0.0)
    assert watcher.spoke("a", 1, first=True, now_ms=30.0) is None
    watcher.sent("b", 50, now_ms=31.0)
    first = watcher.spoke("a", 1, first=False, now_ms=50.0)
    assert (first.batch_size, first.tokens, first.context_tokens, first.duration_ms) == (1, 100, 0, 30.0)
    assert watcher.spoke("b", 1, first=True, now_ms=50.5) is None
    second = watcher.spoke("b", 1, first=False, now_ms=70.0)
    assert (second.batch_size, second.tokens, second.context_tokens, second.duration_ms) == (2, 51, 101, 20.5)
    assert watcher.ended("a") is None
    assert watcher.ended("b").batch_size == 1


@pytest.mark.parametrize("held", [1, 4, 10])
def test_steps_are_paced_by_the_token_however_many_come_at_once(held):
    watcher, seen = StepWatcher(), []
    for name in "ab":
        watcher.sent(name, 100, now_ms=0.0)
    for turn in range(20):
        for name in "ab":
            tokens = held if turn else 1
            seen.append(watcher.spoke(name, tokens, first=not turn, now_ms=20.0 * held * turn + 30.0))
    steps = [step for step in seen if step is not None][1:]
    assert [(step.batch_size, step.tokens, step.duration_ms) for step in steps] == [(2, 2, 20.0)] * 18


def test_a_step_of_several_texts_is_one_step():
    watcher = StepWatcher()
    watcher.sent("a", 10, now_ms=0.0, texts=3)
    seen = [watcher.spoke("a", 1, first=not turn, now_ms=20.0 * turn) for turn in range(4) for _ in range(3)]
    assert [(step.batch_size, step.duration_ms) for step in seen if step is not None] == [
        (3, 0.0),
        (3, 20.0),
        (3, 20.0),
    ]


def test_answers_that_do_not_stream_take_part_in_the_steps_of_those_that_do():
    watcher = StepWatcher()
    watcher.sent("whole", 50, now_ms=0.0, streams=False)
    watcher.sent("a", 10, now_ms=0.0)
    watcher.spoke("a", 1, first=True, now_ms=20.0)
    watcher.spoke("a", 1, first=False, now_ms=40.0)
    step = watcher.spoke("a", 1, first=False, now_ms=60.0)
    assert (step.batch_size, step.tokens, step.context_tokens) == (2, 2, 61)


def test_known_servers_are_read():
    page = """# HELP vllm:num_requests_running Number of requests in model execution batches.
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 7.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.75
"""
    read = read_upstream_metrics(page)
    assert (read.server, read.running, read.waiting, read.kv_used_fraction) == ("vLLM", 5, 7, 0.5)
    read = read_upstream_metrics('sglang:num_running_reqs{tp_rank="0"} 4\nsglang:num_queue_reqs{tp_rank="0"} 1\n')
    assert (read.server, read.running, read.waiting) == ("SGLang", 4, 1)
    assert math.isnan(read.kv_used_fraction)


def ranked(name, value, **labels):
    told = ",".join(f'{key}="{label}"' for key, label in labels.items())
    return f"{name}{{{told}}} {value}\n"


def sglang(**labels):
    told = {"num_running_reqs": 4.0, "num_queue_reqs": 1.0, "token_usage": 0.5}
    return "".join(ranked(f"sglang:{name}", value, model_name="m", **labels) for name, value in told.items())


@pytest.mark.parametrize(
    ("page", "running", "waiting"),
    [
        ("".join(sglang(tp_rank=rank, pp_rank=0) for rank in range(8)), 4, 1),
        ("".join(sglang(tp_rank=rank, pp_rank=stage) for rank in range(4) for stage in range(2)), 4, 1),
        ("".join(sglang(tp_rank=rank, moe_ep_rank=rank) for rank in range(4)), 4, 1),
        ("".join(sglang(attn_cp_rank=rank) for rank in range(4)), 4, 1),
        ("".join(sglang(tp_rank=rank, dp_rank=rank // 2) for rank in range(4)), 8, 2),
        ("".join(sglang(tp_rank=rank, dp_rank=0) for rank in range(4)), 4, 1),
        (sglang(priority="") + sglang(priority=0) + sglang(priority=5), 4, 1),
        (sglang(extra='a, b=\\"c\\" d} 9'), 4, 1),
    ],
)
def test_ranks_of_one_engine_are_not_added_up_and_data_parallel_ones_are(page, running, waiting):
    read = read_upstream_metrics(page)
    assert (read.server, read.running, read.waiting, read.kv_used_fraction) == ("SGLang", running, waiting, 0.5)


def test_llama_cpp_is_read():
    read = read_upstream_metrics("llamacpp:requests_processing 3\nllamacpp:requests_deferred 2\n")
    assert (read.server, read.running, read.waiting) == ("llama.cpp", 3, 2)


@given(st.text())
def test_any_other_page_says_nothing(page):
    assert read_upstream_metrics(page) is None


@pytest.mark.parametrize("upstream", ["", "127.0.0.1:8000", "ftp://x", "http://", "http://x/?a=b", "http://x:8000/v1/"])
def test_an_upstream_must_be_an_address(upstream):
    with pytest.raises(ValueError, match=r"must be the address of a server|leave out /v1"):
        GatewaySettings(upstream)


def lightly_loaded(answers):
    """A server of 50 ms a step, of whose steps each eighth computes a prompt of another request and takes 190 ms."""
    model = ServiceModel()
    for number in range(200):
        model.hear_step(3 + (number % 8 == 0), 190.0 if number % 8 == 0 else 50.0)
    for crowd, tpot_ms in answers:
        model.hear_answer(crowd, tpot_ms)
    return model


def test_prompts_at_light_load_do_not_keep_a_fifth_request_out():
    assert lightly_loaded([]).token_ms(5) > 105.0
    assert not lightly_loaded([(3.6, 70.0)] * 2).keeps_pace(5, 105.0)  # too few to know
    assert lightly_loaded([(3.6, 70.0)] * 5).keeps_pace(5, 105.0)


def test_answers_that_were_slow_or_had_few_beside_them_are_no_proof():
    assert not lightly_loaded([(3.6, 110.0)] * 20).keeps_pace(5, 105.0)
    assert not lightly_loaded([(3.6, 70.0), (3.6, 140.0)] * 5).keeps_pace(5, 105.0)
    assert not lightly_loaded([(2.0, 55.0)] * 20).keeps_pace(5, 105.0)


def test_answers_with_fewer_beside_them_count_as_slower_by_as_much_as_there_would_be_more():
    def keeps(tpot_ms):
        model = ServiceModel()
        for _ in range(50):
            model.hear_step(16, 101.0)
        for _ in range(5):
            model.hear_answer(16.0, tpot_ms)
        return model.keeps_pace(20, 100.0)

    assert keeps(79.0)
    assert not keeps(81.0), "81 ms of 16 are 101 of 20"


def test_answers_that_have_not_ended_are_asked_while_hardly_any_has():
    speaking = [(3.6, 85.0)] * 3
    assert lightly_loaded([]).keeps_pace(5, 105.0, speaking=speaking)
    assert not lightly_loaded([]).keeps_pace(5, 105.0, speaking=speaking[:2]), "too few to know"
    assert not lightly_loaded([(3.6, 110.0)] * 3).keeps_pace(5, 105.0, speaking=speaking), "three have ended"


def test_the_line_is_held_against_the_promise_not_against_a_target_for_steps_that_scatter():
    model = ServiceModel()
    for requests in (1, 8, 16, 24) * 3:
        model.hear_step(requests, 50.0 + 2.0 * requests)
    assert not model.keeps_pace(21, 70.0), "92 ms, and the target is all that is known"
    assert model.keeps_pace(21, 70.0, promised_ms=100.0)
    assert not model.keeps_pace(24, 70.0, promised_ms=100.0), "98 ms of 100, where 95 may be predicted"


def test_what_answers_prove_still_grows_a_quarter_at_a_time():
    assert not lightly_loaded([(40.0, 55.0)] * 20).keeps_pace(8, 105.0)


def test_what_answers_kept_is_held_against_the_promise_not_against_a_target_for_steps_that_scatter():
    model = lightly_loaded([(3.6, 120.0)] * 5)
    assert not model.keeps_pace(5, 105.0)
    assert model.keeps_pace(5, 105.0, promised_ms=150.0)
    assert not model.keeps_pace(5, 105.0, promised_ms=110.0)
    assert not model.keeps_pace(5, 80.0, promised_ms=float("inf")), "a request without a promise opens no door"
