"""A face of the step model over measured operators that the extra `devices` brings."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from batchpilot.core.extras import needing
from batchpilot.core.files import json_text
from batchpilot.core.names import lookup
from batchpilot.latency.measured.grid import Step

SYSTEMS: dict[str, str] = {
    "A100-80GB": "a100_sxm",
    "H100-80GB": "h100_sxm",
    "H200": "h200_sxm",
    "B200": "b200_sxm",
    "B300": "b300_sxm",
    "GB200": "gb200",
    "GB300": "gb300",
    "L40S": "l40s",
    "RTX-PRO-6000": "rtx_pro_6000_server",
    "Arc-Pro-B60": "b60",
}
"""Devices with measured operators, and what the source calls them."""

ENGINES: dict[str, str] = {"vllm": "vllm", "sglang": "sglang", "trtllm": "trtllm"}
"""Engines with measured operators, in the order in which they are looked for."""

PACKAGE = "aiconfigurator-core"

_WEIGHTS = {"fp16": "bfloat16", "fp8": "fp8", "int8": "int8", "int4": "int4", "nvfp4": "nvfp4"}
_CACHES = {"fp16": "bfloat16", "fp8": "fp8"}


class NotMeasuredError(ValueError):
    """A deployment, or a step, lies outside what was measured; the message says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What runs where.

    Attributes:
        device: catalogue name, one of `SYSTEMS`.
        model: what the source knows the model by: a repository's name, or a folder with its `config.json`.
        engine: one of `ENGINES`.
        tensor_parallel: devices that share each layer.
        expert_parallel: groups that these form for the experts; 1 splits every expert over all of them.
        pipeline_parallel: stages.
        dtype: type of the weights; None for the published one.
        kv_dtype: type of the KV cache.
        experts: whether the model is a mixture.
        published_fp8: whether the published type is FP8, which is scaled by blocks.
    """

    device: str
    model: str
    engine: str = "vllm"
    tensor_parallel: int = 1
    expert_parallel: int = 1
    pipeline_parallel: int = 1
    dtype: str | None = None
    kv_dtype: str = "fp16"
    experts: bool = False
    published_fp8: bool = False

    def __post_init__(self) -> None:
        lookup(SYSTEMS, self.device, "measured device")
        lookup(ENGINES, self.engine, "engine")
        if self.tensor_parallel % self.expert_parallel:
            raise ValueError(
                f"expert_parallel {self.expert_parallel} does not divide tensor_parallel {self.tensor_parallel}"
            )


class MeasuredOperators:
    """Step times of one deployment.

    Args:
        deployment: what runs where.

    Raises:
        MissingExtraError: the package is not installed.
        NotMeasuredError: it has no measurements for this deployment; the message says what is missing.
    """

    def __init__(self, deployment: Deployment) -> None:
        with needing("a catalogue of measured devices", "devices"):
            from aiconfigurator_core.sdk import errors
            from aiconfigurator_core.sdk.rust_engine_step import RustForwardPassPerfModel
        logging.getLogger("aiconfigurator_core").setLevel(logging.ERROR)
        self.deployment = deployment
        self._missing = (
            errors.PerfDataNotAvailableError,
            errors.InterpolationDataNotAvailableError,
            errors.EmpiricalNotImplementedError,
            errors.SolNotImplementedError,
        )
        told = ""
        for question in _questions(deployment):
            try:
                self._model = RustForwardPassPerfModel.from_native(question)
                self.step_ms(Step("decode", decoding=1, decode_context=128))
                self.step_ms(Step("prefill", 1, 128))
            except (ValueError, RuntimeError) as error:  # which of them says "unknown" depends on what is unknown
                told = told or str(error)[:200]
            else:
                return
        raise NotMeasuredError(f"no measurements for {deployment}: {told}")

    def step_ms(self, step: Step) -> float:
        """Time of a step, in ms.

        Args:
            step: what it computes.

        Raises:
            NotMeasuredError: the step lies beyond the table of an operator.
        """
        scheduled = {
            "num_prefill_requests": step.prompts,
            "sum_prefill_tokens": step.prompt_tokens,
            "var_prefill_length": 0.0,
            "sum_prefill_kv_tokens": step.prompt_context,
            "num_decode_requests": step.decoding,
            "sum_decode_kv_tokens": step.decode_context,
            "var_decode_kv_tokens": 0.0,
        }
        try:
            return float(self._model.estimate_forward_pass_time_ms({"scheduled_requests": scheduled}))
        except self._missing as error:
            raise NotMeasuredError(str(error)[:200]) from None


def package_version() -> str:
    """Version of the package that the measurements come with."""
    return version(PACKAGE)


_SAME_STEPS = {"MistralForCausalLM": "LlamaForCausalLM", "MiMoForCausalLM": "Qwen2ForCausalLM"}
"""Architectures that the source does not know, and the known one whose layers take the same steps."""


def write_facts(config: Mapping[str, Any], folder: str) -> str:
    """Write a configuration for a model that the source knows only by its facts.

    Args:
        config: content of the `config.json`.
        folder: where it is written.
    """
    named = [_SAME_STEPS.get(name, name) for name in config.get("architectures") or ()]
    (Path(folder) / "config.json").write_text(json_text({**config, "architectures": named}))
    return folder


def _questions(deployment: Deployment) -> list[dict[str, Any]]:
    """How to ask for a deployment, the best way first.

    Published checkpoints in FP8 scale by blocks. Under vLLM the products of that kind were measured with their launch
    from the host (0.06 ms a product on H200, 0.18 on B200, 0.3 on GB200, whatever its size), which CUDA graphs take
    away; those scaled by tensors, of the same bytes and arithmetic, were not. Experts scaled by blocks were measured
    without it, and are asked by tensors only where there is no table by blocks.
    """
    question = _question(deployment)
    if deployment.dtype not in (None, "fp8") or not (deployment.published_fp8 or deployment.dtype == "fp8"):
        return [question]
    by_tensor = question | {"weight_dtype": "fp8"}
    if deployment.experts:
        ways = [by_tensor | {"moe_dtype": "fp8_block"}, by_tensor | {"moe_dtype": "fp8"}]
    else:
        ways = [by_tensor]
    as_published = [question] if deployment.dtype is None and deployment.engine != "vllm" else []
    return as_published + ways


def _question(deployment: Deployment) -> dict[str, Any]:
    question: dict[str, Any] = {
        "schema_version": 1,
        "model_name": deployment.model,
        "system_name": SYSTEMS[deployment.device],
        "backend": deployment.engine,
        "tp_size": deployment.tensor_parallel,
        "pp_size": deployment.pipeline_parallel,
        "kv_cache_dtype": lookup(_CACHES, deployment.kv_dtype, "measured type of the KV cache"),
    }
    if deployment.kv_dtype == "fp16":
        question["activation_dtype"] = "bfloat16"
    if deployment.experts:
        question["moe_tp_size"] = deployment.tensor_parallel // deployment.expert_parallel
        question["moe_ep_size"] = deployment.expert_parallel
    if deployment.dtype is not None:
        question["weight_dtype"] = lookup(_WEIGHTS, deployment.dtype, "measured type of the weights")
        if deployment.experts:
            question["moe_dtype"] = question["weight_dtype"]
    return question
