"""Do the servers hold what docs/serving.md says under faults, kills, hostile promises, and at doors that are shut?

    python benchmarks/faults.py --faults 640 --kills 5 --promises 200

Starts `batchpilot serve` (tiny-llama), `batchpilot gateway` before it, and a second gateway before the example's
upstream, all on loopback and on free ports, and ends them. Every fault is a harmless request or half of one; between
them honest requests have to be answered. Bounded: some minutes on two cores. Needs the extras `torch` and `serve`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[1]
TUNER = "/api/scheduler/tuner"
OPERATOR_TPOT_MS = 100.0
START_S, TELL_S = 300.0, 60.0


def head(path: str, *fields: str, method: str = "POST", host: str = "127.0.0.1") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json", *fields, "", ""]
    return "\r\n".join(lines).encode()


def whole(body: bytes, *fields: str) -> bytes:
    return head("/v1/completions", f"Content-Length: {len(body)}", *fields) + body


def asked(model: str, tokens: int = 3, **more: Any) -> bytes:
    return json.dumps({"model": model, "prompt": "hello", "max_tokens": tokens, **more}).encode()


Fault = tuple[tuple[bytes, ...], str]
"""What is sent, and how its client ends: "listens", "half" (closes its own half and listens), "leaves", "resets"."""


def faults(model: str) -> dict[str, Fault]:
    good, long = asked(model), asked(model, 400, stream=True)
    return {
        "half a head": ((b"POST /v1/comp",), "leaves"),
        "a head of 100 kB": ((head("/v1/models", "X: " + "x" * 100_000, method="GET"),), "listens"),
        "endless headers": ((b"GET / HTTP/1.1\r\n", *[b"X: 1\r\n" * 500] * 60), "listens"),
        "no HTTP": ((b"\x16\x03\x01 what is this\r\n\r\n",), "listens"),
        "half a body": ((whole(good)[:-9],), "leaves"),
        "a body of 64 MB, told": ((head("/v1/completions", "Content-Length: 64000000"),), "listens"),
        "a wrong chunk": ((head("/v1/completions", "Transfer-Encoding: chunked") + b"zz\r\nx\r\n",), "listens"),
        "no JSON": ((whole(b'{"model": '),), "listens"),
        "nested JSON": ((whole(b"[" * 50_000),), "listens"),
        "a compressed body": ((whole(good, "Content-Encoding: gzip"),), "listens"),
        "an impossible field": ((whole(asked(model, -1)),), "listens"),
        "a stream left": ((whole(long),), "leaves"),
        "a stream reset": ((whole(long),), "resets"),
        "an answer left": ((whole(asked(model, 400)),), "leaves"),
        "pipelined streams left": ((whole(long) * 3,), "leaves"),
        "a half-closed client": ((whole(good),), "half"),
    }


def inject(url: str, fault: Fault, patience_s: float) -> bytes:
    """Send a fault; what came back."""
    parts, ends = fault
    address = httpx.URL(url)
    said = b""
    with suppress(ConnectionError), socket.create_connection((address.host, address.port), timeout=5.0) as connection:
        for part in parts:
            connection.sendall(part)
        if ends == "half":
            connection.shutdown(socket.SHUT_WR)
        elif ends != "listens":
            connection.settimeout(random.uniform(0.0, patience_s))
            with suppress(TimeoutError):
                said = connection.recv(65536)
        if ends == "resets":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.settimeout(TELL_S)
        while ends in ("listens", "half") and b"HTTP/1.1 " not in said.replace(b"100 Continue", b"", 1)[9:]:
            part = connection.recv(65536)
            said += part
            if not part or (ends == "listens" and b"\r\n\r\n" in said):
                break
    return said


@contextmanager
def command(*arguments: str, **environment: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server of ours as a process of its own: its address and itself, once it listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
    process = subprocess.Popen(
        [sys.executable, *arguments, "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    try:
        give_up = time.monotonic() + START_S
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
                break
            if process.poll() is not None or time.monotonic() > give_up:
                raise SystemExit(f"{' '.join(arguments)} did not start: {process.communicate()[1][-1000:]}")
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.kill()
        process.wait()


def batchpilot(name: str, *options: str) -> Any:
    return command("-m", "batchpilot.runners.main", name, *options)


def honest(url: str, model: str, **more: Any) -> int:
    body = {"model": model, "prompt": "hello", "max_tokens": 3, **more}
    return httpx.post(f"{url}/v1/completions", json=body, timeout=TELL_S, trust_env=False).status_code


def get(url: str, path: str) -> Any:
    return httpx.get(f"{url}{path}", timeout=TELL_S, trust_env=False).json()


def try_faults(serve: str, gateway: str, model: str, count: int) -> dict[str, Any]:
    kinds = list(faults(model).items())
    answered: Counter[int] = Counter()
    half_closed: Counter[bool] = Counter()
    for number in range(count):
        name, fault = kinds[number % len(kinds)]
        said = inject((serve, gateway)[(number // len(kinds)) % 2], fault, 0.2)
        if name == "a half-closed client":
            half_closed[b"HTTP/1.1 200 " in said] += 1
        if number % 5 == 4:
            answered[honest((serve, gateway)[(number // 5) % 2], model)] += 1
    give_up = time.monotonic() + TELL_S
    while time.monotonic() < give_up:
        engine, gate = get(serve, "/api/live")["engine"], get(gateway, "/gateway/status")
        left = engine["running"] + engine["waiting"] + gate["running"] + gate["waiting"]
        if not left:
            break
        time.sleep(0.2)
    return {
        "faults": count,
        "kinds": len(kinds),
        "honest requests between, by status": dict(answered),
        "half-closed clients answered": f"{half_closed[True]} of {half_closed.total()}",
        "requests left": left,
        "KV in use": engine["kv_used_fraction"],
    }


def try_doors(serve: str, gateway: str) -> dict[str, Any]:
    """Doors that are shut, and how many stayed so; a shut one says 401, 403 or 408, or does not start."""
    foreign: tuple[dict[str, str], ...] = (
        {"host": "evil.example"},
        {"host": "127.0.0.1.evil.example"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
    )
    paths = ("/v1/completions", "/v1/models", "/health", "/metrics", "/docs", "/api/live", f"{TUNER}/status", "/x")
    tries: list[tuple[str, Callable[[], bool]]] = []

    def refused(url: str, method: str, path: str, headers: dict[str, str]) -> bool:
        answer = httpx.request(method, f"{url}{path}", json={}, headers=headers, timeout=TELL_S, trust_env=False)
        return answer.status_code in (401, 403)

    for url in (serve, gateway):
        for path in paths:
            for headers in foreign:
                tries.append((f"{path} {headers}", lambda u=url, p=path, h=headers: refused(u, "POST", p, h)))  # type: ignore[misc]
    before = get(serve, f"{TUNER}/config")
    for path in ("config", "reset", "batch-size", "probe", "strategy", "shadow", "policy"):
        for method in ("POST", "DELETE", "PUT"):
            tries.append((path, lambda m=method, p=path: refused(gateway, m, f"{TUNER}/{p}", {})))  # type: ignore[misc]

    def does_not_start(*options: str) -> bool:
        arguments = [sys.executable, "-m", "batchpilot.runners.main", *options]
        ended = subprocess.run(arguments, capture_output=True, text=True, timeout=START_S, check=False)
        return ended.returncode != 0 and "secret" not in ended.stdout + ended.stderr

    tries += [
        ("serve beyond loopback", lambda: does_not_start("serve", "--model", "tiny-llama", "--host", "0.0.0.0")),
        ("gateway beyond loopback", lambda: does_not_start("gateway", "--upstream", serve, "--host", "0.0.0.0")),
        ("a password", lambda: does_not_start("gateway", "--upstream", serve.replace("//", "//me:secret@"))),
    ]
    held = {name: attempt() for name, attempt in tries}
    opened = sorted({name for name, shut in held.items() if not shut})
    return {"doors tried": len(tries), "opened": opened, "tuner unchanged": get(serve, f"{TUNER}/config") == before}


def try_promises(serve: str, model: str, count: int) -> dict[str, Any]:
    """Promises that no one can mean among honest ones, and the highest step target that came of them."""
    told: Counter[int] = Counter()
    highest = 0.0
    for number in range(count):
        hostile: dict[str, Any] = {}
        if number % 4 == 0:
            hostile = {("ttft_ms", "tpot_ms")[number // 4 % 2]: (1e9, 1e-9, 1e300, -1.0, 0.0, 5e-324)[number // 8 % 6]}
        told[honest(serve, model, **hostile)] += 1
        target = get(serve, f"{TUNER}/status")["limits"]["step_target_ms"]
        highest = max(highest, target or 0.0)
    return {"promises": count, "hostile": (count + 3) // 4, "by status": dict(told), "highest step target, ms": highest}


def try_kills(count: int, streams: int = 8) -> dict[str, Any]:
    """Kill an upstream under streams; every client has to be told, and the next upstream served from."""
    told: Counter[str] = Counter()
    example = str(ROOT / "examples" / "gateway_upstream.py")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
    with batchpilot("gateway", "--upstream", f"http://127.0.0.1:{port}", "--limits", "batch_size=64") as (gateway, _):
        for _ in range(count):
            upstream = subprocess.Popen([sys.executable, example, "--port", str(port)], stderr=subprocess.DEVNULL)
            give_up = time.monotonic() + START_S
            while honest(gateway, "steps") != 200 and time.monotonic() < give_up:
                time.sleep(0.2)
            begun = threading.Barrier(streams + 1)

            def stream(begun: threading.Barrier = begun) -> None:
                body = {"model": "steps", "prompt": "x", "max_tokens": 10_000, "stream": True}
                text = ""
                with httpx.stream(
                    "POST", f"{gateway}/v1/completions", json=body, timeout=TELL_S, trust_env=False
                ) as answer:
                    for piece in answer.iter_text():
                        if not text:
                            begun.wait(TELL_S)
                        text += piece
                told["told" if "upstream_broke_off" in text and "[DONE]" not in text else "not told"] += 1

            clients = [threading.Thread(target=stream) for _ in range(streams)]
            for client in clients:
                client.start()
            begun.wait(TELL_S)
            upstream.send_signal(signal.SIGKILL)
            upstream.wait()
            for client in clients:
                client.join(TELL_S)
        gate = get(gateway, "/gateway/status")
    return {"kills": count, "streams": count * streams, **told, "left at the gate": gate["running"] + gate["waiting"]}


def try_windows(count: int) -> dict[str, Any]:
    """Windows and details that no engine could measure, for every tuner that has a name."""
    test = ROOT / "tests" / "tuners" / "test_hostile_windows.py"
    if not test.exists():
        return {"windows each": 0}
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test), "-rN"],
        cwd=ROOT,
        env={**os.environ, "BATCHPILOT_HOSTILE_WINDOWS": str(count)},
        capture_output=True,
        text=True,
        check=False,
    )
    dots = "".join(re.findall(r"^[.Fs]+", ended.stdout, re.MULTILINE))
    return {"windows each": count, "tuners held": dots.count("."), "tuners that did not": dots.count("F")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=640)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--promises", type=int, default=200)
    parser.add_argument("--windows", type=int, default=0, help="a tuner hears so many; 0 leaves them to the tests")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    random.seed(chosen.seed)
    model = "tiny-llama"
    serving = ("--model", model, "--kv-tokens", "8192", "--threads", "1", "--tuner", "model-based")
    promise = ("--ttft-ms", "2000", "--tpot-ms", str(OPERATOR_TPOT_MS))
    with (
        batchpilot("serve", *serving, *promise) as (serve, _),
        batchpilot("gateway", "--upstream", serve, "--limits", "batch_size=64") as (gateway, _),
    ):
        show(try_faults(serve, gateway, model, chosen.faults))
        show(try_doors(serve, gateway))
        show(try_promises(serve, model, chosen.promises))
    show(try_kills(chosen.kills))
    if chosen.windows:
        show(try_windows(chosen.windows))


def show(row: dict[str, Any]) -> None:
    print("; ".join(f"{name}: {value}" for name, value in row.items()), flush=True)


if __name__ == "__main__":
    main()
