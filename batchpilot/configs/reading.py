"""Reading YAML so that an error can say where: the data, and the line of every key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from batchpilot.configs.errors import ConfigError

Key = str | int


@dataclass(frozen=True)
class YamlFile:
    """A YAML file that holds a mapping.

    Attributes:
        path: the file as it was named.
        data: its content.
        lines: line (from 1) of each key or list element, by its path from the top: `("workload", "phases", 2)`.
    """

    path: Path
    data: dict[str, Any]
    lines: dict[tuple[Key, ...], int]

    def where(self, *keys: Key) -> str:
        """The place of a key for an error message: "file tuner.yaml, line 7".

        Args:
            *keys: path of the key from the top; the nearest enclosing key stands in for one the file does not hold.
        """
        for end in range(len(keys), 0, -1):
            if keys[:end] in self.lines:
                return f"file {self.path}, line {self.lines[keys[:end]]}"
        return f"file {self.path}"


def read_yaml(path: str | Path) -> YamlFile:
    """Read a YAML file whose top level is a mapping.

    Args:
        path: the file.

    Raises:
        ConfigError: the file is not YAML in UTF-8, gives a key twice, or holds no mapping; the message says where.
        OSError: the file cannot be read.
    """
    path = Path(path)
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        lines = _lines(node, path)
        data = loader.construct_document(node) if node is not None else None
    except ConfigError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"not YAML: {error.problem or error.context} (file {path}{line})") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"not YAML: {error} (file {path})") from None
    if not isinstance(data, dict):
        found = "nothing" if data is None else f"a {type(data).__name__}"
        raise ConfigError(f"expected a mapping of keys to values, found {found} (file {path})")
    return YamlFile(path, data, lines)


def _lines(root: yaml.Node | None, path: Path) -> dict[tuple[Key, ...], int]:
    """Line of every key and list element; a key given twice in one mapping, which YAML lets pass, is an error."""
    lines: dict[tuple[Key, ...], int] = {}
    # An aliased node is entered once, so that a file of nested or recursive aliases stays cheap to read.
    entered: set[int] = set()
    pending: list[tuple[tuple[Key, ...], yaml.Node]] = [((), root)] if root is not None else []
    while pending:
        place, node = pending.pop()
        if id(node) in entered:
            continue
        entered.add(id(node))
        for key, start, value in _children(node):
            child = (*place, key)
            if child in lines:
                raise ConfigError(
                    f"{key} is given twice, first in line {lines[child]}; keep one (file {path}, line {start})"
                )
            lines[child] = start
            pending.append((child, value))
    return lines


def _children(node: yaml.Node) -> Iterator[tuple[Key, int, yaml.Node]]:
    """Key, line and value of each entry of a mapping or list."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                yield key.value, key.start_mark.line + 1, value
    elif isinstance(node, yaml.SequenceNode):
        for position, value in enumerate(node.value):
            yield position, value.start_mark.line + 1, value
