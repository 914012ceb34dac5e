"""Images in messages: OpenAI's format from its own client to the tower and back, and what is refused, in words."""

import asyncio
import base64
import io

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")
Image = pytest.importorskip("PIL.Image", reason="Pillow comes with the extra images")

from running_server import FaultyRunner, serving  # noqa: E402

from batchpilot.core import SLO  # noqa: E402
from batchpilot.engines.torch import ModelRunner  # noqa: E402
from batchpilot.serving.load.client import Dialect  # noqa: E402
from batchpilot.serving.load.run import LoadSettings, run_load  # noqa: E402
from batchpilot.serving.server.chat_prompts import MOST_IMAGES  # noqa: E402
from batchpilot.workloads.images import Images  # noqa: E402
from batchpilot.workloads.table import RequestTable  # noqa: E402


@pytest.fixture(scope="module")
def runner():
    import torch

    torch.set_num_threads(1)
    return FaultyRunner(ModelRunner("tiny-llama", kv_capacity_tokens=16384, vision=True))


@pytest.fixture(scope="module")
def server(runner):
    with serving(runner, vision=True) as (service, url, _):
        yield service, url


def url_of(shade, size=(200, 200), kind="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade, 255 - shade, 7)).save(buffer, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def image(url, **detail):
    return {"type": "image_url", "image_url": {"url": url, **detail}}


def ask(url, *parts, role="user", **changes):
    messages = [{"role": role, "content": [{"type": "text", "text": "What is this?"}, *parts]}]
    body = {"model": "tiny", "messages": messages, "max_tokens": 6, "temperature": 0, **changes}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30.0)


def said(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


TEXT_TOKENS = len("user: What is this?\nassistant: ")


@pytest.mark.parametrize(
    ("size", "detail", "tokens"),
    [
        ((200, 200), {}, 256),
        ((300, 100), {}, 576),
        ((900, 900), {"detail": "auto"}, 1024),
        ((900, 900), {"detail": "low"}, 256),
    ],
)
def test_usage_counts_the_tokens_of_an_image_by_its_size_and_detail(server, size, detail, tokens):
    _, url = server
    answer = ask(url, image(url_of(1, size), **detail))
    assert said(answer)
    assert answer.json()["usage"]["prompt_tokens"] == TEXT_TOKENS + tokens


def test_another_image_is_another_answer_and_the_same_one_the_same_answer(server):
    _, url = server
    first, second, again = (ask(url, image(url_of(shade))) for shade in (10, 200, 10))
    assert said(first) == said(again) != said(second)
    jpeg = ask(url, image(url_of(10, kind="JPEG")))
    assert said(jpeg)


def test_features_of_an_image_that_comes_again_are_found_and_metrics_say_so(server, runner):
    _, url = server
    images, hits, passes = runner.vision.images, runner.vision.hits, runner.vision.passes
    for _ in range(3):
        ask(url, image(url_of(77)))
    assert (runner.vision.images, runner.vision.hits, runner.vision.passes) == (images + 3, hits + 2, passes + 1)
    counted = httpx.get(f"{url}/metrics").text
    assert "images_total" in counted
    assert "image_hits_total" in counted


def test_several_images_stand_between_their_texts(server):
    _, url = server
    parts = [image(url_of(10)), {"type": "text", "text": " or "}, image(url_of(200))]
    first, turned = ask(url, *parts), ask(url, *parts[::-1])
    assert first.json()["usage"]["prompt_tokens"] == TEXT_TOKENS + len(" or ") + 2 * 256
    assert said(first) != said(turned)


def test_openais_own_client_streams_an_answer_about_an_image(server):
    openai = pytest.importorskip("openai")
    _, url = server
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=30.0) as client:
        chunks = client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": [{"type": "text", "text": "What is this?"}, image(url_of(10))]}],
            max_tokens=6,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        told = list(chunks)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in told if chunk.choices)
    assert text == said(ask(url, image(url_of(10))))
    assert told[-1].usage.prompt_tokens == TEXT_TOKENS + 256


def test_a_load_of_images_is_what_the_server_sees_and_finds_again(server, runner):
    _, url = server
    sides, numbers = [224, 0, 336, 224, 224, 336], [1, 0, 1, 1, 2, 1]
    sides, numbers = np.array([sides, [0, 0, 0, 224, 0, 224]]).T, np.array([numbers, [0, 0, 0, 2, 0, 1]]).T
    shown = Images.from_arrays(sides, numbers, before_tokens=np.where((sides > 0).any(axis=1), 5, 0))
    requests = RequestTable.from_arrays(
        np.arange(6) * 20.0, shown.tokens + 30, [4] * 6, slos=SLO(60_000.0, 60_000.0), images=shown
    )
    images, hits = runner.vision.images, runner.vision.hits
    settings = LoadSettings(url, bytes_per_token=1.0, seed=11, dialect=Dialect(chat=True))
    result = asyncio.run(run_load(requests, settings))
    assert result.outcome.finish_reason == ["length"] * 6, result.details
    assert result.outcome.generated_tokens.tolist() == [4] * 6
    # Equal images that begin in one step are encoded once, and none of them was found.
    assert runner.vision.images == images + 7
    assert hits <= runner.vision.hits <= hits + 4
    hits = runner.vision.hits
    asyncio.run(run_load(requests, settings))
    assert (runner.vision.images, runner.vision.hits) == (images + 14, hits + 7)
    around = len("user: \nassistant: ")
    assert result.prompt_ratio == pytest.approx(1 + 6 * around / requests.prompt_tokens.sum())


def test_the_process_for_http_sends_images_on(runner):
    with serving(runner, vision=True, apart=True) as (_, url, _):
        first, second = (ask(url, image(url_of(shade))) for shade in (10, 200))
        assert said(first) != said(second)


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ([image("https://example.org/cat.png")], "image 1: the image is to be fetched"),
        ([image("data:image/png;base64,AAAA")], "image 1: the data of the image is neither PNG nor JPEG"),
        ([image(url_of(1)), image("data:image/png;base64,@")], "image 2: the data of the image is no base64"),
        ([image(url_of(1))] * (MOST_IMAGES + 1), f"the messages hold {MOST_IMAGES + 1} images; at most {MOST_IMAGES}"),
        ([image(url_of(1), detail="ultra")], "detail"),
        ([{"type": "image_url", "image_url": "x"}], "image_url"),
        ([{"type": "video_url", "video_url": {"url": "x"}}], "video_url"),
        ([image(url_of(1), size="big")], "size"),
    ],
)
def test_an_image_that_cannot_be_taken_is_refused_in_words(server, parts, told):
    _, url = server
    answer = ask(url, *parts)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("messages")
    assert told in answer.json()["error"]["message"]


def test_only_users_show_images(server):
    _, url = server
    answer = ask(url, image(url_of(1)), role="assistant")
    assert answer.status_code == 400
    assert "only those of the user may" in answer.json()["error"]["message"]


def test_an_image_that_is_too_long_for_the_context_is_refused_as_any_prompt(server):
    service, url = server
    answer = ask(url, *[image(url_of(1), detail="high")] * MOST_IMAGES, max_tokens=service.engine.longest)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_a_server_without_a_tower_says_what_it_would_take():
    import torch

    torch.set_num_threads(1)
    with serving(FaultyRunner(ModelRunner("tiny-llama", kv_capacity_tokens=2048))) as (_, url, _):
        answer = ask(url, image(url_of(1)))
        assert answer.status_code == 400
        assert "this server takes text alone; it would have to be started with --vision" in answer.text
