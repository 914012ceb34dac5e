"""Answers in JSON and log probabilities on the reference server, whole and as streams."""

import json
import math

import pytest

openai = pytest.importorskip("openai")
torch = pytest.importorskip("torch")
pytest.importorskip("fastapi")

from running_server import serving  # noqa: E402

SCHEMA = {
    "type": "object",
    "properties": {"size": {"type": "integer"}, "kind": {"enum": ["small", "large"]}},
    "required": ["size", "kind"],
    "additionalProperties": False,
}
AS_SCHEMA = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA, "strict": True}}
ASKED = {"model": "tiny", "messages": [{"role": "user", "content": "Describe it."}]}


@pytest.fixture
def guided():
    pytest.importorskip("llguidance")


def obeys(text):
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(json.loads(text), SCHEMA)
    return True


@pytest.mark.parametrize("temperature", [0.0, 1.0, 2.0])
def test_an_answer_obeys_its_schema_whatever_the_model_would_say(guided, client, temperature):
    answer = client.chat.completions.create(
        **ASKED, response_format=AS_SCHEMA, temperature=temperature, seed=3, max_tokens=400, n=4
    )
    said = [choice for choice in answer.choices if choice.finish_reason == "stop"]
    assert said, "random numbers end by themselves now and then"
    assert all(obeys(choice.message.content) for choice in said)


def test_a_stream_obeys_it_too_beside_answers_that_do_not(guided, client):
    free = client.completions.create(model="tiny", prompt="x", max_tokens=40, temperature=0.0).choices[0].text
    stream = client.chat.completions.create(**ASKED, response_format=AS_SCHEMA, seed=5, max_tokens=400, stream=True)
    again = client.completions.create(model="tiny", prompt="x", max_tokens=40, temperature=0.0).choices[0].text
    parts = [choice for chunk in stream for choice in chunk.choices]
    if parts[-1].finish_reason == "stop":
        assert obeys("".join(part.delta.content or "" for part in parts))
    assert again == free, "others in the batch say what they would say"


def test_any_object_is_an_object(guided, client):
    answer = client.chat.completions.create(
        **ASKED, response_format={"type": "json_object"}, max_tokens=60, temperature=1.5, seed=1
    )
    assert answer.choices[0].message.content.startswith("{")


@pytest.mark.parametrize(
    ("options", "param"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": 5}}}},
            "cannot be followed",
        ),
        ({"response_format": AS_SCHEMA, "extra_body": {"ignore_eos": True}}, "ignore_eos"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "json_schema"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(guided, client, options, param):
    with pytest.raises(openai.BadRequestError, match=param):
        client.chat.completions.create(**ASKED, max_tokens=4, **options)


def test_text_is_asked_for_by_name_too(client):
    assert client.chat.completions.create(**ASKED, response_format={"type": "text"}, max_tokens=4).choices


def test_log_probabilities_are_those_of_the_model(client, runner):
    answer = client.completions.create(model="tiny", prompt=[5, 6, 7], max_tokens=6, temperature=0.0, logprobs=3)
    (choice,) = answer.choices
    ids = [5, 6, 7]
    from batchpilot.engines.torch.model import load_model

    model = load_model("tiny-llama", attention="eager")
    for place, told in enumerate(choice.logprobs.token_logprobs):
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1)
        best = logits.topk(3)
        assert told == pytest.approx(float(best.values[0]), abs=1e-3)
        assert list(choice.logprobs.top_logprobs[place].values()) == pytest.approx(best.values.tolist(), abs=1e-3)
        ids.append(int(best.indices[0]))
    offsets = choice.logprobs.text_offset
    assert offsets == sorted(offsets)
    assert (offsets[0], len(offsets)) == (0, 6)


def test_a_conversation_tells_them_by_token_and_a_stream_chunk_by_chunk(client):
    options = {**ASKED, "logprobs": True, "top_logprobs": 2, "max_tokens": 5, "temperature": 0.0}
    whole = client.chat.completions.create(**options).choices[0].logprobs.content
    stream = [choice for chunk in client.chat.completions.create(**options, stream=True) for choice in chunk.choices]
    parts = [entry for choice in stream if choice.logprobs for entry in choice.logprobs.content]
    assert len(whole) == 5
    assert [entry.model_dump() for entry in parts] == [entry.model_dump() for entry in whole]
    for entry in whole:
        assert entry.logprob == entry.top_logprobs[0].logprob <= 0.0, "the likeliest was taken"
        assert len(entry.top_logprobs) == 2
        assert len(entry.bytes) == 1


def test_drawn_tokens_tell_the_models_own_distribution(client):
    hot = client.chat.completions.create(**ASKED, logprobs=True, top_logprobs=20, max_tokens=8, temperature=2.0, seed=2)
    for entry in hot.choices[0].logprobs.content:
        assert sum(math.exp(other.logprob) for other in entry.top_logprobs) <= 1.0 + 1e-6
        assert entry.logprob <= entry.top_logprobs[0].logprob


def test_without_asking_none_are_told(client):
    answer = client.chat.completions.create(**ASKED, max_tokens=3)
    assert answer.choices[0].logprobs is None


def test_both_come_through_a_process_for_http(guided, runner):
    with serving(runner, apart=True) as (_, url, _), openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        options = {**ASKED, "logprobs": True, "top_logprobs": 1, "max_tokens": 300, "temperature": 1.0, "seed": 3}
        (choice,) = client.chat.completions.create(**options, response_format=AS_SCHEMA).choices
    assert choice.message.content.startswith('{"size": ')
    assert "".join(entry.token for entry in choice.logprobs.content) == choice.message.content
