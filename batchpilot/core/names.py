"""Looking a name up in a registry: an unknown one is answered with the closest known ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

Entry = TypeVar("Entry")


def closest(name: str, allowed: Iterable[str]) -> list[str]:
    """Up to three allowed names that a person who typed `name` may have meant, best first."""
    by_lower = {candidate.lower(): candidate for candidate in allowed}
    return [by_lower[match] for match in difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)]


def unknown_name(name: str, allowed: Iterable[str], kind: str) -> str:
    """The message for an unknown name: what was given, what is close, what is allowed."""
    allowed = list(allowed)
    near = closest(name, allowed)
    hint = f"; did you mean {' or '.join(repr(candidate) for candidate in near)}?" if near else ""
    return f"unknown {kind} {name!r}{hint} (known: {', '.join(allowed)})"


def lookup(registry: Mapping[str, Entry], name: str, kind: str) -> Entry:
    """The registry's entry of that name.

    Args:
        registry: entries by name.
        name: the name as typed.
        kind: what the registry holds, for the message: "tuner", "device".

    Raises:
        ValueError: no such name; the message names the closest known ones.
    """
    try:
        return registry[name]
    except (KeyError, TypeError):
        raise ValueError(unknown_name(str(name), registry, kind)) from None
