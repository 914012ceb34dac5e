"""Random requests, drawn from the server's own OpenAPI document: every answer is documented, and none leaves a trace.

Drawn the same in every run.
"""

import json
import math
from collections import Counter

import pytest

pytest.importorskip("torch")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from policy_samples import make_policy_bytes  # noqa: E402
from running_server import TUNER, is_empty, serving, tiny_runner, wait_for  # noqa: E402

from batchpilot.tuners import TUNERS  # noqa: E402

REPEATABLE = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def server():
    """A server whose windows do not close meanwhile, so that its status changes by what is asked alone."""
    with (
        serving(tiny_runner(), tuner="dynamic", window_ms=1e9) as (service, url, _),
        httpx.Client(base_url=url, timeout=60.0, headers={"content-type": "application/json"}) as http,
    ):
        yield service, http, http.get("/openapi.json").json()


def values(schema, document):
    """A strategy for what a schema of the document allows."""
    if "$ref" in schema:
        return values(document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]], document)
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return st.one_of([values(alternative, document) for alternative in schema[union]])
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    return KINDS[schema["type"]](schema, document) if "type" in schema else JSON


def integers(schema, _):
    least = math.ceil(schema.get("minimum", -(2**40)))
    most = math.floor(schema.get("maximum", schema.get("exclusiveMaximum", 2**40 + 1) - 1))
    return st.integers(least, min(most, least + 8)) | st.integers(least, most)


def numbers(schema, _):
    above = schema.get("exclusiveMinimum")
    least = schema.get("minimum", above)
    return st.floats(least, schema.get("maximum"), exclude_min=above is not None, allow_nan=False, allow_infinity=False)


def texts(schema, _):
    return st.text(
        st.characters(codec="utf-8"), min_size=schema.get("minLength", 0), max_size=min(schema.get("maxLength", 12), 12)
    )


def arrays(schema, document):
    items = values(schema.get("items", {}), document)
    return st.lists(items, min_size=schema.get("minItems", 0), max_size=min(schema.get("maxItems", 3), 3))


def objects(schema, document):
    if "properties" not in schema:
        return st.dictionaries(TEXT, JSON, max_size=min(schema.get("maxProperties", 3), 3))
    required = schema.get("required", [])
    fields = {name: values(field, document) for name, field in schema["properties"].items()}
    optional = st.lists(st.sampled_from([name for name in fields if name not in required] or [None]), max_size=8)

    @st.composite
    def drawn(draw):
        return {name: draw(fields[name]) for name in dict.fromkeys([*required, *draw(optional)]) if name}

    return drawn()


KINDS = {
    "null": lambda *_: st.none(),
    "boolean": lambda *_: st.booleans(),
    "integer": integers,
    "number": numbers,
    "string": texts,
    "array": arrays,
    "object": objects,
}


def operation(document, method, path):
    return document["paths"][path][method]


def body_schema(document, path):
    return operation(document, "post", path)["requestBody"]["content"]["application/json"]["schema"]


def is_documented(answer, document, method, path):
    assert str(answer.status_code) in operation(document, method, path)["responses"], answer.text
    if answer.status_code >= 400:
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
    return True


COMPLETIONS = ["/v1/completions", "/v1/chat/completions"]
SHORT = {"model": "tiny", "max_tokens": 3, "max_completion_tokens": 3, "min_tokens": 0, "timeout_s": 30.0}


def sensible(prompt):
    """A prompt as the schemas cannot say it: not empty, its tokens of the vocabulary."""
    if isinstance(prompt, int):
        return prompt % 256
    return [sensible(entry) for entry in prompt or [7]] if isinstance(prompt, list) else prompt or "x"


def without_images(message):
    """A message as a server takes it that was started without a vision tower."""
    parts = message.get("content")
    if not isinstance(parts, list):
        return message
    return message | {"content": [part for part in parts if part["type"] == "text"]}


@pytest.mark.parametrize("path", COMPLETIONS)
def test_what_the_document_allows_is_served(server, path):
    service, http, document = server

    @settings(REPEATABLE, max_examples=100)
    @given(values(body_schema(document, path), document))
    def ask(body):
        body |= SHORT | ({"n": min(body["n"], 3)} if body.get("n") else {})
        if "prompt" in body:
            body["prompt"] = sensible(body["prompt"])
        if "messages" in body:
            body["messages"] = [without_images(message) for message in body["messages"]]
        # What schemas cannot say: the likeliest are told beside the token's own, and a schema must be one.
        body |= {"logprobs": True} if body.get("top_logprobs") else {}
        body |= {"response_format": None} if "response_format" in body else {}
        answer = http.post(path, content=json.dumps(body))
        assert answer.status_code == 200, (body, answer.text)
        if body.get("stream"):
            assert answer.text.endswith("data: [DONE]\n\n")
            assert '"error"' not in answer.text
        else:
            assert len(answer.json()["choices"]) == answers(body)

    before = state(http)
    ask()
    wait_for(lambda: is_empty(service))
    assert state(http) == before


def answers(body):
    prompt = body.get("prompt", "")
    several = len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1
    return several * (body.get("n") or 1)


@pytest.mark.parametrize("path", COMPLETIONS)
def test_what_it_does_not_allow_is_refused_and_leaves_nothing(server, path):
    service, http, document = server
    names = list(document["components"]["schemas"][body_schema(document, path)["$ref"].rsplit("/", 1)[1]]["properties"])
    wrong = st.dictionaries(st.sampled_from(names) | st.text(max_size=8), JSON, min_size=1, max_size=3)
    seen = Counter()

    @settings(REPEATABLE, max_examples=150)
    @given(values(body_schema(document, path), document), wrong)
    def ask(body, changes):
        changes = {name: value for name, value in changes.items() if name != "n" or not isinstance(value, int)}
        short = {name: value for name, value in SHORT.items() if name not in changes}
        answer = http.post(path, content=json.dumps({**body, "n": 1, **short, **changes}))
        assert is_documented(answer, document, "post", path)
        seen[answer.status_code] += 1

    before = state(http)
    ask()
    assert seen[400] >= 50
    assert seen[500] == seen[503] == 0
    wait_for(lambda: is_empty(service))
    assert state(http) == before


def state(http):
    """Everything of the tuner that a client can see, but for how long ago its decisions were."""
    status, config, decisions = [http.get(f"{TUNER}/{what}").json() for what in ("status", "config", "decisions")]
    return status, config, [{**decision, "age_s": None} for decision in decisions]


NAMES = st.sampled_from([*(name for name in TUNERS if name != "policy"), "policy", "policy:/etc/passwd", "hybird"])
FIELDS = ["batch_size", "strategy", "track", "min_batch_size", "max_batch_size", "initial_batch_size", "enabled"]
ENTRIES = st.integers(-2, 300) | st.booleans() | NAMES | st.sampled_from(["batch", "limits"])
LIKELY = {
    "config": st.dictionaries(st.sampled_from(FIELDS), ENTRIES, max_size=3),
    "strategy": st.fixed_dictionaries({"strategy": NAMES}, optional={"track": st.sampled_from(["batch", "all"])}),
    "shadow": st.fixed_dictionaries({"strategy": NAMES}),
    "batch-size": st.fixed_dictionaries({"batch_size": st.integers(-2, 300)}),
}
UPLOADS = st.binary(max_size=200) | st.sampled_from([make_policy_bytes(), make_policy_bytes()[:-20]])
QUERIES = st.dictionaries(st.sampled_from(["share", "promote_after", "other"]), JSON, max_size=2)


@pytest.mark.filterwarnings("ignore::batchpilot.configs.errors.ConfigWarning")
def test_no_call_of_the_tuner_api_fails_and_none_that_is_refused_changes_anything(server):
    service, http, document = server
    calls = [
        (method, path)
        for path, methods in document["paths"].items()
        if path.startswith(TUNER)
        for method in methods
        if method != "get"
    ]
    seen = Counter()

    @settings(REPEATABLE, max_examples=300)
    @given(st.sampled_from(calls), JSON, UPLOADS, QUERIES, st.data())
    def ask(call, body, upload, query, data):
        method, path = call
        name = path.rsplit("/", 1)[1]
        if name in LIKELY and method == "post":
            body = data.draw(LIKELY[name] | values(body_schema(document, path), document) | st.just(body))
        content = upload if name == "policy" else json.dumps(body)
        params = {name: json.dumps(value) for name, value in query.items()}
        check(method, path, content, params)

    def check(method, path, content, params=None):
        # What an earlier call asked for comes into force at the engine's next turn.
        wait_for(lambda: service.session.limits() == service.control.staged.ask())
        before = state(http)
        answer = http.request(method, path, content=content, params=params)
        assert is_documented(answer, document, method, path)
        seen[answer.status_code] += 1
        if answer.status_code >= 400:
            assert state(http) == before

    ask()
    for name, body in (
        ("strategy", {"strategy": "dynamic"}),
        ("config", {"enabled": False}),
        ("batch-size", {"batch_size": 9}),
    ):
        check("post", f"{TUNER}/{name}", json.dumps(body))  # whatever was drawn, the last one is a conflict
    assert min(seen[200], seen[400]) >= 30
    assert seen[409] > 0
    assert is_empty(service)
    assert http.get("/health").status_code == 200
