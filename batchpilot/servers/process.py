"""A server's process: started in a group of its own, waited for, and stopped with everything that it started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

POLL_S = 0.1
_ASKED_FOR_S = 5.0
_LAST_LINES = 3


class StartError(Exception):
    """A server that did not come up; the message says how, with the last that it said."""


@contextmanager
def running(
    words: Sequence[str], port: int, health: Sequence[str], log: Path, *, start_s: float, stop_s: float = 20.0
) -> Iterator[str]:
    """A server for the time of a block.

    Args:
        words: its command line.
        port: where it will listen.
        health: paths that answer 200 once it serves.
        log: file that keeps what it says.
        start_s: how long it may take to serve.
        stop_s: how long it may take to end after SIGTERM, before it is killed.

    Yields:
        Its address.

    Raises:
        StartError: it cannot be started, ends before it serves, or is not ready in time.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as said:
        try:
            process = subprocess.Popen(
                list(words), stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as error:
            raise StartError(f"{words[0]}: {error.strerror or error}") from None
        try:
            _wait(process, port, health, log, start_s)
            yield f"http://127.0.0.1:{port}"
        finally:
            _stop(process, stop_s)


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def last_lines(log: Path) -> str:
    """The last that a server said, on one line.

    Args:
        log: its log.
    """
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " / ".join(lines[-_LAST_LINES:])[-600:] or "it said nothing"


def _wait(process: subprocess.Popen[bytes], port: int, health: Sequence[str], log: Path, start_s: float) -> None:
    until = time.monotonic() + start_s
    while not _healthy(port, health):
        status = process.poll()
        if status is not None:
            how = f"by signal {-status}" if status < 0 else f"with status {status}"
            raise StartError(f"ended {how} before it served: {last_lines(log)}")
        if time.monotonic() > until:
            raise StartError(f"not ready after {start_s:g} s: {last_lines(log)}")
        time.sleep(POLL_S)


def _healthy(port: int, health: Sequence[str]) -> bool:
    for path in health:
        connection = HTTPConnection("127.0.0.1", port, timeout=_ASKED_FOR_S)
        try:
            connection.request("GET", path)
            status = connection.getresponse().status
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()
        if status != 404:
            return status == 200
    return False


def _stop(process: subprocess.Popen[bytes], stop_s: float) -> None:
    """End the process and everything in its group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(stop_s)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
