"""Servers as processes: started with limits, waited for, stopped with all that they started; real HTTP."""

import json
import os
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from batchpilot.core import Limits
from batchpilot.servers import KINDS, StartError, running
from batchpilot.servers.process import free_port

SLOTTED = Path(__file__).parents[1] / "helpers/slotted_server.py"
HEALTH = ("/health", "/v1/models")


def words(port, *more, slots=4):
    return [sys.executable, str(SLOTTED), "--port", str(port), "--slots", str(slots), *more]


def gone(pid):
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_server_is_there_for_the_time_of_a_block_and_nothing_of_it_after(tmp_path):
    port, child = free_port(), tmp_path / "child"
    with running(words(port, "--child", str(child)), port, HEALTH, tmp_path / "log", start_s=20) as address:
        assert json.load(urlopen(f"{address}/v1/models"))["data"][0]["id"] == "slotted"
        started = int(child.read_text())
        os.kill(started, 0)
    assert gone(started)
    with pytest.raises(URLError):
        urlopen(f"{address}/v1/models")
    assert "starting with 4 slots" in (tmp_path / "log").read_text()


def test_a_server_is_stopped_when_the_block_raises(tmp_path):
    port = free_port()
    with pytest.raises(RuntimeError, match="ours"), running(words(port), port, HEALTH, tmp_path / "log", start_s=20):
        raise RuntimeError("ours")
    with pytest.raises(URLError):
        urlopen(f"http://127.0.0.1:{port}/v1/models")


@pytest.mark.parametrize(
    ("more", "start_s", "said"),
    [
        (("--most-slots", "3"), 20.0, "ended with status 1 before it served.*out of memory: 4 slots"),
        (("--silent",), 0.5, "not ready after 0.5 s: starting with 4 slots"),
        (("--unknown",), 20.0, "ended with status 2.*unrecognized arguments: --unknown"),
    ],
)
def test_a_server_that_does_not_come_up_says_why(more, start_s, said, tmp_path):
    port = free_port()
    with (
        pytest.raises(StartError, match=said),
        running(words(port, *more), port, HEALTH, tmp_path / "log", start_s=start_s),
    ):
        pytest.fail("it cannot be there")


def test_a_program_that_is_not_there_is_named(tmp_path):
    with (
        pytest.raises(StartError, match="no-such-server: No such file"),
        running(["no-such-server"], 1, HEALTH, tmp_path / "log", start_s=1),
    ):
        pytest.fail("it cannot be there")


COMMANDS = {
    "vllm": (
        ["serve", "m", "--port", "1", "--max-model-len", "2048", "--max-num-seqs", "64"],
        "vllm serve m --max-model-len 2048 --max-num-seqs 8 --max-num-batched-tokens 512 --host 127.0.0.1 --port 7",
    ),
    "sglang": (
        ["--model-path", "m"],
        "python3 -m sglang.launch_server --model-path m --max-running-requests 8 --chunked-prefill-size 512 "
        "--host 127.0.0.1 --port 7",
    ),
    "llama.cpp": (
        ["/opt/llama-server", "-m", "q.gguf", "-np", "2", "--host=0.0.0.0"],
        "/opt/llama-server -m q.gguf --parallel 8 --batch-size 512 --host 127.0.0.1 --port 7",
    ),
    "custom": (["my-server", "-p{port}", "{batch_size}x{token_budget}"], "my-server -p7 8x512"),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_setting_becomes_the_servers_command(name):
    typed, expected = COMMANDS[name]
    kind = KINDS[name](typed)
    assert " ".join(kind.words(Limits(8, 512), 7)) == expected
    assert kind.movable == ("batch_size", "token_budget")


def test_a_vllm_that_takes_a_bound_on_queued_tokens_is_told_others():
    kind = KINDS["vllm"](["vllm", "serve", "m", "--max-num-queued-tokens", "9000"])
    assert kind.movable == ("batch_size", "token_budget", "max_queued_tokens")
    assert "--max-num-queued-tokens 77" in " ".join(kind.words(Limits(8, 512, 77), 7))


@pytest.mark.parametrize(
    ("name", "typed", "said"),
    [
        ("vllm", [], "needs the server's command line after --"),
        ("custom", ["a", "{port}"], "needs {port} and a limit"),
        ("custom", ["a", "{batch_size}"], "needs {port} and a limit"),
        ("custom", ["a", "{port}", "{batchsize}"], "did you mean 'batch_size'"),
        ("vllm", ["serve", "m", "--max-num-seqs", "x"], "--max-num-seqs of vllm is 'x'"),
    ],
)
def test_a_command_that_cannot_be_told_limits_is_refused(name, typed, said):
    with pytest.raises(ValueError, match=r"need|place|expected") as error:
        KINDS[name](typed)
    assert said in str(error.value)
