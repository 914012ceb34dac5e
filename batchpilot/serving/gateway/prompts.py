"""How many tokens the prompt of a request has, wherever they stand in its body. Lengths in tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from batchpilot.core.image_sizes import image_tokens
from batchpilot.serving.pictures.headers import DEFAULT_SIDE, side_of_part
from batchpilot.serving.texts import TokenCount, written

PICTURE_TOKENS = int(image_tokens(DEFAULT_SIDE))
"""What a part that is no text (sound, file, picture that has to be fetched) is taken to have: a picture of 336 x 336 in
patches of 14, as LLaVA 1.5 reads it. Of a picture that is sent, or whose detail is said, it is 256, 576 or 1024 by its
size. Models differ from 64 to some thousands, and the body does not say."""

_DEFINITIONS = ("tools", "functions", "response_format", "documents")
"""What chat templates, or servers in their stead, put before the messages."""

_INSTRUCTIONS = ("instructions", "system")
"""What `/v1/responses` and Anthropic's `/v1/messages` have instead of a system message."""

_SAID = ("content", "reasoning_content", "reasoning", "thinking", "refusal", "name", "output", "summary")
_CALLED = ("tool_calls", "function_call")
_TEXTS_OF_PARTS = ("text", "thinking", "refusal", "content")

_MOST = 2**31


def prompt_tokens(data: Mapping[str, Any], count: TokenCount) -> int:
    """Tokens of the prompt of a completion, a chat, a response or a message.

    Token ids count one each, flat or nested; texts by `count`; definitions of tools and schemas, calls of tools, their
    results and reasoning by the text they make; pictures by their size, other parts that are no text `PICTURE_TOKENS`.

    Args:
        data: the request's body.
        count: tokens of a text.

    Raises:
        RecursionError: nested beyond reason.
    """
    counted = _of_prompt(data.get("prompt"), count) + _of_prompt(data.get("suffix"), count)
    counted += sum(count(_defined(data[name])) for name in _DEFINITIONS if data.get(name))
    counted += sum(_of_content(data[name], count) for name in _INSTRUCTIONS if data.get(name))
    for name in ("messages", "input"):
        said = data.get(name)
        if isinstance(said, list):
            counted += sum(_of_message(message, count) for message in said)
        else:
            counted += _of_content(said, count)
    return counted


def choices(data: Mapping[str, Any]) -> int:
    """How many texts a request will have generated at once.

    Args:
        data: the request's body.
    """
    prompt = data.get("prompt")
    several = isinstance(prompt, list) and not set(map(type, prompt)) <= {int}
    prompts = len(cast(list[Any], prompt)) if several else 1
    each = max(whole(data.get("n")) or 1, whole(data.get("best_of")) or 1, 1)
    return min(prompts * each, _MOST)


def whole(value: object) -> int | None:
    """The value if it is a whole number, within what a float holds exactly.

    Args:
        value: parsed JSON.
    """
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return max(min(cast(int, value), _MOST), -_MOST) if is_whole else None


def _of_prompt(prompt: object, count: TokenCount) -> int:
    if isinstance(prompt, str):
        return count(prompt)
    if isinstance(prompt, list):
        if set(map(type, prompt)) <= {int}:
            return len(prompt)
        ids = sum(whole(part) is not None for part in prompt)
        return ids + sum(_of_prompt(part, count) for part in prompt if isinstance(part, list | str))
    return 0


def _of_message(message: object, count: TokenCount) -> int:
    if not isinstance(message, dict):
        return _of_content(message, count)
    said = sum(_of_content(message[name], count) for name in _SAID if message.get(name))
    if message.get("type") == "function_call":
        said += count(_called(message))
    return said + sum(count(_called(message[name])) for name in _CALLED if message.get(name))


def _of_content(content: object, count: TokenCount) -> int:
    if isinstance(content, str):
        return count(content)
    if isinstance(content, list):
        return sum(_of_content(part, count) for part in content)
    if isinstance(content, dict):
        texts = [content[name] for name in _TEXTS_OF_PARTS if name in content]
        if content.get("type") == "tool_use":
            return count(_called(content))
        if texts:
            return sum(_of_content(text, count) for text in texts)
        is_picture = "image_url" in content
        return int(image_tokens(side_of_part(content))) if is_picture else PICTURE_TOKENS
    return 0


def _called(calls: object) -> str:
    """Calls of tools without what only the API needs: ids and types."""
    said = []
    for call in calls if isinstance(calls, list) else [calls]:
        function = call.get("function") or call.get("custom") or call if isinstance(call, dict) else None
        if isinstance(function, dict):
            said += [written(function[name]) for name in ("name", "arguments", "input") if name in function]
    return "".join(said)


def _defined(definitions: object) -> str:
    """Definitions of tools, schemas or documents; the bare name of a format says nothing to the model."""
    if isinstance(definitions, dict) and set(definitions) <= {"type"}:
        return ""
    return written(definitions)
