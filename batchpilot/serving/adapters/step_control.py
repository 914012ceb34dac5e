"""A tuner's limits at one step of somebody else's scheduler: how many requests, how many tokens, whom to refuse.

Plain numbers in and out, so that it knows no server. Times in ms.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence

from batchpilot.serving.adapters.hopeless import Hopeless
from batchpilot.serving.adapters.promise_errors import PromiseErrors
from batchpilot.serving.adapters.step_model import MOST_CAUTION, StepModel
from batchpilot.serving.recording import StepRecorder
from batchpilot.serving.session.session import TunerSession

_UNCACHED_MEMORY = 0.05

MOST_MARGIN = 0.25
"""Of a promise at most, for what was late before: a hiccup must not close the door on everybody for good, since whoever
is refused teaches nothing."""


class StepControl:
    """What a session's limits mean for a scheduler that was started with its own.

    Args:
        session: hears of requests and steps, and holds the limits.
        most_requests: requests in a step that the server was started with; limits above it stop there.
        most_tokens: tokens in a step, likewise.
        known: step latency as calibrated, nine saturation parameters or eleven; None for what steps will show.
        recorder: writes the steps, None for nobody.
    """

    def __init__(
        self,
        session: TunerSession,
        most_requests: int,
        most_tokens: int,
        *,
        known: Sequence[float] | None = None,
        recorder: StepRecorder | None = None,
    ) -> None:
        self.session = session
        self._recorder = recorder
        self._most_requests, self._most_tokens, self._known = most_requests, most_tokens, known
        self._model = StepModel()
        self._errors = PromiseErrors()
        self._uncached = 1.0
        self._hopeless = Hopeless(lambda prompt_tokens: self._model.fastest_ms(self._uncomputed(prompt_tokens)))

    def close(self) -> None:
        """End the session and the recording."""
        self.session.close()
        if self._recorder is not None:
            self._recorder.stop()

    def active_requests(self) -> int:
        """Most requests that may run."""
        return min(self.session.limits().batch_size, self._most_requests)

    def refuses_arrival(self) -> bool:
        """Whether `max_queued_tokens` keeps a request out that has not been told as arrived."""
        most = self.session.limits().max_queued_tokens
        return most is not None and self.session.unanswered_tokens >= most

    def hear_waiting(self, request: Hashable, prompt_tokens: int, ttft_target_ms: float, waited_ms: float) -> None:
        """A request has come and waits.

        Args:
            request: its id.
            prompt_tokens: its prompt, >= 1.
            ttft_target_ms: its promise.
            waited_ms: how long ago it came.
        """
        self._errors.hear_handover(min(waited_ms, MOST_MARGIN * ttft_target_ms))
        self._hopeless.add(request, self.session.now_ms - waited_ms, prompt_tokens, ttft_target_ms)

    def hear_begun(self, request: Hashable) -> None:
        """A request waits no longer: it was let in.

        Args:
            request: its id.
        """
        self._hopeless.discard(request)

    def hear_ended(self, request: Hashable) -> None:
        """A request has ended without having said everything.

        Args:
            request: its id.
        """
        self._hopeless.discard(request)
        self._errors.forget(request)

    def hopeless(self, batch_size: int = 0, tokens: int = 0, context_tokens: int = 0) -> list[Hashable]:
        """Waiting requests that `ttft_guard` refuses before their turn: at the end of a step it would be too late.

        Args:
            batch_size: requests of the step that is planned, 0 for none.
            tokens: computed in it.
            context_tokens: read by attention.
        """
        step_ms = 0.0
        if tokens and self._model.is_known:
            self._model.estimate = self.session.estimate or self._known
            step_ms = self._model.step_ms(batch_size, tokens, context_tokens)
        told_ms = self.session.now_ms + self._errors.handover_ms
        return self._hopeless.take(self.session.limits().ttft_guard, told_ms, step_ms)

    def token_budget(self, requests: int, decode_tokens: int, context_tokens: int, *, prompts: bool = True) -> int:
        """Tokens that a step may compute: the token budget, cut to what keeps `step_target_ms`.

        Never less than requests that run need for their next tokens: a smaller budget would starve the last of them.

        Args:
            requests: that could be in the step, those that wait among them, >= 1; limits cut them to what may be.
            decode_tokens: what those that run need.
            context_tokens: what attention reads for them.
            prompts: whether any prompt is left to compute; else there is nothing to cut.
        """
        limits = self.session.limits()
        budget = min(limits.token_budget or self._most_tokens, self._most_tokens)
        if limits.step_target_ms is not None and prompts:
            self._model.estimate = self.session.estimate or self._known
            most = self.active_requests()
            requests = max(min(requests, most), 1)
            budget = self._model.most_tokens(
                requests, context_tokens, self._aim_ms(limits.step_target_ms), budget, most
            )
        return min(max(budget, decode_tokens, 1), self._most_tokens)

    def refuses_turn(
        self,
        request: Hashable,
        *,
        waited_ms: float,
        prompt_tokens: int,
        ttft_target_ms: float,
        running: int,
        context_tokens: int,
        budget: int,
    ) -> bool:
        """Whether `ttft_guard` refuses a request whose turn has come; never while nothing is known of step times.

        Args:
            request: its id.
            waited_ms: since it came.
            prompt_tokens: its prompt.
            ttft_target_ms: its promise.
            running: requests beside it.
            context_tokens: what attention reads for them.
            budget: tokens of a full step.
        """
        guard = self.session.limits().ttft_guard
        if guard is None:
            return False
        self._model.estimate = self.session.estimate or self._known
        left = self._uncomputed(prompt_tokens)
        prefill_ms = self._model.prefill_ms(left, running, context_tokens, budget)
        if math.isnan(prefill_ms):
            return False
        lateness_ms = self._errors.lateness_ms
        unknown = math.isnan(lateness_ms)
        margin_ms = (self._model.caution - 1.0) * prefill_ms if unknown else lateness_ms
        margin_ms = min(margin_ms + self._errors.handover_ms, MOST_MARGIN * guard * ttft_target_ms)
        if waited_ms + prefill_ms + margin_ms > guard * ttft_target_ms:
            return True
        self._errors.expect(request, self.session.now_ms + prefill_ms)
        return False

    def _uncomputed(self, prompt_tokens: int) -> int:
        """What a prefix cache usually leaves to compute of a prompt."""
        return max(round(prompt_tokens * self._uncached), 1)

    def hear_cached(self, prompt_tokens: int, cached_tokens: int) -> None:
        """A request was let in; what a prefix cache held of its prompt tells what to expect of the next ones.

        Args:
            prompt_tokens: its prompt, >= 1.
            cached_tokens: as many need not be computed.
        """
        self._uncached += _UNCACHED_MEMORY * (1.0 - cached_tokens / prompt_tokens - self._uncached)

    def hear_step(
        self,
        *,
        batch_size: int,
        tokens: int,
        context_tokens: int,
        duration_ms: float,
        kv_used_fraction: float,
        prefills: Sequence[tuple[Hashable, int]],
        preempted: Sequence[Hashable],
        emitted: Mapping[int, Collection[Hashable]],
        finished: Sequence[Hashable],
    ) -> None:
        """A step ended.

        Args:
            batch_size: requests in it.
            tokens: computed.
            context_tokens: read by attention.
            duration_ms: its time.
            kv_used_fraction: KV blocks in use, 0-1.
            prefills: requests with prompt tokens computed in it.
            preempted: requests that went back into the queue for it.
            emitted: requests by how many tokens each emitted.
            finished: requests that have said everything.
        """
        session = self.session
        if tokens:
            self._model.hear(batch_size, tokens, context_tokens, duration_ms)
            if self._recorder is not None:
                self._recorder.hear(batch_size, tokens, context_tokens, duration_ms)
        self._learn(prefills, emitted, finished)
        for request in preempted:
            session.on_preempt(request)
        for request, computed in prefills:
            session.on_prefill(request, computed)
        for count, requests in emitted.items():
            session.on_step_tokens(requests, count)
        for request in finished:
            session.on_finish(request)
        if tokens:
            session.on_step(batch_size, tokens, context_tokens, duration_ms, kv_used_fraction=kv_used_fraction)

    def _learn(
        self,
        prefills: Sequence[tuple[Hashable, int]],
        emitted: Mapping[int, Collection[Hashable]],
        finished: Sequence[Hashable],
    ) -> None:
        """Hold first tokens and whole texts against what was predicted of them."""
        if not (prefills or finished):
            return
        now_ms, predicted_ms = self.session.now_ms, self._model.predicted_total_ms
        spoke = set().union(*emitted.values()) if prefills else set[Hashable]()
        for request, _ in prefills:
            if request in spoke:
                self._errors.hear_first(request, now_ms, predicted_ms)
        for request in finished:
            self._errors.hear_finish(request, now_ms, predicted_ms)

    def _aim_ms(self, target_ms: float) -> float:
        """The step target, kept below the promise by the usual error: of texts, of steps while none has ended."""
        window = self.session.latest
        promised_ms = target_ms if window is None or not window.tpot_target_ms > 0 else window.tpot_target_ms
        pace = self._errors.pace
        caution = self._model.caution if math.isnan(pace) else min(max(pace, 1.0), MOST_CAUTION)
        return min(target_ms, promised_ms / caution)
