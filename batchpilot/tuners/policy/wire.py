"""Reading protobuf strictly: every field must be one that the caller allows, so nothing unread can hide in a file.

A policy file comes from elsewhere. Its few messages are read here, in bounded time, before anything else looks at them.

Source: the protocol buffers encoding, https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

MOST_FIELDS = 1024
"""Fields of one message; the largest message of a policy has well under a hundred."""

_VARINT, _LENGTH_DELIMITED = 0, 2
_LONGEST_VARINT = 10


class Kind(NamedTuple):
    """What a field may hold.

    Attributes:
        name: what messages call it.
        is_number: a varint, else bytes.
    """

    name: str
    is_number: bool = False


Value = TypeVar("Value")
Message = dict[str, list[int | bytes]]
"""Values by field name, in the file's order; a field that is absent has none."""


def read_message(data: bytes, allowed: Mapping[int, Kind], what: str) -> Message:
    """The fields of one message.

    Args:
        data: its bytes.
        allowed: the fields it may have, by number.
        what: what the message is called in errors.

    Raises:
        ValueError: the bytes end within a field, a field is not allowed or of another type, or there are too many.
    """
    found: Message = {kind.name: [] for kind in allowed.values()}
    position = fields = 0
    while position < len(data):
        fields += 1
        if fields > MOST_FIELDS:
            raise ValueError(f"{what} has more than {MOST_FIELDS} fields; a policy has far fewer")
        tag, position = _varint(data, position, what)
        kind = allowed.get(tag >> 3)
        if kind is None:
            raise ValueError(f"{what} has field {tag >> 3}, which no policy has (allowed: {_names(allowed)})")
        if tag & 7 != (_VARINT if kind.is_number else _LENGTH_DELIMITED):
            raise ValueError(f"{what}: {kind.name} is stored as wire type {tag & 7}, which it never is")
        number, position = _varint(data, position, what)
        if kind.is_number:
            found[kind.name].append(number)
            continue
        if number > len(data) - position:
            raise ValueError(f"{what} ends within {kind.name}: {number} bytes announced, {len(data) - position} there")
        found[kind.name].append(data[position : position + number])
        position += number
    return found


def numbers(message: Message, name: str) -> list[int]:
    """All values of a field that holds numbers.

    Args:
        message: where.
        name: the field.
    """
    return [value for value in message[name] if isinstance(value, int)]


def parts(message: Message, name: str) -> list[bytes]:
    """All values of a field that holds bytes.

    Args:
        message: where.
        name: the field.
    """
    return [value for value in message[name] if isinstance(value, bytes)]


def texts(message: Message, name: str, what: str) -> list[str]:
    """All values of a field that holds text.

    Args:
        message: where.
        name: the field.
        what: what the message is called in errors.

    Raises:
        ValueError: one is not UTF-8.
    """
    try:
        return [value.decode() for value in parts(message, name)]
    except UnicodeDecodeError:
        raise ValueError(f"{what}: {name} is not UTF-8 text") from None


def one_text(message: Message, name: str, what: str) -> str:
    """The text of a field that is there once; empty where it is absent.

    Args:
        message: where.
        name: the field.
        what: what the message is called in errors.

    Raises:
        ValueError: it is there more than once, or is not UTF-8.
    """
    return _once(texts(message, name, what), name, what, "")


def one_number(message: Message, name: str, what: str) -> int:
    """The number of a field that is there once; 0 where it is absent.

    Args:
        message: where.
        name: the field.
        what: what the message is called in errors.

    Raises:
        ValueError: it is there more than once.
    """
    return _once(numbers(message, name), name, what, 0)


def one_part(message: Message, name: str, what: str) -> bytes:
    """The bytes of a field that is there once; empty where it is absent.

    Args:
        message: where.
        name: the field.
        what: what the message is called in errors.

    Raises:
        ValueError: it is there more than once.
    """
    return _once(parts(message, name), name, what, b"")


def _once(values: list[Value], name: str, what: str, absent: Value) -> Value:
    if len(values) > 1:
        raise ValueError(f"{what} has {name} {len(values)} times; it has it once")
    return values[0] if values else absent


def _varint(data: bytes, position: int, what: str) -> tuple[int, int]:
    """An unsigned number and where it ends."""
    value = 0
    for index in range(_LONGEST_VARINT):
        if position + index >= len(data):
            raise ValueError(f"{what} is cut off within a number")
        byte = data[position + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise ValueError(f"{what} has a number of more than {_LONGEST_VARINT} bytes")


def _names(allowed: Mapping[int, Kind]) -> str:
    return ", ".join(f"{number} {kind.name}" for number, kind in allowed.items())
