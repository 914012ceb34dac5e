"""Limits as servers read them: a file for batchpilot's own server, and one for vLLM."""

from __future__ import annotations

from typing import Any

import yaml

from batchpilot.core.limits import Limits
from batchpilot.serving.formats.flags.vllm import VLLM


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
    missing = VLLM.missing(limits)
    if missing:
        remarks = [*remarks, f"vLLM has no flag for {', '.join(missing)}: without them the figures above do not hold"]
    return _commented(remarks) + yaml.safe_dump(VLLM.options(limits), sort_keys=False)


def _given(limits: Limits) -> dict[str, Any]:
    return limits.in_force()


def _commented(remarks: list[str]) -> str:
    return "".join(f"# {remark}\n" for remark in remarks)
