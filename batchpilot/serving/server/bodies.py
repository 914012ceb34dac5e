"""What a client of OpenAI's API may ask for: the fields that are understood; unknown ones are refused by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, field_validator, model_validator

from batchpilot.serving.server.neutral import NeutralChatFields, NeutralCompletionFields, NeutralFields, NoEntry

MOST_STOPS = 16
MOST_CHOICES = 128
"""Answers to one request: prompts times `n`."""

MOST_FIELDS = 100

# Any constraint at all makes pydantic refuse lone surrogates, which no tokenizer takes.
Unicode = Annotated[str, Field(min_length=0)]
StopString = Annotated[str, Field(min_length=1, max_length=256)]
# The first wrong entry is enough: a body may hold a million of them.
Tokens = Annotated[list[Annotated[StrictInt, Field(ge=0, lt=2**31)]], Field(fail_fast=True)]
Texts = Annotated[list[Unicode], Field(max_length=MOST_CHOICES, fail_fast=True)]
TokenLists = Annotated[list[Tokens], Field(max_length=MOST_CHOICES, fail_fast=True)]


class StreamOptions(BaseModel):
    """How to stream.

    Attributes:
        include_usage: whether a last chunk tells the numbers of tokens.
        continuous_usage_stats: whether every chunk does; vLLM's.
        include_obfuscation: accepted and not looked at.
    """

    model_config = ConfigDict(extra="forbid")

    include_usage: StrictBool | None = None
    continuous_usage_stats: StrictBool | None = None
    include_obfuscation: StrictBool | None = None


class CommonBody(NeutralFields):
    """What both kinds of completion share.

    Attributes:
        model: as `/v1/models` names it.
        max_tokens: most tokens to generate.
        max_completion_tokens: its newer name, which counts where both are given.
        min_tokens: accepted beside `ignore_eos`, where it says nothing new.
        temperature: 0 for the likeliest token.
        top_p: draw from the likeliest tokens that together have this probability.
        seed: of the draws, modulo 2**64; each further answer of `n` is drawn with the next one.
        stop: strings before which the answer ends.
        stream: whether to answer token by token.
        stream_options: how.
        user: whose it is; fair sharing shares between users.
        n: answers to each prompt.
        priority: ours: high, normal or low; or vLLM's number, of which a lower one goes first and 0 is normal.
        slo: ours; the class of the promise.
        ttft_ms: ours; the promised time to first token, instead of the class's.
        tpot_ms: ours; the promised time per token, likewise.
        timeout_s: ours; give up after so long.
        ignore_eos: go on after the end-of-text token; vLLM's.
    """

    model: Unicode
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: int | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=MOST_STOPS)] | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    user: Annotated[str, Field(max_length=256)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    priority: Literal["high", "normal", "low"] | StrictInt | None = None
    slo: Literal["realtime", "interactive", "batch"] | None = None
    ttft_ms: Annotated[float, Field(gt=0, le=1e9)] | None = None
    tpot_ms: Annotated[float, Field(gt=0, le=1e9)] | None = None
    timeout_s: Annotated[float, Field(gt=0, le=86400)] | None = None
    ignore_eos: StrictBool | None = None

    @model_validator(mode="before")
    @classmethod
    def _not_too_many(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > MOST_FIELDS:
            raise ValueError(f"the body has {len(value)} fields; at most {MOST_FIELDS} are looked at")
        return value

    @property
    def stops(self) -> list[str]:
        """The stop strings as a list."""
        return [] if self.stop is None else [self.stop] if isinstance(self.stop, str) else self.stop

    @property
    def priority_name(self) -> str:
        """The priority by its name."""
        if isinstance(self.priority, int):
            return "high" if self.priority < 0 else "low" if self.priority > 0 else "normal"
        return self.priority or "normal"


class CompletionBody(CommonBody, NeutralCompletionFields):
    """Body of `/v1/completions`.

    Attributes:
        prompt: text or token ids, or a list of either.
    """

    prompt: Unicode | Tokens | Texts | TokenLists

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts as a list."""
        prompt = self.prompt
        one = isinstance(prompt, str) or not prompt or isinstance(prompt[0], int)
        return cast(list[str | list[int]], [prompt] if one else prompt)


class TextPart(BaseModel):
    """A part of a message.

    Attributes:
        type: only text.
        text: it.
    """

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: Unicode


class Message(BaseModel):
    """A turn of a conversation. What an answer has beside its text may be sent back as it came.

    Attributes:
        role: who speaks.
        content: what is said, as text or its parts.
        name: for the model's chat template.
        tool_call_id: likewise.
        tool_calls: not supported, so none.
    """

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Unicode | Annotated[list[TextPart], Field(fail_fast=True)] | None = ""
    name: Unicode | None = None
    tool_call_id: Unicode | None = None
    tool_calls: NoEntry | None = None
    function_call: None = None
    refusal: None = None
    audio: None = None
    annotations: NoEntry | None = None
    reasoning_content: None = None

    @field_validator("content", mode="after")
    @classmethod
    def _joined(cls, value: str | list[TextPart] | None) -> str:
        return "".join(part.text for part in value) if isinstance(value, list) else value or ""

    @property
    def turn(self) -> dict[str, str]:
        """What a chat template hears of it."""
        return self.model_dump(include={"role", "content", "name", "tool_call_id"}, exclude_none=True)


class ChatBody(CommonBody, NeutralChatFields):
    """Body of `/v1/chat/completions`.

    Attributes:
        messages: the conversation.
    """

    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)]
