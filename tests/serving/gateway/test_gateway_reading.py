"""What a gateway reads of requests and of answers. Needs no HTTP."""

import asyncio
import json

import pytest
from gateway_gates import PROMISE, Door
from hypothesis import given
from hypothesis import strategies as st

from batchpilot.serving.answers import AnswerReader
from batchpilot.serving.gateway.completions import read_completion
from batchpilot.serving.gateway.prompts import PICTURE_TOKENS
from batchpilot.serving.gateway.waiting import Ticket
from batchpilot.serving.texts import count_by_bytes


def asked(body, headers=None):
    return read_completion(json.dumps(body).encode(), headers or {}, PROMISE, count_by_bytes)


def event(**data):
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def token(text):
    return event(choices=[{"index": 0, "text": text}])


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


@pytest.mark.parametrize(
    ("said", "most", "expected"),
    [
        ({"max_tokens": 0, "echo": True}, 0, 0.0),
        ({"max_completion_tokens": 0, "max_tokens": 7}, 0, 0.0),
        ({"max_tokens": 7}, 7, 7.0),
        ({"max_tokens": -1}, None, 128.0),
        ({"max_tokens": None}, None, 128.0),
        ({"max_tokens": False}, None, 128.0),
        ({}, None, 128.0),
    ],
)
def test_no_output_at_all_is_a_length_and_none_that_is_said_is_the_usual_one(said, most, expected):
    read = asked({"prompt": "x", **said})
    assert (read.max_tokens, read.output_tokens(128.0)) == (most, expected)


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
