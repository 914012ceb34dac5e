"""Which type of weights the documented tree chooses, and what a plan says its own type gives up."""

from __future__ import annotations

import numpy as np
import pytest

from batchpilot.configs.catalogue import device, model
from batchpilot.core.slo import SLO
from batchpilot.runners.planning.planned import Question
from batchpilot.runners.planning.weight_types import PUBLISHED, documented_choice, type_lines


def asked(chip: str, dtype: str, kv_dtype: str | None = None) -> Question:
    def draw(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return np.full(count, 100), np.full(count, 10)

    return Question(device(chip), model("Llama-2-70B"), 1, dtype, "100,10", draw, SLO(), 0.95, kv_dtype)


@pytest.mark.parametrize(
    ("fits", "prefer", "chosen"),
    [
        (True, "cost", "fp16"),
        (True, "latency", "fp16"),
        (False, "latency", "int8"),
        (False, "accuracy", "gptq"),
        (False, "cost", "awq"),
    ],
)
def test_the_tree_is_the_documents(fits, prefer, chosen):
    assert documented_choice(fits, prefer) == chosen


def test_an_unknown_preference_names_the_known_ones():
    with pytest.raises(ValueError, match=r"speed.*cost, latency, accuracy"):
        documented_choice(False, "speed")


def test_the_published_table_is_that_of_the_document():
    assert {name: (row.perplexity, row.bleu4, row.speed, row.gb) for name, row in PUBLISHED.items()} == {
        "fp16": (8.32, 35.2, 1.0, 26.0),
        "int8": (8.45, 34.8, 2.1, 13.0),
        "gptq": (8.68, 34.1, 3.2, 8.5),
        "awq": (8.59, 34.4, 3.8, 8.2),
    }


def test_a_model_that_does_not_fit_in_16_bits_is_told_what_8_bits_give_up():
    said = type_lines(asked("A100-80GB", "int8"), "latency")["type of weights"]
    assert said.startswith("int8 by the documented rule (16 bits do not fit on 1 x A100-80GB, latency first)")
    assert "1.6% of perplexity and 1.1% of BLEU-4" in said


def test_a_type_that_the_document_does_not_measure_says_so():
    assert "not published in the document" in type_lines(asked("H200", "fp8"), "cost")["type of weights"]


def test_a_16_bit_cache_is_told_what_8_bits_would_hold():
    assert "holds 2 times the tokens" in type_lines(asked("H200", "fp16"), "cost")["KV cache in 8 bits"]
    assert "KV cache in 8 bits" not in type_lines(asked("H200", "fp16", "fp8"), "cost")
