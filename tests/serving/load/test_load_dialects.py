"""How servers answer: every dialect that a load test meets, read for tokens, ends and refusals."""

import asyncio
import json
import math
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_server import DONE, delta, event, loaded, scripted, text, usage

from batchpilot.core import SLO
from batchpilot.serving.answers import AnswerReader
from batchpilot.serving.load.client import CompletionClient, Dialect
from batchpilot.serving.load.flight import Asked, clock_ms
from batchpilot.serving.load.http import Address
from batchpilot.workloads.table import RequestTable

ONE = RequestTable.from_arrays([0.0], 20, 4, slos=SLO(1e6, 1e6))


def answered(script, **settings):
    result, served = loaded(script, ONE, **settings)
    return result, result.outcome, served


def streams(*pieces):
    return lambda exchange: exchange.stream(*pieces)


VLLM = (text(" a"), text(" b"), text(" c"), text(" d", "length"), usage(4), DONE)
VLLM_CHAT = (
    delta(role="assistant", content=""),
    *(delta(content=word) for word in "abc"),
    delta(content="d", finish="length"),
    usage(4),
    DONE,
)
SGLANG = (
    delta(role="assistant", content=""),
    *(
        event({"choices": [{"delta": {"content": "ab"}}], "usage": {"prompt_tokens": 20, "completion_tokens": n}})
        for n in (2, 4)
    ),
    delta(finish="length", content=None),
    DONE,
)
LLAMA_CPP = (
    delta(role="assistant", content=None),
    *(delta(content=word).replace(b"\n", b"\r\n") for word in "abcd"),
    event({"choices": [{"delta": {}, "finish_reason": "length"}], "timings": {"predicted_n": 4}}),
    DONE,
)
SPARSE = (b": ping\n\n", b"event: message\nid: 1\n", text(" a").replace(b"data: ", b"data:"), *VLLM[1:])
BYTES = (text(""), text(" b"), text(""), text(" d"), text("", "length"), usage(4), DONE)
THINKING = (*(delta(reasoning_content=word) for word in "abc"), delta(content="d"), delta(finish="stop"), DONE)
HIDDEN = (
    delta(role="assistant", content=""),
    *(event({"choices": [{"delta": {}, "logprobs": {"content": [{"token": word}]}}]}) for word in ("<think>", "x")),
    delta(content="c"),
    delta(content="d"),
    delta(finish="length"),
    DONE,
)
RETURNS = tuple(piece.replace(b"\n", b"\r") for piece in VLLM_CHAT)
PRETTY = (
    b'data: {"choices": [\ndata: {"text": "a"}\ndata: ]}\n\n',
    *VLLM[1:],
)


@pytest.mark.parametrize(
    "pieces", [VLLM, VLLM_CHAT, SGLANG, LLAMA_CPP, SPARSE, BYTES, THINKING, PRETTY, HIDDEN, RETURNS]
)
def test_four_tokens_are_four_in_every_dialect(pieces):
    _, outcome, _ = answered(streams(*pieces))
    assert outcome.finish_reason == ["length"]
    assert outcome.generated_tokens.tolist() == [4]
    assert outcome.slo_met.tolist() == [True]


@given(st.data())
def test_where_the_network_cuts_an_answer_changes_nothing(data):
    pieces = data.draw(st.sampled_from([VLLM, VLLM_CHAT, SGLANG, LLAMA_CPP, SPARSE, PRETTY, RETURNS]))
    whole = b"".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    reader = AnswerReader()
    for start, stop in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        reader.hear(whole[start:stop])
    reader.end()
    assert (reader.tokens, reader.ended, reader.error) == (4, True, None)


def test_a_usage_goes_before_events_that_hold_several_tokens():
    async def script(exchange):
        exchange.stream(text(" several words at once"), text(" and more"), usage(40), DONE)

    result, outcome, _ = answered(script)
    assert outcome.generated_tokens.tolist() == [40]
    assert result.uncounted == 0
    assert outcome.tpot_ms[0] * 39 == pytest.approx(outcome.e2e_ms[0] - outcome.ttft_ms[0])


def test_without_a_usage_events_are_counted_and_that_is_said():
    result, outcome, _ = answered(streams(text(" several words"), text(" more"), DONE))
    assert (outcome.generated_tokens.tolist(), result.uncounted) == ([2], 1)


ZERO = {"prompt_tokens": 0, "completion_tokens": 0}
SAID = [*({"choices": [{"text": " a"}]} for _ in range(3)), {"choices": [{"text": " d", "finish_reason": "length"}]}]


@pytest.mark.parametrize(
    ("events", "uncounted"),
    [
        ([*SAID, {"choices": [], "usage": ZERO}], 1),
        ([said | {"usage": ZERO} for said in SAID], 1),
        ([{"choices": [{"text": ""}], "usage": ZERO}, *SAID], 1),
        ([{"choices": [{"text": " a"}], "usage": {"completion_tokens": 1}}, *SAID[1:]], 1),
        ([*(said | {"usage": ZERO} for said in SAID), {"choices": [], "usage": {"completion_tokens": 4}}], 0),
        ([*SAID, {"choices": [], "usage": {"completion_tokens": 4}}, {"choices": [], "usage": ZERO}], 0),
    ],
)
def test_a_usage_of_zero_does_not_unsay_what_came(events, uncounted):
    result, outcome, _ = answered(streams(*map(event, events), DONE))
    assert (outcome.finish_reason, outcome.generated_tokens.tolist()) == (["length"], [4])
    assert result.uncounted == uncounted
    assert math.isnan(result.prompt_ratio)


@pytest.mark.parametrize(("finish", "tokens"), [("length", 4), ("stop", 2)])
def test_a_whole_answer_without_a_count_is_counted_by_its_end_or_its_text(finish, tokens):
    answer = {"choices": [{"text": "12345678", "finish_reason": finish}], "usage": ZERO}
    result, outcome, _ = answered(lambda exchange: exchange.whole(answer))
    assert (outcome.generated_tokens.tolist(), result.uncounted) == ([tokens], 1)


def test_a_finish_reason_ends_an_answer_that_never_says_done():
    _, outcome, _ = answered(streams(text(" a"), text(" b", "length")))
    assert outcome.finish_reason == ["length"]


def test_a_stream_that_just_ends_is_a_failure_with_what_came():
    result, outcome, _ = answered(streams(text(" a"), text(" b")))
    assert (outcome.finish_reason, outcome.generated_tokens.tolist()) == (["failed"], [2])
    assert result.details == {"the stream ended without [DONE] or a finish reason": 1}


def test_an_answer_that_comes_whole_counts_with_its_first_token_last():
    answer = {"choices": [{"text": " a b c d", "finish_reason": "length"}], "usage": {"completion_tokens": 4}}
    result, outcome, _ = answered(lambda exchange: exchange.whole(answer))
    assert (outcome.finish_reason, outcome.generated_tokens.tolist(), result.whole) == (["length"], [4], 1)
    assert outcome.ttft_ms[0] == outcome.e2e_ms[0]
    assert outcome.tpot_ms[0] == 0.0


@pytest.mark.parametrize(
    ("data", "kind", "told"),
    [
        (b"<html>Welcome</html>", "text/html", "no completion but text/html: <html>Welcome</html>"),
        (b"{}", "application/json", "no completion but application/json"),
        (b"", "text/event-stream", "no completion but text/event-stream"),
    ],
)
def test_what_is_no_completion_fails_and_is_quoted(data, kind, told):
    result, outcome, _ = answered(lambda exchange: exchange.whole(data, kind=kind))
    assert outcome.finish_reason == ["failed"]
    assert told in next(iter(result.details))


def test_a_compressed_answer_fails_by_name():
    result, outcome, _ = answered(lambda exchange: exchange.stream(b"\x1f\x8b\x08", content_encoding="gzip"))
    assert outcome.finish_reason == ["failed"]
    assert "compressed (gzip)" in next(iter(result.details))


def test_the_first_token_has_come_though_its_text_is_hidden():
    told = []

    async def run():
        first = asyncio.Event()

        async def script(exchange):
            exchange.stream(*HIDDEN[:1], ends=False)
            await asyncio.sleep(0.05)
            told.append(first.is_set())
            exchange.send(HIDDEN[1])
            with suppress(TimeoutError):
                await asyncio.wait_for(first.wait(), 5)
            told.append(first.is_set())
            exchange.send(*HIDDEN[2:], b"")

        async with scripted(script) as (_, address):
            client = CompletionClient(Address.parse(address), clock_ms())
            answer = await client.complete(Asked("hello", 4), first.set)
            client.close()
            return answer

    answer = asyncio.run(run())
    assert told == [False, True], "a role alone is no token; one whose text is hidden is"
    assert (answer.reason, answer.output_tokens) == ("length", 4)


def test_an_empty_answer_is_no_success():
    _, outcome, _ = answered(streams(text("", "stop"), usage(0), DONE))
    assert outcome.finish_reason == ["failed"]
    assert math.isnan(outcome.ttft_ms[0])


ECHO = {"choices": [{"text": " the prompt", "logprobs": {"tokens": [" the"]}, "finish_reason": "length"}]}


@pytest.mark.parametrize(
    "script",
    [
        streams(event(ECHO), usage(1), DONE),
        streams(event(ECHO), DONE),
        streams(text("", "length"), usage(0), DONE),
        lambda exchange: exchange.whole(ECHO),
        lambda exchange: exchange.whole(ECHO | {"usage": {"prompt_tokens": 20, "completion_tokens": 1}}),
    ],
)
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_load_that_asks_for_no_token_is_served_with_none(script, name):
    result, outcome, served = answered(script, dialect=Dialect(body={name: 0, "echo": True}))
    assert (served.asked[0][1][name], served.asked[0][1]["echo"]) == (0, True)
    assert (outcome.finish_reason, outcome.generated_tokens.tolist()) == (["length"], [0])
    assert outcome.ttft_ms[0] == outcome.e2e_ms[0] > 0.0
    assert math.isnan(outcome.tpot_ms[0])
    assert (outcome.slo_met.tolist(), result.uncounted, result.details) == ([True], 0, {})


@pytest.mark.parametrize(("most", "tokens"), [(4, 4), (2, 2), (None, 3), (-1, 3)])
def test_a_whole_answer_that_ended_by_its_length_has_what_the_body_allows(most, tokens):
    answer = {"choices": [{"text": "123456789", "finish_reason": "length"}]}
    dialect = Dialect(body={"max_tokens": most})
    _, outcome, _ = answered(lambda exchange: exchange.whole(answer), dialect=dialect)
    assert outcome.generated_tokens.tolist() == [tokens]


ABORTED = text("", "abort")


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ((event({"error": {"message": "The request queue is full.", "code": 503}}), DONE), "refused_on_arrival"),
        ((text(" a"), event({"error": {"message": "out of memory", "code": 500}}), DONE), "failed"),
        ((b'error: {"code": 500, "message": "slot gone"}\n\n',), "failed"),
        ((ABORTED, DONE), "refused_on_arrival"),
        ((text(" a"), ABORTED, DONE), "failed"),
    ],
)
def test_errors_inside_a_stream_are_told_apart(pieces, reason):
    result, outcome, _ = answered(streams(*pieces))
    assert outcome.finish_reason == [reason]
    assert result.details


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (503, {"error": {"code": "refused_by_guard"}}, "refused_by_guard"),
        (503, {"error": {"code": "upstream_unreachable"}}, "failed"),
        (503, b"busy", "refused_on_arrival"),
        (429, {"error": {"message": "slow down"}}, "refused_on_arrival"),
        (500, {"error": {"message": "oh"}}, "failed"),
        (404, b"not here", "failed"),
        (401, {"error": {"message": "who are you?"}}, "failed"),
    ],
)
def test_statuses_tell_refusals_from_failures(status, body, reason):
    result, outcome, _ = answered(lambda exchange: exchange.whole(body, status))
    assert outcome.finish_reason == [reason]
    assert result.statuses == {status: 1}
    assert next(iter(result.details)).startswith(f"{status}: ")


def test_details_that_differ_only_in_numbers_are_told_once():
    told = iter(range(10))
    requests = RequestTable.from_arrays(np.zeros(5), 20, 4)
    result, _ = loaded(lambda exchange: exchange.whole({"error": f"{next(told)} tokens wait"}, 503), requests)
    assert list(result.details.values()) == [5]


def test_conversations_and_fields_of_ones_own_are_sent():
    dialect = Dialect(chat=True, body={"top_p": 0.9, "ignore_eos": None, "stream_options": None})
    _, outcome, served = answered(streams(*VLLM_CHAT), dialect=dialect)
    head, body = served.asked[0]
    assert head.startswith("POST /v1/chat/completions ")
    assert body["messages"][0]["role"] == "user"
    assert (body["top_p"], body["max_tokens"], body["stream"]) == (0.9, 4, True)
    assert not {"ignore_eos", "stream_options", "prompt", "priority", "ttft_ms"} & set(body)
    assert outcome.finish_reason == ["length"]


def test_class_priority_user_and_key_are_sent_where_there_are_any():
    slos = [SLO(500.0, 50.0, "realtime"), SLO(123.0, 45.0, "interactive")]
    requests = RequestTable.from_arrays([0, 0], 20, 4, slos=slos, slo_class=[0, 1], priority=[0, 1], user=[3, 4])
    _, served = loaded(streams(*VLLM), requests, api_key="secret")
    by_user = {body["user"]: head for head, body in served.asked}
    assert "x-slo-class: realtime\r\n" in by_user["user-3"]
    assert "x-priority: high\r\n" in by_user["user-3"]
    assert "x-slo-class" not in by_user["user-4"], "its class is promised something else than the class's name means"
    assert "authorization: Bearer secret\r\n" in by_user["user-4"]


def test_our_own_server_is_told_promises_and_priority():
    body = json.loads(Dialect(own=True).request("m", _asked(SLO(math.inf, 45.0, "own"), priority=2)))
    assert (body["ttft_ms"], body["tpot_ms"], body["priority"]) == (1e9, 45.0, "low")


def _asked(slo, priority):
    return Asked("hello", 4, slo, priority)
