"""Chunks are written by hand for speed: they must be what a JSON writer would have written."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")
pytest.importorskip("fastapi")

from batchpilot.serving.server.answering import Delta
from batchpilot.serving.server.shapes import Shape
from batchpilot.serving.server.told_logprobs import TokenLogprob, completion_logprobs

LOGPROBS = st.none() | st.builds(TokenLogprob, logprob=st.floats(-100.0, 0.0), likeliest=st.just(()))
ENDS = st.sampled_from([None, "stop", "length"])
DELTAS = st.builds(Delta, st.integers(0, 100), st.text(), ENDS, logprob=LOGPROBS)
USAGE = st.none() | st.fixed_dictionaries({"prompt_tokens": st.integers(0), "completion_tokens": st.integers(0)})


def read(event):
    opening, data, *rest = event.partition("data: ")
    assert opening == ""
    assert data == "data: "
    assert event.endswith("\n\n")
    assert event.count("\n") == 2
    return json.loads(rest[0])


@given(st.text(), DELTAS, USAGE)
def test_a_completion_s_chunk_reads_as_what_was_said(model, delta, usage):
    chunk = read(Shape(model, chat=False).chunk(delta, usage))
    assert (chunk["model"], chunk["object"], chunk.get("usage")) == (model, "text_completion", usage)
    (choice,) = chunk["choices"]
    told = None if delta.logprob is None else completion_logprobs([delta.logprob])
    assert choice == {"index": delta.choice, "text": delta.text, "logprobs": told, "finish_reason": delta.finished}


@given(st.lists(DELTAS, min_size=1, max_size=6))
def test_each_choice_of_a_conversation_names_its_role_once_and_first(deltas):
    shape, begun = Shape("tiny", chat=True), set()
    for delta in deltas:
        chunk = read(shape.chunk(delta))
        assert chunk["object"] == "chat.completion.chunk"
        (choice,) = chunk["choices"]
        role = {} if delta.choice in begun else {"role": "assistant"}
        begun.add(delta.choice)
        assert choice["delta"] == role | {"content": delta.text}
        assert (choice["index"], choice["finish_reason"]) == (delta.choice, delta.finished)
