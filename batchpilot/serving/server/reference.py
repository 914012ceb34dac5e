"""The page `/docs`: the routes of the OpenAPI document, what they take and answer; it loads nothing from outside."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from batchpilot.core.files import json_text

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>batchpilot: API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="page/style.css">
</head>
<body>
<header><h1>batchpilot: API</h1>
<p class="note">The same for programs: <a href="openapi.json">openapi.json</a>.</p></header>
"""


def reference_page(document: Mapping[str, Any]) -> str:
    """The page.

    Args:
        document: OpenAPI's.
    """
    schemas = document.get("components", {}).get("schemas", {})
    operations = [
        _operation(method, path, told, schemas)
        for path, methods in document["paths"].items()
        for method, told in methods.items()
    ]
    return _HEAD + "\n".join(operations) + "\n</body>\n</html>\n"


def _operation(method: str, path: str, told: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    parts = [f"<h2>{method.upper()} {escape(path)}</h2>", f"<p>{escape(told.get('summary', ''))}</p>", "<ul>"]
    for parameter in told.get("parameters", ()):
        kind = _json(parameter.get("schema", {}))
        parts.append(f"<li>{escape(parameter['in'])} <b>{escape(parameter['name'])}</b> {kind}</li>")
    for status, answer in told["responses"].items():
        parts.append(f"<li>{status} {escape(answer.get('description', ''))}</li>")
    parts.append("</ul>")
    for kind, body in told.get("requestBody", {}).get("content", {}).items():
        schema = body.get("schema", {})
        name = schema.get("$ref", "").rpartition("/")[2]
        fields = schemas.get(name, schema).get("properties", {})
        rows = "".join(f"<li><b>{escape(field)}</b> {_json(what)}</li>" for field, what in fields.items())
        parts.append(f"<details><summary>{escape(kind)}</summary><ul>{rows}</ul></details>")
    return "<section>" + "".join(parts) + "</section>"


def _json(what: Any) -> str:
    return f"<code>{escape(json_text(what))}</code>"
