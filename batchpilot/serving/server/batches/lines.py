"""The lines of a file of requests: what they must be, and where they are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from batchpilot.core.files import json_text

ENDPOINTS = ("/v1/chat/completions", "/v1/completions")
MOST_REQUESTS = 50_000
MOST_PROBLEMS = 20

_INTERACTIVE_ONLY = ("stream", "stream_options", "ttft_ms", "tpot_ms", "slo", "priority", "timeout_s")


class Line(NamedTuple):
    """One request.

    Attributes:
        custom_id: what its answer is found by.
        body: as it will be sent, JSON.
    """

    custom_id: str
    body: bytes


class Problem(NamedTuple):
    """What is wrong with a file.

    Attributes:
        code: for programs.
        message: for people.
        line: from 1, None for the whole file.
    """

    code: str
    message: str
    line: int | None

    def to_dict(self) -> dict[str, Any]:
        """As OpenAI's API shapes it."""
        return {**self._asdict(), "param": None}


def check_lines(path: Path, endpoint: str) -> tuple[int, list[Problem]]:
    """Count the requests of a file, and say what is wrong with them.

    Args:
        path: the file.
        endpoint: that all of them must be for.

    Returns:
        How many there are, and the first problems.
    """
    problems: list[Problem] = []
    seen: set[str] = set()
    count = 0
    for number, text in _numbered(path):
        count += 1
        if count > MOST_REQUESTS:
            problems.append(Problem("too_many_requests", f"a file has at most {MOST_REQUESTS} requests", number))
            break
        told = _problem(text, endpoint, seen)
        if told is not None:
            problems.append(Problem(*told, number))
        if len(problems) >= MOST_PROBLEMS:
            break
    if not count:
        problems.append(Problem("empty_file", "the file has no requests", None))
    return count, problems


def read_lines(path: Path) -> Iterator[Line]:
    """The requests of a file that `check_lines` found nothing wrong with, as the engine is to be asked.

    They go below everything interactive, whatever they ask for themselves.

    Args:
        path: the file.
    """
    for _, text in _numbered(path):
        asked = json.loads(text)
        body = {name: value for name, value in asked["body"].items() if name not in _INTERACTIVE_ONLY}
        told = json_text({**body, "priority": "low", "slo": "batch", "timeout_s": 86400})
        yield Line(asked["custom_id"], told.encode())


def _numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            if text.strip():
                yield number, text


def _problem(text: bytes, endpoint: str, seen: set[str]) -> tuple[str, str] | None:
    try:
        asked = json.loads(text)
    except (ValueError, RecursionError):
        return "invalid_json_line", "the line is no JSON"
    if not isinstance(asked, Mapping):
        return "invalid_json_line", "the line is no JSON object"
    custom_id, body = asked.get("custom_id"), asked.get("body")
    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= 512:
        return "missing_required_parameter", "custom_id must be a text of 1 to 512 characters"
    if custom_id in seen:
        return "duplicate_custom_id", f"custom_id {custom_id[:80]!r} stands in an earlier line, too"
    seen.add(custom_id)
    if asked.get("method", "POST") != "POST":
        return "invalid_method", "method must be POST"
    if asked.get("url") != endpoint:
        return "invalid_url", f"url must be {endpoint}, as the batch's endpoint"
    if not isinstance(body, Mapping):
        return "missing_required_parameter", "body must be an object"
    if body.get("stream"):
        return "invalid_request", "an answer in a file does not stream; leave stream out"
    return None
