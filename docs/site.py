"""How the pages become a site: README is its first, and links to what lies outside of `docs/` become names."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

OUTSIDE = {"README.md": "index.md", "examples/real_vllm.md": "real_vllm.md", "leaderboard/README.md": "standings.md"}
"""Pages that lie elsewhere in the repository, and what they are called on the site."""

_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages from outside of `docs/`.

    Args:
        files: of the site.
        config: of the site.
    """
    from mkdocs.structure.files import File

    root = Path(config["config_file_path"]).parent
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=(root / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Lead links to pages of the site, and make others the name of a file of the repository.

    Args:
        markdown: of the page.
        page: which.
        config: of the site.
        files: of the site.
    """
    sources = {name: source for source, name in OUTSIDE.items()}
    folder = posixpath.dirname(sources.get(page.file.src_uri, f"docs/{page.file.src_uri}"))

    def led(found: re.Match[str]) -> str:
        picture, text, target, anchor = found[1], found[2], found[3], found[4] or ""
        if "://" in target:
            return found[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        inside = OUTSIDE.get(path, path.removeprefix("docs/"))
        if files.get_file_from_path(inside):
            return f"{picture}[{text}]({inside}{anchor})"
        return f"{text} (`{path}`)"

    return _LINK.sub(led, markdown)
