"""A file of tenants: who may take how much of a server."""

from __future__ import annotations

from pathlib import Path

from batchpilot.configs.errors import ConfigError
from batchpilot.configs.reading import read_yaml
from batchpilot.core.tenants import TenantTerms, read_terms


def tenants_file(path: Path) -> dict[str, TenantTerms]:
    """Terms by user from a YAML file: `alice: {weight: 2, max_running: 8}`, a line a user.

    Args:
        path: the file.

    Raises:
        ConfigError: not YAML, not of that form, or a value outside its bound; the message names user and file.
        OSError: it cannot be read.
    """
    try:
        return read_terms(read_yaml(path).data, f"file {path}")
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error
