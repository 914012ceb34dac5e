"""vLLM's engine on random weights, with its own scheduler or the adapter's; a part of `gpu_check.py`.

    python benchmarks/gpu_check_vllm.py own|batchpilot llama-3-8b

Prints one line of JSON: tokens a second, requests, and how long it took.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time

import numpy as np

REQUESTS, PROMPT, OUTPUT = 128, 256, 64
PROMISE = {"ttft_ms": 60_000.0, "tpot_ms": 1000.0}
"""Kept by any GPU: what is compared is the work of a step, not whom it refuses."""


def main(scheduler: str, model: str) -> None:
    """Serve the same prompts at once, and say how fast."""
    from transformers import AutoConfig
    from vllm import LLM, SamplingParams

    from batchpilot.engines.torch.model import PRESETS

    preset = dict(PRESETS[model])
    config = AutoConfig.for_model(preset.pop("model_type"), **preset)
    config.architectures = ["LlamaForCausalLM"]
    ours = {
        "scheduler_cls": "batchpilot.serving.adapters.vllm_scheduler.TunedScheduler",
        "additional_config": {"batchpilot": {"tuner": "guarded-default", **PROMISE}},
    }
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        engine = LLM(
            folder, load_format="dummy", skip_tokenizer_init=True, max_model_len=2048, seed=0,
            **(ours if scheduler == "batchpilot" else {}),
        )  # fmt: skip
        rng = np.random.default_rng(0)
        prompts = [{"prompt_token_ids": rng.integers(10, 1000, PROMPT).tolist()} for _ in range(REQUESTS)]
        asked = SamplingParams(max_tokens=OUTPUT, ignore_eos=True, temperature=0.0, detokenize=False)
        engine.generate(prompts[:8], asked, use_tqdm=False)
        started = time.perf_counter()
        answers = engine.generate(prompts, asked, use_tqdm=False)
        seconds = time.perf_counter() - started
    tokens = sum(len(answer.outputs[0].token_ids) for answer in answers)
    print(json.dumps({"tokens_per_s": tokens / seconds, "requests": len(answers), "seconds": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
