"""Weka traces: conversations, sub-agents, block hashes and what is wrong with a file."""

import gzip
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchpilot.workloads import TraceError, read_trace


def call(t, prompt, output, hashes, **more):
    return {"t": t, "type": "n", "model": "m", "in": prompt, "out": output, "hash_ids": hashes, **more}


def trace(*requests, block_size=64, **more):
    return {
        "id": "a",
        "models": ["m"],
        "block_size": block_size,
        "hash_id_scope": "local",
        "requests": list(requests),
    } | more


FIRST = call(0.0, 200, 100, [1, 2, 3, 4], api_time=2.0)
SECOND = call(9.0, 400, 10, [1, 2, 3, 4, 5, 6, 7], think_time=0.5)


def written(path, *traces):
    path.write_text("".join(json.dumps(one) + "\n" for one in traces))
    return path


def test_a_call_waits_for_the_answer_before_it_and_its_think_time(tmp_path):
    table = read_trace(written(tmp_path / "t.jsonl", trace(FIRST, SECOND), trace(FIRST)), "weka", every_s="7")
    assert table.prompt_tokens.tolist() == [200, 400, 200]
    assert table.turns.session.tolist() == [0, 0, 1]
    np.testing.assert_allclose(table.turns.think_ms[1], 500.0)
    np.testing.assert_allclose(table.arrival_ms, [0.0, 500.0, 7000.0])


def test_without_a_think_time_it_is_the_recorded_pause_after_the_answer(tmp_path):
    later = {key: value for key, value in SECOND.items() if key != "think_time"}
    table = read_trace(written(tmp_path / "t.jsonl", trace(FIRST, later)), "weka")
    np.testing.assert_allclose(table.turns.think_ms, [0.0, 7000.0])


def test_whole_blocks_of_the_prompt_and_of_an_answer_that_is_gone_on_from_are_hashed(tmp_path):
    prefixes = read_trace(written(tmp_path / "t.jsonl", trace(FIRST, SECOND)), "weka").prefixes
    # 200 tokens are three whole blocks of 64, and with the answer of 100 four; 400 tokens are six.
    assert prefixes.blocks().tolist() == [4, 6]
    assert prefixes.hashes[:4].tolist() == prefixes.hashes[4:8].tolist()
    assert prefixes.block_tokens == 64


def test_hashes_are_of_one_conversation_and_stand_for_all_before_them(tmp_path):
    odd = trace(call(0.0, 128, 1, [1, 2]), call(1.0, 128, 1, [3, 2]))
    prefixes = read_trace(written(tmp_path / "t.jsonl", odd, odd), "weka").prefixes
    assert len(set(prefixes.hashes.tolist())) == 8


@pytest.mark.parametrize("since_s", [0.0, 5.0])
def test_calls_of_a_sub_agent_come_at_its_marker_by_either_clock(tmp_path, since_s):
    agent = {"t": 5.0, "type": "subagent", "requests": [call(since_s + 0.5, 130, 20, [9, 10], api_time=1.0)]}
    table = read_trace(written(tmp_path / "t.jsonl", trace(FIRST, agent, SECOND)), "weka")
    assert table.prompt_tokens.tolist() == [200, 130, 400]
    np.testing.assert_allclose(table.turns.think_ms, [0.0, 3500.0, 500.0])


def test_a_file_may_be_one_pretty_conversation_or_compressed(tmp_path):
    (tmp_path / "t.json").write_text(json.dumps(trace(FIRST, SECOND), indent=2))
    assert len(read_trace(tmp_path / "t.json", "weka")) == 2
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(json.dumps(trace(FIRST, SECOND)).encode()))
    assert len(read_trace(tmp_path / "t.jsonl.gz", "weka")) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: ("\n  \n" + text + "\n\n").encode(),
        lambda text: text.rstrip("\n").encode(),
    ],
    ids=["byte order mark", "CRLF", "blank lines", "no last line end"],
)
def test_it_does_not_mind(tmp_path, change):
    path = written(tmp_path / "t.jsonl", trace(FIRST, SECOND), trace(FIRST))
    path.write_bytes(change(path.read_text()))
    assert read_trace(path, "weka").prompt_tokens.tolist() == [200, 400, 200]


def test_a_bad_first_line_spoils_only_itself(tmp_path):
    path = written(tmp_path / "t.jsonl", trace(FIRST), trace(FIRST))
    path.write_text('{"half\n' + path.read_text())
    table = read_trace(path, "weka", skip_bad_rows=True)
    assert (len(table), table.skipped_rows) == (2, 1)


@given(content=st.binary(max_size=300), skip=st.booleans())
@settings(max_examples=60)
def test_random_bytes_raise_nothing_but_a_trace_error(tmp_path_factory, content, skip):
    path = tmp_path_factory.getbasetemp() / "random.weka"
    path.write_bytes(content)
    with pytest.raises(TraceError):
        read_trace(path, "weka", skip_bad_rows=skip)


def test_gzip_cut_short_is_an_error(tmp_path):
    whole = gzip.compress(json.dumps(trace(FIRST, SECOND)).encode())
    (tmp_path / "t.gz").write_bytes(whole[:-9])
    with pytest.raises(TraceError, match="broken gzip"):
        read_trace(tmp_path / "t.gz", "weka", skip_bad_rows=True)


def test_calls_without_an_answer_and_bad_conversations_are_counted(tmp_path):
    path = written(tmp_path / "t.jsonl", trace(FIRST, call(1.0, 10, 0, [])), trace(call(0.0, -1, 1, [])))
    assert read_trace(path, "weka", skip_bad_rows=True).skipped_rows == 2
    with pytest.raises(TraceError, match="line 2: in is '-1'; expected a number, at least 0"):
        read_trace(path, "weka")


@pytest.mark.parametrize(
    ("traces", "message"),
    [
        ([{"id": "a"}], "line 1: found .* expected a JSON object with a list 'requests'"),
        ([trace(FIRST, block_size=0)], "line 1: block_size is '0'; expected a whole number"),
        ([trace({"type": "x"})], "expected an object of type n, s or subagent"),
        ([trace({"t": 0.0, "type": "subagent", "requests": [{"type": "subagent"}]})], "in a subagent; expected"),
        ([trace({"t": 0.0, "type": "subagent", "requests": {}})], "a subagent has requests"),
        ([trace(FIRST), trace(FIRST, block_size=16)], "block_size is 16 and 64; one file has blocks of one size"),
        ([trace(call(0.0, 10, 5, ["a"]))], "hash_ids holds 'a'; expected whole numbers"),
        ([trace()], "found no call"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, traces, message):
    with pytest.raises(TraceError, match=message):
        read_trace(written(tmp_path / "t.jsonl", *traces), "weka")


def test_what_is_no_number_of_seconds_is_refused(tmp_path):
    with pytest.raises(ValueError, match="every_s is 'soon'; expected a number"):
        read_trace(written(tmp_path / "t.jsonl", trace(FIRST)), "weka", every_s="soon")
