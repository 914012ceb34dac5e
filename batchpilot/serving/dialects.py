"""What OpenAI's `/v1/responses` and Anthropic's `/v1/messages` say, in the words of chat completions.

Their events are read as if they were chunks: text that comes, the reason why it ends, the usage, an error. Sources:
OpenAI's reference of streaming events of responses, Anthropic's of streaming messages; vLLM and SGLang serve both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_DELTAS = ("text", "thinking", "partial_json")
BACKGROUND = "background"
"""Finish reason of a response that is only taken on: with `background`, its text is fetched later."""

_LATER = ("queued", "in_progress")
_ENDED_EARLY = {"max_tokens": "length", "model_context_window_exceeded": "length"}


def as_chunk(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """An event, or a whole answer, as a chat completion's; anything else as it is.

    Args:
        data: parsed JSON without `choices`.
    """
    kind = data.get("type")
    if isinstance(kind, str):
        if kind.startswith("response."):
            return _response_event(kind, data)
        if kind in _MESSAGE_EVENTS:
            return _MESSAGE_EVENTS[kind](data)
        if kind == "error" and not data.get("error"):
            return {"error": dict(data)}
    return _response(data, whole=True) if data.get("object") == "response" else data


def _response_event(kind: str, data: Mapping[str, Any]) -> Mapping[str, Any]:
    if kind.endswith(".delta"):
        delta = data.get("delta")
        return _said(delta if isinstance(delta, str) else "", logprobs=data.get("logprobs"))
    answer = data.get("response")
    if kind in ("response.completed", "response.incomplete", "response.failed") and isinstance(answer, Mapping):
        return _response(answer, whole=False)
    return {}


def _response(answer: Mapping[str, Any], whole: bool) -> Mapping[str, Any]:
    """The end of a response; its text only where it did not come before."""
    if answer.get("error") or answer.get("status") == "failed":
        return {"error": answer.get("error") or {"message": "the response failed"}}
    if whole and answer.get("status") in _LATER:
        return _said("", BACKGROUND)
    if answer.get("status") not in ("completed", "incomplete"):
        return {}
    text = "".join(_texts(answer.get("output"))) if whole else ""
    return _said(text, "stop" if answer.get("status") == "completed" else "length", answer.get("usage"))


def _message_start(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The prompt's tokens; the output's are a placeholder there."""
    message = data.get("message")
    usage = message.get("usage") if isinstance(message, Mapping) else None
    return {"usage": {"prompt_tokens": _prompt_tokens(usage)}} if isinstance(usage, Mapping) else {}


def _message_delta(data: Mapping[str, Any]) -> Mapping[str, Any]:
    delta = data.get("delta")
    return _said("", _reason(delta.get("stop_reason")) if isinstance(delta, Mapping) else None, data.get("usage"))


def _block_delta(data: Mapping[str, Any]) -> Mapping[str, Any]:
    delta = data.get("delta")
    said = [text for name in _DELTAS if isinstance(text := delta.get(name), str)] if isinstance(delta, Mapping) else []
    return _said("".join(said))


def _message(data: Mapping[str, Any]) -> Mapping[str, Any]:
    return _said("".join(_texts(data.get("content"))), _reason(data.get("stop_reason")), data.get("usage"))


_MESSAGE_EVENTS = {
    "message_start": _message_start,
    "content_block_start": lambda data: {},
    "content_block_delta": _block_delta,
    "content_block_stop": lambda data: {},
    "message_delta": _message_delta,
    "message_stop": lambda data: {},
    "ping": lambda data: {},
    "message": _message,
}


def _said(text: str, reason: str | None = None, usage: object = None, logprobs: object = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason, "logprobs": {"content": logprobs}}
    chunk: dict[str, Any] = {"choices": [choice]}
    if isinstance(usage, Mapping):
        chunk["usage"] = {"completion_tokens": usage.get("output_tokens"), "prompt_tokens": _prompt_tokens(usage)}
    return chunk


def _prompt_tokens(usage: Mapping[str, Any]) -> object:
    """Tokens of a prompt: Anthropic counts those from the cache beside the others."""
    names = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    return sum(count for name in names if isinstance(count := usage.get(name), int)) or None


def _reason(reason: object) -> str | None:
    return _ENDED_EARLY.get(reason, "stop") if isinstance(reason, str) else None


def _texts(parts: object) -> list[str]:
    """Every text in parts of contents, calls and reasoning, in their order."""
    found: list[str] = []
    for part in parts if isinstance(parts, list) else []:
        if isinstance(part, Mapping):
            names = ("text", "thinking", "refusal", "arguments", "partial_json")
            found += [text for name in names if isinstance(text := part.get(name), str)]
            for name in ("content", "summary"):
                found += _texts(part.get(name))
            if isinstance(part.get("input"), Mapping):
                found.append(str(part["input"]))
    return found
