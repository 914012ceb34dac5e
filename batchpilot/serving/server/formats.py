"""The forms of answer: text, or JSON that obeys a schema."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from batchpilot.core.files import json_text

ANY_OBJECT = '{"type": "object"}'


class PlainText(BaseModel):
    """Any text.

    Attributes:
        type: text.
    """

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]


class JsonObject(BaseModel):
    """Any JSON object.

    Attributes:
        type: json_object.
    """

    model_config = ConfigDict(extra="forbid")

    type: Literal["json_object"]


class NamedSchema(BaseModel):
    """A schema and what it is called.

    Attributes:
        name: of no consequence.
        schema_: the JSON schema, `schema` in the body.
        strict: accepted; every answer obeys the schema.
        description: of no consequence.
    """

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(max_length=256)]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None
    description: Annotated[str, Field(max_length=4096)] | None = None


class JsonSchema(BaseModel):
    """JSON that obeys a schema.

    Attributes:
        type: json_schema.
        json_schema: which.
    """

    model_config = ConfigDict(extra="forbid")

    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[PlainText | JsonObject | JsonSchema, Field(discriminator="type")]


def schema_of(form: PlainText | JsonObject | JsonSchema | None) -> str | None:
    """The schema that an answer must obey, as text; None for any text.

    Args:
        form: as the request has it.
    """
    if isinstance(form, JsonObject):
        return ANY_OBJECT
    return json_text(form.json_schema.schema_) if isinstance(form, JsonSchema) else None
