"""Finding a catalogue entry by its name or an alias, however it is spelled."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from batchpilot.configs.reading import read_yaml
from batchpilot.core.names import lookup


class Named(Protocol):
    """Anything with a name and other names for it."""

    @property
    def name(self) -> str:
        """What tables call it."""

    @property
    def aliases(self) -> tuple[str, ...]:
        """What else it is called."""


Entry = TypeVar("Entry", bound=Named)


def read_entries(file: str, make: Callable[..., Entry]) -> dict[str, Entry]:
    """The entries of a catalogue file, by name and in its order; lists become tuples.

    Args:
        file: name of a YAML file beside this module, a mapping of name to fields.
        make: builds an entry from `name` and its fields.
    """
    entries = {}
    for name, fields in read_yaml(Path(__file__).parent / file).data.items():
        entries[name] = make(name=name, **{field: _frozen(value) for field, value in fields.items()})
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


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).lower()


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
