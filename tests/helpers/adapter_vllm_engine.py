"""vLLM's scheduler on a CPU, without a model."""

import json

import torch
from vllm.config import CacheConfig, DeviceConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.v1.core.single_type_kv_cache_manager import register_all_kvcache_specs
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

from batchpilot.serving.adapters.vllm_scheduler import TunedScheduler

MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "vocab_size": 512,
    "max_position_embeddings": 8192,
}
BLOCK_SIZE = 16


def write_model(folder):
    """A model's folder without weights."""
    (folder / "config.json").write_text(json.dumps(MODEL))


def make_config(folder, *, max_num_seqs=16, max_num_batched_tokens=512, **scheduling):
    """A configuration of vLLM for a model that has a shape and no weights."""
    write_model(folder)
    model = ModelConfig(model=str(folder), dtype="float32", skip_tokenizer_init=True, max_model_len=4096)
    scheduler = SchedulerConfig(
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_model_len=4096,
        is_encoder_decoder=False,
        async_scheduling=True,
        watermark=0.0,
        **scheduling,
    )
    cache = CacheConfig(block_size=BLOCK_SIZE, enable_prefix_caching=False)
    return VllmConfig(
        model_config=model, scheduler_config=scheduler, cache_config=cache, device_config=DeviceConfig("cpu")
    )


def make_scheduler(config, settings, *, num_blocks=1000):
    """A scheduler with its additional configuration set."""
    config.additional_config = {"batchpilot": settings}
    spec = FullAttentionSpec(block_size=BLOCK_SIZE, num_kv_heads=1, head_size=1, dtype=torch.float32)
    config.cache_config.num_gpu_blocks = num_blocks
    register_all_kvcache_specs(config)
    return TunedScheduler(
        vllm_config=config,
        kv_cache_config=KVCacheConfig(num_blocks, [], [KVCacheGroupSpec(["layer"], spec)]),
        structured_output_manager=StructuredOutputManager(config),
        block_size=BLOCK_SIZE,
        log_stats=True,
    )


def make_request(name, prompt_tokens, max_tokens=4, **options):
    """A request of the same token over and over."""
    extra_args = options.pop("extra_args", None)
    sampling = SamplingParams(max_tokens=max_tokens, extra_args=extra_args)
    sampling.update_from_generation_config({}, 2)
    return Request(name, [5] * prompt_tokens, sampling, None, **options)
