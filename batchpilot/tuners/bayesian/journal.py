"""The journal file of a study: its lock, which ends with the process that holds it, and its mending after a crash."""

from __future__ import annotations

import json
import os
from itertools import takewhile
from pathlib import Path

from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from batchpilot.core.files import write_atomic

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment, unused-ignore]

DAMAGED_SUFFIX = ".damaged"
"""Of the file beside a journal that keeps what was cut off it."""


class SystemLock:
    """The system's lock on the journal itself: a process that is killed lets go of it, so that nobody waits in vain.

    Optuna's own is a link beside the file, which a kill leaves behind; where the journal's path is relative the link
    points nowhere, its age cannot be told, and it is waited for without end.

    Args:
        path: the journal, which exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held = -1

    def acquire(self) -> bool:
        """Wait for the lock.

        Raises:
            OSError: the file system has no locks.
        """
        held = os.open(self._path, os.O_RDWR)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
        except BaseException:
            os.close(held)
            raise
        self._held = held
        return True

    def release(self) -> None:
        """Let go of it."""
        held, self._held = self._held, -1
        os.close(held)


def journal_backend(path: Path) -> JournalFileBackend:
    """A journal to write to, made when missing.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be written.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return JournalFileBackend(str(path), _lock(path))


def mend_journal(path: Path) -> str | None:
    """Cut off what a crash left half-written, from the first damaged line on; it is kept in a file beside.

    Each line of a journal stands on those before it (trials are numbered by their lines), so none after it is of use.

    Args:
        path: the journal.

    Returns:
        What was done, in a sentence; None where the journal is whole or missing.

    Raises:
        OSError: it cannot be read or written.
    """
    if not path.exists():
        return None
    lock = _lock(path.absolute())
    lock.acquire()
    try:
        data = path.read_bytes()
        lines = data.splitlines(keepends=True)
        whole = list(takewhile(_is_whole, lines))
        if len(whole) == len(lines):
            return None
        size = sum(map(len, whole))
        beside = path.with_name(path.name + DAMAGED_SUFFIX)
        write_atomic(beside, (beside.read_bytes() if beside.exists() else b"") + data[size:])
        os.truncate(path, size)
    finally:
        lock.release()
    return (
        f"{path} is damaged from line {len(whole) + 1} on: what stands before is used, "
        f"the other {len(data) - size} bytes are kept in {beside.name}"
    )


def _lock(path: Path) -> SystemLock | JournalFileOpenLock:
    return JournalFileOpenLock(str(path)) if fcntl is None else SystemLock(path)


def _is_whole(line: bytes) -> bool:
    try:
        told = json.loads(line)
    except ValueError:
        return False
    return line.endswith(b"\n") and isinstance(told, dict) and "op_code" in told
