"""A loop that plays vLLM's engine core, around the real package or, where there is none, its recorded interface.

Requests emit the same token for ever.
"""

from importlib.util import find_spec
from types import SimpleNamespace

IS_REAL = find_spec("vllm") is not None

if IS_REAL:
    from adapter_vllm_engine import make_config, make_request, make_scheduler
    from vllm.v1.outputs import ModelRunnerOutput as runner_output  # noqa: N813
else:
    import adapter_vllm_recorded

    adapter_vllm_recorded.install()
    from adapter_vllm_recorded import make_config, make_request, make_scheduler

    runner_output = SimpleNamespace

__all__ = ["IS_REAL", "make_config", "make_request", "make_scheduler", "step", "plan_step", "finish_step"]


def step(scheduler, wait=None):
    """One synchronous step of engine core; returns the plan and the outputs by request."""
    planned = plan_step(scheduler)
    return planned[0], finish_step(scheduler, planned, wait)


def plan_step(scheduler):
    """The first half of a step: the plan, and the token each of its requests will emit."""
    plan = scheduler.schedule()
    tokens = {name: [] if scheduler.requests[name].is_prefill_chunk else [7] for name in plan.num_scheduled_tokens}
    return plan, tokens


def finish_step(scheduler, planned, wait=None):
    """The second half, `wait(tokens)` playing the device; returns the outputs by request."""
    plan, tokens = planned
    if wait is not None and plan.total_num_scheduled_tokens:
        wait(plan.total_num_scheduled_tokens)
    result = runner_output(
        req_ids=list(tokens),
        req_id_to_index={name: index for index, name in enumerate(tokens)},
        sampled_token_ids=list(tokens.values()),
        logprobs=None,
        prompt_logprobs_dict={},
        pooler_output=[],
    )
    outputs = scheduler.update_from_output(plan, result)
    return {output.request_id: output for client in outputs.values() for output in client.outputs}
