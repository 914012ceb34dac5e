"""The `workload` section of a scenario file: who asks for how much, and when. Lengths in tokens, times in s."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from batchpilot.configs.conversation_spec import Conversations
from batchpilot.configs.image_spec import ImagesSpec
from batchpilot.configs.load_spec import ArrivalsSpec, LengthsSpec, Positive, Senders, Share, Tokens
from batchpilot.configs.strict import StrictModel, problem


class Phase(Senders):
    """A stretch of time with one kind of load.

    Attributes:
        duration_s: its length.
        arrivals: when requests come.
        lengths: how long they are.
    """

    duration_s: Positive
    arrivals: ArrivalsSpec
    lengths: LengthsSpec


class ClosedLoop(Senders):
    """Clients that each send their next request when their last one ends.

    Attributes:
        concurrency: number of clients.
        requests: requests in all.
        lengths: how long they are.
        output_tokens: a fixed output length in place of the one of `lengths`.
    """

    concurrency: Annotated[int, Field(ge=1)]
    requests: Annotated[int, Field(ge=1)]
    lengths: LengthsSpec
    output_tokens: Tokens | None = None


class TraceReplay(Senders):
    """A recorded trace.

    Attributes:
        file: its path, relative to the scenario file; None leaves it to the command line.
        format: how it is written; a name known to `workloads.readers`.
        rate: how many times as fast the requests arrive.
        start_s: where the window starts, in the trace's own time.
        duration_s: length of the window in the trace's own time; None for all the rest.
        loop: repeat the window until the scenario ends.
        skip_bad_rows: count malformed rows instead of refusing the file.
        options: of format csv: `arrival_column`, `prompt_column`, `output_column`, `image_size_column`,
            `image_id_column`, `time_unit`; of weka: `every_s`.
    """

    file: str | None = None
    format: Literal["azure2023", "azure2024", "burstgpt", "mooncake", "vidur", "weka", "csv"] = "azure2023"
    rate: Positive = 1.0
    start_s: Annotated[float, Field(ge=0)] = 0.0
    duration_s: Positive | None = None
    loop: bool = False
    skip_bad_rows: bool = False
    options: dict[str, str] = Field(default_factory=dict)


class SharedText(StrictModel):
    """Texts of which a request's prompt has one: system prompts, documents, branches of conversations.

    Attributes:
        tokens: length of each.
        kinds: how many there are behind each text of the level before.
        zipf: the k-th most popular is asked for in proportion to 1 / k ** zipf.
        share: share of the requests that got so far and have one; the others go on alone.
    """

    tokens: Tokens
    kinds: Annotated[int, Field(ge=1)] = 1
    zipf: Annotated[float, Field(ge=0)] = 1.0
    share: Share = 1.0


class Sharing(StrictModel):
    """What prompts begin with and have in common; an engine with `prefix_cache` computes it once.

    Attributes:
        levels: texts one behind another, from the front of the prompt; lengths stay those of `lengths`.
        block_tokens: tokens in a block that has a hash; a text's last tokens that fill none are not shared.
    """

    levels: Annotated[list[SharedText], Field(min_length=1)]
    block_tokens: Tokens = 16


_SOURCES = ("phases", "conversations", "closed_loop", "trace")


class Workload(StrictModel):
    """What is asked of the engine; exactly one of the first four is given.

    Attributes:
        phases: synthetic load, put end to end.
        conversations: conversations and agents, whose turns wait for answers.
        closed_loop: a fixed number of clients.
        trace: a recording.
        length_estimate_sigma: error of the length predictor that SJF and fair sharing use, as the standard deviation of
            a logarithm; 0 is an oracle.
        sharing: what prompts have in common; None for nothing but what a trace tells.
        images: images that requests carry, or that conversations begin with and all their turns repeat; None for none
            but those of a trace.
    """

    phases: Annotated[list[Phase], Field(min_length=1)] | None = None
    conversations: Conversations | None = None
    closed_loop: ClosedLoop | None = None
    trace: TraceReplay | None = None
    length_estimate_sigma: Annotated[float, Field(ge=0)] = 0.5
    sharing: Sharing | None = None
    images: ImagesSpec | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Workload:
        given = [name for name in _SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            found, known = " and ".join(given) or "none", f"{', '.join(_SOURCES[:-1])} and {_SOURCES[-1]}"
            raise problem(f"{found} of {known} given; give exactly one", *given[1:2])
        if self.conversations is not None and self.sharing is not None:
            raise problem("conversations already say what their prompts share; leave sharing out", "sharing")
        return self

    @property
    def by_load(self) -> bool:
        """Whether some phase states its rate as a multiple of the engine's capacity."""
        sources = [*(self.phases or ()), *([self.conversations] if self.conversations else ())]
        return any(source.arrivals.load is not None for source in sources)

    @property
    def senders(self) -> dict[tuple[str | int, ...], Senders]:
        """Every group of senders, by its path below the workload."""
        groups: dict[tuple[str | int, ...], Senders] = {
            ("phases", index): phase for index, phase in enumerate(self.phases or ())
        }
        if self.conversations is not None:
            groups["conversations",] = self.conversations
        if self.closed_loop is not None:
            groups["closed_loop",] = self.closed_loop
        if self.trace is not None:
            groups["trace",] = self.trace
        return groups
