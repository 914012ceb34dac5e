"""Names that a shell completes: what `batchpilot list` lists, as options take it."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def completing(kind: str) -> Callable[[str], list[tuple[str, str]]]:
    """What completes an option, for `typer.Option(autocompletion=...)`: names that begin alike, with a few words each.

    Args:
        kind: a kind of `batchpilot list`.
    """

    def complete(incomplete: str) -> list[tuple[str, str]]:
        from batchpilot.runners.list_command import KINDS  # which commands import that use this

        before, comma, last = incomplete.rpartition(",") if kind == "tuners" else ("", "", incomplete)
        return _matching(list(KINDS[kind]().items()), last, before + comma)

    return complete


def _matching(names: Sequence[tuple[str, str]], begun: str, before: str) -> list[tuple[str, str]]:
    return [(before + name, words) for name, words in names if name.startswith(begun)]
