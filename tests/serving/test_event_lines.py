"""Lines of event streams: LF, CR and CRLF, wherever the network cuts."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchpilot.serving.answers import AnswerReader
from batchpilot.serving.event_lines import EventLines
from batchpilot.serving.gateway.answers import MOST_READ_BYTES, PassingAnswer
from batchpilot.serving.outcomes import SERVED

ENDS = (b"\n", b"\r", b"\r\n")


def lines_of(*pieces):
    lines = EventLines()
    return [line for piece in pieces for line in lines.hear(piece)], lines.end()


@pytest.mark.parametrize(
    ("stream", "lines", "rest"),
    [
        (b"a\nb\n\nc", [b"a", b"b", b""], b"c"),
        (b"a\rb\r\rc", [b"a", b"b", b""], b"c"),
        (b"a\r\nb\r\n\r\nc", [b"a", b"b", b""], b"c"),
        (b"a\rb\nc\r\nd\n\re\r", [b"a", b"b", b"c", b"d", b"", b"e"], b""),
        (b"\xef\xbb\xbfdata: 1\n", [b"data: 1"], b""),
        (b"\xef\xbb\xbf\xef\xbb\xbfa\n", [b"\xef\xbb\xbfa"], b""),
        (b"a\n\xef\xbb\xbfb\n", [b"a", b"\xef\xbb\xbfb"], b""),
        (b"", [], b""),
        (b"\xef", [], b"\xef"),
    ],
)
def test_a_line_ends_in_lf_cr_or_crlf_and_one_mark_at_the_beginning_is_passed_over(stream, lines, rest):
    assert lines_of(stream) == (lines, rest)
    assert lines_of(*(stream[k : k + 1] for k in range(len(stream)))) == (lines, rest)


def test_a_line_that_ends_in_cr_is_told_before_anything_follows():
    lines = EventLines()
    assert lines.hear(b"data: 1\r") == [b"data: 1"]
    assert lines.hear(b"") == []
    assert lines.hear(b"\n") == [], "it is the LF of the CR before"
    assert lines.hear(b"\n") == [b""]


@given(
    st.lists(st.tuples(st.sampled_from([b"", b"a", b"data: x", b": said"]), st.sampled_from(ENDS)), max_size=12),
    st.data(),
)
def test_where_the_network_cuts_a_stream_changes_no_line(parts, data):
    stream = b"".join(text + end for text, end in parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert lines_of(*pieces) == lines_of(stream)


def streamed(end, *events):
    return b"".join(b"data: " + json.dumps(event).encode() + 2 * end for event in events)


SAID = [{"choices": [{"index": 0, "text": text}]} for text in "abc"]
ENDED = {"choices": [{"index": 0, "text": "d", "finish_reason": "length"}]}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_four_tokens_are_four_whatever_ends_the_lines(end, size):
    stream = b": hello" + end + streamed(end, *SAID, ENDED) + b"data: [DONE]" + 2 * end
    reader = AnswerReader()
    brought = sum(reader.hear(stream[place : place + size]) for place in range(0, len(stream), size))
    reader.end()
    assert (brought, reader.tokens, reader.judged()) == (4, 4, (SERVED, ""))


@pytest.mark.parametrize("end", ENDS)
def test_a_token_counts_when_its_line_has_ended_not_when_the_next_event_comes(end):
    reader = AnswerReader()
    assert [reader.hear(streamed(end, event)) for event in SAID] == [1, 1, 1]


@pytest.mark.parametrize("end", ENDS)
def test_an_error_without_json_is_told_with_its_lines(end):
    reader = AnswerReader()
    reader.hear(b"event: error" + end + b"data: no memory" + end + b"data: on the device" + 2 * end)
    assert reader.error == "no memory\non the device"


@pytest.mark.parametrize("end", ENDS)
def test_between_events_is_after_the_blank_line_that_ends_one(end):
    reader = AnswerReader()
    heard = [reader.between_events]
    for piece in (b'data: {"choices', b'": []}', end, end):
        reader.hear(piece)
        heard.append(reader.between_events)
    assert heard == [True, False, False, False, True]


def test_an_event_that_never_ends_is_given_up_by_the_gateway_though_its_lines_do():
    answer = PassingAnswer(200, b"text/event-stream")
    line = b"data: " + b"x" * 2**20 + b"\n"
    for _ in range(MOST_READ_BYTES // 2**20 + 1):
        answer.hear(line)
    assert not answer.readable
