"""The same overload from a peer's load generator, `vllm bench serve --goodput`: vLLM alone and behind the gateway.

    python benchmarks/real/bench_serve.py --out reports/real [--tuners guarded-adaptive] [--repeats 3]

It counts requests a second that kept both promises. Runs are added to `bench_serve.jsonl`; each has prompts of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from build import ROOT
from loads import CAPACITY_PER_S, PROMISE
from servers import SERVED, gateway, model_for_vllm, version_of, vllm

from batchpilot.core.provenance import provenance

PROMPT_TOKENS, OUTPUT_TOKENS = 110, 47
"""As the means of `loads.py`; the generator draws lengths evenly from half to one and a half times that."""


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, default=ROOT / ".real", help="what build.py made")
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "real")
    parser.add_argument("--tuners", nargs="*", default=["guarded-adaptive"], help="of the gateway")
    parser.add_argument("--load", type=float, default=2.0, help="multiple of the capacity")
    parser.add_argument("--seconds", type=float, default=45.0)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    real, logs = asked.real.resolve(), asked.out.resolve() / "logs"
    rate = asked.load * CAPACITY_PER_S["vllm"]
    with vllm(real, logs / "vllm.log") as address:
        version = version_of("vllm", address)
        bench(real, address, rate / 4, 20.0, 0)  # what is compiled on first use is compiled now
        for repeat in range(asked.repeats):
            for tuner in ("", *asked.tuners):
                with ExitStack() as stack:
                    front = stack.enter_context(gateway(address, tuner, logs / "gateway.log")) if tuner else address
                    seed = time.time_ns() % 2**31
                    told = bench(real, front, rate, asked.seconds, seed)
                told |= {"tuner": tuner, "rate": rate, "version": version, "load_average": os.getloadavg()[0]}
                told |= {"repeat": repeat, "measured": provenance(seed, {})}
                with (asked.out / "bench_serve.jsonl").open("a") as runs:
                    runs.write(json.dumps(told, default=str) + "\n")
                print(
                    f"{tuner or 'alone'}: {told['request_goodput']:.2f} of {rate:g} requests/s kept both promises,"
                    f" {told['completed']} of {told['num_prompts']} were served",
                    flush=True,
                )


def bench(real: Path, address: str, rate: float, seconds: float, seed: int) -> dict[str, Any]:
    """One run of the generator, and what it says."""
    folder, _ = model_for_vllm()
    with tempfile.TemporaryDirectory() as place:
        options = {
            "backend": "openai",
            "base-url": address,
            "model": SERVED,
            "tokenizer": str(real / folder),
            "dataset-name": "random",
            "random-input-len": PROMPT_TOKENS,
            "random-output-len": OUTPUT_TOKENS,
            "random-range-ratio": 0.5,
            "num-prompts": round(rate * seconds),
            "request-rate": rate,
            "seed": seed,
            "result-dir": place,
            "result-filename": "result.json",
        }
        words = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        goodput = ["--goodput", f"ttft:{PROMISE.ttft_ms:g}", f"tpot:{PROMISE.tpot_ms:g}"]
        command = [str(real / "vllm" / "bin" / "vllm"), "bench", "serve", *words, *goodput]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
        subprocess.run([*command, "--ignore-eos", "--save-result"], env=environment, check=True, capture_output=True)
        told = json.loads((Path(place) / "result.json").read_text())
    return {key: value for key, value in told.items() if not isinstance(value, list)}


if __name__ == "__main__":
    main()
