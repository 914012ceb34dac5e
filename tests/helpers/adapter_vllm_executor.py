"""An executor for vLLM that has no model: steps take 2 ms and 50 us a token, and every request says the same token."""

import time
from concurrent.futures import ThreadPoolExecutor

import torch
from vllm.v1.executor.abstract import Executor
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.outputs import ModelRunnerOutput

STEP_S, TOKEN_S = 0.002, 5e-5


class SleepingExecutor(Executor):
    """Plays the workers, so that everything else of a vLLM server is vLLM's own."""

    def _init_executor(self):
        self._unfinished = {}  # tokens left of the prompt of each request
        self._step = None
        self._device = ThreadPoolExecutor(1)

    @classmethod
    def supports_async_scheduling(cls):
        """Steps are planned while the last one sleeps."""
        return True

    def get_supported_kv_cache_layouts(self):
        """One worker's."""
        return [["NHD"]]

    def get_kv_cache_specs(self):
        """One layer of one worker."""
        return [{"layer": FullAttentionSpec(block_size=16, num_kv_heads=1, head_size=8, dtype=torch.float32)}]

    def determine_available_memory(self):
        """Bytes: 4,096 blocks."""
        return [4096 * 16 * 2 * 8 * 4]

    def compile_or_warm_up_model(self):
        """Nothing to warm up."""

    @property
    def supported_tasks(self):
        """Text."""
        return ("generate",)

    def collective_rpc(self, method, timeout=None, args=(), kwargs=None, non_block=False):
        """Workers have nothing to say."""
        return [None]

    def execute_model(self, scheduler_output, non_block=False):
        """Sleep, and remember who is done with its prompt."""
        self._step = scheduler_output
        for new in scheduler_output.scheduled_new_reqs:
            self._unfinished[new.req_id] = len(new.prompt_token_ids) - new.num_computed_tokens
        for finished in scheduler_output.finished_req_ids:
            self._unfinished.pop(finished, None)
        tokens = scheduler_output.total_num_scheduled_tokens
        return self._run(non_block, lambda: time.sleep(STEP_S + TOKEN_S * tokens) if tokens else _output({}))

    def sample_tokens(self, grammar_output, non_block=False):
        """A token of each request whose prompt is computed."""
        tokens = {}
        for request, computed in self._step.num_scheduled_tokens.items():
            self._unfinished[request] -= computed
            tokens[request] = [5] if self._unfinished[request] <= 0 else []
        return self._run(non_block, lambda: _output(tokens))

    def check_health(self):
        """Always well."""

    def shutdown(self):
        """Nothing to leave behind."""
        self._device.shutdown()

    def _run(self, non_block, work):
        future = self._device.submit(work)
        return future if non_block else future.result()


def _output(tokens):
    return ModelRunnerOutput(
        req_ids=list(tokens),
        req_id_to_index={name: index for index, name in enumerate(tokens)},
        sampled_token_ids=list(tokens.values()),
        logprobs=None,
        prompt_logprobs_dict={},
        pooler_output=[],
    )
