"""What stands between the fields of a text file's lines: a comma, or what spreadsheets write where a comma is taken."""

from __future__ import annotations

import re

COMMA = ","
OTHERS = (";", "\t")
"""Of spreadsheets whose numbers have a decimal comma, and of databases."""


def separator_of(header: str) -> str:
    """The sign between the names of a header: a comma if there is any, else a semicolon or a tab.

    Args:
        header: the first line; what stands in double quotes does not count.
    """
    bare = re.sub(r'"[^"]*"', "", header)
    return next((sign for sign in (COMMA, *OTHERS) if sign in bare), COMMA)
