"""Which upstream has computed the beginning of a prompt lately: hashes of leading blocks, remembered for each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from batchpilot.core.files import json_text

BLOCK_CHARACTERS = 128
"""About 32 tokens: servers keep prefixes in blocks of 16 to 64."""

MOST_BLOCKS = 4096
"""Of one prompt: what is longer differs late enough."""

REMEMBERED_BLOCKS = 65_536
"""Of one upstream, about two million tokens: more than caches hold."""


def blocks_of(data: Mapping[str, Any]) -> tuple[int, ...]:
    """Hashes of a prompt's leading blocks; each stands for everything up to its end. They hold within this process.

    Args:
        data: the request's body.
    """
    text = "".join(_texts(data))
    hashes: list[int] = []
    before = 0
    most = min(len(text), MOST_BLOCKS * BLOCK_CHARACTERS)
    for start in range(0, most - BLOCK_CHARACTERS + 1, BLOCK_CHARACTERS):
        before = hash((before, text[start : start + BLOCK_CHARACTERS]))
        hashes.append(before)
    return tuple(hashes)


def _texts(data: Mapping[str, Any]) -> Iterator[str]:
    """What templates write, in their order: tools, instructions, then what was said."""
    for name in ("model", "tools", "functions", "instructions", "system", "prompt", "input"):
        if data.get(name):
            yield data[name] if isinstance(data[name], str) else json_text(data[name])
    messages = data.get("messages")
    for message in messages if isinstance(messages, list) else ():
        yield json_text(message)


class PrefixMemory:
    """Blocks that one upstream was sent, the oldest forgotten first.

    Args:
        most: blocks that are remembered.
    """

    def __init__(self, most: int = REMEMBERED_BLOCKS) -> None:
        self._most = most
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def matched(self, blocks: Sequence[int]) -> int:
        """How many leading blocks it has seen.

        Args:
            blocks: as `blocks_of` returns them.
        """
        for number, block in enumerate(blocks):
            if block not in self._blocks:
                return number
        return len(blocks)

    def remember(self, blocks: Sequence[int]) -> None:
        """It is sent a prompt.

        Args:
            blocks: as `blocks_of` returns them.
        """
        for block in reversed(blocks):  # the beginning is the last to be forgotten
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self._most:
            self._blocks.popitem(last=False)

    def forget(self) -> None:
        """The upstream was started anew: its cache is empty."""
        self._blocks.clear()
