"""Clients as they come: what OpenAI's and the benchmarks' send by default works, the rest is refused by name."""

import asyncio
import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")
openai = pytest.importorskip("openai")

from running_server import ask as complete  # noqa: E402
from running_server import is_empty, serving, wait_for  # noqa: E402

from batchpilot.serving.server.bodies import ChatBody, CompletionBody  # noqa: E402

HELLO = [{"role": "user", "content": "hi"}]


def chat(url, **changes):
    body = {"model": "tiny", "messages": HELLO, "max_tokens": 4, "temperature": 0, **changes}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30.0)


def texts(answer):
    assert answer.status_code == 200, answer.text
    return [choice["text"] for choice in answer.json()["choices"]]


def events(answer):
    """The data of a stream's events, which must end with the word that it is done."""
    assert answer.status_code == 200, answer.text
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_several_prompts_are_answered_in_their_order(server):
    _, url = server
    alone = [texts(complete(url, prompt=prompt))[0] for prompt in ("one", "two", "three")]
    answer = complete(url, prompt=["one", "two", "three"])
    assert texts(answer) == alone
    assert [choice["index"] for choice in answer.json()["choices"]] == [0, 1, 2]
    assert answer.json()["usage"] == {"prompt_tokens": 11, "completion_tokens": 12, "total_tokens": 23}


def test_prompts_may_be_token_ids(server):
    _, url = server
    expected = texts(complete(url, prompt=["ab", "c"]))
    assert texts(complete(url, prompt=[[97, 98], [99]])) == expected
    assert texts(complete(url, prompt=[97, 98])) == expected[:1]
    assert texts(complete(url, prompt=["ab"])) == expected[:1]


def test_further_answers_are_drawn_with_the_next_seeds(server):
    _, url = server
    drawn = {"temperature": 1.0, "max_tokens": 12}
    expected = [texts(complete(url, seed=seed, **drawn))[0] for seed in (7, 8, 9)]
    assert texts(complete(url, seed=7, n=3, **drawn)) == expected
    assert len(set(texts(complete(url, n=3, **drawn)))) == 3


def test_a_stream_of_several_answers_tells_them_apart(client):
    question = {"model": "tiny", "messages": HELLO, "n": 3, "seed": 5, "max_completion_tokens": 9}
    whole = client.chat.completions.create(**question)
    said, roles, ends = ["", "", ""], [[], [], []], [None] * 3
    stream = client.chat.completions.create(**question, stream=True, stream_options={"include_usage": True})
    for chunk in stream:
        for choice in chunk.choices:
            said[choice.index] += choice.delta.content
            roles[choice.index].append(choice.delta.role)
            ends[choice.index] = choice.finish_reason
    assert said == [choice.message.content for choice in whole.choices]
    assert all(roles_of[0] == "assistant" and not any(roles_of[1:]) for roles_of in roles)
    assert ends == ["length"] * 3
    assert chunk.usage.completion_tokens == whole.usage.completion_tokens == 27


def test_one_answer_may_stop_before_the_others(server):
    service, url = server
    one, two = texts(complete(url, prompt=["one", "two"], max_tokens=30))
    stop = next(one[k : k + 3] for k in range(5, 20) if one[k : k + 3] not in two)
    answer = complete(url, prompt=["one", "two"], max_tokens=30, stop=stop)
    assert texts(answer) == [one[: one.index(stop)], two]
    assert [choice["finish_reason"] for choice in answer.json()["choices"]] == ["stop", "length"]
    wait_for(lambda: is_empty(service))


def test_answers_are_refused_together_and_leave_nothing_behind(runner):
    with serving(runner, room=2) as (service, url, _):
        answer = complete(url, prompt=["x"] * 8, max_tokens=50)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "refused_on_arrival")
        wait_for(lambda: is_empty(service))
        assert len(texts(complete(url, prompt=["x"] * 2))) == 2


def test_the_raw_response_and_the_list_of_models_are_there(client):
    raw = client.completions.with_raw_response.create(model="tiny", prompt="x", max_tokens=1)
    assert raw.headers["content-type"] == "application/json"
    assert raw.parse().usage.completion_tokens == 1
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="org/other"):
        client.models.retrieve("org/other")


def test_streams_of_the_asynchronous_client_run_side_by_side(server):
    service, url = server

    async def one(client, number):
        stream = await client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": f"question {number}"}],
            max_completion_tokens=5 + number,
            stream=True,
            stream_options={"include_usage": True},
        )
        return [chunk.usage.completion_tokens async for chunk in stream if chunk.usage]

    async def all_of_them():
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(one(client, number) for number in range(20)))

    assert asyncio.run(all_of_them()) == [[5 + number] for number in range(20)]
    wait_for(lambda: is_empty(service))


def test_a_conversation_goes_on_with_whatever_an_answer_came_with(client):
    first = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=3).choices[0].message
    parts = [{"type": "text", "text": "now "}, {"type": "text", "text": "you"}]
    answer = client.chat.completions.create(
        model="tiny",
        messages=[
            {"role": "system", "content": "be short"},
            {"role": "developer", "content": [{"type": "text", "text": "very"}]},
            *HELLO,
            first.model_dump(),
            {"role": "tool", "content": "18 degrees", "tool_call_id": "call_1"},
            {"role": "user", "content": parts, "name": "someone"},
            {"role": "assistant", "content": None},
        ],
        max_tokens=2,
    )
    turns = ["system: be short", "developer: very", "user: hi", f"assistant: {first.content}", "tool: 18 degrees"]
    transcript = "\n".join([*turns, "user: now you", "assistant: ", "assistant: "])
    assert answer.usage.prompt_tokens == len(transcript.encode())


NEUTRAL = {
    "n": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "logit_bias": {},
    "logprobs": None,
    "top_k": -1,
    "min_p": 0.0,
    "use_beam_search": False,
    "stop_token_ids": [],
    "include_stop_str_in_output": False,
    "skip_special_tokens": True,
    "spaces_between_special_tokens": True,
    "response_format": {"type": "text"},
    "min_tokens": 0,
    "metadata": {"a": "b"},
    "store": False,
    "user": "someone",
    "service_tier": "auto",
    "safety_identifier": "x",
    "prompt_cache_key": "y",
    "request_id": "z",
    "priority": 0,
}
COMPLETION = {"best_of": 1, "echo": False, "suffix": ""}
CHAT = {
    "tools": [],
    "tool_choice": "none",
    "parallel_tool_calls": True,
    "modalities": ["text"],
    "chat_template_kwargs": {},
    "add_generation_prompt": True,
    "logprobs": False,
    "top_logprobs": 0,
}


def test_values_that_change_nothing_are_taken(server):
    _, url = server
    assert texts(complete(url, **NEUTRAL, **COMPLETION)) == texts(complete(url))
    told, plain = chat(url, **{**NEUTRAL, **CHAT}), chat(url)
    assert told.status_code == 200, told.text
    assert told.json()["choices"] == plain.json()["choices"]


def test_null_is_taken_for_every_field_that_may_be_left_out(server):
    _, url = server
    for ask, body in ((complete, CompletionBody), (chat, ChatBody)):
        optional = [name for name, field in body.model_fields.items() if not field.is_required()]
        answer = ask(url, **{**dict.fromkeys(optional), "max_tokens": 3})
        assert answer.status_code == 200, answer.text


BENCHMARKS = {
    "vllm": {
        "prompt": "hi",
        "temperature": 0.0,
        "best_of": 1,
        "repetition_penalty": 1.0,
        "max_tokens": 5,
        "logprobs": None,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    },
    "vllm with beams off": {
        "prompt": "hi",
        "use_beam_search": False,
        "max_tokens": 5,
        "stream": True,
        "ignore_eos": True,
    },
    "sglang": {"prompt": "hi", "temperature": 0.0, "best_of": 1, "max_tokens": 5, "stream": True, "ignore_eos": True},
    "guidellm": {
        "prompt": "hi",
        "max_tokens": 5,
        "max_completion_tokens": 5,
        "stop": None,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    },
    "min tokens": {"prompt": "hi", "max_tokens": 5, "min_tokens": 5, "ignore_eos": True, "stream": True},
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_what_benchmarks_send_is_served_to_its_length(server, name):
    _, url = server
    told = events(httpx.post(f"{url}/v1/completions", json={"model": "tiny", **BENCHMARKS[name]}, timeout=30.0))
    pieces = [chunk for chunk in told if chunk["choices"]]
    assert len(pieces) == 5
    assert pieces[-1]["choices"][0]["finish_reason"] == "length"
    options = BENCHMARKS[name].get("stream_options", {})
    assert [chunk["usage"]["completion_tokens"] for chunk in told if not chunk["choices"]] == [5] * bool(options)
    if options.get("continuous_usage_stats"):
        assert [chunk["usage"]["completion_tokens"] for chunk in pieces] == [1, 2, 3, 4, 5]


TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


@pytest.mark.parametrize(
    ("ask", "changes", "param"),
    [
        (complete, {"logprobs": 21}, "logprobs"),
        (complete, {"best_of": 2}, "best_of"),
        (complete, {"echo": True}, "echo"),
        (complete, {"suffix": "end"}, "suffix"),
        (complete, {"presence_penalty": 0.5}, "presence_penalty"),
        (complete, {"repetition_penalty": 1.1}, "repetition_penalty"),
        (complete, {"logit_bias": {"5": 1}}, "logit_bias"),
        (complete, {"top_k": 40}, "top_k"),
        (complete, {"min_p": 0.1}, "min_p"),
        (complete, {"use_beam_search": True}, "use_beam_search"),
        (complete, {"guided_json": {}}, "guided_json"),
        (complete, {"something_else": 1}, "something_else"),
        (complete, {"messages": HELLO}, "messages"),
        (chat, {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        (chat, {"tools": [TOOL]}, "tools"),
        (chat, {"tool_choice": "required"}, "tool_choice"),
        (chat, {"response_format": {"type": "xml"}}, "response_format"),
        (chat, {"modalities": ["text", "audio"]}, "modalities"),
        (chat, {"reasoning_effort": "high"}, "reasoning_effort"),
        (chat, {"messages": []}, "messages"),
        (chat, {"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        (chat, {"messages": [*HELLO, {"role": "assistant", "tool_calls": [TOOL]}]}, "messages.1.tool_calls"),
        (chat, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content"),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(server, ask, changes, param):
    _, url = server
    answer = ask(url, **changes)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith(param)
    assert param.split(".")[0] in answer.json()["error"]["message"]


def test_an_echo_without_generation_is_refused_by_both_names(server):
    _, url = server
    answer = complete(url, max_tokens=0, echo=True)
    assert answer.status_code == 400
    told = answer.json()["error"]["message"]
    assert "max_tokens: Input should be greater than or equal to 1, not 0" in told
    assert "echo: Input should be False, not True" in told


def test_a_completion_that_says_no_length_takes_what_the_context_leaves(server):
    service, url = server
    longest = service.engine.longest
    body = {"model": "tiny", "prompt": "x" * (longest - 3), "temperature": 0}
    assert httpx.post(f"{url}/v1/completions", json=body).json()["usage"]["completion_tokens"] == 3
