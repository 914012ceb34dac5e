"""Where the tokens of a prompt stand in requests."""

import base64
import json

import pytest

from batchpilot.core import SLO
from batchpilot.serving.gateway.completions import read_completion
from batchpilot.serving.gateway.prompts import PICTURE_TOKENS
from batchpilot.serving.texts import count_by_bytes

IDS = list(range(1000, 5000))
TEXT = "words " * 2667
"""4,001 tokens by bytes."""

HI = {"role": "user", "content": "hi"}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": json.dumps({"text": TEXT})}}


def asked(body):
    return read_completion(json.dumps(body).encode(), {}, SLO(), count_by_bytes)


@pytest.mark.parametrize(
    "prompt", [IDS, [IDS], [IDS[:1000], IDS[1000:]], [IDS[:2000], TEXT[:8000]], TEXT, [TEXT[:8000]] * 2]
)
def test_prompts_count_in_every_shape_of_the_api(prompt):
    assert asked({"prompt": prompt}).prompt_tokens == pytest.approx(4000, abs=2)


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": TEXT}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": TEXT[:8000]}] * 2}]},
        {"messages": [HI, {"role": "tool", "tool_call_id": "c", "content": TEXT}]},
        {"messages": [HI, {"role": "tool", "content": [{"type": "text", "text": TEXT}]}]},
        {"messages": [HI, {"role": "function", "name": "f", "content": TEXT}]},
        {"messages": [HI, {"role": "assistant", "content": None, "tool_calls": [CALL]}]},
        {"messages": [HI, {"role": "assistant", "content": None, "function_call": CALL["function"]}]},
        {
            "messages": [
                HI,
                {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"x": TEXT}}}]},
            ]
        },
        {"messages": [HI, {"role": "assistant", "content": "x", "reasoning_content": TEXT}]},
        {"messages": [HI, {"role": "assistant", "content": "x", "reasoning": TEXT}]},
        {"messages": [HI, {"role": "assistant", "content": [{"type": "thinking", "thinking": TEXT}]}]},
        {"messages": [HI], "tools": [{"type": "function", "function": {"name": "f", "description": TEXT}}]},
        {"messages": [HI], "functions": [{"name": "f", "parameters": {"type": "object", "description": TEXT}}]},
        {"messages": [HI], "response_format": {"type": "json_schema", "json_schema": {"schema": {"title": TEXT}}}},
        {"prompt": "x", "suffix": TEXT},
    ],
)
def test_whatever_the_template_puts_before_the_model_counts(body):
    assert 4000 <= asked(body).prompt_tokens <= 4100


def test_a_picture_counts_as_one_however_many_bytes_it_is_sent_in():
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_000_000}}
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "abcd"}, picture, picture]}]}
    assert asked(body).prompt_tokens == 1 + 2 * PICTURE_TOKENS


def test_the_bare_name_of_a_format_is_no_prompt():
    assert asked({"messages": [HI], "response_format": {"type": "json_object"}}).prompt_tokens == 1


@pytest.mark.parametrize(
    ("body", "texts"),
    [
        ({"prompt": "x"}, 1),
        ({"prompt": "x", "n": 3}, 3),
        ({"prompt": ["x", "y"], "n": 2}, 4),
        ({"prompt": IDS}, 1),
        ({"prompt": [IDS[:2], IDS[2:4]]}, 2),
        ({"prompt": "x", "n": 0, "best_of": None}, 1),
        ({"messages": [HI], "n": "many"}, 1),
    ],
)
def test_texts_that_are_generated_at_once_are_seen(body, texts):
    assert asked(body).choices == texts


def test_a_picture_that_is_sent_or_whose_detail_is_said_counts_by_its_size():
    header = b"\x89PNG\r\n\x1a\n" + bytes([0, 0, 0, 13]) + b"IHDR"

    def tokens(width, height, **more):
        size = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes(5)
        url = f"data:image/png;base64,{base64.b64encode(header + size).decode()}"
        part = {"type": "image_url", "image_url": {"url": url, **more}}
        return asked({"messages": [{"role": "user", "content": [part]}]}).prompt_tokens

    assert [tokens(side, side) for side in (200, 300, 2000)] == [256, 576, 1024]
    assert tokens(2000, 2000, detail="low") == 256
    assert tokens(200, 200, detail="high") == 1024
