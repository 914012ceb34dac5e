"""Live pages: what they may load, and of which type their parts are."""

from __future__ import annotations

PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
}
"""A live page may load nothing but its own parts and numbers."""

MEDIA_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
"""By the ending of a part's name."""
