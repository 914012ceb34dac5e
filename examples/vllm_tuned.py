"""vLLM with a tuner: `python examples/vllm_tuned.py MODEL TUNER [options of vllm serve]`.

TUNER is a name, as `guarded-adaptive`, or a policy file, as `policy.onnx`. Needs a vLLM that the adapter knows (extra
`vllm`), which is looked at before minutes of loading. `--max-num-seqs` and `--max-num-batched-tokens` are ceilings for
the tuner: give generous ones.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from batchpilot.serving.adapters.versions import check_installed

SCHEDULER = "batchpilot.serving.adapters.vllm_scheduler.TunedScheduler"


def command(model: str, tuner: str, *options: str, ttft_ms: float = 1000.0, tpot_ms: float = 60.0) -> list[str]:
    """How vLLM is started; the promise is to requests that name no SLO class."""
    settings: dict[str, object] = {"tuner": tuner, "ttft_ms": ttft_ms, "tpot_ms": tpot_ms}
    if tuner.endswith(".onnx"):  # the engine core process may run in another folder
        settings |= {"tuner": "policy", "options": {"path": str(Path(tuner).resolve())}}
    additional = json.dumps({"batchpilot": settings})
    tuned = ["--scheduler-cls", SCHEDULER, "--additional-config", additional]
    return ["vllm", "serve", model, "--host", "127.0.0.1", *tuned, *options]


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    for unknown in filter(None, check_installed(["vllm"]).values()):
        sys.exit(unknown)
    os.execvp("vllm", command(*sys.argv[1:]))
