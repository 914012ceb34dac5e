"""Limits in the words of servers: what is written is read back, by us and by servers' own parsers where installed."""

import json
import os
import shlex
import subprocess
import sys

import pytest
import yaml
from typer.testing import CliRunner

from batchpilot.core import Limits
from batchpilot.runners.main import app
from batchpilot.runners.pasted import pasted
from batchpilot.serving.formats.flags import SERVERS, named_in
from batchpilot.serving.formats.flags.manifests import MANIFESTS

COMMANDS = {
    "vllm": "HF_HUB_OFFLINE=1 vllm serve Qwen/Qwen3-8B --max-num-seqs 128 --max_num_batched_tokens=4K --port 9000 "
    "--max-model-len auto --enforce-eager",
    "sglang": "python3 -m sglang.launch_server --model-path Qwen/Qwen3-8B --max-running-requests 128 "
    "--chunked-prefill-size 4096 --context-length 8192 --port 9000",
    "tensorrt-llm": "trtllm-serve Qwen/Qwen3-8B --max_batch_size 128 --max_num_tokens 4096 --tp_size 2",
    "llama.cpp": "/opt/llama-server -m q.gguf -np 128 -b 4096 -c 16384 --port 9000",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_line_says_its_limits(name):
    started = SERVERS[name].read(COMMANDS[name])
    assert (started.limits.batch_size, started.limits.token_budget) == (128, 4096)
    assert started.model == ("q.gguf" if name == "llama.cpp" else "Qwen/Qwen3-8B")
    assert started.assumed == ()
    assert named_in(COMMANDS[name]).name == name


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_written_is_read_back(name):
    server, limits = SERVERS[name], Limits(40, 1024)
    command = server.command(server.read(COMMANDS[name]), limits)
    again = server.read(command)
    assert (again.limits.batch_size, again.limits.token_budget) == (40, 1024)
    assert server.command(again, limits) == command
    kept = [
        word for word in shlex.split(COMMANDS[name]) if word.startswith("--") and word[2:6] in ("port", "enfo", "tp_s")
    ]
    assert all(word in command for word in kept)


@pytest.mark.parametrize("name", COMMANDS)
def test_without_flags_the_servers_own_limits_are_assumed(name):
    started = SERVERS[name].read(" ".join(SERVERS[name].program) + " --x 1")
    assert started.limits == SERVERS[name].defaults
    assert started.assumed == ("batch_size", "token_budget")


def test_a_file_of_options_and_a_command_that_names_it(tmp_path):
    path = tmp_path / "vllm.yaml"
    path.write_text("model: a/b\nmax-num-seqs: 64\nmax_num_batched_tokens: 512\nmax-num-queued-tokens: 9000\n")
    vllm = SERVERS["vllm"]
    assert vllm.read_file(path).limits == Limits(64, 512, 9000)
    assert vllm.read_file(path).model == "a/b"
    over = vllm.read("vllm serve --config vllm.yaml --max-num-seqs 32", tmp_path)
    assert over.limits == Limits(32, 512, 9000)


SHARED = {"tensor_parallel": 2, "pipeline_parallel": 4}


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("vllm", "vllm serve m --tensor-parallel-size 2 --pipeline-parallel-size 4"),
        ("vllm", "vllm serve m -tp 2 -pp 4"),
        ("vllm", "vllm serve m --tensor_parallel_size=2 -pp=4"),
        ("sglang", "python -m sglang.launch_server --model-path m --tensor-parallel-size 2 --pipeline-parallel-size 4"),
        ("sglang", "python -m sglang.launch_server --model-path m --tp-size 2 --pp-size 4"),
        ("sglang", "python -m sglang.launch_server --model-path m --tp 2 --pp 4"),
        ("tensorrt-llm", "trtllm-serve m --tp_size 2 --pp_size 4"),
    ],
)
def test_how_devices_share_the_model_is_read_and_stays_in_the_command(name, command):
    server = SERVERS[name]
    started = server.read(command)
    assert started.facts == SHARED
    written = server.command(started, Limits(40, 1024))
    assert all(word in written for word in shlex.split(command))
    assert server.read(written).facts == SHARED


def test_stages_of_a_file_are_read_and_the_command_line_goes_before_it(tmp_path):
    path = tmp_path / "vllm.yaml"
    path.write_text("model: a/b\ntensor-parallel-size: 2\npipeline_parallel_size: 8\n")
    assert SERVERS["vllm"].read_file(path).facts == {"tensor_parallel": 2, "pipeline_parallel": 8}
    assert SERVERS["vllm"].read("vllm serve --config vllm.yaml -pp 4", tmp_path).facts == SHARED
    path.write_text("tp: 2\npp: 8\n")
    started = SERVERS["vllm"].read("vllm serve --config vllm.yaml --pipeline-parallel-size 4", tmp_path)
    assert started.facts == SHARED


@pytest.mark.parametrize(
    ("command", "batch_size"),
    [("-np 4 --parallel 8", 8), ("--parallel 8 -np 4", 4), ("-np 4 --parallel 8 -np 2", 2)],
)
def test_of_several_flags_for_one_limit_the_last_counts(command, batch_size):
    assert SERVERS["llama.cpp"].read(f"llama-server {command}").limits.batch_size == batch_size


@pytest.mark.parametrize("name", SERVERS)
def test_stages_that_are_written_are_read_back(name):
    server, program = SERVERS[name], [*SERVERS[name].program, "m"]
    missing = server.missing(Limits(40, 1024), SHARED)
    assert missing == (list(SHARED) if name == "llama.cpp" else [])
    told = server.read([*program, *server.flags(Limits(40, 1024)), *server.stating(SHARED)])
    assert told.facts == ({} if name == "llama.cpp" else SHARED)
    assert told.limits.batch_size == 40


def test_a_number_of_stages_that_is_none_is_named():
    with pytest.raises(ValueError, match="-pp of vllm is 'two'; expected a whole number"):
        SERVERS["vllm"].read("vllm serve m -pp two")


def test_what_is_pasted_of_a_plan_says_how_devices_share_the_model():
    told = pasted(Limits(64, 512), SHARED)
    stages = "--tensor-parallel-size 2 --pipeline-parallel-size 4"
    assert told["vllm serve"] == f"--max-num-seqs 64 --max-num-batched-tokens 512 {stages}"
    assert told["sglang.launch_server"] == f"--max-running-requests 64 --chunked-prefill-size 512 {stages}"
    assert told["trtllm-serve"] == "--max_batch_size 64 --max_num_tokens 512 --tp_size 2 --pp_size 4"
    assert told["llama-server"].endswith("--batch-size 512   (no flag for tensor_parallel, pipeline_parallel)")
    alone = pasted(Limits(64, 512))
    assert alone["vllm serve"] == "--max-num-seqs 64 --max-num-batched-tokens 512"
    assert not any("tensor" in text or "pp_size" in text for text in alone.values())


def test_suffixes_are_each_servers_own():
    assert SERVERS["vllm"].read("vllm serve m --max-num-batched-tokens 1.5k").limits.token_budget == 1500
    assert SERVERS["vllm"].read("vllm serve m --max-num-batched-tokens 1M").limits.token_budget == 2**20
    sglang = "python -m sglang.launch_server --model-path m --chunked-prefill-size"
    assert SERVERS["sglang"].read(f"{sglang} 1M").limits.token_budget == 10**6
    assert SERVERS["sglang"].read(f"{sglang} 1Ki").limits.token_budget == 1024


@pytest.mark.parametrize(
    ("name", "command", "said"),
    [
        ("vllm", "vllm serve m --max-num-seqs many", "--max-num-seqs of vllm is 'many'"),
        ("vllm", "vllm serve m --max-num-seqs 1.5", "whole number"),
        ("vllm", "vllm serve m --max-num-seqs 0", "batch_size is 0"),
        ("llama.cpp", "llama-server -np 4k", "-np of llama.cpp is '4k'; expected a whole number"),
        ("llama.cpp", "vllm serve m", "no command of llama.cpp"),
    ],
)
def test_a_mistake_is_named(name, command, said):
    with pytest.raises(ValueError, match=r"expected|must be") as error:
        SERVERS[name].read(command)
    assert said in str(error.value)


def test_vllm_gets_a_budget_that_holds_its_batch():
    assert SERVERS["vllm"].options(Limits(64, 32)) == {"max-num-seqs": 32, "max-num-batched-tokens": 32}


def test_limits_without_a_flag_are_named():
    limits = Limits(8, ttft_guard=1.0, max_queued_tokens=5, discipline="fcfs")
    assert SERVERS["vllm"].missing(limits) == ["ttft_guard"]
    assert SERVERS["sglang"].missing(limits) == ["max_queued_tokens", "ttft_guard"]


def arguments_in(patch, kind):
    if kind == "compose":
        service = patch["services"]["worker"]
        return service["entrypoint"] + service["command"]
    if kind == "kubernetes":
        (container,) = patch["spec"]["template"]["spec"]["containers"]
        return container["command"] + container["args"]
    if kind == "llm-d":
        (container,) = patch["decode"]["containers"]
        return ["vllm", "serve", "given-by-the-chart", *container["args"]]
    return ["vllm", "serve", *patch["spec"]["services"]["worker"]["extraPodSpec"]["mainContainer"]["args"]]


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_patch_holds_the_whole_command_with_the_new_limits(kind):
    typed = ["config", "flags", "batch_size=40,token_budget=1024", "--command", COMMANDS["vllm"], "--as", kind]
    result = CliRunner().invoke(app, [*typed, "--name", "worker"])
    assert result.exit_code == 0, result.output
    started = SERVERS["vllm"].read(arguments_in(yaml.safe_load(result.output), kind))
    assert started.limits == Limits(40, 1024)
    assert "--enforce-eager" in started.arguments
    assert ("--port" in started.arguments) == (kind in ("compose", "kubernetes"))
    assert started.model == ("given-by-the-chart" if kind == "llm-d" else "Qwen/Qwen3-8B")


def told(*typed, code=0):
    result = CliRunner().invoke(app, ["config", *typed])
    assert result.exit_code == code, result.output
    return result.output


def test_a_commands_limits_become_a_file_that_limits_reads(tmp_path):
    path = tmp_path / "limits.yaml"
    path.write_text(told("limits", COMMANDS["llama.cpp"]))
    assert "kv_capacity_tokens: 16384" in path.read_text()
    written = shlex.split(told("flags", str(path), "--server", "sglang"))
    assert written == ["--max-running-requests", "128", "--chunked-prefill-size", "4096"]


def test_mistakes_of_the_commands():
    assert "needs --command" in told("flags", "batch_size=4", "--as", "compose", code=1)
    assert "starts no server that is known" in told("limits", "uvicorn app:app", code=1)
    other = ("--command", COMMANDS["llama.cpp"], "--as", "llm-d")
    assert "starts vLLM, not llama.cpp" in told("flags", "batch_size=4", *other, code=1)


def test_a_file_of_tensorrt_llm_goes_before_its_flags(tmp_path):
    (tmp_path / "options.yaml").write_text("max_batch_size: 16\nkv_cache_config: {free_gpu_memory_fraction: 0.8}\n")
    server = SERVERS["tensorrt-llm"]
    command = "trtllm-serve a/b --config options.yaml --max_batch_size 64 --max_num_tokens 512"
    started = server.read(command, tmp_path)
    assert (started.limits.batch_size, started.limits.token_budget) == (16, 512)
    for write in (server.command, lambda *given: MANIFESTS["dynamo"]("worker", server, *given)):
        with pytest.raises(ValueError, match="states max_batch_size, and in tensorrt-llm that goes before"):
            write(started, Limits(40, 1024))


def test_the_subcommand_of_tensorrt_llm_is_no_model():
    started = SERVERS["tensorrt-llm"].read("trtllm-serve serve a/b --max_batch_size 64")
    assert (started.model, started.limits.batch_size) == ("a/b", 64)
    assert SERVERS["tensorrt-llm"].command(started, Limits(40, 1024))[:3] == ["trtllm-serve", "serve", "a/b"]


PARSERS = {
    "llama.cpp": (
        "BATCHPILOT_LLAMA_CPP_PYTHON",
        # Its wheel has the parser but no Python function for it. The parameters begin behind the object's head.
        "import ctypes, glob, sys, xllamacpp\n"
        "library = ctypes.CDLL(glob.glob(xllamacpp.__path__[0] + '/*.so')[0])\n"
        "parse = library._Z19common_params_parseiPPcR13common_params13llama_examplePFviS0_E\n"
        "parse.restype = ctypes.c_bool\n"
        "words = ['llama-server', '-m', 'm.gguf', '--port', '9', *sys.argv[1:]]\n"
        "given = (ctypes.c_char_p * (len(words) + 1))(*[word.encode() for word in words], None)\n"
        "for program in range(20):\n"
        "    told = xllamacpp.CommonParams()\n"
        "    if parse(len(words), given, ctypes.c_void_p(id(told) + 16), program, None): break\n"
        "print(told.n_parallel, told.n_batch)",
    ),
    "vllm": (
        "BATCHPILOT_VLLM_PYTHON",
        "import sys\n"
        "from vllm.engine.arg_utils import AsyncEngineArgs\n"
        "from vllm.utils.argparse_utils import FlexibleArgumentParser\n"
        "told = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser()).parse_args(sys.argv[1:])\n"
        "print(told.max_num_seqs, told.max_num_batched_tokens)",
    ),
    "sglang": (
        "BATCHPILOT_SGLANG_PYTHON",
        "import argparse, sys\n"
        "from sglang.srt.server_args import ServerArgs\n"
        "parser = argparse.ArgumentParser(); ServerArgs.add_cli_args(parser)\n"
        "told = parser.parse_args(['--model-path', 'm', *sys.argv[1:]])\n"
        "print(told.max_running_requests, told.chunked_prefill_size)",
    ),
}


@pytest.mark.parametrize("name", PARSERS)
def test_the_servers_own_parser_reads_the_flags(name):
    variable, code = PARSERS[name]
    python = os.environ.get(variable) or sys.executable
    flags = SERVERS[name].flags(Limits(40, 1024))
    found = subprocess.run([python, "-c", code, *flags], capture_output=True, text=True, timeout=300, check=False)
    if found.returncode and "No module named" in found.stderr:
        pytest.skip(f"{name} is not installed; {variable} may name a Python that has it")
    assert found.stdout.split()[-2:] == ["40", "1024"], found.stderr


SCHEMAS = {"compose": "BATCHPILOT_COMPOSE_SCHEMA", "llm-d": "BATCHPILOT_LLM_D_SCHEMA"}
"""Variables that name the file compose-spec.json, and values.schema.json of the chart llm-d-modelservice."""


@pytest.mark.parametrize("kind", SCHEMAS)
@pytest.mark.filterwarnings("ignore:The metaschema:DeprecationWarning")  # the chart's is one that jsonschema lacks
def test_a_patch_is_what_the_published_schema_asks_for(kind):
    jsonschema = pytest.importorskip("jsonschema")
    if SCHEMAS[kind] not in os.environ:
        pytest.skip(f"{SCHEMAS[kind]} names no schema")
    with open(os.environ[SCHEMAS[kind]]) as file:  # noqa: PTH123
        schema = json.load(file)
    server = SERVERS["vllm"]
    patch = MANIFESTS[kind]("worker", server, server.read(COMMANDS["vllm"]), Limits(40, 1024))
    validator = jsonschema.validators.validator_for(schema)(schema)
    assert [error.message for error in validator.iter_errors(patch)] == []
