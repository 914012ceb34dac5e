"""Limits as servers read them: a file for batchpilot's own server, one for vLLM, and vLLM's flags."""

from __future__ import annotations

from typing import Any

import yaml

from batchpilot.core.limits import Limits

VLLM_FLAGS = {
    "batch_size": "max-num-seqs",
    "token_budget": "max-num-batched-tokens",
    "max_queued_tokens": "max-num-queued-tokens",
}
"""What vLLM 0.33 calls the limits that it has."""


def limits_yaml(limits: Limits, remarks: list[str]) -> str:
    """A file for `--limits` of `serve`, `gateway`, `simulate` and `load`.

    Args:
        limits: what was found.
        remarks: comments on top, one a line.
    """
    readers = "Limits: --limits of batchpilot serve, gateway, simulate and load reads this file."
    return _commented([readers, *remarks]) + yaml.safe_dump({"limits": _given(limits)}, sort_keys=False)


def vllm_yaml(limits: Limits, remarks: list[str]) -> str:
    """A file for `vllm serve --config`.

    Args:
        limits: what was found.
        remarks: comments on top, one a line.
    """
    missing = without_flag(limits)
    if missing:
        remarks = [*remarks, f"vLLM has no flag for {', '.join(missing)}: without them the figures above do not hold"]
    return _commented(remarks) + yaml.safe_dump(vllm_options(limits), sort_keys=False)


def vllm_options(limits: Limits) -> dict[str, int]:
    """Options of vLLM by name.

    Args:
        limits: what was found. vLLM wants a token budget of at least the batch size, which would hold as many in a step
            in any case: each request takes a token or more.
    """
    given = limits.to_dict()
    if limits.token_budget is not None:
        given["batch_size"] = min(limits.batch_size, limits.token_budget)
    return {flag: given[name] for name, flag in VLLM_FLAGS.items() if given[name] is not None}


def vllm_flags(limits: Limits) -> str:
    """The same as flags.

    Args:
        limits: what was found.
    """
    return " ".join(f"--{name} {value}" for name, value in vllm_options(limits).items())


def without_flag(limits: Limits) -> list[str]:
    """The limits that are on but that vLLM has no flag for.

    Args:
        limits: what was found.
    """
    given = {name: value for name, value in _given(limits).items() if name not in VLLM_FLAGS}
    return [name for name, value in given.items() if (name, value) != ("discipline", "fcfs")]


def _given(limits: Limits) -> dict[str, Any]:
    return {name: value for name, value in limits.to_dict().items() if value is not None}


def _commented(remarks: list[str]) -> str:
    return "".join(f"# {remark}\n" for remark in remarks)
