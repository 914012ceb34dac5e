"""The base of every pydantic model that reads a file, and its errors in the words of the person who wrote the file."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from batchpilot.configs.errors import ConfigError
from batchpilot.configs.reading import Key, YamlFile
from batchpilot.core.names import closest, unknown_name


class StrictModel(BaseModel):
    """A mapping of a file: no key beyond the declared ones, no text where a number belongs, no change afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _name_unknown_keys(cls, data: Any) -> Any:
        """Refuse an unknown key by naming the closest known ones, which pydantic's own message does not."""
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields:
                    raise problem(unknown_name(str(key), cls.model_fields, "key"), key)
        return data


def problem(message: str, *keys: Key) -> PydanticCustomError:
    """An error for a validator to raise, about a key below the value that is being validated.

    Args:
        message: what was given, what is allowed, what to do.
        *keys: path from the value being validated to the key at fault; empty for the value itself.
    """
    return PydanticCustomError("problem", "{message}", {"message": message, "keys": keys})


def config_error(error: ValidationError, file: YamlFile) -> ConfigError:
    """What pydantic found, as the project's error: key, given, allowed, closest, file and line.

    Args:
        error: raised by a `StrictModel`.
        file: the file whose data were validated.
    """
    problems = {}
    for details in error.errors(include_url=False):
        place = _place(details, file)
        key = _dotted(place)
        message = _message(details, key or "the file")
        problems[key] = f"{message} ({file.where(*place)})"
    return ConfigError.of(problems)


def _place(details: ErrorDetails, file: YamlFile) -> tuple[Key, ...]:
    """Path of the key at fault. Pydantic's also holds marks and the chosen kinds of unions, which the file does not."""
    named = (part for part in details["loc"] if part != "[key]")
    parts: tuple[Key, ...] = (*named, *details.get("ctx", {}).get("keys", ()))
    if details["type"].startswith("union_tag"):
        parts = (*parts, "kind")
    place: tuple[Key, ...] = ()
    for position, part in enumerate(parts):
        if (*place, part) in file.lines or position == len(parts) - 1:
            place = (*place, part)
    return place


def _message(details: ErrorDetails, key: str) -> str:
    context = details.get("ctx", {})
    given = details["input"]
    match details["type"]:
        case "problem":
            return str(context["message"])
        case "value_error":
            return f"{key}: {context['error']}"
        case "missing" | "union_tag_not_found":
            return f"{key} is missing; it must be given"
        case "union_tag_invalid":
            return _not_allowed(key, context["tag"], context["expected_tags"])
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{key} is {_short(given)}; it must be a mapping of keys to values"
        case "literal_error":
            return _not_allowed(key, given, context["expected"])
        case _:
            rule = details["msg"].replace("Input should be", "it must be").replace("String should", "it must")
            return f"{key} is {_short(given)}; {rule}"


def _not_allowed(key: str, given: object, allowed: str) -> str:
    names = [name.strip().strip("'") for name in allowed.replace(" or ", ", ").split(",")]
    near = closest(str(given), names)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{key} is {given!r}{hint} (allowed: {', '.join(names)})"


def _short(given: object) -> str:
    text = repr(given)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _dotted(place: tuple[Key, ...]) -> str:
    """`workload.phases[1].arrivals` for a path."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
