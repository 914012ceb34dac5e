"""Tokens of texts whose tokenizer is not known. Lengths in tokens."""

from __future__ import annotations

import json
from collections.abc import Callable

BYTES_PER_TOKEN = 4
"""Of English text under the tokenizers in use; `--tokenizer` counts instead."""

TokenCount = Callable[[str], int]


def count_by_bytes(text: str) -> int:
    """Estimated tokens of a text: a quarter of its bytes, rounded up.

    Args:
        text: any.
    """
    return -(-len(text.encode(errors="surrogatepass")) // BYTES_PER_TOKEN)


def written(value: object) -> str:
    """A JSON value as a chat template writes it: texts as they are, everything else as JSON.

    Args:
        value: parsed JSON.
    """
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
