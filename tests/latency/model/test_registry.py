"""Latency entries: found, started from the nearest, kept in a readable file."""

import math
from dataclasses import replace

import pytest
import yaml

from batchpilot.configs.catalogue import device, model
from batchpilot.configs.errors import ConfigError
from batchpilot.latency.model.entry import LatencyEntry
from batchpilot.latency.model.registry import LatencyRegistry, find_latency, scaled_to, shipped_latencies
from batchpilot.latency.model.roofline import roofline
from batchpilot.latency.model.saturation import SaturationParameters

PARAMETERS = SaturationParameters(10.0, 5.0, 0.01, tau_0=8.0, tau_b=0.05, tau_c=2e-4)


def entry(**changes):
    fields = {"device": "A100-80GB", "model": "Llama-2-7B", "parameters": PARAMETERS, "kind": "measured"}
    return LatencyEntry(**(fields | {"source": "a bench of ours", "points": 210} | changes))


def test_an_entry_is_found_at_its_place_and_nowhere_else():
    registry = LatencyRegistry([entry()])
    chip, served = device("A100-80GB"), model("Llama-2-7B")
    assert registry.find(chip, served).parameters == PARAMETERS
    assert registry.find(chip, served, tensor_parallel=2) is None
    assert registry.find(chip, served, dtype="int8") is None
    assert registry.find(device("H100"), served) is None


def test_names_become_those_of_the_catalogues():
    made = entry(device="a100 80gb", model="meta-llama/Llama-2-7b-hf")
    assert made.place == ("A100-80GB", "Llama-2-7B", 1, "fp16")


def test_a_taken_place_is_given_up_only_when_told():
    registry = LatencyRegistry([entry()])
    better = entry(mean_relative_error=0.03)
    with pytest.raises(ValueError, match=r"registered already .*a bench of ours"):
        registry.register(better)
    registry.register(better, replace=True)
    assert registry.entries == (better,)


def test_an_unknown_model_starts_from_the_nearest_by_size():
    registry = LatencyRegistry([entry(), entry(model="Llama-2-70B")])
    assert registry.nearest(device("A100-80GB"), model("Llama-2-13B")).model == "Llama-2-7B"
    start = registry.start_for(device("A100-80GB"), model("Llama-2-13B"))
    assert start.provenance.startswith("estimated: Llama-2-13B")
    assert "scaled by 1.93" in start.provenance
    assert "a bench of ours" in start.provenance
    assert start.parameters.w_1 == pytest.approx(PARAMETERS.w_1 * 13_015_864_320 / 6_738_415_616)


def test_a_known_place_starts_from_itself_and_an_unknown_device_from_the_roofline():
    registry = LatencyRegistry([entry()])
    assert registry.start_for(device("A100-80GB"), model("Llama-2-7B")).parameters == PARAMETERS
    elsewhere = registry.start_for(device("T4"), model("Llama-2-7B"))
    assert elsewhere == roofline(device("T4"), model("Llama-2-7B"))


@pytest.mark.parametrize("wanted", ["Qwen3-0.6B", "Llama-2-13B", "Llama-3-8B"])
def test_scaling_a_roofline_gives_the_roofline_of_the_other_model(wanted):
    chip, known = device("A100-80GB"), model("Llama-2-7B")
    guessed = scaled_to(roofline(chip, known).parameters, known, model(wanted))
    truth = roofline(chip, model(wanted)).parameters
    for step in ((1, 1, 500), (32, 32, 30_000), (8, 2048, 4000)):
        assert float(guessed.predict(*step)) == pytest.approx(float(truth.predict(*step)), rel=1e-9)


def test_a_saved_registry_reads_back_equal_and_can_be_read_by_people(tmp_path):
    registry = LatencyRegistry(
        [entry(mean_relative_error=0.05, measured_on="2024-11-20"), entry(device="H100", kind="estimated", points=None)]
    )
    path = registry.save(tmp_path / "deep" / "latency.yaml")
    assert LatencyRegistry.load(path).entries == registry.entries
    first = yaml.safe_load(path.read_text())["entries"][0]
    assert (first["kind"], first["source"], first["points"]) == ("measured", "a bench of ours", 210)


def test_a_date_that_yaml_understands_stays_the_text_it_was(tmp_path):
    path = tmp_path / "latency.yaml"
    data = entry().to_dict() | {"measured_on": "2024-11-20"}
    path.write_text(yaml.safe_dump({"entries": [data]}).replace("'2024-11-20'", "2024-11-20"))
    assert LatencyRegistry.load(path).entries[0].measured_on == "2024-11-20"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "mesured"}, "did you mean 'measured'"),
        ({"device": "A100-81GB"}, "unknown device 'A100-81GB'"),
        ({"points": 0}, "points is 0; it must be >= 1"),
        ({"points": 1.5}, "points is 1.5; it must be a whole number"),
        ({"tensor_parallel": "two"}, "tensor_parallel is 'two'; it must be a whole number"),
        ({"mean_relative_error": math.nan}, "mean_relative_error is nan"),
        ({"parameters": 3}, "parameters is 3; it must be a mapping"),
        ({"parameters": {"p_max": 1, "k_b": 1, "k_s": -1}}, "k_s is -1"),
        ({"sauce": "x"}, "unknown latency entry key 'sauce'; did you mean 'source'"),
        ({"source": " "}, "names no source"),
    ],
)
def test_a_mistake_in_a_file_is_told_with_its_line(tmp_path, change, message):
    path = tmp_path / "latency.yaml"
    path.write_text(yaml.safe_dump({"entries": [entry().to_dict() | change]}))
    with pytest.raises(ValueError, match=message) as raised:
        LatencyRegistry.load(path)
    assert f"file {path}, line 2" in str(raised.value)


def test_what_an_entry_lacks_is_named(tmp_path):
    path = tmp_path / "latency.yaml"
    path.write_text("entries:\n  - {device: T4, model: Llama-2-7B}\n")
    with pytest.raises(ValueError, match="lacks parameters, kind, source"):
        LatencyRegistry.load(path)


@pytest.mark.parametrize("text", ["entries: 3\n", "entries: [3]\n", "entrees: []\n", "[]\n"])
def test_a_file_of_another_shape_is_refused(tmp_path, text):
    path = tmp_path / "latency.yaml"
    path.write_text(text)
    with pytest.raises((ValueError, ConfigError)):
        LatencyRegistry.load(path)


def test_the_shipped_entries_are_measured_and_say_from_what():
    for known in shipped_latencies().entries:
        assert known.kind == "measured"
        assert known.points > 0
        chip, served = device(known.device), model(known.model)
        found = find_latency(chip, served, known.tensor_parallel, known.dtype)
        assert found.parameters == known.parameters
        assert found.provenance.startswith("measured: ")
        assert known.source in found.provenance


def test_without_a_measurement_the_roofline_answers_even_for_a_model_of_ones_own():
    own = replace(model("Llama-2-7B"), name="mine", aliases=())
    assert find_latency(device("T4"), own).provenance.startswith("estimated: roofline of mine")
