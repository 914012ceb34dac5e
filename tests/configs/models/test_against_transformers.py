"""Counted parameters are those that `transformers` makes, for every family it can build without weights."""

import pytest

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

from batchpilot.configs.models import describe_model  # noqa: E402

FAMILIES = """
llama mistral qwen2 qwen3 qwen2_moe qwen3_moe qwen3_next qwen3_5_text qwen3_5_moe_text mixtral gemma gemma2 gemma3_text
gemma4_text gpt2 gpt_neox falcon phi phi3 opt starcoder2 cohere2 olmo2 granite deepseek_v3 gpt_oss nemotron_h jamba
llama4_text minimax_m2 glm4_moe ernie4_5_moe bamba falcon_h1 lfm2
"""


@pytest.mark.parametrize("family", FAMILIES.split())
def test_parameters_are_counted_within_one_percent_of_what_is_built(family):
    if family not in transformers.CONFIG_MAPPING:
        pytest.skip(f"this transformers knows no {family}")
    config = transformers.CONFIG_MAPPING[family]()
    with torch.device("meta"):
        built = transformers.AutoModelForCausalLM.from_config(config)
    counted = describe_model(config.to_dict() | {"model_type": family}, family, family)
    assert counted.parameters == pytest.approx(sum(weight.numel() for weight in built.parameters()), rel=0.01)
