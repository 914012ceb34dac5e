"""`batchpilot serve` in a process of its own, for as long as a load test needs it."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

START_S = 180.0
"""A server may take so long to load its model and compile what it needs."""

_STOP_S = 30.0
_LAST_WORDS = 2000


@contextmanager
def own_server(options: Sequence[str]) -> Iterator[str]:
    """A reference server's address, from its first readiness on; it is ended afterwards.

    Args:
        options: of `batchpilot serve`, but for host and port.

    Raises:
        ValueError: it did not get ready; the message holds what it said last.
    """
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
    command = [sys.executable, "-m", "batchpilot.runners.main", "serve", "--port", str(port), "--grace", "1", *options]
    with tempfile.TemporaryFile() as said:
        # In a session of its own, so that Ctrl-C stops the load and not the server under it.
        process = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)
        try:
            if not _ready(process, f"http://127.0.0.1:{port}/ready"):
                said.seek(0)
                told = said.read().decode(errors="replace").strip()[-_LAST_WORDS:]
                raise ValueError(f"the server did not get ready; batchpilot serve {' '.join(options)} said: {told}")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _ready(process: subprocess.Popen[bytes], url: str) -> bool:
    give_up = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < give_up:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return int(answer.status) == 200
        except urllib.error.URLError:
            time.sleep(0.1)
    return False
