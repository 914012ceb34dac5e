"""What a step of vLLM's scheduler computes, read from its plan and its outputs without asking every request.

A request that decodes needs no look: prefills are searched among those whose prompts are not computed yet, and what is
summed over all is summed by compiled loops.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any

_computed_tokens = attrgetter("num_computed_tokens")
_outputs = attrgetter("outputs")


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
    prefills: Sequence[tuple[str, int]] = ()
    preempted: Sequence[str] = ()


class StepReader:
    """Reads a scheduler's steps, and remembers whose prompts are not computed yet, or must be again.

    Args:
        scheduler: vLLM's.
    """

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._prefilling: dict[str, None] = {}
        self._ran, self._computed_tokens = 0, 0

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
        if output.preempted_req_ids:
            step.preempted = sorted(output.preempted_req_ids)
            self.expect(step.preempted)
        if output.scheduled_new_reqs:
            self.expect(new.req_id for new in output.scheduled_new_reqs)
        decoding, decode_tokens = step.batch_size, step.tokens
        if self._prefilling:
            step.prefills = self._prefills(scheduled)
            decoding -= len(step.prefills)
            decode_tokens -= sum(tokens for _, tokens in step.prefills)
        if decode_tokens > decoding * (1 + self._scheduler.num_spec_tokens):
            # More than decoding needs: vLLM has lost what some had computed, as when a KV transfer failed.
            self.expect(scheduled)
            step.prefills = self._prefills(scheduled)
        step.context_tokens = self._context_of(step, scheduled)
        return step

    def _context_of(self, step: PlannedStep, scheduled: dict[str, int]) -> int:
        """What attention reads in a step: as much as all have computed before it."""
        scheduler = self._scheduler
        if len(scheduled) < len(scheduler.running):
            self._ran = 0
            computed: int = sum(map(_computed_tokens, map(scheduler.requests.__getitem__, scheduled)))
            return computed - step.tokens
        if step.prefills or len(scheduled) != self._ran or scheduler.num_spec_tokens:
            # vLLM has counted this step's tokens as computed already.
            self._ran, self._computed_tokens = len(scheduled), self.context_tokens()
            return self._computed_tokens - step.tokens
        # As many as in the last step and nobody new: they are the same, each with all that they computed then.
        context_tokens = self._computed_tokens
        self._computed_tokens += step.tokens
        return context_tokens

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


def outputs_of(by_client: Mapping[int, Any]) -> list[Any]:
    """A step's outputs, one a request that has something to tell.

    Args:
        by_client: as vLLM's scheduler returns them.
    """
    return list(chain.from_iterable(map(_outputs, by_client.values())))


def by_tokens(
    scheduled: dict[str, int], sampled: Sequence[Any], by_client: Mapping[int, Any], most: int
) -> Mapping[int, Collection[str]]:
    """Requests by how many tokens each emitted; those that emitted none are left out.

    Args:
        scheduled: the tokens of each request of the step, as planned.
        sampled: the tokens that the model gave each.
        by_client: the outputs made of them, as vLLM's scheduler returns them.
        most: tokens that a request can emit in a step.
    """
    if most == 1 and len(sampled) == len(scheduled) and all(sampled):
        told = sum([len(client.outputs) for client in by_client.values()])
        if told == len(scheduled):
            # Everybody has got one token and tells it: no output need be looked at.
            return {1: scheduled}
    emitted: dict[int, list[str]] = {}
    for output in outputs_of(by_client):
        if output.new_token_ids:
            emitted.setdefault(len(output.new_token_ids), []).append(output.request_id)
    return emitted
