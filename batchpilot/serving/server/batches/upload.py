"""A file as a form brings it: `multipart/form-data`, read by the standard library."""

from __future__ import annotations

import email.policy
from email import message_from_bytes
from typing import NamedTuple


class Upload(NamedTuple):
    """A form with a file.

    Attributes:
        content: of the file.
        filename: as the client calls it.
        fields: the form's other fields.
    """

    content: bytes
    filename: str
    fields: dict[str, str]


def read_upload(content_type: str, body: bytes) -> Upload:
    """Read a form.

    Args:
        content_type: of the request.
        body: of the request.

    Raises:
        ValueError: it is no form, or has no field `file`.
    """
    if not content_type.lower().startswith("multipart/form-data"):
        raise ValueError(
            f"the body is {content_type[:80] or 'of no type'}; send multipart/form-data with file, purpose"
        )
    head = b"Content-Type: " + content_type.encode("latin-1", "replace").replace(b"\n", b" ") + b"\r\n\r\n"
    form = message_from_bytes(head + body, policy=email.policy.HTTP)
    content, filename, fields = None, "", {}
    for part in form.iter_parts() if form.is_multipart() else ():
        name = part.get_param("name", header="content-disposition")
        held = part.get_payload(decode=True)
        if not isinstance(held, bytes):
            continue
        if name == "file":
            content, filename = held, part.get_filename() or "requests.jsonl"
        elif isinstance(name, str):
            fields[name] = held.decode(errors="replace").strip()
    if content is None:
        raise ValueError("the form has no field 'file'")
    return Upload(content, filename, fields)
