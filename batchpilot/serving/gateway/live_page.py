"""`/gateway/`: the live page of all upstreams, in the looks of the reference server's."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from batchpilot.serving.doors.pages import MEDIA_TYPES, PAGE_HEADERS
from batchpilot.serving.gateway.asgi import Send, answer

PAGE_PATH = "/gateway/"
_PARTS_PATH = PAGE_PATH + "page/"
_INDEX = "gateway.html"
_SHARED = ("style.css", "elements.js", "format.js")


def page_part(path: str) -> str | None:
    """The part of the page that a path names, None where it names none.

    Args:
        path: of a request.
    """
    if path == PAGE_PATH:
        return _INDEX
    name = path.removeprefix(_PARTS_PATH)
    return name if path.startswith(_PARTS_PATH) and name in _parts() else None


async def send_part(name: str, send: Send) -> None:
    """Answer with a part of the page.

    Args:
        name: as `page_part` returned it.
        send: ASGI.
    """
    headers = [(key.lower().encode(), value.encode()) for key, value in PAGE_HEADERS.items()]
    kind = f"{MEDIA_TYPES[name.rpartition('.')[2]]}; charset=utf-8"
    await answer(send, 200, _parts()[name], kind.encode(), headers)


@cache
def _parts() -> dict[str, bytes]:
    own = files("batchpilot.serving.gateway").joinpath("page")
    shared = files("batchpilot.serving").joinpath("server", "page")
    return {part.name: part.read_bytes() for part in own.iterdir()} | {
        name: shared.joinpath(name).read_bytes() for name in _SHARED
    }
