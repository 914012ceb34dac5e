r"""vLLM: a scheduler class whose limits a tuner sets at every step.

    vllm serve MODEL --host 127.0.0.1 --scheduler-cls batchpilot.serving.adapters.vllm_scheduler.TunedScheduler \
        --additional-config '{"batchpilot": {"tuner": "guarded-default", "ttft_ms": 1000, "tpot_ms": 60}}'

The class runs in vLLM's engine core process and overrides five methods of its asynchronous scheduler; scheduling itself
stays vLLM's, and so do its limits where our code fails. A request may name its SLO class:
`"vllm_xargs": {"slo": "realtime"}`.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from batchpilot.core import SLO
from batchpilot.core.extras import needing
from batchpilot.core.slo import SLO_CLASSES
from batchpilot.serving.adapters.containment import Containment
from batchpilot.serving.adapters.step_control import StepControl
from batchpilot.serving.adapters.versions import check_version
from batchpilot.serving.adapters.vllm_order import WaitingOrder
from batchpilot.serving.adapters.vllm_refusals import check_answerable, refusal
from batchpilot.serving.adapters.vllm_settings import VLLMSettings
from batchpilot.serving.adapters.vllm_steps import PlannedStep, StepReader, by_tokens, outputs_of

with needing("the vLLM adapter", "vllm"):
    import vllm
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.interface import PauseState
    from vllm.v1.engine import EngineCoreOutputs, FinishReason
    from vllm.v1.request import RequestStatus


check_version("vllm", vllm.__version__)

_NOT_BEGUN = (RequestStatus.WAITING, RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR)

_SAID_ALL = (FinishReason.STOP, FinishReason.LENGTH, FinishReason.REPETITION)


class TunedScheduler(AsyncScheduler):  # type: ignore[misc] # vLLM is not installed where types are checked
    """vLLM's asynchronous scheduler under a tuner's limits.

    - `batch_size` and `token_budget` become `max_num_active_reqs` and `max_num_scheduled_tokens` before every step,
      never above what the server was started with; `step_target_ms` cuts the latter to what the step latency, as the
      tuner believes it or as steps have shown it, lets fit. The latter stays the server's own where prompts, or images
      in them, may not be split between steps.
    - `max_queued_tokens` is applied when a request reaches the scheduler. vLLM's own `max_num_queued_tokens` belongs to
      the API server, another process, and stands beside it.
    - `ttft_guard` is applied as soon as a waiting request is hopeless, before its turn or when it comes.
    - `discipline` puts the waiting line in order, where vLLM's `--scheduling-policy` is fcfs; see `vllm_order`.

    A refused request ends with HTTP 503 before anything was streamed. What fails in our code is contained: vLLM's own
    limits are in force until a later step goes well.

    Args:
        *arguments: as vLLM's scheduler.
        **options: likewise.

    Raises:
        ValueError: the settings in `--additional-config` are not valid; the server does not start then.
        RuntimeError: clients could not be told of refusals; likewise.
    """

    max_num_active_reqs: int
    max_num_scheduled_tokens: int

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        check_answerable(vllm.__version__)
        settings = VLLMSettings.from_additional_config(self.vllm_config.additional_config)
        self._own_limits = self.max_num_active_reqs, self.max_num_scheduled_tokens
        self.contained = Containment(self._stand_aside)
        most_requests, most_tokens = self._own_limits
        kv_capacity_tokens = self.kv_cache_config.num_blocks * self.block_size
        session = settings.session(most_requests, most_tokens, kv_capacity_tokens)
        self.control = StepControl(
            session, most_requests, most_tokens, known=settings.known_estimate, recorder=settings.recorder()
        )
        # A prompt, or an image in it, that must be computed in one step would wait for ever under a smaller budget.
        self._may_split = (
            self.scheduler_config.enable_chunked_prefill and not self.scheduler_config.disable_chunked_mm_input
        )
        self._promise = settings.slo
        self._order = WaitingOrder(self._promised, _has_not_begun)
        self._reader = StepReader(self)
        self._planned: dict[int, PlannedStep] = {}
        self._refused: list[tuple[int, Any]] = []
        self._last_output = 0.0

    def add_request(self, request: Any) -> None:
        """Take a request in, or refuse it by `max_queued_tokens`.

        Args:
            request: vLLM's request; a further input of a streaming session is no new one.
        """
        is_new = request.request_id not in self.requests
        super().add_request(request)
        with self.contained:
            if is_new:
                self._hear_arrival(request)
            else:
                self._reader.expect([request.request_id])

    def schedule(self, throttle_prefills: bool = False) -> Any:
        """Plan a step under the tuner's present limits.

        Args:
            throttle_prefills: as vLLM's scheduler.
        """
        goes_on = self.pause_state == PauseState.UNPAUSED
        with self.contained:
            self._set_limits(goes_on)
        began = time.perf_counter()
        output = super().schedule(throttle_prefills)
        with self.contained:
            planned = self._planned[id(output)] = self._remember(began, output)
            if goes_on and len(self.requests) > len(self.running):
                self._refuse_hopeless(planned)
        return output

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> dict[int, Any]:
        """Hear what a step computed, and send refusals on their way.

        Args:
            scheduler_output: the step as planned.
            model_runner_output: what came of it.
        """
        before = len(self.running), len(self.requests)
        outputs: dict[int, Any] = super().update_from_output(scheduler_output, model_runner_output)
        planned = self._planned.pop(id(scheduler_output), None)
        if planned is not None:
            with self.contained:
                scheduled, sampled = scheduler_output.num_scheduled_tokens, model_runner_output.sampled_token_ids
                emitted = by_tokens(scheduled, sampled, outputs, 1 + self.num_spec_tokens)
                some_ended = (len(self.running), len(self.requests)) != before
                self._tell(planned, emitted, _said_all(outputs) if some_ended else [])
        for client, refused in self._refused:
            outputs.setdefault(client, EngineCoreOutputs()).outputs.append(refused)
        self._refused = []
        return outputs

    def finish_requests(self, request_ids: str | Iterable[str] | None, finished_status: Any) -> list[Any]:
        """End requests from outside: their client is gone or they failed.

        Args:
            request_ids: one, several, or None for all.
            finished_status: as what.
        """
        ended: list[Any] = super().finish_requests(request_ids, finished_status)
        with self.contained:
            failed = finished_status == RequestStatus.FINISHED_ERROR
            end = self.control.session.on_failure if failed else self.control.session.on_cancel
            for request in ended:
                self.control.hear_ended(request.request_id)
                end(request.request_id)
        return ended

    def shutdown(self) -> None:
        """End the session with the scheduler."""
        with self.contained:
            self.control.close()
        super().shutdown()

    def _stand_aside(self) -> None:
        """Put the limits in force that vLLM was started with."""
        self.max_num_active_reqs, self.max_num_scheduled_tokens = self._own_limits

    def _hear_arrival(self, request: Any) -> None:
        """Tell of a new request, and refuse it while too many prompt tokens wait."""
        session, promise = self.control.session, self._promised(request)
        if len(self.requests) == 1:
            session.tick()
        refused = self.control.refuses_arrival()
        session.on_arrival(
            request.request_id,
            request.num_prompt_tokens,
            ttft_target_ms=promise.ttft_ms,
            tpot_target_ms=promise.tpot_ms,
            waited_ms=_waited_ms(request),
        )
        if refused:
            self._refuse(request, "refused_on_arrival", "too many prompt tokens are waiting")
        else:
            self._order.hear_arrival()
            self.control.hear_waiting(
                request.request_id, request.num_prompt_tokens, promise.ttft_ms, _waited_ms(request)
            )

    def _set_limits(self, goes_on: bool) -> None:
        """The tuner's present limits, and an end to those who wait in vain unless the scheduler is paused."""
        self.max_num_active_reqs = self.control.active_requests()
        decode_tokens = len(self.running) * (1 + self.num_spec_tokens)
        prompts = not self._reader.all_decode
        context_tokens = self._reader.context_tokens() if prompts else 0
        if self._may_split:
            self.max_num_scheduled_tokens = self.control.token_budget(
                len(self.running) + len(self.waiting), decode_tokens, context_tokens, prompts=prompts
            )
        if goes_on and prompts:
            self._order.put(self.waiting, self.control.session.limits().discipline)
            self._refuse_hopeless()
            self._refuse_late(decode_tokens, context_tokens)

    def _promised(self, request: Any) -> SLO:
        """The SLO of the class that a request names, the default for an unknown one or none."""
        named = getattr(request.sampling_params, "extra_args", None) or {}
        return SLO_CLASSES.get(str(named.get("slo")), self._promise)

    def _refuse_hopeless(self, planned: PlannedStep | None = None) -> None:
        """Refuse waiting requests that are hopeless now, or will be when the planned step has ended."""
        step = (planned.batch_size, planned.tokens, planned.context_tokens) if planned else ()
        for request_id in self.control.hopeless(*step):
            request = self.requests.get(request_id)
            if request is not None and request.status in _NOT_BEGUN:
                self._refuse(request, "refused_by_guard", "its first token would have come too late")

    def _refuse_late(self, decode_tokens: int, context_tokens: int) -> None:
        """Refuse waiting requests whose turn comes in this step and would come too late."""
        room = self.max_num_active_reqs - len(self.running) - self.num_waiting_for_streaming_input
        room -= len(self.kv_holding_waiting)
        tokens = self.max_num_scheduled_tokens - decode_tokens
        running, late = len(self.running), []
        for request in self.waiting:
            if room <= 0 or tokens <= 0:
                break
            if _has_not_begun(request) and self.control.refuses_turn(
                request.request_id,
                waited_ms=_waited_ms(request),
                prompt_tokens=request.num_prompt_tokens,
                ttft_target_ms=self._promised(request).ttft_ms,
                running=running,
                context_tokens=context_tokens,
                budget=self.max_num_scheduled_tokens,
            ):
                late.append(request)
                continue
            room, tokens, running = room - 1, tokens - request.num_tokens, running + 1
        for request in late:
            self._refuse(request, "refused_by_guard", "its first token would have come too late")

    def _refuse(self, request: Any, reason: str, message: str) -> None:
        told = refusal(request, reason, f"The server is busy: {message}. Please retry.")  # whoever ends must be told
        super().finish_requests(request.request_id, RequestStatus.FINISHED_ERROR)
        self._refused.append((request.client_index, told))
        self.control.hear_ended(request.request_id)
        self.control.session.on_reject(request.request_id, reason)

    def _remember(self, began: float, output: Any) -> PlannedStep:
        for new in output.scheduled_new_reqs:
            prompt_tokens = self.requests[new.req_id].num_prompt_tokens
            self.control.hear_cached(prompt_tokens, min(new.num_computed_tokens, prompt_tokens))
            self.control.hear_begun(new.req_id)
            self.control.session.on_start(new.req_id)
        return self._reader.read(began, output)

    def _tell(self, planned: PlannedStep, emitted: Mapping[int, Collection[str]], finished: list[str]) -> None:
        ended = time.perf_counter()
        # Steps overlap: this one could not begin on the device before the last one's output had come.
        duration_ms = 1000.0 * (ended - max(planned.began, self._last_output))
        self._last_output = ended
        self.control.hear_step(
            batch_size=planned.batch_size,
            tokens=planned.tokens,
            context_tokens=planned.context_tokens,
            duration_ms=duration_ms,
            kv_used_fraction=self.get_kv_cache_usage(),
            prefills=planned.prefills,
            preempted=planned.preempted,
            emitted=emitted,
            finished=finished,
        )


def _has_not_begun(request: Any) -> bool:
    return request.status in _NOT_BEGUN and request.num_preemptions == 0


def _said_all(outputs: dict[int, Any]) -> list[str]:
    """Requests that have said everything."""
    ended = (output for output in outputs_of(outputs) if output.finish_reason is not None)
    return [output.request_id for output in ended if output.finish_reason in _SAID_ALL]


def _waited_ms(request: Any) -> float:
    """How long ago the API server took a request, whose clock may be another process's."""
    arrived: float = request.arrival_time
    return max(1000.0 * (time.time() - arrived), 0.0)
