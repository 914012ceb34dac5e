"""Fields of OpenAI's, vLLM's and SGLang's APIs that this server does not have, at the values that change nothing.

Clients send many of them by default. At another value they would change the answer, so they are refused by name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Zero = Annotated[float, Field(ge=0, le=0)]
One = Annotated[float, Field(ge=1, le=1)]
NoEntry = Annotated[list[Any], Field(max_length=0)]
NoKey = Annotated[dict[str, Any], Field(max_length=0)]
Label = Annotated[str, Field(max_length=1024)]


class NeutralFields(BaseModel):
    """What both kinds of completion take at its neutral value; null is one always.

    The fields from `metadata` on say nothing about the answer and are not looked at.
    """

    model_config = ConfigDict(extra="forbid")

    presence_penalty: Zero | None = None
    frequency_penalty: Zero | None = None
    repetition_penalty: One | None = None
    length_penalty: One | None = None
    logit_bias: NoKey | None = None
    top_k: Annotated[int, Field(ge=-1, le=0)] | None = None
    min_p: Zero | None = None
    use_beam_search: Literal[False] | None = None
    early_stopping: Literal[False] | None = None
    prompt_logprobs: None = None
    echo: Literal[False] | None = None
    stop_token_ids: NoEntry | None = None
    bad_words: NoEntry | None = None
    allowed_token_ids: None = None
    include_stop_str_in_output: Literal[False] | None = None
    skip_special_tokens: Literal[True] | None = None
    spaces_between_special_tokens: Literal[True] | None = None
    detokenize: Literal[True] | None = None
    truncate_prompt_tokens: None = None
    return_token_ids: Literal[False] | None = None
    structured_outputs: None = None
    guided_json: None = None
    guided_regex: None = None
    guided_choice: None = None
    guided_grammar: None = None
    store: Literal[False] | None = None

    metadata: dict[str, Any] | None = None
    service_tier: Label | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    prompt_cache_retention: Label | None = None
    cache_salt: Label | None = None
    request_id: Label | None = None


class NeutralCompletionFields(NeutralFields):
    """The same for completions alone."""

    best_of: Literal[1] | None = None
    suffix: Literal[""] | None = None
    add_special_tokens: Literal[True] | None = None


class NeutralChatFields(NeutralFields):
    """The same for conversations alone. Without tools it means nothing how they are chosen."""

    tools: NoEntry | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    functions: NoEntry | None = None
    function_call: Literal["none", "auto"] | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    audio: None = None
    prediction: None = None
    web_search_options: None = None
    reasoning_effort: Literal["none"] | None = None
    verbosity: Literal["medium"] | None = None
    documents: NoEntry | None = None
    chat_template: None = None
    chat_template_kwargs: NoKey | None = None
    add_special_tokens: Literal[False] | None = None
    add_generation_prompt: Literal[True] | None = None
    continue_final_message: Literal[False] | None = None
