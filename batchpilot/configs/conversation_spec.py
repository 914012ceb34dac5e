"""The `conversations` of a `workload` section. Lengths in tokens, times in s."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from batchpilot.configs.load_spec import ArrivalsSpec, LogNormalShape, Positive, Senders, Share, Tokens
from batchpilot.configs.strict import StrictModel, problem


class CountSpec(StrictModel):
    """A whole number: 0 for some, the whole part of a lognormal number for the others.

    Attributes:
        median: of the lognormal.
        sigma: standard deviation of its logarithm.
        max: larger ones are cut to this.
        none: share that has 0.
    """

    median: Positive
    sigma: Annotated[float, Field(ge=0)]
    max: Annotated[int, Field(ge=0)]
    none: Share = 0.0


class PauseSpec(StrictModel):
    """A lognormal time between an answer and the next turn.

    Attributes:
        median_s: the middle one.
        sigma: standard deviation of its logarithm.
        max_s: longer ones are cut to this.
    """

    median_s: Annotated[float, Field(ge=0)]
    sigma: Annotated[float, Field(ge=0)]
    max_s: Positive


class Conversations(Senders):
    """Conversations: a turn is asked after the answer to the one before, and its prompt is all that was said so far.

    With `steps` their human has an agent: after each request it asks again and again, behind a tool each time.

    Attributes:
        duration_s: turns that would come later than this, if answers took no time, are left out.
        arrivals: when conversations begin. A `load` counts the tokens of a turn that the turns before did not have, as
            an engine with a prefix cache does.
        requests: of the human after the first one.
        steps: of the agent after each request; None for plain chat.
        system_tokens: length of a system prompt.
        system_kinds: how many there are; the k-th is used in proportion to 1 / k.
        first_tokens: what a conversation begins with behind the system prompt.
        message_tokens: each later message of the human.
        tool_tokens: what a tool says; needed with `steps`.
        output_tokens: an answer.
        think: before a message of the human.
        work: how long a tool takes; needed with `steps`.
        max_context_tokens: a turn that would pass this ends the conversation before it.
        block_tokens: tokens in a block that has a hash.
    """

    duration_s: Positive
    arrivals: ArrivalsSpec
    requests: CountSpec
    steps: CountSpec | None = None
    system_tokens: Annotated[int, Field(ge=0)] = 0
    system_kinds: Annotated[int, Field(ge=1)] = 1
    first_tokens: LogNormalShape
    message_tokens: LogNormalShape
    tool_tokens: LogNormalShape | None = None
    output_tokens: LogNormalShape
    think: PauseSpec
    work: PauseSpec | None = None
    max_context_tokens: Tokens = 32_768
    block_tokens: Tokens = 64

    @model_validator(mode="after")
    def _agents_have_tools(self) -> Conversations:
        if self.steps is not None and (self.tool_tokens is None or self.work is None):
            missing = "tool_tokens" if self.tool_tokens is None else "work"
            raise problem(f"{missing} is missing; an agent's steps need tool_tokens and work", missing)
        return self
