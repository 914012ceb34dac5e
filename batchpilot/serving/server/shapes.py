"""How OpenAI's answers look: whole, or as the data of server-sent events."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from json.encoder import encode_basestring as _quoted
from typing import Any

from batchpilot.core.files import json_text
from batchpilot.serving.server.answering import Delta
from batchpilot.serving.server.told_logprobs import TokenLogprob, chat_logprobs, completion_logprobs

DONE = "data: [DONE]\n\n"


class Shape:
    """How the two kinds of answers look.

    Args:
        model: its name.
        chat: whether it is a conversation.
    """

    def __init__(self, model: str, *, chat: bool) -> None:
        self._chat = chat
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }
        self._begun: set[int] = set()
        head = json_text({**self._head, "object": self._chunk_name})
        self._opening = f'data: {head[:-1]}, "choices": [{{"index": '

    def whole(
        self,
        texts: Sequence[str],
        finished: Sequence[str | None],
        usage: dict[str, int],
        logprobs: Sequence[Sequence[TokenLogprob]] | None = None,
    ) -> dict[str, Any]:
        """An answer at once.

        Args:
            texts: of each choice.
            finished: why each ended.
            usage: numbers of tokens.
            logprobs: of the tokens of each choice, None where they are not told.
        """
        said = [{"message": {"role": "assistant", "content": text}} if self._chat else {"text": text} for text in texts]
        told = [None] * len(texts) if logprobs is None else [self._logprobs(tokens) for tokens in logprobs]
        parts = zip(said, told, finished, strict=True)
        choices = [
            {"index": index, **text, "logprobs": logprob, "finish_reason": end}
            for index, (text, logprob, end) in enumerate(parts)
        ]
        name = "chat.completion" if self._chat else "text_completion"
        return {**self._head, "object": name, "choices": choices, "usage": usage}

    def chunk(self, delta: Delta, usage: dict[str, int] | None = None) -> str:
        """A token's worth of an answer as an event, put together from parts: it is written for every token.

        Args:
            delta: it.
            usage: numbers of tokens so far, None to leave them out.
        """
        said = f'"text": {_quoted(delta.text)}'
        if self._chat:
            role = "" if delta.choice in self._begun else '"role": "assistant", '
            said = f'"delta": {{{role}"content": {_quoted(delta.text)}}}'
            self._begun.add(delta.choice)
        finished = "null" if delta.finished is None else f'"{delta.finished}"'
        told = "" if usage is None else f', "usage": {json_text(usage)}'
        logprobs = "null" if delta.logprob is None else json_text(self._logprobs([delta.logprob]))
        end = f'"logprobs": {logprobs}, "finish_reason": {finished}}}]{told}}}\n\n'
        return f"{self._opening}{delta.choice}, {said}, {end}"

    def usage(self, usage: dict[str, int]) -> dict[str, Any]:
        """The last chunk of those that ask for it.

        Args:
            usage: numbers of tokens.
        """
        return {**self._head, "object": self._chunk_name, "choices": [], "usage": usage}

    @property
    def _chunk_name(self) -> str:
        return "chat.completion.chunk" if self._chat else "text_completion"

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        return chat_logprobs(tokens) if self._chat else completion_logprobs(tokens)


def event(data: dict[str, Any]) -> str:
    """A server-sent event.

    Args:
        data: plain.
    """
    return f"data: {json_text(data)}\n\n"
