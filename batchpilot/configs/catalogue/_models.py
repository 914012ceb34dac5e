"""Models of the catalogue, and any other by its `config.json`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from batchpilot.configs.catalogue._additions import added
from batchpilot.configs.catalogue._finding import SHIPPED, find, read_entries
from batchpilot.configs.models.entries import make_model
from batchpilot.configs.models.reading import looks_like_model, read_model
from batchpilot.configs.models.spec import ModelSpec
from batchpilot.configs.reading import read_yaml


@cache
def _catalogue() -> dict[str, ModelSpec]:
    return read_entries(SHIPPED / "models.yaml", "model", make_model)


def models() -> tuple[ModelSpec, ...]:
    """Every catalogued model."""
    return tuple((_catalogue() | added().models).values())


def model(name: str) -> ModelSpec:
    """The catalogued model of that name or alias, or the one whose `config.json` or folder is named.

    Args:
        name: "Llama-2-7B", "meta-llama/Llama-2-7b-hf"; case, blanks, `-` and `_` make no difference. Or the path of a
            `config.json` or of its folder.

    Raises:
        ValueError: no such model, and the message names the closest known ones; or the file is wrong.
        OSError: the file cannot be read.
    """
    known = _catalogue() | added().models
    try:
        return find(known, name, "model")
    except ValueError as unknown:
        if not looks_like_model(name):
            raise
        if not Path(name).expanduser().exists():
            raise ValueError(f"{name}: no such file or folder; {unknown}") from None
        return read_model(name)


def model_facts(name: str) -> dict[str, Any] | None:
    """The content of a catalogued model's `config.json`, as far as it is kept; None where its figures alone are.

    Args:
        name: in the catalogue.
    """
    entry = read_yaml(SHIPPED / "models.yaml").data.get(name, {})
    facts: dict[str, Any] | None = entry.get("config")
    return facts


def model_reference(name: str) -> str:
    """What to keep of a name so that `model` finds it again: the catalogue's name, or the path that was read.

    Args:
        name: as `model` takes it.

    Raises:
        ValueError: as `model`.
        OSError: as `model`.
    """
    found = model(name)
    return found.name if found in models() else str(Path(name).expanduser().resolve())
