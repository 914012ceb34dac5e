"""From the messages of a conversation to a prompt: text by the chat template, images where they stand in it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import NamedTuple

from fastapi.concurrency import run_in_threadpool

from batchpilot.core.image_sizes import MOST_IMAGES, SIDES_PX
from batchpilot.serving.pictures.decoding import PictureError, decode
from batchpilot.serving.server.bodies import ImageUrl, Message
from batchpilot.serving.server.errors import ApiError
from batchpilot.serving.server.text import Text
from batchpilot.workloads.prompt_images import PromptImage

LONG_CHARACTERS = 20_000
"""Longer texts are tokenized beside the event loop, which would stand still for other clients."""

_NO_TOKEN = 0
"""Stands where an image is; the engine puts what it knows the image by."""


class Prompt(NamedTuple):
    """What the engine is asked to go on from.

    Attributes:
        tokens: their ids.
        images: among them.
    """

    tokens: list[int]
    images: tuple[PromptImage, ...] = ()


async def chat_prompt(text: Text, messages: Sequence[Message], *, vision: bool) -> Prompt:
    """The prompt of a conversation.

    Args:
        text: the model's tokenizer.
        messages: of the conversation.
        vision: whether the server has what encodes images.

    Raises:
        ApiError: the chat template refuses the messages, or an image cannot be taken; the message says which and why.
    """
    urls = [url for message in messages for url in message.images]
    if urls:
        _check(urls, vision=vision)
    # Nobody can write what stands for an image, since it is another one each time.
    mark = f"<image {secrets.token_hex(16)}>" if urls else ""
    turns = [message.turn(mark) for message in messages]
    try:
        if sum(len(turn["content"]) for turn in turns) > LONG_CHARACTERS:
            pieces = await run_in_threadpool(text.encode_chat, turns, mark)
        else:
            pieces = text.encode_chat(turns, mark)
    except ValueError as error:
        raise ApiError(400, str(error), param="messages") from None
    if not urls:
        return Prompt(pieces[0])
    if len(pieces) != len(urls) + 1:
        message = f"the model's chat template shows {len(pieces) - 1} of the {len(urls)} images; it may take none"
        raise ApiError(400, message, param="messages", code="invalid_image")
    pixels = await run_in_threadpool(_decoded, urls)
    tokens, images = list(pieces[0]), []
    for (side_px, picture), piece in zip(pixels, pieces[1:], strict=True):
        images.append(PromptImage.of(len(tokens), side_px, picture))
        tokens += [_NO_TOKEN] * images[-1].tokens
        tokens += piece
    return Prompt(tokens, tuple(images))


def _check(urls: Sequence[ImageUrl], *, vision: bool) -> None:
    if not vision:
        message = (
            "a message holds an image, and this server takes text alone; it would have to be started with --vision"
        )
        raise ApiError(400, message, param="messages", code="invalid_image")
    if len(urls) > MOST_IMAGES:
        message = (
            f"the messages hold {len(urls)} images; at most {MOST_IMAGES} are taken, each of up to {SIDES_PX[-1]} px"
        )
        raise ApiError(400, message, param="messages", code="too_many_images")


def _decoded(urls: Sequence[ImageUrl]) -> list[tuple[int, bytes]]:
    told: list[tuple[int, bytes]] = []
    for number, url in enumerate(urls, 1):
        try:
            told.append(decode(url.url, url.detail))
        except PictureError as error:
            raise ApiError(400, f"image {number}: {error}", param="messages", code="invalid_image") from None
    return told
