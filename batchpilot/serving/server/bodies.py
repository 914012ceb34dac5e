"""What a client of OpenAI's API may ask for: the fields that are understood; unknown ones are refused by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, model_validator

from batchpilot.serving.server.formats import ResponseFormat
from batchpilot.serving.server.neutral import NeutralChatFields, NeutralCompletionFields, NeutralFields, NoEntry

MOST_STOPS = 16
MOST_CHOICES = 128
"""Answers to one request: prompts times `n`."""

MOST_FIELDS = 100
MOST_LOGPROBS = 20
"""Of the likeliest tokens beside each; OpenAI's bound for conversations."""

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
        response_format: text, or JSON that obeys a schema.
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
    response_format: ResponseFormat | None = None

    @model_validator(mode="before")
    @classmethod
    def _not_too_many(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > MOST_FIELDS:
            raise ValueError(f"the body has {len(value)} fields; at most {MOST_FIELDS} are looked at")
        return value

    @property
    def wanted_logprobs(self) -> int | None:
        """How many of the likeliest tokens to tell beside each token, None for no log probabilities at all."""
        return None

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
        logprobs: tell log probabilities, of so many of the likeliest tokens too.
    """

    prompt: Unicode | Tokens | Texts | TokenLists
    logprobs: Literal[False] | Annotated[StrictInt, Field(ge=0, le=MOST_LOGPROBS)] | None = None

    @property
    def wanted_logprobs(self) -> int | None:
        """See the base."""
        return None if self.logprobs is False else self.logprobs

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts as a list."""
        prompt = self.prompt
        one = isinstance(prompt, str) or not prompt or isinstance(prompt[0], int)
        return cast(list[str | list[int]], [prompt] if one else prompt)


class TextPart(BaseModel):
    """A part of a message that is text.

    Attributes:
        type: text.
        text: it.
    """

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: Unicode


class ImageUrl(BaseModel):
    """Where an image is: here, in the URL itself.

    Attributes:
        url: `data:image/png;base64,...` or `data:image/jpeg;base64,...`; nothing is fetched.
        detail: low for 224 pixels, high for 448; auto for the smallest of 224, 336 and 448 that loses none.
    """

    model_config = ConfigDict(extra="forbid")

    url: Unicode
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(BaseModel):
    """A part of a message that is an image.

    Attributes:
        type: image_url.
        image_url: it.
    """

    model_config = ConfigDict(extra="forbid")

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(BaseModel):
    """A turn of a conversation. What an answer has beside its text may be sent back as it came.

    Attributes:
        role: who speaks.
        content: what is said, as text or its parts; a user's may be images.
        name: for the model's chat template.
        tool_call_id: likewise.
        tool_calls: not supported, so none.
    """

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Unicode | Annotated[list[Part], Field(fail_fast=True)] | None = ""
    name: Unicode | None = None
    tool_call_id: Unicode | None = None
    tool_calls: NoEntry | None = None
    function_call: None = None
    refusal: None = None
    audio: None = None
    annotations: NoEntry | None = None
    reasoning_content: None = None

    @model_validator(mode="after")
    def _users_show(self) -> Message:
        if self.images and self.role != "user":
            raise ValueError(f"a message of role {self.role!r} holds an image; only those of the user may")
        return self

    @property
    def images(self) -> list[ImageUrl]:
        """The images that it shows, in order."""
        parts = self.content if isinstance(self.content, list) else []
        return [part.image_url for part in parts if isinstance(part, ImagePart)]

    def turn(self, mark: str = "") -> dict[str, str]:
        """What a chat template hears of it.

        Args:
            mark: what stands where an image does.
        """
        content = self.content or ""
        if isinstance(content, list):
            content = "".join(part.text if isinstance(part, TextPart) else mark for part in content)
        names = self.model_dump(include={"name", "tool_call_id"}, exclude_none=True)
        return {"role": self.role, "content": content, **names}


class ChatBody(CommonBody, NeutralChatFields):
    """Body of `/v1/chat/completions`.

    Attributes:
        messages: the conversation.
        logprobs: whether to tell log probabilities.
        top_logprobs: of so many of the likeliest tokens too, where they are told.
    """

    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)]
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=MOST_LOGPROBS)] | None = None

    @model_validator(mode="after")
    def _told_together(self) -> ChatBody:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs is told beside logprobs, which must be true")
        return self

    @property
    def wanted_logprobs(self) -> int | None:
        """See the base."""
        return self.top_logprobs or 0 if self.logprobs else None
