"""JSON by construction: at each token only what a JSON schema lets come next, by the package `llguidance`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.extras import needing

END_OF_BYTES = 0
"""Ends an output of a model whose tokens are bytes: no JSON holds it."""

MOST_SCHEMA_CHARACTERS = 2**16

COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""Blanks in one place only: free ones let a model say nothing but blanks, for ever."""


def check_schema(schema: str) -> None:
    """Refuse what outputs cannot be held to.

    Args:
        schema: a JSON schema, as text.

    Raises:
        MissingExtraError: the package is missing.
        ValueError: it is too long, no schema, or asks for what is not supported; the message says what.
    """
    if len(schema) > MOST_SCHEMA_CHARACTERS:
        raise ValueError(f"the schema has {len(schema)} characters; at most {MOST_SCHEMA_CHARACTERS} are taken")
    with needing("answers in JSON", "structured"):
        from llguidance import LLMatcher
    try:
        grammar = LLMatcher.grammar_from_json_schema(schema, overrides=COMPACT)
        told = LLMatcher.validate_grammar(grammar)
    except (ValueError, TypeError) as error:
        told = str(error)
    if told:
        raise ValueError(f"the schema cannot be followed: {' '.join(told.split())[:300]}")


class Grammars:
    """Makes matchers of schemas for one tokenizer.

    Args:
        make_tokenizer: makes the tokenizer of `llguidance`, with the first schema: that takes a second where the
            vocabulary is large.
        vocabulary: number of token ids.
    """

    def __init__(self, make_tokenizer: Callable[[], Any], vocabulary: int) -> None:
        self._make_tokenizer, self._vocabulary = make_tokenizer, vocabulary
        self._tokenizer: Any = None

    def __call__(self, schema: str) -> SchemaMatcher:
        """For one output.

        Args:
            schema: a JSON schema, as text.

        Raises:
            ValueError: outputs cannot be held to it.
        """
        with needing("answers in JSON", "structured"):
            from llguidance import LLMatcher
        check_schema(schema)
        if self._tokenizer is None:
            self._tokenizer = self._make_tokenizer()
        matcher = LLMatcher(self._tokenizer, LLMatcher.grammar_from_json_schema(schema, overrides=COMPACT))
        if matcher.is_error():
            raise ValueError(f"the schema cannot be followed: {' '.join(matcher.get_error().split())[:300]}")
        return SchemaMatcher(matcher, self._tokenizer.eos_token, self._vocabulary)


class SchemaMatcher:
    """Where one output stands in its schema.

    Args:
        matcher: of `llguidance`.
        end: the token that ends an output.
        vocabulary: number of token ids.
    """

    def __init__(self, matcher: Any, end: int, vocabulary: int) -> None:
        self._matcher, self._end, self._vocabulary = matcher, end, vocabulary

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens may come next, shape (vocabulary,); the end alone where nothing else is left."""
        allowed = np.zeros(self._vocabulary, np.bool_)
        if not (self._matcher.is_stopped() or self._matcher.is_error()):
            words = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
            told = np.unpackbits(words, bitorder="little")[: self._vocabulary].astype(np.bool_)
            allowed[: len(told)] = told
        if not allowed.any():
            allowed[self._end] = True
        return allowed

    def take(self, token: int) -> None:
        """A token has come.

        Args:
            token: its id.
        """
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token)


def byte_guidance(vocabulary: int) -> Any:
    """Tokens that are bytes, ids beyond one taken modulo 256.

    Args:
        vocabulary: number of token ids.

    Raises:
        MissingExtraError: the package is missing.
    """
    with needing("answers in JSON", "structured"):
        from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(_Bytes(vocabulary)), n_vocab=vocabulary)


class _Bytes:
    """What the package asks of a tokenizer that it does not know."""

    eos_token_id = END_OF_BYTES
    bos_token_id = None

    def __init__(self, vocabulary: int) -> None:
        self.tokens = [bytes([token & 0xFF]) for token in range(vocabulary)]
        self.special_token_ids: list[int] = []

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def tokenizer_guidance(tokenizer: Any, vocabulary: int, ends: Sequence[int]) -> Any:
    """The tokens of a tokenizer of `transformers`.

    Args:
        tokenizer: it, a fast one.
        vocabulary: number of token ids, those the tokenizer does not know included.
        ends: tokens that end an output, at least one.

    Raises:
        MissingExtraError: the package is missing.
        ValueError: it is no fast one, or nothing ends an output.
    """
    with needing("answers in JSON", "structured"):
        from llguidance.hf import from_tokenizer
    if not ends:
        raise ValueError("the tokenizer knows no token that ends an output, so none of its outputs could obey a schema")
    return from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=list(ends))
