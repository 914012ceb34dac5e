"""Weights and KV cache in 8 bits: what rounding costs, and that the engine still says the same in whatever batch."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from batchpilot.core.limits import Limits  # noqa: E402
from batchpilot.engines.torch import ModelRunner, TorchEngine, TorchEngineConfig  # noqa: E402
from batchpilot.engines.torch.kv_types import KV_TYPES, kv_type  # noqa: E402
from batchpilot.engines.torch.model import load_model  # noqa: E402
from batchpilot.engines.torch.quantisation import (  # noqa: E402
    Int8Linear,
    documented_error,
    expected_error,
    quantise,
    quantise_weights,
    relative_error,
)
from batchpilot.engines.torch.warm_up import synthetic_step  # noqa: E402
from batchpilot.workloads.table import RequestTable  # noqa: E402


def normal(rows: int = 256, columns: int = 512, sigma: float = 0.02) -> torch.Tensor:
    return sigma * torch.randn(rows, columns, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_the_error_is_that_of_rounding_to_evenly_spaced_numbers(bits, symmetric):
    weights = normal()
    quantised = quantise(weights, bits, symmetric=symmetric)
    measured = relative_error(weights, quantised) * float(weights.norm())
    assert measured == pytest.approx(expected_error(quantised), rel=0.03)


def test_the_documents_error_is_too_small_by_the_width_of_the_range():
    weights = normal()
    quantised = quantise(weights)
    measured = relative_error(weights, quantised) * float(weights.norm())
    width = 2 * 127 * quantised.scale.square().mean().sqrt() / weights.std()
    assert measured / documented_error(weights) == pytest.approx(float(width) * 256 / 254, rel=0.03)
    assert 5 < measured / documented_error(weights) < 10


def test_symmetric_keeps_zero_and_asymmetric_reaches_both_ends():
    weights = torch.tensor([[0.0, -1.0, 0.5, 0.25], [2.0, 3.0, 4.0, 5.0], [0.0, 0.0, 0.0, 0.0]])
    symmetric, asymmetric = quantise(weights), quantise(weights, symmetric=False)
    assert symmetric.restored()[0, 0] == 0
    assert symmetric.values.min() == -127
    assert symmetric.values[0].tolist() == [0, -127, 64, 32]
    assert asymmetric.values[1].tolist() == [0, 85, 170, 255]
    assert torch.allclose(asymmetric.restored(), weights, atol=0.003)
    assert torch.equal(symmetric.restored()[2], weights[2])


@pytest.mark.parametrize(
    ("weights", "bits", "said"),
    [
        (torch.zeros(3), 8, "a matrix has"),
        (torch.zeros(3, 3), 9, "bits is 9; it must be 2 to 8"),
        (torch.full((2, 2), torch.nan), 8, "not finite"),
    ],
)
def test_what_cannot_be_quantised_is_said(weights, bits, said):
    with pytest.raises(ValueError, match=said):
        quantise(weights, bits)


@pytest.mark.parametrize("rows", [1, 7, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_8_bit_layer_computes_with_its_rounded_weights(rows, dtype):
    linear = torch.nn.Linear(64, 48).to(dtype)
    given = torch.randn(2, rows, 64, dtype=dtype, generator=torch.Generator().manual_seed(0))
    layer = Int8Linear(linear)
    restored = layer.weight.float() * layer.scale.float().unsqueeze(-1)
    with torch.inference_mode():
        wanted = torch.nn.functional.linear(given.float(), restored, linear.bias.float())
        close = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.02}
        torch.testing.assert_close(layer(given).float(), wanted, **close)


def test_a_models_layers_take_a_byte_a_weight_and_its_head_stays():
    plain, model = load_model("tiny-llama", dtype="bfloat16"), load_model("tiny-llama", dtype="bfloat16")
    error = quantise_weights(model)
    assert 0.002 < error < 0.01
    assert isinstance(model.lm_head, torch.nn.Linear)
    layer, was = model.model.layers[0].mlp.up_proj, plain.model.layers[0].mlp.up_proj
    assert layer.weight.nbytes * 2 == was.weight.nbytes
    assert sum(isinstance(module, Int8Linear) for module in model.modules()) == 2 * 7


def test_parts_that_are_named_stay_as_they_are():
    model = load_model("tiny-llama", dtype="bfloat16")
    quantise_weights(model, keep=("lm_head", "mlp"))
    assert sum(isinstance(module, Int8Linear) for module in model.modules()) == 2 * 4


@pytest.mark.parametrize(("kv_dtype", "most"), [("int8", 0.02), ("fp8", 0.08)])
def test_the_logits_of_an_8_bit_cache_are_near(kv_dtype, most):
    exact = ModelRunner("tiny-qwen3", kv_capacity_tokens=512)
    rounded = ModelRunner("tiny-qwen3", kv_capacity_tokens=512, kv_dtype=kv_dtype)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 256, 80)
    logits = []
    for runner in (exact, rounded):
        step = synthetic_step(1, 80, 0, 16)
        step.ids[:] = ids
        runner.logits(step)
        decode = synthetic_step(1, 1, 80, 16)
        decode.ids[:] = 5
        logits.append(runner.logits(decode))
    error = float((logits[0] - logits[1]).norm() / logits[0].norm())
    assert 0 < error < most


def test_the_cache_in_8_bits_holds_more_tokens_in_the_same_memory():
    shape = load_model("tiny-qwen3").config
    runner = ModelRunner("tiny-qwen3", kv_capacity_tokens=512, kv_dtype="int8")
    sizes = {name: kind.bytes_per_token(runner.shape, torch.bfloat16) for name, kind in KV_TYPES.items()}
    assert sizes["auto"] == 2 * shape.num_hidden_layers * 1 * 32 * 2
    assert sizes["fp8"] * 2 == sizes["auto"]
    assert sizes["int8"] == sizes["fp8"] + 2 * shape.num_hidden_layers * 4
    counted = kv_type("int8").bytes_per_token(runner.shape, torch.float32)
    assert runner.memory.kv_mb_per_token * 2**20 == pytest.approx(counted)


def test_an_unknown_cache_type_is_refused_by_its_name():
    with pytest.raises(ValueError, match="kv_dtype"):
        ModelRunner("tiny-qwen3", kv_capacity_tokens=512, kv_dtype="int3")


@pytest.mark.parametrize("kv_dtype", ["int8", "fp8"])
def test_what_a_request_says_does_not_depend_on_its_company(kv_dtype):
    runner = ModelRunner("tiny-qwen3", kv_capacity_tokens=2048, kv_dtype=kv_dtype)
    prompts = [np.random.default_rng(seed).integers(0, 256, 20 + 9 * seed) for seed in range(4)]

    def said(which: list[int]) -> list[list[int]]:
        table = RequestTable.from_arrays(np.zeros(len(which)), [len(prompts[r]) for r in which], [12] * len(which))
        engine = TorchEngine(TorchEngineConfig(), table, runner, prompts=[prompts[r] for r in which])
        engine.set_limits(Limits(8, token_budget=24))
        engine.run_until(np.inf)
        return [engine.generated(k).tolist() for k in range(len(which))]

    assert said([0, 1, 2, 3]) == [said([r])[0] for r in range(4)]


def test_the_engine_serves_a_model_in_8_bits():
    runner = ModelRunner("tiny-llama", dtype="int8", kv_dtype="int8", kv_capacity_tokens=1024)
    engine = TorchEngine(TorchEngineConfig(), RequestTable.from_arrays([0.0, 0.0], [30, 40], [8, 8]), runner)
    engine.set_limits(Limits(4, token_budget=64))
    engine.run_until(np.inf)
    assert [len(engine.generated(r)) for r in range(2)] == [8, 8]
    assert (runner.dtype, runner.kv_dtype) == ("int8", "int8")
