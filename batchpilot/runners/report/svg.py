"""Matplotlib figures as SVG that belongs to its page: the page's font, its dark mode, and ids that clash with nothing.

Drawn with figure objects and the SVG backend only: no window, no global figure.
"""

from __future__ import annotations

import hashlib
import html
import io
import re
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#202124", "#6b7077", "#d9dce0"
"""Stand-ins for the page's text, secondary text and rules; the page's own colours replace them."""

_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--rule"}

_LOOK: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "batchpilot",
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "figure.titlesize": 12,
    "figure.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
}


def drawing() -> AbstractContextManager[None]:
    """The look that figures are made and written in."""
    import matplotlib as mpl

    return mpl.rc_context(_LOOK)


def to_svg(figure: Figure, name: str, label: str) -> str:
    """One `<svg>` element that a page can hold among others.

    Args:
        figure: what was drawn within `drawing()`.
        name: tells its ids from those of the page's other figures.
        label: what it shows, for those who cannot see it.

    Returns:
        The element, the same text for the same figure, without a reference to anything outside it.
    """
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = file.getvalue()
    text = _TAG.sub(_tidy, text[text.index("<svg") :])
    # A style element of an inline figure would style the whole page.
    text = re.sub(r"<style.*?</style>", "", text, count=1, flags=re.DOTALL)
    prefix = "f" + hashlib.sha256(name.encode()).hexdigest()[:8]
    text = _TAG.sub(lambda tag: _ID.sub(rf"\g<1>{prefix}-", tag[0]), text)
    opening = f'<svg role="img" aria-label="{html.escape(label)}" stroke-linejoin="round" stroke-linecap="butt"'
    return text.replace("<svg", opening, 1)


def svg_file(element: str) -> str:
    """An `<svg>` element as a file that a browser opens by itself: with the namespaces, font and colours of a page.

    Args:
        element: what `to_svg` gave.
    """
    opening = '<svg xmlns="http://www.w3.org/2000/svg" font-family="system-ui, sans-serif"'
    whole = element.replace("<svg", opening, 1).replace(">", f">{_FILE_STYLE}", 1)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + whole


_FILE_STYLE = (
    "<style>:root { max-width: 100%; height: auto } @media (prefers-color-scheme: dark) "
    "{ :root { --ink: #e6e7e9; --muted: #a3a8af; --rule: #3a3f46; background: #16181b } }</style>"
)


_TAG = re.compile(r"<[^>]*>")
_ID = re.compile(r'(\sid="|href="#|url\(#)')
_UNWANTED = re.compile(r"\sxmlns(:xlink)?=\"[^\"]*\"|font-family: [^;\"]*;? ?")
_LONG_NUMBER = re.compile(r"\d+\.\d{3,}")


def _tidy(tag: re.Match[str]) -> str:
    """A tag without namespaces, which a page does not need, fonts, which are the page's, and needless digits."""
    text = _UNWANTED.sub("", tag[0]).replace("xlink:href=", "href=")
    text = _LONG_NUMBER.sub(lambda number: f"{float(number[0]):.2f}", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable}, {colour})")
    return text
