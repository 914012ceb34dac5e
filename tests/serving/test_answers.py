"""What is an answer, and how many tokens it has: the judgement that gateway and load test share."""

import json

import pytest

from batchpilot.serving.answers import AnswerReader
from batchpilot.serving.outcomes import FAILED, REFUSED, SERVED, refusal

DONE = b"data: [DONE]\n\n"


def event(data):
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def said(text, usage="missing", index=0, finish=None):
    data = {"choices": [{"index": index, "delta": {"content": text}, "finish_reason": finish}]}
    return event(data if usage == "missing" else data | {"usage": usage})


def used(tokens):
    return {"prompt_tokens": 9, "completion_tokens": tokens, "total_tokens": 9 + tokens}


def read(*pieces, streams=True, **options):
    reader = AnswerReader(streams, **options)
    brought = [reader.hear(piece) for piece in pieces]
    reader.end()
    return reader, brought


@pytest.mark.parametrize("middle", ["missing", None, used(0), "growing"])
def test_tokens_are_heard_when_they_come_whatever_the_usage_in_the_middle_says(middle):
    pieces = [said("x", used(n) if middle == "growing" else middle) for n in range(1, 11)]
    reader, brought = read(*pieces, event({"choices": [], "usage": used(10)}), DONE)
    assert brought == [1] * 10 + [0, 0]
    assert (reader.tokens, reader.judged()) == (10, (SERVED, ""))


@pytest.mark.parametrize("last", [None, used(0), used(1), used(2**64 - 1)])
def test_a_usage_that_cannot_be_true_at_the_end_leaves_what_was_heard(last):
    reader, _ = read(*[said("x", last) for _ in range(10)], event({"choices": [], "usage": last}), DONE)
    assert (reader.tokens, reader.counted) == (10, False)


def test_a_usage_that_grows_tells_how_many_tokens_an_event_holds():
    _, brought = read(*[said("several words", used(4 * n)) for n in range(1, 6)], DONE)
    assert brought == [4] * 5 + [0]


def test_without_a_usage_events_hold_what_other_answers_had():
    reader, brought = read(*[said("x") for _ in range(4)], DONE, tokens_per_event=2.5)
    assert (sum(brought), reader.tokens) == (10, 10)


def test_without_a_usage_text_is_counted_where_events_plainly_hold_several_tokens():
    reader, _ = read(*[said("twelve bytes, twelve more") for _ in range(8)], DONE)
    assert reader.tokens == 8 * 25 / 4
    one, _ = read(*[said(" length") for _ in range(8)], DONE)
    assert one.tokens == 8


@pytest.mark.parametrize("usage", [None, used(0)])
def test_an_answer_that_comes_whole_without_a_usage_is_counted_by_its_text(usage):
    answer = {"choices": [{"message": {"content": "x" * 80}, "finish_reason": "stop"}], "usage": usage}
    reader, _ = read(json.dumps(answer).encode(), streams=False)
    assert (reader.tokens, reader.judged()[0]) == (20, SERVED)


def test_choices_are_counted_together_and_end_when_all_have_ended():
    first = [said(text, index=index) for text in "abc" for index in range(3)]
    reader, _ = read(*first, said("", index=0, finish="stop"), said("", index=1, finish="stop"))
    assert (reader.tokens, reader.choices, reader.ended) == (9, 3, False)
    reader, _ = read(*first, *[said("", index=index, finish="stop") for index in range(3)])
    assert (reader.ended, reader.judged()[0]) == (True, SERVED)


def test_calls_of_tools_are_tokens_by_what_they_say():
    calls = [
        event({"choices": [{"delta": {"tool_calls": [{"index": 0, "id": "call_with_a_long_id", "function": call}]}}]})
        for call in ({"name": "look"}, *[{"arguments": part} for part in ("{", '"a"', ":", "1", "}")])
    ]
    reader, _ = read(*calls, said("", finish="tool_calls"))
    assert (reader.tokens, reader.judged()[0]) == (6, SERVED)


def chunk(delta=None, finish=None, **choice):
    """A chunk of a conversation, or of a completion where there is no delta."""
    spoken = {"text": ""} if delta is None else {"delta": delta}
    return event({"choices": [{"index": 0, **spoken, "finish_reason": finish, **choice}]})


ROLE = chunk({"role": "assistant", "content": ""}, logprobs=None)
OF_CHAT = {"content": [{"token": "<tool_call>", "logprob": -0.1, "bytes": None, "top_logprobs": []}], "refusal": None}
OF_COMPLETION = {"tokens": ["</s>"], "token_logprobs": [-0.1], "top_logprobs": [None], "text_offset": [0]}


@pytest.mark.parametrize(
    "silent",
    [
        chunk({}, logprobs=OF_CHAT),
        chunk({"content": None}, logprobs=OF_CHAT),
        chunk({"content": ""}, logprobs={"content": None, "refusal": OF_CHAT["content"]}),
        chunk({"role": "assistant", "content": ""}, logprobs=OF_CHAT),
        chunk(logprobs=OF_COMPLETION),
        chunk(logprobs={"content": OF_CHAT["content"]}),
        chunk(token_ids=[151657]),
    ],
)
def test_a_chunk_of_log_probabilities_or_ids_alone_is_a_token_be_it_the_first(silent):
    reader, brought = read(ROLE, silent, said("a"), silent, chunk({}, "stop"), DONE)
    assert (brought, reader.tokens) == ([0, 1, 1, 1, 0, 0], 3)
    assert reader.judged() == (SERVED, "")


@pytest.mark.parametrize("told", [{"logprobs": OF_COMPLETION}, {"token_ids": [2]}])
def test_the_token_that_ends_an_answer_counts_where_it_is_told(told):
    reader, brought = read(said("a"), chunk(finish="stop", **told), DONE)
    assert (brought, reader.tokens, reader.finish_reason) == ([1, 1, 0], 2, "stop")


@pytest.mark.parametrize(
    "empty",
    [
        ROLE,
        chunk({"role": "assistant"}),
        chunk({}),
        chunk({"content": None}),
        chunk({}, logprobs=None),
        chunk({}, logprobs={"content": []}),
        chunk({}, logprobs={"content": None, "refusal": None}),
        chunk(logprobs={"tokens": [], "token_logprobs": []}),
        chunk({}, token_ids=[]),
        chunk({}, logprobs="none", token_ids=7),
    ],
)
def test_a_chunk_that_tells_of_no_token_is_none_before_the_first(empty):
    reader, brought = read(empty, said("a"), chunk({}, "stop"), DONE)
    assert (brought, reader.tokens) == ([0, 1, 0, 0], 1)


def test_log_probabilities_beside_text_count_no_token_twice():
    several = {"content": 3 * OF_CHAT["content"]}
    reader, brought = read(chunk({"content": "a b c"}, logprobs=several), chunk({}, "stop"), DONE)
    assert (brought, reader.tokens) == ([1, 0, 0], 1)


def test_an_answer_that_hides_all_its_tokens_is_one():
    reader, _ = read(ROLE, chunk({}, logprobs=OF_CHAT), chunk({}, "stop"), DONE)
    assert (reader.judged(), reader.tokens) == ((SERVED, ""), 1)
    whole = {"choices": [{"message": {"content": None}, "logprobs": OF_CHAT, "finish_reason": "stop"}]}
    reader, _ = read(json.dumps(whole).encode(), streams=False)
    assert (reader.judged(), reader.tokens) == ((SERVED, ""), 1)


ECHO = {"index": 0, "text": "a prompt of twelve words", "logprobs": OF_COMPLETION, "finish_reason": "length"}


@pytest.mark.parametrize("usage", [None, used(0), used(1)])
@pytest.mark.parametrize("streams", [True, False])
def test_an_echo_that_was_asked_for_no_token_is_an_answer_of_none(usage, streams):
    data = {"choices": [ECHO], "usage": usage}
    pieces = [event(data), DONE] if streams else [json.dumps(data).encode()]
    reader, brought = read(*pieces, streams=streams, most=0)
    assert (sum(brought), reader.tokens, reader.counted) == (0, 0, True)
    assert reader.judged() == (SERVED, "")


def test_an_error_is_one_though_no_token_was_asked_for():
    reader, _ = read(event({"error": {"message": "out of memory", "code": 500}}), DONE, most=0)
    assert reader.judged()[0] == FAILED


def test_text_that_nobody_counted_holds_no_more_tokens_than_were_allowed():
    choices = [{"index": index, "text": "x" * 400, "finish_reason": "stop"} for index in range(2)]
    for most, tokens in ((None, 200), (500, 200), (30, 60)):
        reader, _ = read(json.dumps({"choices": choices}).encode(), streams=False, most=most)
        assert (reader.tokens, reader.counted) == (tokens, False)


OUT_OF_ROOM = {"error": {"code": 500, "message": "Context size has been exceeded.", "type": "server_error"}}


@pytest.mark.parametrize(
    ("pieces", "outcome"),
    [
        ([said("a"), said("b")], FAILED),
        ([DONE], FAILED),
        ([], FAILED),
        ([said("a"), event({"error": {"message": "out of memory", "code": 500}}), DONE], FAILED),
        ([said("a"), event({"object": "error", "message": "died", "code": 400}), DONE], FAILED),
        ([said("a"), b'event: error\ndata: {"message": "died"}\n\n', DONE], FAILED),
        ([said("a"), b"event: error\ndata: died\n\n"], FAILED),
        ([said("a", finish="abort"), DONE], FAILED),
        ([said("", finish="abort"), DONE], REFUSED),
        ([said("a", finish="error"), DONE], FAILED),
        ([said("a"), said("b", index=1), said("", finish="stop"), said("", index=1, finish="abort"), DONE], FAILED),
        ([event({"error": {"message": "queue full", "code": "503"}})], REFUSED),
        ([event({"error": "Model is overloaded", "error_type": "overloaded"})], REFUSED),
        ([event({"error": {"message": "slow down", "type": "rate_limit_error"}})], REFUSED),
        ([event({"error": {"message": "gone", "code": "upstream_unreachable"}})], FAILED),
        ([said("a"), event(OUT_OF_ROOM)], REFUSED),
        ([said("a", finish="stop")], SERVED),
        ([said("a"), DONE], SERVED),
        ([said("", finish="length"), DONE], SERVED),
        ([said("", finish="stop"), DONE], SERVED),
        ([said("", used(1), finish="stop"), DONE], SERVED),
    ],
)
def test_a_stream_is_an_answer_only_when_it_is_whole(pieces, outcome):
    reader, _ = read(*pieces)
    assert reader.judged()[0] == outcome


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (b"", FAILED),
        (b"<html>login</html>", FAILED),
        (b"{}", FAILED),
        (b"[1]", FAILED),
        (b'{"choices": []}', FAILED),
        (b'{"choices": [{"text": "", "finish_reason": "stop"}]}', SERVED),
        (b'{"choices": [{"text": ""}]}', FAILED),
        (b'{"error": {"message": "broken", "code": 500}}', FAILED),
        (b'{"error": {"message": "busy", "code": 429}}', REFUSED),
        (b'{"choices": [{"text": "half", "finish_reason": "abort"}]}', FAILED),
        (b'{"choices": [{"message": {"content": "all"}, "finish_reason": "stop"}]}', SERVED),
        (b'{"choices": [{"message": {"content": null, "refusal": "no"}}]}', SERVED),
    ],
)
def test_a_body_is_an_answer_only_when_it_says_something_whole(body, outcome):
    reader, _ = read(body, streams=False)
    assert reader.judged()[0] == outcome


def test_llama_cpp_without_room_for_contexts_is_overloaded_not_broken():
    assert refusal(500, json.dumps(OUT_OF_ROOM)) == REFUSED
    assert refusal(500, '{"error": {"message": "cuda error"}}') == FAILED
    assert refusal(400, '{"error": {"message": "Context size has been exceeded."}}') == FAILED
