"""What the adapter uses of vLLM 0.33, recorded for machines without it: tests that pass on the real one pass on this.

`install()` puts the names where the adapter imports them from. The scheduler admits in order of arrival, splits prompts
over steps, counts tokens as computed when it plans them, and knows neither blocks nor prefix caches.
"""

import enum
import itertools
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from http import HTTPStatus
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from types import SimpleNamespace

VERSION = "0.33.0"


class FinishReason(enum.IntEnum):
    """Of `vllm.v1.engine`."""

    STOP, LENGTH, ABORT, ERROR, REPETITION = range(5)


class RequestStatus(enum.IntEnum):
    """Of `vllm.v1.request`: finished from FINISHED_STOPPED on."""

    WAITING, WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR, RUNNING, PREEMPTED = range(4)
    FINISHED_STOPPED, FINISHED_LENGTH_CAPPED, FINISHED_ABORTED, FINISHED_ERROR = range(4, 8)


class PauseState(enum.IntEnum):
    """Of `vllm.v1.core.sched.interface`."""

    UNPAUSED, PAUSED_NEW, PAUSED_ALL = range(3)


@dataclass(frozen=True)
class RequestError:
    """Of `vllm.outputs`."""

    code: str
    message: str
    retryable: bool = False

    def to_exception(self):
        """What the API server answers with."""
        return SimpleNamespace(
            status_code=HTTPStatus.SERVICE_UNAVAILABLE if self.retryable else HTTPStatus.INTERNAL_SERVER_ERROR
        )


@dataclass
class EngineCoreOutput:
    """Of `vllm.v1.engine`."""

    request_id: str
    new_token_ids: list
    finish_reason: FinishReason | None = None
    stop_reason: str | None = None
    events: list | None = None
    trace_headers: dict | None = None
    error: RequestError | None = None  # from 0.33 on


@dataclass
class EngineCoreOutputs:
    """Of `vllm.v1.engine`."""

    outputs: list = field(default_factory=list)


class Request:
    """Of `vllm.v1.request`."""

    client_index, trace_headers = 0, None

    def __init__(self, request_id, prompt_token_ids, sampling_params, pooling_params, arrival_time=None) -> None:
        self.request_id, self.sampling_params = request_id, sampling_params
        self.num_prompt_tokens, self.num_output_tokens = len(prompt_token_ids), 0
        self.arrival_time = time.time() if arrival_time is None else arrival_time
        self.status = RequestStatus.WAITING
        self.num_computed_tokens = self.num_output_placeholders = self.num_preemptions = 0
        self.is_prefill_chunk = False

    @property
    def num_tokens(self):
        """Prompt and output."""
        return self.num_prompt_tokens + self.num_output_tokens

    def take_events(self):
        """No events are kept."""


class AsyncScheduler:
    """Of `vllm.v1.core.sched.async_scheduler`."""

    num_spec_tokens = num_waiting_for_streaming_input = 0
    pause_state = PauseState.UNPAUSED

    def __init__(self, vllm_config, kv_cache_config, block_size) -> None:
        self.vllm_config, self.scheduler_config = vllm_config, vllm_config.scheduler_config
        self.kv_cache_config, self.block_size = kv_cache_config, block_size
        self.max_num_running_reqs = self.scheduler_config.max_num_seqs
        self.max_num_active_reqs = self.scheduler_config.max_num_active_seqs or self.max_num_running_reqs
        self.max_num_scheduled_tokens = self.scheduler_config.max_num_batched_tokens
        self.requests, self.running = {}, []
        self.waiting, self.kv_holding_waiting = deque(), deque()
        self.finished_req_ids, self._preempted = set(), set()

    def add_request(self, request):
        """A request waits."""
        self.requests[request.request_id] = request
        self.waiting.append(request)

    def has_requests(self):
        """Also while somebody has to hear of an end."""
        return bool(self.requests or self.finished_req_ids)

    def schedule(self, throttle_prefills=False):
        """Running requests first, then waiting ones in their order."""
        budget, scheduled, new = self.max_num_scheduled_tokens, {}, []
        for request in itertools.chain(self.running, self._admitted()):
            tokens = min(request.num_tokens + request.num_output_placeholders - request.num_computed_tokens, budget)
            if request.status != RequestStatus.RUNNING:
                whole = tokens == request.num_tokens
                if not tokens or not (whole or self.scheduler_config.enable_chunked_prefill):
                    break
                if request.num_preemptions == 0:
                    new.append(SimpleNamespace(req_id=request.request_id, num_computed_tokens=0))
                request.status = RequestStatus.RUNNING
            if tokens and not self._said_all(request):
                scheduled[request.request_id] = tokens
                budget -= tokens
        self.waiting = deque(request for request in self.waiting if request.status != RequestStatus.RUNNING)
        self.running += [
            self.requests[name] for name in scheduled if all(name != request.request_id for request in self.running)
        ]
        for name, tokens in scheduled.items():
            request = self.requests[name]
            request.num_computed_tokens += tokens
            request.is_prefill_chunk = (
                request.num_computed_tokens < request.num_tokens + request.num_output_placeholders
            )
            request.num_output_placeholders += not request.is_prefill_chunk
        preempted, self._preempted, self.finished_req_ids = self._preempted, set(), set()
        return SimpleNamespace(
            num_scheduled_tokens=scheduled,
            total_num_scheduled_tokens=sum(scheduled.values()),
            scheduled_new_reqs=new,
            preempted_req_ids=preempted,
        )

    def update_from_output(self, scheduler_output, model_runner_output):
        """The tokens that requests still in flight have said."""
        outputs = []
        for name, tokens in zip(model_runner_output.req_ids, model_runner_output.sampled_token_ids, strict=True):
            request = self.requests.get(name)
            if request is None or not tokens:
                continue
            request.num_output_tokens += len(tokens)
            request.num_output_placeholders -= len(tokens)
            ended = request.num_output_tokens >= request.sampling_params.max_tokens
            if ended:
                self.running.remove(request)
                self._free(request, RequestStatus.FINISHED_LENGTH_CAPPED)
            outputs.append(EngineCoreOutput(name, list(tokens), FinishReason.LENGTH if ended else None))
        return {0: EngineCoreOutputs(outputs)} if outputs else {}

    def finish_requests(self, request_ids, finished_status):
        """End requests from outside; returns those there were."""
        names = [request_ids] if isinstance(request_ids, str) else list(request_ids or self.requests)
        ended = [self.requests[name] for name in names if name in self.requests]
        for request in ended:
            (self.running if request in self.running else self.waiting).remove(request)
            self._free(request, finished_status)
        return ended

    def reset_prefix_cache(self, reset_running_requests=False):
        """Preempt what runs."""
        for request in self.running:
            request.status, request.num_computed_tokens = RequestStatus.PREEMPTED, 0
            request.num_output_placeholders = 0
            request.num_preemptions += 1
            self._preempted.add(request.request_id)
        self.waiting.extendleft(reversed(self.running))
        self.running = []

    def get_kv_cache_usage(self):
        """Share of the blocks."""
        tokens = sum(request.num_computed_tokens for request in self.running)
        return tokens / (self.kv_cache_config.num_blocks * self.block_size)

    def shutdown(self):
        """Nothing to leave behind."""

    def _admitted(self):
        room = self.max_num_active_reqs - len(self.running)
        return [] if self.pause_state != PauseState.UNPAUSED else list(self.waiting)[: max(room, 0)]

    def _said_all(self, request):
        return request.num_output_tokens + request.num_output_placeholders >= request.sampling_params.max_tokens

    def _free(self, request, status):
        request.status = status
        self.finished_req_ids.add(request.request_id)
        del self.requests[request.request_id]


def install():
    """Put the names where vLLM has them."""
    names = {
        "vllm": {"__version__": VERSION},
        "vllm.outputs": {"RequestError": RequestError},
        "vllm.v1": {},
        "vllm.v1.core": {},
        "vllm.v1.core.sched": {},
        "vllm.v1.core.sched.async_scheduler": {"AsyncScheduler": AsyncScheduler},
        "vllm.v1.core.sched.interface": {"PauseState": PauseState},
        "vllm.v1.engine": {
            "EngineCoreOutput": EngineCoreOutput,
            "EngineCoreOutputs": EngineCoreOutputs,
            "FinishReason": FinishReason,
        },
        "vllm.v1.request": {"RequestStatus": RequestStatus},
    }
    for name, contents in names.items():
        module = module_from_spec(ModuleSpec(name, None, is_package=True))
        vars(module).update(contents)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def make_config(folder, *, max_num_seqs=16, max_num_batched_tokens=512, **scheduling):
    """As of the real package."""
    defaults = {"max_num_active_seqs": None, "enable_chunked_prefill": True, "disable_chunked_mm_input": False}
    limits = {"max_num_seqs": max_num_seqs, "max_num_batched_tokens": max_num_batched_tokens}
    return SimpleNamespace(scheduler_config=SimpleNamespace(**defaults | limits | scheduling), additional_config={})


def make_scheduler(config, settings, *, num_blocks=1000):
    """Likewise."""
    from batchpilot.serving.adapters.vllm_scheduler import TunedScheduler

    config.additional_config = {"batchpilot": settings}
    return TunedScheduler(config, SimpleNamespace(num_blocks=num_blocks), block_size=16)


def make_request(name, prompt_tokens, max_tokens=4, *, extra_args=None, **options):
    """Likewise."""
    sampling = SimpleNamespace(max_tokens=max_tokens, extra_args=extra_args)
    return Request(name, [5] * prompt_tokens, sampling, None, **options)
