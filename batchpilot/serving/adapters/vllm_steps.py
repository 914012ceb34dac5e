"""What a step of vLLM's scheduler computes, read from its plan and its outputs without asking every request.

A request that decodes needs no look: prefills are searched among those whose prompts are not computed yet, and what is
summed over all is summed by compiled loops.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

_computed_tokens = attrgetter("num_computed_tokens")
_request_id, _new_tokens = attrgetter("request_id"), attrgetter("new_token_ids")


@dataclass(slots=True)
class PlannedStep:
    """What a step was planned to compute, remembered until its output comes.

    Attributes:
        began: when it was planned.
        batch_size: requests in it.
        tokens: computed in it.
        context_tokens: read by attention.
        prefills: requests with prompt tokens computed in it.
        preempted: requests that went back into the queue for it.
    """

    began: float
    batch_size: int
    tokens: int
    context_tokens: int = 0
    prefills: list[tuple[str, int]] = field(default_factory=list)
    preempted: list[str] = field(default_factory=list)


class StepReader:
    """Reads a scheduler's steps, and remembers whose prompts are not computed yet, or must be again.

    Args:
        scheduler: vLLM's.
    """

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._prefilling: dict[str, None] = {}

    @property
    def all_decode(self) -> bool:
        """Whether every request there is runs and has its prompt computed."""
        scheduler = self._scheduler
        return len(scheduler.requests) == len(scheduler.running) and not self._prefilling

    def expect(self, requests: Iterable[str]) -> None:
        """Some requests' tokens will be computed, for the first time or again.

        Args:
            requests: their ids.
        """
        self._prefilling |= dict.fromkeys(requests)

    def context_tokens(self) -> int:
        """What attention has to read for the requests that run."""
        return sum(map(_computed_tokens, self._scheduler.running))

    def read(self, began: float, output: Any) -> PlannedStep:
        """A step that the scheduler has planned.

        Args:
            began: when.
            output: the plan.
        """
        scheduled: dict[str, int] = output.num_scheduled_tokens
        step = PlannedStep(began, len(scheduled), output.total_num_scheduled_tokens)
        step.preempted = sorted(output.preempted_req_ids or ())
        self.expect(step.preempted)
        self.expect(new.req_id for new in output.scheduled_new_reqs)
        step.prefills = self._prefills(scheduled)
        decoding = step.batch_size - len(step.prefills)
        decode_tokens = step.tokens - sum(tokens for _, tokens in step.prefills)
        if decode_tokens > decoding * (1 + self._scheduler.num_spec_tokens):
            # More than decoding needs: vLLM has lost what some had computed, as when a KV transfer failed.
            self.expect(scheduled)
            step.prefills = self._prefills(scheduled)
        # vLLM has counted this step's tokens as computed already.
        requests, running = self._scheduler.requests, self._scheduler.running
        computing = running if len(running) == len(scheduled) else [requests[name] for name in scheduled]
        step.context_tokens = sum(map(_computed_tokens, computing)) - step.tokens
        return step

    def _prefills(self, scheduled: dict[str, int]) -> list[tuple[str, int]]:
        """Who is prefilled in a step, with how many tokens; those with all of it are forgotten."""
        prefills = []
        for request_id in [*self._prefilling]:
            request, tokens = self._scheduler.requests.get(request_id), scheduled.get(request_id)
            if request is not None:
                # A request that lacks more than its last token is prefilled.
                whole = max(request.num_prompt_tokens, request.num_tokens - 1)
                if tokens is not None and request.num_computed_tokens - tokens < whole:
                    prefills.append((request_id, tokens))
                if request.num_computed_tokens < whole:
                    continue
            del self._prefilling[request_id]
        return prefills


def by_tokens(outputs: Sequence[Any]) -> dict[int, list[str]]:
    """Requests by how many tokens each emitted; those that emitted none are left out.

    Args:
        outputs: vLLM's outputs of a step.
    """
    requests, counts = list(map(_request_id, outputs)), list(map(len, map(_new_tokens, outputs)))
    if counts.count(1) == len(counts):
        return {1: requests}
    emitted: dict[int, list[str]] = {}
    for request, count in zip(requests, counts, strict=True):
        if count:
            emitted.setdefault(count, []).append(request)
    return emitted
