"""How a gateway counts the tokens of prompts."""

from __future__ import annotations

from pathlib import Path

from batchpilot.core.extras import needing
from batchpilot.serving.texts import TokenCount, count_by_bytes


def counting(tokenizer: Path | None) -> TokenCount:
    """How prompts are counted.

    Args:
        tokenizer: a `tokenizer.json`, None for bytes.

    Raises:
        MissingExtraError: the package `tokenizers` is missing.
        ValueError: the file is no tokenizer.
    """
    if tokenizer is None:
        return count_by_bytes
    with needing("--tokenizer", "serve"):
        from tokenizers import Tokenizer
    try:
        loaded = Tokenizer.from_str(tokenizer.read_text())
    except Exception as error:  # the package raises bare ones
        raise ValueError(f"{tokenizer} is no tokenizer.json ({error})") from error

    def count(text: str) -> int:
        # JSON may hold halves of characters, which no tokenizer takes.
        whole = text.encode(errors="replace").decode()
        return len(loaded.encode(whole, add_special_tokens=False).ids)

    return count
