"""`embedding`: POST /embeddings. Source: OpenAI API reference, "Create embeddings"."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from core.task_types.provider_input import NonEmpty, ProviderInput, Says
from core.task_types.spec import TaskSpec

Text = Annotated[str, Field(min_length=1)]
Tokens = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
Several = Annotated[list[Text] | list[int] | list[Tokens], Field(min_length=1)]


class Embedding(ProviderInput):
    """The request body of an embedding: one text, several, or their tokens."""

    task_type: ClassVar[str] = "embedding"

    model: NonEmpty
    input: Annotated[
        Text | Several, Says("must be text, a list of texts, a list of tokens or a list of lists of tokens; none empty")
    ]
    dimensions: Annotated[int, Field(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None


SPEC = TaskSpec(name=Embedding.task_type, input=Embedding, handler="workers.handlers.embedding:handle")
