"""Typed reading of a `config.json`: the same figure under its several names, and errors that say which file and key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST = 10**12
"""No figure of a configuration is larger."""


@dataclass(frozen=True)
class Fields:
    """The keys of one mapping of a configuration.

    Attributes:
        data: its keys and values.
        where: what messages call the place they come from.
        defaults: what the family's software takes where a key is missing.
    """

    data: Mapping[str, Any]
    where: str
    defaults: Mapping[str, Any]

    def value(self, *names: str) -> Any:
        """The first of these keys that is given and not null, else the family's default, else None.

        Args:
            *names: one figure's names, the commonest first.
        """
        for source in (self.data, self.defaults):
            for name in names:
                if source.get(name) is not None:
                    return source[name]
        return None

    def named(self, *names: str) -> str:
        """The name under which a figure is given, the commonest where it is not.

        Args:
            *names: its names.
        """
        return next((name for name in names if self.data.get(name) is not None), names[0])

    def count(self, *names: str, default: int | None = None, lowest: int = 1) -> int:
        """A whole number.

        Args:
            *names: one figure's names, the commonest first.
            default: taken where none is given; None where one must be.
            lowest: smallest that makes sense.

        Raises:
            ValueError: it is missing, no whole number or below its bound.
        """
        value = self.value(*names)
        if value is None:
            if default is None:
                raise ValueError(f"{self.where} lacks {' or '.join(names)}")
            return default
        whole = isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
        if not whole or not lowest <= value <= MOST:
            raise ValueError(
                f"{self.named(*names)} is {_short(value)}; it must be a whole number >= {lowest} ({self.where})"
            )
        return int(value)

    def number(self, name: str, default: float) -> float:
        """A number above 0.

        Args:
            name: its key.
            default: taken where it is missing.

        Raises:
            ValueError: it is no number above 0.
        """
        value = self.value(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MOST:
            raise ValueError(f"{name} is {_short(value)}; it must be a number above 0 ({self.where})")
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false.

        Args:
            name: its key.
            default: taken where it is missing.

        Raises:
            ValueError: it is neither.
        """
        value = self.value(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise ValueError(f"{name} is {_short(value)}; it must be true or false ({self.where})")
        return value

    def text(self, *names: str) -> str:
        """A text, empty where it is missing.

        Args:
            *names: its names.

        Raises:
            ValueError: it is no text.
        """
        value = self.value(*names)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise ValueError(f"{self.named(*names)} is {_short(value)}; it must be text ({self.where})")
        return value

    def items(self, name: str) -> list[Any] | None:
        """A list, None where it is missing.

        Args:
            name: its key.

        Raises:
            ValueError: it is no list.
        """
        value = self.value(name)
        if value is not None and not isinstance(value, list):
            raise ValueError(f"{name} is {_short(value)}; it must be a list ({self.where})")
        return value

    def inner(self, *names: str) -> Fields | None:
        """A mapping inside this one, None where it is missing.

        Args:
            *names: its names.

        Raises:
            ValueError: it is no mapping.
        """
        value = self.value(*names)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise ValueError(f"{self.named(*names)} is {_short(value)}; it must be a mapping ({self.where})")
        return Fields(value, f"{self.named(*names)} of {self.where}", {})


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds a mapping.

    Args:
        path: the file.

    Raises:
        ValueError: it is not JSON in UTF-8, or holds no mapping; the message names file and line.
        OSError: it cannot be read.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} (file {path}, line {error.lineno})") from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON in UTF-8: {error} (file {path})") from None
    if not isinstance(data, dict):
        raise ValueError(f"expected a mapping of keys to values, found a {type(data).__name__} (file {path})")
    return data


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
