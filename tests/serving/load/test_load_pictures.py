"""Pictures of a load test: the images' sizes, equal where they are, around the prompt's text. Needs no server."""

import asyncio
import base64
import io
import json

import numpy as np
import pytest

from batchpilot.configs.workload_spec import Workload
from batchpilot.core import SLO, SLO_CLASSES
from batchpilot.serving.load import pictures as module
from batchpilot.serving.load.client import Dialect
from batchpilot.serving.load.flight import Flight
from batchpilot.serving.load.pictures import Pictures, png
from batchpilot.serving.load.prompts import Prompts
from batchpilot.serving.load.run import LoadSettings, run_load
from batchpilot.serving.pictures.headers import size_of
from batchpilot.workloads.build import build_requests
from batchpilot.workloads.images import Images
from batchpilot.workloads.table import RequestTable
from batchpilot.workloads.turns import LAST

SIDES = [224, 0, 448, 224, 336, 224]
NUMBERS = [7, 0, 7, 7, 9, 8]


def data_of(url):
    return base64.b64decode(url.removeprefix("data:image/png;base64,"), validate=True)


def test_pictures_have_their_sides_and_are_equal_where_images_are():
    pictures, again, other = (Pictures(Images.from_arrays(SIDES, NUMBERS), seed) for seed in (3, 3, 4))
    urls = [pictures[row] for row in range(6)]
    assert urls[1] == []
    assert all(len(found) <= 1 for found in urls)
    urls = [found[0] if found else "" for found in urls]
    assert [size_of(data_of(url)) for url in urls if url] == [(side, side) for side in SIDES if side]
    assert urls[0] == urls[3]
    assert len(set(urls)) == 5
    assert urls == ["".join(again[row]) for row in range(6)]
    assert other[0] != [urls[0]]
    assert max(len(url) for url in urls if url) < 10_000


def test_no_more_different_pictures_are_kept_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(module, "MOST_DIFFERENT", 5)
    pictures = Pictures(Images.from_arrays(np.full(40, 224)))
    assert len({pictures[row][0] for row in range(40)}) == 5
    assert len(pictures._made) == 5


def test_a_png_is_what_a_decoder_reads():
    image = pytest.importorskip("PIL.Image")
    grey = np.random.default_rng(0).integers(0, 256, (28, 42), np.uint8)
    with image.open(io.BytesIO(png(grey))) as read:
        assert np.array_equal(np.asarray(read), grey)


class Keeping:
    def __init__(self):
        self.asked = []

    async def complete(self, asked):
        self.asked.append(asked)
        raise asyncio.CancelledError


def messages(before_tokens, prompt_tokens):
    requests = RequestTable.from_arrays(
        [0.0], [prompt_tokens], [5], slos=SLO(), images=Images.from_arrays([224], [1], before_tokens)
    )
    server, prompts = Keeping(), Prompts(requests.prompt_tokens - requests.images.tokens, 4.0)
    flight = Flight(server, requests, prompts, lambda: 1e6, None, Pictures(requests.images))
    asyncio.run(flight.fly(1.0))
    body = json.loads(Dialect(chat=True).request("m", server.asked[0]))
    return body["messages"][0]["content"], prompts[0]


def test_a_picture_stands_where_the_image_does_and_its_tokens_are_not_sent_as_words():
    parts, text = messages(10, 300)
    assert [part["type"] for part in parts] == ["text", "image_url", "text"]
    assert parts[0]["text"] + parts[2]["text"] == text
    assert (len(parts[0]["text"]), len(text)) == (40, 4 * (300 - 256))
    assert [part["type"] for part in messages(0, 300)[0]] == ["image_url", "text"]


def test_several_pictures_stand_in_their_order_each_behind_its_text():
    images = Images.from_arrays([[224, 336, 0]], [[1, 2, 0]], [[10, 280, 0]])
    requests = RequestTable.from_arrays([0.0], [900], [5], slos=SLO(), images=images)
    server, prompts = Keeping(), Prompts(requests.prompt_tokens - images.tokens, 4.0)
    asyncio.run(Flight(server, requests, prompts, lambda: 1e6, None, Pictures(images)).fly(1.0))
    parts = json.loads(Dialect(chat=True).request("m", server.asked[0]))["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["text", "image_url", "text", "image_url", "text"]
    text = [part["text"] for part in parts[::2]]
    assert "".join(text) == prompts[0]
    assert [len(part) for part in text] == [40, 4 * (280 - 10 - 256), 4 * (900 - 280 - 576)]
    sides = [size_of(data_of(part["image_url"]["url"]))[0] for part in parts[1::2]]
    assert sides == [224, 336]


TALK = {
    "duration_s": 100,
    "arrivals": {"kind": "poisson", "rate_per_s": 0.3},
    "requests": {"median": 4, "sigma": 0.5, "max": 9},
    "system_tokens": 130,
    "system_kinds": 2,
    "first_tokens": {"median": 30, "sigma": 0.3, "min": 1, "max": 100},
    "message_tokens": {"median": 30, "sigma": 0.3, "min": 1, "max": 100},
    "output_tokens": {"median": 20, "sigma": 0.3, "min": 1, "max": 100},
    "think": {"median_s": 2.0, "sigma": 0.2, "max_s": 10.0},
    "max_context_tokens": 3000,
}
MANY = {"share": 0.7, "sizes": {224: 1}, "different": 2, "per_request": {1: 1, 2: 1}}


@pytest.mark.parametrize("images", [None, MANY])
@pytest.mark.parametrize("bytes_per_token", [1.0, 3.7])
def test_every_turn_begins_with_the_whole_prompt_of_the_turn_before_images_or_not(images, bytes_per_token):
    workload = Workload.model_validate({"conversations": TALK, "images": images})
    table = build_requests(workload, SLO_CLASSES, np.random.default_rng(2), lambda prompt, output: 10.0)
    tokens = table.prompt_tokens if images is None else table.prompt_tokens - table.images.tokens
    prompts = Prompts(tokens, bytes_per_token, 1, table.turns, table.prefixes, table.images)
    following, texts = table.turns.following(), [prompts[row] for row in range(len(table))]
    assert [len(text) for text in texts] == np.round(tokens * bytes_per_token).astype(int).tolist()
    pairs = [(row, int(later)) for row, later in enumerate(following) if later != LAST]
    assert len(pairs) > 40
    assert all(texts[later].startswith(texts[row]) for row, later in pairs)
    system = int(128 * bytes_per_token)
    first = table.turns.first()
    assert len({text[:system] for text in texts}) == 2
    assert len({text[: system + 40] for text, begins in zip(texts, first, strict=True) if begins}) == first.sum()


def test_images_are_sent_in_conversations_alone():
    requests = RequestTable.from_arrays([0.0], [300], [5], slos=SLO(), images=Images.from_arrays([224]))
    with pytest.raises(ValueError, match="the requests hold images, which are sent in conversations alone"):
        asyncio.run(run_load(requests, LoadSettings("http://127.0.0.1:9")))
