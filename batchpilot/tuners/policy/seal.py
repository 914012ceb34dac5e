"""The seal at the end of a policy file: the SHA-256 of everything before it, as one more metadata entry of the model.

Protobuf lets repeated fields follow one another, so an ONNX reader sees an ordinary entry, and checking needs no
parsing. The seal finds accidental damage; it is no signature, and whoever changes a file can seal it again.
"""

from __future__ import annotations

import hashlib

SEAL_KEY = "sha256"

_METADATA_PROPS = 14
_LENGTH_DELIMITED = 2
_DIGEST_LENGTH = 64


def seal(body: bytes) -> bytes:
    """A file from its content.

    Args:
        body: a serialised ONNX model without a seal.
    """
    return body + _PREFIX + hashlib.sha256(body).hexdigest().encode()


def sealed_digest(data: bytes) -> str:
    """The digest that the file states, once it is known to be true.

    Args:
        data: the whole file.

    Raises:
        ValueError: there is no seal at the end, or the content is not what was sealed.
    """
    end = len(data) - _DIGEST_LENGTH
    start = end - len(_PREFIX)
    if start < 0 or data[start:end] != _PREFIX:
        raise ValueError("its end is not that of a policy: it is truncated, or no policy written by batchpilot export")
    digest = hashlib.sha256(data[:start]).hexdigest()
    if data[end:] != digest.encode():
        raise ValueError("its checksum does not match its content: the file was damaged or changed")
    return digest


def _prefix() -> bytes:
    """The bytes of a metadata entry up to its value; every length fits in one byte."""
    key = bytes([1 << 3 | _LENGTH_DELIMITED, len(SEAL_KEY)]) + SEAL_KEY.encode()
    value = bytes([2 << 3 | _LENGTH_DELIMITED, _DIGEST_LENGTH])
    length = len(key) + len(value) + _DIGEST_LENGTH
    return bytes([_METADATA_PROPS << 3 | _LENGTH_DELIMITED, length]) + key + value


_PREFIX = _prefix()
