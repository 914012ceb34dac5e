"""A model is read from its `config.json` as its makers published it; a wrong file is answered with what is wrong."""

import json

import pytest

from batchpilot.configs.catalogue import add_catalogue, model
from batchpilot.configs.footprint import kv_bytes_per_request, kv_bytes_per_token, weight_bytes
from batchpilot.configs.models import describe_model, read_model

LLAMA = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072,
}  # fmt: skip
QWEN3 = {
    "model_type": "qwen3", "head_dim": 128, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 151936,
    "max_position_embeddings": 40960, "tie_word_embeddings": False,
}  # fmt: skip
QWEN3_MOE = QWEN3 | {
    "model_type": "qwen3_moe", "num_key_value_heads": 4, "num_experts": 128, "num_experts_per_tok": 8,
    "decoder_sparse_step": 1, "mlp_only_layers": [],
}  # fmt: skip
MIXTRAL = {
    "model_type": "mixtral", "num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2,
    "max_position_embeddings": 32768,
}  # fmt: skip
DEEPSEEK = {
    "model_type": "deepseek_v3", "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048,
    "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128, "vocab_size": 129280,
    "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3,
    "moe_layer_freq": 1, "max_position_embeddings": 163840, "tie_word_embeddings": False,
    "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096},
    "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
}  # fmt: skip
GPT_OSS = {
    "model_type": "gpt_oss", "hidden_size": 2880, "intermediate_size": 2880, "num_attention_heads": 64,
    "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 201088, "attention_bias": True, "sliding_window": 128,
    "num_experts_per_tok": 4, "max_position_embeddings": 131072, "tie_word_embeddings": False,
    "quantization_config": {
        "quant_method": "mxfp4",
        "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"],
    },
}  # fmt: skip
GPT_OSS_120B = GPT_OSS | {
    "num_hidden_layers": 36,
    "num_local_experts": 128,
    "layer_types": ["sliding_attention", "full_attention"] * 18,
}
QWEN35 = {
    "model_type": "qwen3_5_moe_text", "attn_output_gate": True, "full_attention_interval": 4, "head_dim": 256,
    "hidden_size": 2048, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16,
    "linear_num_value_heads": 32, "linear_value_head_dim": 128, "max_position_embeddings": 262144,
    "moe_intermediate_size": 512, "num_attention_heads": 16, "num_experts": 256, "num_experts_per_tok": 8,
    "num_hidden_layers": 40, "num_key_value_heads": 2, "shared_expert_intermediate_size": 512, "vocab_size": 248320,
    "mamba_ssm_dtype": "float32",
}  # fmt: skip
NEMOTRON = {
    "model_type": "nemotron_h", "conv_kernel": 4, "head_dim": 128, "hidden_size": 2688, "intermediate_size": 1856,
    "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME", "mamba_head_dim": 64,
    "mamba_num_heads": 64, "max_position_embeddings": 262144, "moe_intermediate_size": 1856,
    "moe_shared_expert_intermediate_size": 3712, "n_groups": 8, "n_routed_experts": 128, "n_shared_experts": 1,
    "num_attention_heads": 32, "num_experts_per_tok": 6, "num_hidden_layers": 52, "num_key_value_heads": 2,
    "ssm_state_size": 128, "tie_word_embeddings": False, "vocab_size": 131072,
}  # fmt: skip

PUBLISHED = {
    "Llama-3.1-8B": (LLAMA, 8.03, None, "model card: 8B, safetensors of 8.03B"),
    "Llama-3.1-70B": (
        LLAMA | {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64},
        70.6, None, "model card: 70B, safetensors of 70.6B",
    ),
    "Llama-3.1-405B": (
        LLAMA | {"hidden_size": 16384, "intermediate_size": 53248, "num_hidden_layers": 126,
                 "num_attention_heads": 128},
        405.0, None, "Llama 3 paper: 405B",
    ),
    "Qwen3-8B": (
        QWEN3 | {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36}, 8.2, None, "model card",
    ),
    "Qwen3-32B": (
        QWEN3 | {"hidden_size": 5120, "intermediate_size": 25600, "num_hidden_layers": 64, "num_attention_heads": 64},
        32.8, None, "model card",
    ),
    "Qwen3-30B-A3B": (
        QWEN3_MOE | {"hidden_size": 2048, "moe_intermediate_size": 768, "intermediate_size": 6144,
                     "num_hidden_layers": 48},
        30.5, 3.35, "model card: 30.5B, of which 3.3B are active",
    ),
    "Qwen3-235B-A22B": (
        QWEN3_MOE | {"hidden_size": 4096, "moe_intermediate_size": 1536, "intermediate_size": 12288,
                     "num_hidden_layers": 94, "num_attention_heads": 64},
        235.0, 22.0, "model card",
    ),
    "Mixtral-8x7B": (
        MIXTRAL | {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
                   "num_attention_heads": 32, "vocab_size": 32000},
        46.7, 12.9, "Mixtral of Experts paper, release notes",
    ),
    "Mixtral-8x22B": (
        MIXTRAL | {"hidden_size": 6144, "intermediate_size": 16384, "num_hidden_layers": 56,
                   "num_attention_heads": 48, "vocab_size": 32000},
        141.0, 39.0, "release notes: 39B active of 141B",
    ),
    "DeepSeek-V3": (DEEPSEEK, 671.0, 37.5, "DeepSeek-V3 report: 671B, 37B active"),
    "gpt-oss-120b": (GPT_OSS_120B, 116.83, None, "gpt-oss model card, table 1"),
    "gpt-oss-20b": (
        GPT_OSS | {"num_hidden_layers": 24, "num_local_experts": 32}, 20.91, None, "gpt-oss model card, table 1",
    ),
    "Nemotron-3-Nano-30B-A3B": (NEMOTRON, 31.6, 3.6, "model card: 31.6B, 3.6B active with embeddings"),
}  # fmt: skip
"""Facts of each `config.json`; billions of parameters, all and active, and who published them."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_counted_within_one_percent_of_the_published_number(name):
    config, billions, active, _ = PUBLISHED[name]
    counted = describe_model(config, name, name)
    assert counted.parameters == pytest.approx(1e9 * billions, rel=0.01)
    if active is not None:
        assert counted.active == pytest.approx(1e9 * active, rel=0.015)


def test_a_latent_cache_is_one_vector_a_token_however_many_devices_share_it():
    spec = describe_model(DEEPSEEK, "DeepSeek-V3", "here")
    assert kv_bytes_per_token(spec) == 61 * (512 + 64) * 2
    assert kv_bytes_per_token(spec, 8) == kv_bytes_per_token(spec)


def test_windows_bound_what_their_layers_keep_of_a_request():
    spec = describe_model(GPT_OSS_120B, "gpt-oss-120b", "here")
    layer = 2 * 8 * 64 * 2
    assert kv_bytes_per_token(spec) == 18 * layer
    assert kv_bytes_per_request(spec, 10_000) == 18 * layer * (10_000 + 128)


def test_linear_layers_keep_a_state_of_a_request_and_nothing_of_a_token():
    spec = describe_model(QWEN35, "Qwen3.5-35B-A3B", "here")
    assert kv_bytes_per_token(spec) == 10 * 2 * 2 * 256 * 2
    state = 30 * 4 * (32 * 128 * 128 + (2 * 16 * 128 + 32 * 128) * 3)
    assert kv_bytes_per_request(spec, 0) == state


def test_what_a_checkpoint_does_not_quantise_stays_at_16_bits():
    spec = describe_model(GPT_OSS_120B, "gpt-oss-120b", "here")
    assert spec.dtype == "mxfp4"
    # The published checkpoint is 60.8 GiB (gpt-oss model card, table 1).
    assert weight_bytes(spec, None) / 2**30 == pytest.approx(60.8, rel=0.01)
    assert weight_bytes(spec, "fp16") == 2 * spec.parameters


@pytest.mark.parametrize(
    ("quantization", "dtype", "kv_dtype"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "int4", None),
        ({"quant_method": "gptq", "bits": 8}, "int8", None),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4", None),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}, "nvfp4", "fp8"),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}},
                "kv_cache_scheme": {"num_bits": 8, "type": "float"},
            },
            "fp8",
            "fp8",
        ),
    ],
)
def test_types_are_those_of_the_quantization_config(quantization, dtype, kv_dtype):
    spec = describe_model(LLAMA | {"quantization_config": quantization}, "quantised", "here")
    assert (spec.dtype, spec.kv_dtype) == (dtype, kv_dtype)


def test_a_folder_is_read_with_what_lies_beside_its_configuration(tmp_path):
    folder = tmp_path / "Llama-3.1-8B-FP8"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    (folder / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "FP8"}}))
    spec = model(str(folder))
    assert (spec.name, spec.dtype) == ("Llama-3.1-8B-FP8", "fp8")


def test_yarn_lengthens_the_context_it_started_from():
    scaled = LLAMA | {
        "max_position_embeddings": 32768,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    }
    assert describe_model(scaled, "long", "here").max_model_len == 131072
    assert describe_model(DEEPSEEK, "DeepSeek-V3", "here").max_model_len == 163840


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_hidden_layers": None}, "lacks num_hidden_layers"),
        ({"num_hidden_layers": -3}, "num_hidden_layers is -3; it must be a whole number >= 1"),
        ({"hidden_size": "4096"}, "hidden_size is '4096'"),
        ({"num_attention_heads": True}, "num_attention_heads is True"),
        ({"num_key_value_heads": 5}, "num_key_value_heads 5 does not divide num_attention_heads 32"),
        ({"layer_types": ["full_attention"]}, "layer_types has 1 entries for 32 layers"),
        ({"layer_types": ["holographic"] * 32}, "layer type 'holographic' is not known"),
        ({"quantization_config": {"quant_method": "magic"}}, "quant_method 'magic'.*is not known"),
        ({"quantization_config": "fp8"}, "quantization_config is 'fp8'; it must be a mapping"),
        ({"vocab_size": float("nan")}, "vocab_size is nan"),
        ({"model_type": "bert"}, "model_type 'bert' is an encoder"),
        ({"num_local_experts": 8, "num_experts_per_tok": 9}, "num_experts_per_tok is 9, of 8 experts"),
    ],
)
def test_a_wrong_figure_is_named(tmp_path, change, says):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA | change))
    with pytest.raises(ValueError, match=says):
        read_model(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"{", "not JSON.*line 1"), (b"[]", "found a list"), (b"\xff\xfe", "not JSON in UTF-8"), (b"{}", "lacks")],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path, content, says):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=says):
        read_model(path)


def test_a_folder_without_a_configuration_and_a_path_that_is_none_are_told_apart(tmp_path):
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        model(str(tmp_path))
    with pytest.raises(ValueError, match="no such file or folder"):
        model(str(tmp_path / "config.json"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("chips: {}", "unknown key 'chips'"),
        ("devices: {X: {vendor: nvidia}}", r"device X: lacks .*memory_gb.*line 1"),
        ("devices: {X: 3}", "device X is 3; it must be a mapping"),
        ("models: {M: {config: {hidden_size: 8}}}", "model M: config of M lacks"),
        ("models: {M: {config: nowhere.json}}", "model M: .*nowhere.json"),
        ("models: {M: {layers: 1, colour: red}}", "model M: unknown key 'colour'"),
        ("{}", "expected devices or models, found neither"),
    ],
)
def test_a_wrong_catalogue_of_ones_own_is_refused_with_its_place(tmp_path, text, says):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=says):
        add_catalogue(path)


def test_a_model_of_ones_own_is_found_by_its_name(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    path = tmp_path / "mine.yaml"
    path.write_text("models:\n  My-Own-8B: {config: config.json, aliases: [mine/own]}\n")
    added = add_catalogue(path)
    assert model("mine/own") is added.models["My-Own-8B"]
