"""Published runs are read, matched to the catalogue, and left out where more than one engine served them."""

import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from published_runs import published, read_run

ROW = {
    "id": "a",
    "silicon_data_source": "source_file=2026-04-06.csv; model=Llama-3.1-70B; silicon_concurrency=8",
    "backend": "vllm",
    "backend_version": "0.18.0",
    "model_path": "meta-llama/Llama-3.1-70B",
    "system": "h200_sxm",
    "precision": "fp8",
    "mode": "agg",
    "isl": "1024",
    "osl": "1024",
    "batch_size": "8.0",
    "tp_size": "4",
    "pp_size": "1",
    "attention_dp_size": "1",
    "moe_tp_size": "4",
    "moe_ep_size": "1",
    "silicon_ttft_ms": "96",
    "silicon_tpot_ms": "12.1",
}
EXPERTS = ROW | {"model_path": "MiniMaxAI/MiniMax-M2.5"}
OWN = ROW | {"attention_dp_size": "", "silicon_data_source": "source_file=own.csv; silicon_concurrency=8"}


def test_a_row_is_matched_to_the_catalogue():
    run = read_run(ROW)
    assert (run.device, run.model.name, run.dtype, run.tensor_parallel) == ("H200", "Llama-3.1-70B", "fp8", 4)
    assert (run.clients, run.prompt_tokens, run.output_tokens) == (8, 1024, 1024)
    assert run.file == "source_file=2026-04-06.csv"


def test_the_expert_layout_of_a_dense_model_means_nothing():
    assert read_run(ROW | {"moe_ep_size": "4"}).expert_parallel == 1
    assert read_run(EXPERTS | {"moe_tp_size": "1", "moe_ep_size": "4"}).expert_parallel == 4


@pytest.mark.parametrize(
    ("path", "precision", "dtype"),
    [
        ("moonshotai/Kimi-K2.5", "fp4", "nvfp4"),
        ("moonshotai/Kimi-K2.5", "int4", "int4"),
        ("openai/gpt-oss-120b", "fp4", "mxfp4"),
        ("Qwen/Qwen3-32B", "", "fp16"),
        ("Qwen/Qwen3-235B-A22B-FP8", "fp8", "fp8"),
        ("nvidia/Qwen3-32B-NVFP4", "fp4", "nvfp4"),
    ],
)
def test_the_type_of_the_weights_is_the_rows(path, precision, dtype):
    assert read_run(ROW | {"model_path": path, "precision": precision}).dtype == dtype


@pytest.mark.parametrize(
    "row",
    [
        ROW | {"attention_dp_size": "4"},
        ROW | {"pp_size": "2"},
        EXPERTS | {"tp_size": "1", "moe_tp_size": "2", "attention_dp_size": ""},
        EXPERTS | {"tp_size": "4", "moe_tp_size": "1", "moe_ep_size": "16"},
    ],
)
def test_several_engines_behind_one_address_are_left_out(row):
    left_out = Counter()
    assert published([row], left_out) == []
    assert [reason for reason, count in left_out.items() if count and reason.startswith("several engines")]


def test_a_run_counts_once_whatever_it_is_called_and_one_of_two_stages_not_at_all():
    left_out = Counter()
    again = ROW | {"id": "b", "silicon_data_source": "source_file=later.csv"}
    apart = ROW | {"mode": "disagg", "tp_size": ""}
    assert len(published([ROW, again, apart], left_out)) == 1
    assert left_out["stands in the sample again"] == left_out["prefill and decode apart"] == 1


def test_a_server_has_eight_devices_whatever_the_row_multiplies_them_by():
    run = read_run(EXPERTS | {"tp_size": "64", "moe_tp_size": "8", "moe_ep_size": "8"})
    assert (run.tensor_parallel, run.expert_parallel) == (8, 8)
    again = EXPERTS | {"tp_size": "8", "moe_tp_size": "1", "moe_ep_size": "8"}
    left_out = Counter()
    rows = [EXPERTS | {"tp_size": "64", "moe_tp_size": "8", "moe_ep_size": "8"}, again]
    assert len(published(rows, left_out)) == 1
    assert left_out["stands in the sample again"] == 1


def test_the_faster_of_two_runs_of_one_set_up_drafted_tokens():
    left_out = Counter()
    kept = published([ROW, ROW | {"silicon_tpot_ms": "11"}, ROW | {"silicon_tpot_ms": "8"}], left_out)
    assert [run.tpot_ms for run in kept] == [12.1, 11.0]
    assert [count for reason, count in left_out.items() if reason.startswith("several tokens a step")] == [1]


def test_a_file_with_a_run_beyond_its_devices_peak_is_of_several_engines():
    impossible = OWN | {"batch_size": "512", "silicon_ttft_ms": "20", "silicon_tpot_ms": "2"}
    elsewhere = OWN | {"silicon_data_source": "source_file=other.csv", "osl": "512"}
    left_out = Counter()
    kept = published([OWN, impossible, elsewhere], left_out)
    assert [run.file for run in kept] == ["source_file=other.csv"]
    assert left_out["several engines: faster than the devices' peak"] == 2


def test_lengths_are_as_stated_where_the_data_parallelism_is_blank():
    assert read_run(ROW).mean_share == pytest.approx(0.9)
    assert read_run(OWN).mean_share == 1.0


def test_held_clients_follow_littles_law():
    run = read_run(OWN | {"batch_size": "512", "osl": "101", "silicon_ttft_ms": "4000", "silicon_tpot_ms": "10"})
    assert run.held == pytest.approx(512 * 1000 / 5000)
    assert run.held_tokens == pytest.approx(run.held * (1024 + 101 / 2))
