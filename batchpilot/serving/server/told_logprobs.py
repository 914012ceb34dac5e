"""Log probabilities as OpenAI's answers have them: a list by token in conversations, columns in completions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple


class TokenLogprob(NamedTuple):
    """A token, its text and its log probability.

    Attributes:
        text: of the token by itself.
        bytes: of that, None where a token is part of a character.
        logprob: under the model's own distribution.
        likeliest: the likeliest tokens, each with text, bytes and log probability.
        offset: characters of the answer that were told before it.
    """

    text: str
    bytes: list[int] | None
    logprob: float
    likeliest: tuple[tuple[str, list[int] | None, float], ...]
    offset: int


def chat_logprobs(tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
    """`logprobs` of a choice of a conversation.

    Args:
        tokens: of the answer, or of a part of it.
    """
    return {"content": [_entry(token) for token in tokens], "refusal": None}


def completion_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """`logprobs` of a choice of a completion.

    Args:
        tokens: of the answer, or of a part of it.
    """
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{text: logprob for text, _, logprob in token.likeliest} for token in tokens],
        "text_offset": [token.offset for token in tokens],
    }


def _entry(token: TokenLogprob) -> dict[str, Any]:
    likeliest = [{"token": text, "logprob": logprob, "bytes": data} for text, data, logprob in token.likeliest]
    return {"token": token.text, "logprob": token.logprob, "bytes": token.bytes, "top_logprobs": likeliest}
