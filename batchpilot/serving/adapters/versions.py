"""Which versions of a server an adapter knows: an unknown one is refused by name, not by a failure in mid-service."""

from __future__ import annotations

import re


class UnknownVersionError(RuntimeError):
    """A server's package is of a version that its adapter was not tested with."""


def check_version(package: str, installed: str, lowest: str, below: str) -> None:
    """Refuse a version that the adapter does not know.

    Args:
        package: as its registry calls it.
        installed: its version; suffixes as in "0.33.0+cu130" or "0.33.1rc2" do not matter.
        lowest: the first known one, dotted numbers.
        below: the first that is too new.

    Raises:
        UnknownVersionError: it is below `lowest`, not below `below`, or no version at all.
    """
    numbers = _numbers(installed)
    if not numbers or not _numbers(lowest) <= numbers < _numbers(below):
        raise UnknownVersionError(
            f"{package} is {installed!r}; batchpilot's adapter knows {package} >= {lowest} and < {below}. "
            f'Install one of those (`pip install "{package}>={lowest},<{below}"`), or put the server behind '
            f"`batchpilot gateway`, which depends on no version"
        )


def _numbers(version: str) -> tuple[int, ...]:
    """The leading dotted numbers, empty without any."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()
