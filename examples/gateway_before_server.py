"""The gateway in front of the reference server, and the `openai` client in front of both.

    python examples/gateway_before_server.py

Starts these two and then streams, is refused with a reason, and leaves early. Needs the extras torch and serve, and the
package openai.

    batchpilot serve --model tiny-llama --port 8000
    batchpilot gateway --upstream http://127.0.0.1:8000 --limits batch_size=1,max_queued_tokens=1 --port 8001
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai


@contextmanager
def command(*words: str, ready: str) -> Iterator[str]:
    """A batchpilot server of its own; its address, once a path there answers."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "batchpilot.runners.main", *words, "--port", str(port)])
    address = f"http://127.0.0.1:{port}"
    try:
        while process.poll() is None:
            try:
                urllib.request.urlopen(address + ready, timeout=5).read()
                break
            except OSError:
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def status_when_running(gateway: str, requests: int) -> dict[str, Any]:
    """The gateway's status, once so many requests run at the server behind it."""
    while True:
        status: dict[str, Any] = json.load(urllib.request.urlopen(f"{gateway}/gateway/status"))
        if status["upstream_running"] == requests:
            return status
        time.sleep(0.05)


def main() -> None:
    """Stream, be refused, leave."""
    with (
        command("serve", "--model", "tiny-llama", ready="/ready") as server,
        command(
            *("gateway", "--upstream", server, "--limits", "batch_size=1,max_queued_tokens=1", "--poll-s", "0.1"),
            ready="/v1/models",
        ) as gateway,
        openai.OpenAI(base_url=f"{gateway}/v1", api_key="none") as client,
    ):
        model = client.models.list().data[0].id
        asked = {"model": model, "messages": [{"role": "user", "content": "Tell me a story."}]}
        pieces = list(client.chat.completions.create(**asked, max_tokens=8, stream=True))
        print(f"streamed in {len(pieces)} pieces")
        story = client.chat.completions.create(**asked, max_tokens=1900, stream=True)
        next(iter(story))
        status_when_running(gateway, 1)
        try:
            client.with_options(max_retries=0).chat.completions.create(**asked, max_tokens=8)
        except openai.APIStatusError as refused:
            print(f"refused with {refused.status_code}: {refused.body['message']}")
        story.close()
        status = status_when_running(gateway, 0)
        print(f"left: nothing runs at the {status['upstream_server']} server; requests ended as {status['ended']}")


if __name__ == "__main__":
    main()
