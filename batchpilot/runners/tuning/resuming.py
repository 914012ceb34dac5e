"""Going on with a study: what it was asked for, and how that differs from what is asked now."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from batchpilot.core.files import plain

_MOST_TOLD = 6
_ABSENT = "nothing"


def differences(was: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Each setting that differs, as "sampler was 'random', asked 'tpe'".

    Args:
        was: settings of an earlier run, nested.
        asked: those of this one.
    """
    before, now = _flat(was), _flat(asked)
    return [
        f"{name} was {_shown(before, name)}, asked {_shown(now, name)}"
        for name in dict.fromkeys([*before, *now])
        if before.get(name) != now.get(name) or (name in before) != (name in now)
    ]


def told(differing: list[str]) -> str:
    """As many differences as a message holds.

    Args:
        differing: of `differences`, at least one.
    """
    more = len(differing) - _MOST_TOLD
    return "; ".join(differing[:_MOST_TOLD]) + (f"; and {more} more" if more > 0 else "")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in plain(settings).items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def _shown(settings: Mapping[str, Any], name: str) -> str:
    return reprlib.repr(settings[name]) if name in settings else _ABSENT
