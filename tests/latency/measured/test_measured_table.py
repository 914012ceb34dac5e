"""Shipped fits are found by their deployment, say where they come from, and are read back as they were written."""

from dataclasses import replace

import pytest

from batchpilot.configs.catalogue import device, model
from batchpilot.configs.models import describe_model
from batchpilot.latency.measured.finding import find_measured
from batchpilot.latency.measured.operators import SYSTEMS
from batchpilot.latency.measured.table import FOLDER, measured_entries, read_table, write_table
from batchpilot.latency.model.registry import find_latency

SHIPPED = [name for name in SYSTEMS if (FOLDER / f"{name}.csv").is_file()]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_device_has_many_models_and_every_fit_says_its_source_and_errors(name):
    entries = measured_entries(name)
    assert len({entry.model for entry in entries}) >= (25 if name in ("H200", "B200", "H100-80GB") else 10)
    for entry in entries:
        assert model(entry.model).name == entry.model
        assert "aiconfigurator-core 0.12.0" in entry.provenance
        assert entry.errors["decode"] < 0.25


def test_all_shipped_files_together_are_kilobytes():
    assert sum(path.stat().st_size for path in FOLDER.glob("*.csv")) < 1_000_000


def test_the_catalogue_is_asked_before_the_roofline():
    found = find_latency(device("H200"), model("gpt-oss-120b"), 1, "mxfp4")
    assert found.provenance.startswith("measured: gpt-oss-120b (mxfp4")
    assert found.parameters.tau_e > 0


def test_an_engine_that_was_not_measured_is_not_answered_by_another():
    assert find_measured(device("H200"), model("gpt-oss-120b"), 1, "mxfp4", engine="vllm") is not None
    assert find_measured(device("T4"), model("gpt-oss-120b"), 1, "mxfp4") is None


def test_a_model_read_from_a_file_is_known_by_its_sizes():
    config = {
        "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
        "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072,
    }  # fmt: skip
    mine = describe_model(config, "our-own-finetune", "here")
    found = find_measured(device("H100-80GB"), mine, 4, "fp8")
    assert found is not None
    assert found.model == "Llama-3.1-70B"


def test_a_model_of_the_same_sizes_takes_the_same_steps():
    found = find_measured(device("H100-80GB"), model("Llama-3-8B"))
    assert found is not None
    assert found.model == "Llama-3.1-8B"


def test_a_table_is_read_back_as_it_was_written(tmp_path):
    entries = measured_entries("H200")[:3]
    path = write_table(tmp_path / "H200.csv", reversed(entries))
    assert read_table(path) == entries


def test_a_damaged_table_names_its_line(tmp_path):
    path = write_table(tmp_path / "H200.csv", measured_entries("H200")[:2])
    path.write_text(path.read_text().replace(",vllm,", ",vllm,many", 1))
    with pytest.raises(ValueError, match=r"many.*line 2"):
        read_table(path)


def test_the_first_engine_in_order_answers_where_none_is_named(monkeypatch):
    known = measured_entries("H200")[0]
    other = replace(known, engine="sglang")
    monkeypatch.setattr("batchpilot.latency.measured.finding.measured_entries", lambda name: (other, known))
    found = find_measured(device("H200"), model(known.model), known.tensor_parallel, known.dtype)
    assert found is known
