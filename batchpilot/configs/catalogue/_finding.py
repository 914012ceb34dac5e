"""Reading catalogue entries, and finding one by its name or an alias, however it is spelled."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

from batchpilot.configs.errors import ConfigError
from batchpilot.configs.reading import Key, YamlFile, read_yaml
from batchpilot.core.names import lookup

SHIPPED = Path(__file__).parent
"""Where the catalogue's files lie."""


class Named(Protocol):
    """Anything with a name and other names for it."""

    @property
    def name(self) -> str:
        """What tables call it."""

    @property
    def aliases(self) -> tuple[str, ...]:
        """What else it is called."""


Entry = TypeVar("Entry", bound=Named)


def read_entries(path: Path, kind: str, make: Callable[..., Entry]) -> dict[str, Entry]:
    """The entries of a catalogue file, by name and in its order.

    Args:
        path: a YAML file, a mapping of name to figures.
        kind: what it holds, for messages.
        make: builds an entry from `name` and its figures.

    Raises:
        ConfigError: the file is wrong; the message says where.
    """
    file = read_yaml(path)
    return entries_of(file, file.data, kind, make)


def entries_of(
    file: YamlFile, data: Any, kind: str, make: Callable[..., Entry], place: tuple[Key, ...] = ()
) -> dict[str, Entry]:
    """The entries of a mapping in a file, by name and in its order; lists become tuples.

    Args:
        file: where it comes from.
        data: the mapping of name to figures.
        kind: what it holds, for messages.
        make: builds an entry from `name` and its figures.
        place: path of the mapping in the file.

    Raises:
        ConfigError: an entry is wrong; the message says where.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{place[-1] if place else kind} must be a mapping of names ({file.where(*place)})")
    entries: dict[str, Entry] = {}
    for name, figures in data.items():
        where = file.where(*place, name)
        if not isinstance(figures, Mapping):
            raise ConfigError(f"{kind} {name} is {figures!r}; it must be a mapping of figures ({where})")
        try:
            entries[str(name)] = make(name=str(name), **{str(key): _frozen(value) for key, value in figures.items()})
        except (TypeError, ValueError, OSError) as error:
            raise ConfigError(f"{kind} {name}: {_readable(error)} ({where})") from None
    return entries


def find(entries: Mapping[str, Entry], name: str, kind: str) -> Entry:
    """The entry of that name or alias; case, blanks, `-` and `_` make no difference.

    Args:
        entries: the catalogue, by name.
        name: the name as typed.
        kind: what the catalogue holds, for the message.

    Raises:
        ValueError: no such entry; the message names the closest known ones.
    """
    by_spelling = {_plain(spelling): entry for entry in entries.values() for spelling in (entry.name, *entry.aliases)}
    return by_spelling.get(_plain(name)) or lookup(entries, name, kind)


@lru_cache(4096)
def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).lower()


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _readable(error: Exception) -> str:
    """What a constructor complains of, in the words of the file: keys, not arguments."""
    text = str(error)
    unexpected = re.search(r"unexpected keyword argument '(\w+)'", text)
    if unexpected:
        return f"unknown key {unexpected[1]!r}"
    missing = re.search(r"missing \d+ required .*arguments?: (.*)$", text)
    return f"lacks {missing[1]}" if missing else text
