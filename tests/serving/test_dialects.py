"""Responses and messages are judged and counted like completions."""

import json

import pytest

from batchpilot.core import SLO
from batchpilot.serving.answers import AnswerReader
from batchpilot.serving.gateway.completions import read_completion
from batchpilot.serving.outcomes import FAILED, REFUSED, SERVED
from batchpilot.serving.texts import count_by_bytes


def events(*all_of_them):
    return [f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in all_of_them]


def read(pieces, streams=True):
    reader = AnswerReader(streams)
    brought = [reader.hear(piece) for piece in pieces]
    reader.end()
    return reader, brought


USAGE = {"input_tokens": 20, "output_tokens": 3}
TEXT = {"type": "output_text", "text": "one two three", "annotations": []}
OUTPUT = [{"type": "message", "role": "assistant", "status": "completed", "content": [TEXT]}]
RESPONSE = {"id": "r", "object": "response", "status": "completed", "output": OUTPUT, "usage": USAGE}
DELTAS = [
    {"type": "response.output_text.delta", "delta": text, "output_index": 0} for text in ("one", " two", " three")
]
BEGUN = [
    {"type": "response.created", "response": {**RESPONSE, "status": "in_progress", "output": [], "usage": None}},
    {"type": "response.output_item.added", "item": {"type": "message", "content": []}},
]
ENDED = [
    {"type": "response.output_text.done", "text": "one two three"},
    {"type": "response.output_item.done", "item": OUTPUT[0]},
]

MESSAGE_BEGUN = [
    {"type": "message_start", "message": {"type": "message", "content": [], "usage": USAGE | {"output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "ping"},
]
MESSAGE_DELTAS = [
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
    for text in ("one", " two", " three")
]
MESSAGE_ENDED = [
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}},
    {"type": "message_stop"},
]


@pytest.mark.parametrize(
    "stream",
    [
        [*BEGUN, *DELTAS, *ENDED, {"type": "response.completed", "response": RESPONSE}],
        [*MESSAGE_BEGUN, *MESSAGE_DELTAS, *MESSAGE_ENDED],
    ],
)
def test_a_stream_is_counted_as_it_comes_and_ends_whole(stream):
    reader, brought = read(events(*stream))
    assert reader.judged() == (SERVED, "")
    assert (reader.tokens, sum(brought), reader.prompt_tokens, reader.counted) == (3, 3, 20, True)


@pytest.mark.parametrize(
    ("stream", "outcome"),
    [
        ([*BEGUN, *DELTAS], FAILED),
        ([*MESSAGE_BEGUN, *MESSAGE_DELTAS], FAILED),
        (
            [*BEGUN, *DELTAS[:1], {"type": "response.incomplete", "response": {**RESPONSE, "status": "incomplete"}}],
            SERVED,
        ),
        ([*BEGUN, {"type": "response.failed", "response": {"status": "failed", "error": {"message": "x"}}}], FAILED),
        ([{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}], REFUSED),
        ([*MESSAGE_BEGUN, {"type": "error", "error": {"type": "api_error", "message": "broken"}}], FAILED),
        ([*BEGUN, {"type": "error", "code": "server_error", "message": "broken"}], FAILED),
    ],
)
def test_what_is_cut_off_or_an_error_is_no_answer(stream, outcome):
    reader, _ = read(events(*stream))
    assert reader.judged()[0] == outcome


@pytest.mark.parametrize(
    "body",
    [
        RESPONSE,
        {"type": "message", "role": "assistant", "content": [{"type": "text", "text": "one two three"}],
         "stop_reason": "end_turn", "usage": USAGE},
    ],
)  # fmt: skip
def test_an_answer_that_comes_whole_is_one(body):
    reader, _ = read([json.dumps(body).encode()], streams=False)
    assert reader.judged() == (SERVED, "")
    assert (reader.tokens, reader.prompt_tokens) == (3, 20)
    silent = body | {"content": [], "output": []}
    reader, _ = read([json.dumps(silent).encode()], streams=False)
    assert (reader.judged()[0], reader.tokens) == (SERVED, 3)
    reader, _ = read([json.dumps(silent | {"stop_reason": None, "status": "cancelled"}).encode()], streams=False)
    assert reader.judged()[0] == FAILED


def test_a_delta_of_a_response_without_text_is_a_token_where_its_log_probability_says_so():
    told = {"type": "response.output_text.delta", "delta": "", "logprobs": [{"token": "<|end|>", "logprob": -0.1}]}
    reader, brought = read(events(*BEGUN, told, told | {"logprobs": []}, *DELTAS))
    assert (brought, reader.tokens) == ([0, 0, 1, 1, 1, 1, 1], 5), "an empty one behind the first goes on"
    reader, brought = read(events(*BEGUN, told | {"logprobs": []}, *DELTAS))
    assert (brought, reader.tokens) == ([0, 0, 0, 1, 1, 1], 3)


def test_prompts_from_a_cache_count_for_what_they_are():
    usage = {"input_tokens": 5, "cache_read_input_tokens": 90, "cache_creation_input_tokens": 5, "output_tokens": 1}
    reader, _ = read(events({"type": "message_start", "message": {"usage": usage}}))
    assert reader.prompt_tokens == 100


LONG = "words " * 2667
"""4,001 tokens by bytes."""


@pytest.mark.parametrize(
    "body",
    [
        {"input": LONG, "max_output_tokens": 7},
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": LONG}]}], "max_output_tokens": 7},
        {"input": "x", "instructions": LONG, "max_output_tokens": 7},
        {"input": [{"type": "function_call_output", "call_id": "c", "output": LONG}], "max_output_tokens": 7},
        {"input": [{"type": "function_call", "name": "f", "arguments": LONG}], "max_output_tokens": 7},
        {"system": LONG, "messages": [{"role": "user", "content": "x"}], "max_tokens": 7},
        {"system": [{"type": "text", "text": LONG}], "messages": [{"role": "user", "content": "x"}], "max_tokens": 7},
    ],
)
def test_their_prompts_and_bounds_are_read(body):
    asked = read_completion(json.dumps(body).encode(), {}, SLO(), count_by_bytes)
    assert 4000 <= asked.prompt_tokens <= 4100
    assert asked.max_tokens == 7
