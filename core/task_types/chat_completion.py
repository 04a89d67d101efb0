"""`chat.completion`: POST /chat/completions. Source: OpenAI API reference, "Create chat completion"."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Required

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from core.task_types.provider_input import JsonObject, Metadata, NonEmpty, ProviderInput, Says
from core.task_types.spec import TaskSpec

Penalty = Annotated[float, Field(ge=-2, le=2)]


@with_config(ConfigDict(extra="allow", strict=True))
class ChatMessage(TypedDict, total=False):
    """One turn. Further members (`reasoning_content`, `cache_control`, ...) are sent as they are."""

    role: Required[Literal["developer", "system", "user", "assistant", "tool", "function"]]
    content: Annotated[str | list[JsonObject] | None, Says("must be text, a list of parts or null")]
    name: str
    tool_calls: list[JsonObject]
    tool_call_id: str


class ChatCompletion(ProviderInput):
    """The request body of a chat completion, without streaming."""

    task_type: ClassVar[str] = "chat.completion"

    model: NonEmpty
    messages: Annotated[list[ChatMessage], Field(min_length=1)]

    audio: JsonObject | None = None
    frequency_penalty: Penalty | None = None
    function_call: Annotated[str | JsonObject | None, Says("must be text or an object")] = None
    functions: list[JsonObject] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    logprobs: bool | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    metadata: Metadata | None = None
    modalities: list[str] | None = None
    moderation: JsonObject | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    parallel_tool_calls: bool | None = None
    prediction: JsonObject | None = None
    presence_penalty: Penalty | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: JsonObject | None = None
    prompt_cache_retention: str | None = None
    reasoning_effort: str | None = None
    response_format: JsonObject | None = None
    safety_identifier: str | None = None
    seed: int | None = None
    service_tier: str | None = None
    stop: Annotated[str | list[str] | None, Says("must be text or a list of texts")] = None
    store: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    tool_choice: Annotated[str | JsonObject | None, Says("must be text or an object")] = None
    tools: list[JsonObject] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    user: str | None = None
    verbosity: str | None = None
    web_search_options: JsonObject | None = None


SPEC = TaskSpec(name=ChatCompletion.task_type, input=ChatCompletion, handler="workers.handlers.chat_completion:handle")
