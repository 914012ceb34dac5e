"""The pieces of a self-contained HTML page: style, tables, figures, folds. Every text that comes in is escaped."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from batchpilot.runners.report.grids import Cell, Grid

_STYLE = """
:root { color-scheme: light dark; --ink: #202124; --muted: #5f6368; --rule: #d9dce0; --ground: #ffffff }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e7e9; --muted: #a3a8af; --rule: #3a3f46; --ground: #16181b }
}
body { margin: 0 auto; padding: 1.5rem clamp(0.8rem, 3vw, 2rem) 4rem; max-width: 74rem; background: var(--ground);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 0.5rem }
h2 { font-size: 1.25rem; margin: 2.5rem 0 0.6rem; border-bottom: 1px solid var(--rule); padding-bottom: 0.2rem }
p, li, dd { max-width: 46rem }
.lead { font-size: 1.1rem }
.scroll { overflow-x: auto; margin: 0.8rem 0 }
table { border-collapse: collapse; font-size: 0.88rem; font-variant-numeric: tabular-nums }
caption, .caption { text-align: left; font-weight: 600; padding: 0.4rem 0 }
th, td { padding: 0.25rem 0.45rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--rule) }
td.words { white-space: normal; overflow-wrap: anywhere }
thead th { vertical-align: bottom; font-weight: 600; color: var(--muted); white-space: normal }
th:first-child { text-align: left; font-weight: inherit; padding-left: 0 }
.best { font-weight: 700 }
td.reference, th.reference { color: var(--muted); font-style: italic }
.how { color: var(--muted); font-size: 0.85rem; margin: 0.2rem 0 1.2rem }
figure { margin: 1rem 0; overflow-x: auto }
figure svg { display: block; min-width: 38rem; max-width: 100%; height: auto }
details { border: 1px solid var(--rule); border-radius: 6px; margin: 0.6rem 0; padding: 0 0.9rem }
details[open] { padding-bottom: 0.8rem }
summary { cursor: pointer; padding: 0.6rem 0 }
summary span { color: var(--muted) }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.25rem 1rem; font-size: 0.9rem }
dt { color: var(--muted) }
dd { margin: 0; overflow-wrap: anywhere; font-family: ui-monospace, monospace }
@media (max-width: 48rem) {
  dl { grid-template-columns: 1fr }
  dd { margin-bottom: 0.5rem }
  table, caption, tbody, tbody th { display: block }
  thead { display: none }
  tbody tr { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1rem; padding: 0.4rem 0;
    border-bottom: 1px solid var(--rule) }
  tbody th, td.words { grid-column: 1 / -1 }
  tbody th:not(.reference) { font-weight: 600 }
  th, td { border: 0; padding: 0.1rem 0; white-space: normal; overflow-wrap: anywhere }
  td { text-align: left }
  td::before { content: attr(data-column); display: block; color: var(--muted);
    font: 400 0.75rem/1.2 system-ui, sans-serif }
}
@media print { details > * { display: block } }
"""

_NOTHING_FROM_OUTSIDE = "default-src 'none'; style-src 'unsafe-inline'"


def page(title: str, *parts: str) -> str:
    """A whole document, which a browser refuses to load anything for.

    Args:
        title: its title.
        parts: HTML of its body, already escaped.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_NOTHING_FROM_OUTSIDE}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def element(name: str, text: str, kind: str = "") -> str:
    """One element with text in it.

    Args:
        name: of the element.
        text: escaped here.
        kind: its class, if any.
    """
    attribute = f' class="{kind}"' if kind else ""
    return f"<{name}{attribute}>{escape(text)}</{name}>"


def table(grid: Grid) -> str:
    """A grid as a table, each row a block on a narrow screen, its caption below; two columns without names as a list.

    Args:
        grid: what to show.
    """
    if grid.columns == ("", ""):
        told = definitions({name.text.strip(): value.text.strip() for name, value in grid.rows})
        return element("p", grid.title, "caption") + told + (element("p", grid.caption, "how") if grid.caption else "")
    headers = ("<br>".join(escape(line) for line in name.splitlines()) for name in grid.columns)
    head = "".join(f'<th scope="col">{header}</th>' for header in headers)
    body = "\n".join(f"<tr>{''.join(map(_cell, grid.columns, row, range(len(row))))}</tr>" for row in grid.rows)
    shown = f"<table>{element('caption', grid.title)}<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"
    return f'<div class="scroll" tabindex="0">{shown}</div>' + (
        element("p", grid.caption, "how") if grid.caption else ""
    )


def figure(svg: str) -> str:
    """A chart.

    Args:
        svg: its `<svg>` element, taken as it is.
    """
    return f'<figure tabindex="0">{svg}</figure>'


def fold(name: str, about: str, *parts: str) -> str:
    """A section that is closed until asked for.

    Args:
        name: what it is called.
        about: what stands beside the name.
        parts: HTML within, already escaped.
    """
    summary = f"<summary><strong>{escape(name)}</strong> <span>{escape(about)}</span></summary>"
    return f"<details>{summary}\n" + "\n".join(parts) + "\n</details>"


def items(texts: list[str]) -> str:
    """A list.

    Args:
        texts: one an item, escaped here.
    """
    return "<ul>" + "".join(element("li", text) for text in texts) + "</ul>"


def definitions(values: Mapping[str, str]) -> str:
    """Names and what they stand for.

    Args:
        values: by name; both are escaped here.
    """
    return "<dl>" + "".join(element("dt", name) + element("dd", value) for name, value in values.items()) + "</dl>"


_MOST_FIGURE_CHARACTERS = 30
"""A longer cell is words, which may break."""


def _cell(column: str, cell: Cell, position: int) -> str:
    """A cell; the first names its row, the others carry their column's name for screens too narrow for columns."""
    text = cell.text.strip()
    kinds = (("best", cell.best), ("reference", cell.reference), ("words", len(text) > _MOST_FIGURE_CHARACTERS))
    classes = " ".join(kind for kind, applies in kinds if applies)
    attributes = f' class="{classes}"' if classes else ""
    if not position:
        return f'<th scope="row"{attributes}>{escape(text)}</th>'
    name = column.replace("-\n", "-").replace("\n", " ")
    return f'<td{attributes} data-column="{escape(name)}">{escape(text)}</td>'
