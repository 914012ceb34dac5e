"""What a client of OpenAI's API may ask for: the fields that are understood; all others are refused by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

MOST_STOPS = 4
MOST_PROMPT_CHARACTERS = 4_000_000

StopString = Annotated[str, Field(min_length=1, max_length=256)]
Zero = Annotated[float, Field(ge=0, le=0)]


class StreamOptions(BaseModel):
    """How to stream.

    Attributes:
        include_usage: whether a last chunk tells the numbers of tokens.
    """

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False


class CommonBody(BaseModel):
    """What both kinds of completion share.

    Attributes:
        model: as `/v1/models` names it.
        max_tokens: most tokens to generate.
        temperature: 0 for the likeliest token.
        top_p: draw from the likeliest tokens that together have this probability.
        seed: of the draws.
        stop: strings before which the answer ends.
        stream: whether to answer token by token.
        stream_options: how.
        user: whose it is; fair sharing shares between users.
        n: answers, of which there is one.
        presence_penalty: not supported, so 0.
        frequency_penalty: not supported, so 0.
        priority: ours; high, normal or low.
        slo: ours; the class of the promise.
        ttft_ms: ours; the promised time to first token, instead of the class's.
        tpot_ms: ours; the promised time per token, likewise.
        timeout_s: ours; give up after so long.
        ignore_eos: ours; go on after the end-of-text token.
        store: accepted when it is off.
        metadata: accepted and not looked at.
    """

    model_config = ConfigDict(extra="forbid")

    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=MOST_STOPS)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: Annotated[str, Field(max_length=256)] | None = None
    n: Literal[1] | None = None
    presence_penalty: Zero | None = None
    frequency_penalty: Zero | None = None
    priority: Literal["high", "normal", "low"] = "normal"
    slo: Literal["realtime", "interactive", "batch"] | None = None
    ttft_ms: Annotated[float, Field(gt=0, le=1e9)] | None = None
    tpot_ms: Annotated[float, Field(gt=0, le=1e9)] | None = None
    timeout_s: Annotated[float, Field(gt=0, le=86400)] | None = None
    ignore_eos: bool = False
    store: Literal[False] | None = None
    metadata: dict[str, Any] | None = None

    @property
    def stops(self) -> list[str]:
        """The stop strings as a list."""
        return [] if self.stop is None else [self.stop] if isinstance(self.stop, str) else self.stop


class CompletionBody(CommonBody):
    """Body of `/v1/completions`.

    Attributes:
        prompt: text or token ids.
    """

    prompt: Annotated[str, Field(max_length=MOST_PROMPT_CHARACTERS)] | list[Annotated[int, Field(ge=0)]]


class TextPart(BaseModel):
    """A part of a message.

    Attributes:
        type: only text.
        text: it.
    """

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """A turn of a conversation.

    Attributes:
        role: who speaks.
        content: what is said.
        name: accepted and not looked at.
    """

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: str
    name: str | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _joined(cls, value: Any) -> Any:
        if isinstance(value, list):
            return "".join(TextPart.model_validate(part).text for part in value)
        return value


class ChatBody(CommonBody):
    """Body of `/v1/chat/completions`.

    Attributes:
        messages: the conversation.
        max_completion_tokens: the newer name of `max_tokens`.
    """

    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
