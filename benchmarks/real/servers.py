"""Starts and stops the real servers and the gateway, each in a process group of its own with its log in a file."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from build import LLAMA_CPP, ROOT, SHALLOW_GGUF, SHALLOW_LAYERS, python_of
from loads import PROMISE

START_S = 900.0
"""vLLM compiles its model at each start: two to four minutes on two cores that are free."""

SERVED = "smol"
LLAMA_SLOTS, LLAMA_CONTEXT = 128, 32768
"""As vLLM's defaults: 128 requests at once; a cache that fewer than all of them fill."""


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def running(command: list[str], url: str, log: Path, environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """A server from its first 200 on until it has ended.

    Raises:
        RuntimeError: it ended or did not answer in time; the message has the end of its log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, **(environment or {})}, start_new_session=True
        )
    try:
        until = time.monotonic() + START_S
        while not answers(url):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{command[:3]} does not answer at {url}; its log ends: {log.read_text()[-2000:]}")
            time.sleep(0.5)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def model_for_vllm() -> tuple[str, str]:
    """Which folder of `build.py` this processor can serve at a pace worth measuring, and how that is called.

    Without arithmetic in bfloat16 a token of the whole model takes 30 to 75 ms here: its first layers in float32 are
    served instead. What they say is no English, but who waits for what is the same.
    """
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if "avx512_bf16" in flags or "amx_bf16" in flags:
        return "smollm2", "SmolLM2-135M, bfloat16"
    return "smollm2-shallow", f"{SHALLOW_LAYERS} of 30 layers of SmolLM2-135M, float32, eager"


def answers(url: str) -> bool:
    """Whether there is a server that answers with 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def vllm(real: Path, log: Path, measured: Path | None = None, flags: str = "") -> Iterator[str]:
    """The address of vLLM: as it ships, or with the adapter, which does what a file says (`recording_scheduler.py`).

    Args:
        real: what `build.py` made.
        log: its log.
        measured: the adapter's file of settings, None for no adapter.
        flags: further ones of `vllm serve`.
    """
    port = free_port()
    folder, _ = model_for_vllm()
    command = [str(real / "vllm" / "bin" / "vllm"), "serve", str(real / folder)]
    command += ["--dtype", "bfloat16"] if folder == "smollm2" else ["--dtype", "float32", "--enforce-eager"]
    if measured is not None:
        command += ["--scheduler-cls", "recording_scheduler.RecordingScheduler"]
    options = f"--served-model-name {SERVED} --host 127.0.0.1 --port {port} --max-model-len 2048"
    environment = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "NUMBA_CACHE_DIR": str(real / "kernels"),  # other versions than those beside the sources
        "PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{ROOT}",  # this revision, wherever the build is from
        "PATH": f"{real / 'vllm' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "BATCHPILOT_MEASURED": str(measured),
    }
    with running([*command, *options.split(), *flags.split()], f"http://127.0.0.1:{port}/health", log, environment):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def llama_cpp(real: Path, log: Path) -> Iterator[str]:
    """The address of llama.cpp's server."""
    port = free_port()
    script = Path(__file__).with_name("llama_cpp_server.py")
    command = [str(python_of(real / "llama.cpp")), str(script), str(real / SHALLOW_GGUF), str(port)]
    sizes = [str(LLAMA_SLOTS), str(LLAMA_CONTEXT)]
    with running([*command, *sizes], f"http://127.0.0.1:{port}/health", log):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def gateway(upstream: str, tuner: str, log: Path) -> Iterator[str]:
    """The address of a gateway before a server."""
    port = free_port()
    command = [sys.executable, "-m", "batchpilot.runners.main", "gateway", "--upstream", upstream, "--tuner", tuner]
    promise = f"--track guarded --ttft-ms {PROMISE.ttft_ms:g} --tpot-ms {PROMISE.tpot_ms:g} --port {port}"
    with running([*command, *promise.split()], f"http://127.0.0.1:{port}/gateway/status", log):
        yield f"http://127.0.0.1:{port}"


def told_by(address: str) -> Any:
    """What a server says at an address, JSON."""
    with urllib.request.urlopen(address, timeout=10) as answer:
        return json.load(answer)


def model_of(server: str) -> str:
    """What a server serves."""
    return f"{SHALLOW_LAYERS} of 30 layers of SmolLM2-135M, Q4_1" if server == "llama.cpp" else model_for_vllm()[1]


def version_of(server: str, address: str) -> str:
    """The version of a server that runs; llama.cpp's is that of the wheel, which says itself by a build number."""
    return LLAMA_CPP if server == "llama.cpp" else str(told_by(f"{address}/version")["version"])
