"""The catalogues hold what was promised, agree with arithmetic, and are found however one spells them."""

import pytest

from batchpilot.configs.catalogue import DeviceSpec, device, devices, model, models, prices

EXPECTED_OPTIMUM = {
    "A100-40GB": (64, 128), "A10": (32, 64), "T4": (16, 32), "M3-Ultra": (32, 64), "M3-Pro": (16, 32),
    "MI250X": (128, 256), "Arc-A770": (16, 32),
}  # fmt: skip
"""Of the dynamic batch tuner document."""


@pytest.mark.parametrize(
    "name",
    ["A100-40GB", "A100-80GB", "H100-80GB", "H200", "A10", "T4", "M3 Ultra", "M3 Pro", "MI250X", "Arc A770", "CPU"],
)
def test_every_promised_device_is_catalogued_with_its_source(name):
    assert device(name).source


@pytest.mark.parametrize("name", ["Qwen3-0.6B", "Llama-2-7B", "Llama-2-13B", "Llama-2-70B", "Llama-3-8B"])
def test_every_promised_model_is_catalogued_with_its_source(name):
    assert model(name).source


def test_expected_optima_are_the_documents():
    assert {entry.name: entry.optimal_batch for entry in devices() if entry.optimal_batch} == EXPECTED_OPTIMUM


@pytest.mark.parametrize("entry", [one for one in models() if not one.kv_layers], ids=lambda entry: entry.name)
def test_parameters_follow_from_the_dimensions(entry):
    attention = 2 * entry.hidden_size * entry.head_dim * (entry.heads + entry.kv_heads)
    layer = attention + 3 * entry.hidden_size * entry.intermediate_size
    embeddings = entry.vocab_size * entry.hidden_size * (1 if entry.name.startswith("Qwen3") else 2)
    # Norms, the only weights left out, are far below a thousandth.
    assert entry.parameters == pytest.approx(entry.layers * layer + embeddings, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("Yi-34B", 34_388_917_248),
        ("GPT-NeoX-20B", 20_554_567_680),
        ("OPT-30B", 29_974_540_288),
        ("Falcon-40B", 41_303_293_952),
    ],
)
def test_models_without_a_gate_or_with_parallel_layers_are_counted_as_their_checkpoints_are(name, published):
    assert model(name).parameters == pytest.approx(published, rel=1e-3)


@pytest.mark.parametrize("spelling", ["A100-40GB", "a100 40gb", "a100_40GB", "NVIDIA A100-SXM4-40GB"])
def test_a_device_is_found_however_it_is_spelled(spelling):
    assert device(spelling).name == "A100-40GB"


def test_a_model_is_found_by_its_repository_name():
    assert model("meta-llama/Llama-2-70b-hf") is model("llama2-70b")


@pytest.mark.parametrize(("find", "entries"), [(device, devices()), (model, models())], ids=["devices", "models"])
def test_every_name_and_alias_finds_its_own_entry(find, entries):
    for entry in entries:
        for spelling in (entry.name, *entry.aliases):
            assert find(spelling) is entry


def test_an_unknown_name_is_answered_with_the_closest():
    with pytest.raises(ValueError, match=r"unknown device 'A100'; did you mean .*'A100-80GB' or 'A100-40GB'"):
        device("A100")
    with pytest.raises(ValueError, match="unknown model 'llama-2-8b'; did you mean 'Llama-"):
        model("llama-2-8b")


@pytest.mark.parametrize("field", ["memory_gb", "bandwidth_gb_per_s", "peak_tflops", "compute_units"])
def test_a_device_with_an_impossible_figure_is_refused(field):
    figures = {"memory_gb": 1, "bandwidth_gb_per_s": 1, "peak_tflops": 1, "compute_units": 1}
    with pytest.raises(ValueError, match=f"{field} of device mine is 0; it must be above 0"):
        DeviceSpec(name="mine", vendor="nvidia", **figures | {field: 0})


def test_every_shipped_price_has_a_source_and_a_day_and_the_users_own_comes_first(tmp_path):
    shipped = prices()
    assert {"H100-80GB", "H200", "B200", "L40S"} <= set(shipped)
    for name, price in shipped.items():
        assert device(name).name == name
        assert price.usd_per_hour > 0
        assert price.read_on is not None
        assert price.source != "your own"
    own = tmp_path / "prices.yaml"
    own.write_text("h200: {usd_per_hour: 2.1}\n")
    assert prices(own)["H200"].usd_per_hour == 2.1
    assert prices(own)["B200"] == shipped["B200"]
