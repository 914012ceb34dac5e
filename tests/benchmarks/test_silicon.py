"""What is said of published runs: the cache that they must have had, errors, and the line that is quoted."""

import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from published_runs import Run
from silicon import CACHES, Told, caches, capacity, error_of, last_line

from batchpilot.configs.catalogue import model


def run_of(clients=16, name="Llama-3.1-70B", tpot_ms=20.0, ttft_ms=200.0, dtype="fp8", shortest=0.8, count=1):
    place = ("H200", "vllm", "0.18.0", model(name), dtype, count, 1)
    return Run(*place, clients, 8192, 1024, shortest, ttft_ms, tpot_ms, "a file")


def test_a_recipe_keeps_16_bits_where_they_have_room_for_what_its_runs_held():
    small = run_of(clients=8)
    assert small.held_tokens < capacity(small, CACHES[0])
    assert caches([small])[small.recipe] == CACHES[0]


def test_one_run_that_held_more_tells_of_its_whole_recipe():
    small, large = run_of(clients=8), run_of(clients=32)
    assert capacity(large, CACHES[0]) < large.held_tokens < capacity(large, CACHES[1])
    found = caches([small, large, run_of(clients=8, shortest=1.0)])
    assert found[small.recipe] == CACHES[1]
    assert found[run_of(shortest=1.0).recipe] == CACHES[0]


def test_clients_that_waited_are_not_counted_as_held():
    waiting = run_of(clients=64, ttft_ms=200_000.0)
    assert waiting.held < 8
    assert caches([waiting])[waiting.recipe] == CACHES[0]


def test_errors_are_relative_and_silence_is_none():
    assert error_of([(11, 10), (8, 10), (math.nan, 10)]) == (pytest.approx(15), pytest.approx(15))
    assert math.isnan(error_of([(math.nan, 10)])[0])


def test_the_last_line_reads_as_it_is_quoted():
    dense = (run_of(), Told(tpot_ms=22, ttft_ms=250, peer_tpot_ms=26, roofline_tpot_ms=50))
    mixed = (
        run_of(name="gpt-oss-120b", dtype="mxfp4"),
        Told(tpot_ms=18, ttft_ms=200, peer_tpot_ms=20, roofline_tpot_ms=30),
    )
    assert last_line([dense, mixed]) == (
        "silicon: TPOT dense 10.0 % experts 10.0 %, TTFT 12.5 %, peer TPOT 15.0 %, roofline before 100.0 %"
    )
