"""Answers as JSON that every client reads: a number that is none is null, where the framework would fail."""

from __future__ import annotations

from fastapi.responses import JSONResponse

from batchpilot.core.files import json_text


class JsonAnswer(JSONResponse):
    """A whole answer, written as `json_text` writes."""

    def render(self, content: object) -> bytes:
        """The body of an answer.

        Args:
            content: plain data.
        """
        return json_text(content).encode()
