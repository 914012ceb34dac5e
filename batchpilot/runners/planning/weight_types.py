"""Which type of weights to choose, and what a smaller one gives up.

Source: deployment document, decision tree and table of a 13B vision-language model. Its 4-bit entries are published
methods (GPTQ, AWQ) that bring a checkpoint of their own; `plan` compares speeds by what was measured on the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from batchpilot.configs.footprint import BYTES_PER_WEIGHT, kv_bytes_per_token, kv_type
from batchpilot.core.names import lookup
from batchpilot.runners.planning.planned import Question


@dataclass(frozen=True, slots=True)
class Published:
    """A row of the document's table.

    Attributes:
        perplexity: lower is better.
        bleu4: higher is better.
        speed: relative to 16 bits.
        gb: of weights.
        dtype: our name of the type.
    """

    perplexity: float
    bleu4: float
    speed: float
    gb: float
    dtype: str


PUBLISHED: Mapping[str, Published] = {
    "fp16": Published(8.32, 35.2, 1.0, 26.0, "fp16"),
    "int8": Published(8.45, 34.8, 2.1, 13.0, "int8"),
    "gptq": Published(8.68, 34.1, 3.2, 8.5, "int4"),
    "awq": Published(8.59, 34.4, 3.8, 8.2, "int4"),
}
"""Of a 13B vision-language model; others lose more or less."""

PREFERENCES: Mapping[str, str] = {"cost": "awq", "latency": "int8", "accuracy": "gptq"}
"""What the tree chooses where 16 bits do not fit, by what comes first."""


def documented_choice(fits_16_bits: bool, prefer: str = "cost") -> str:
    """The document's tree: enough memory, 16 bits; latency first, INT8; accuracy first, GPTQ; else AWQ.

    Args:
        fits_16_bits: whether the weights fit in 16 bits.
        prefer: a key of `PREFERENCES`.

    Raises:
        ValueError: an unknown preference.
    """
    chosen = lookup(PREFERENCES, prefer, "preference")
    return "fp16" if fits_16_bits else chosen


def type_lines(question: Question, prefer: str) -> dict[str, str]:
    """What to say of a plan's types: the tree's choice, what the planned type gives up, and the KV cache in 8 bits.

    Args:
        question: what is served on what, its type chosen.
        prefer: a key of `PREFERENCES`.
    """
    fits = _fits(question, "fp16")
    chosen = documented_choice(fits, prefer)
    why = "it fits" if fits else f"16 bits do not fit on {question.layout}"
    said = f"{chosen} by the documented rule ({why}, {prefer} first); planned is {question.dtype}"
    kind = next((name for name, row in PUBLISHED.items() if row.dtype == question.dtype and name != "fp16"), None)
    if kind is not None:
        said += f", which gives up {_given_up(kind)}"
    elif BYTES_PER_WEIGHT[question.dtype] < 2:
        said += ", whose loss of accuracy is not published in the document: measure it on your own task"
    lines = {"type of weights": said}
    kept = kv_type(question.kv_dtype, question.model)
    if BYTES_PER_WEIGHT[kept] >= 2:
        share = kv_bytes_per_token(question.model, question.tensor_parallel, kept) / kv_bytes_per_token(
            question.model, question.tensor_parallel, "fp8"
        )
        lines["KV cache in 8 bits"] = (
            f"holds {share:.3g} times the tokens (--kv-dtype fp8); its answers differ slightly, planned is {kept}"
        )
    return lines


def _given_up(kind: str) -> str:
    row, exact = PUBLISHED[kind], PUBLISHED["fp16"]
    return (
        f"{row.perplexity / exact.perplexity - 1:.1%} of perplexity and {1 - row.bleu4 / exact.bleu4:.1%} of BLEU-4 "
        f"({kind}, published for a 13B vision-language model at {row.speed:g} times the speed)"
    )


def _fits(question: Question, dtype: str) -> bool:
    try:
        question.memory_in(dtype)
    except ValueError:
        return False
    return True
