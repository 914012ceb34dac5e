"""The pages as a site."""

import html.parser
import re
from pathlib import Path

import pytest

pytest.importorskip("mkdocs")
pytest.importorskip("material")

from mkdocs.commands.build import build
from mkdocs.config import load_config

ROOT = Path(__file__).parents[2]


class Loaded(html.parser.HTMLParser):
    """What a page makes a browser load."""

    def __init__(self):
        super().__init__()
        self.addresses = []

    def handle_starttag(self, tag, attrs):
        told = dict(attrs)
        if tag == "link" and told.get("rel") not in ("canonical", "prev", "next"):
            self.addresses.append(told.get("href") or "")
        elif tag in ("script", "img", "iframe", "source", "object"):
            self.addresses.append(told.get("src") or told.get("data") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder)))  # strict: a warning fails it
    return folder


def test_every_page_of_the_documentation_is_there_and_reached(site):
    navigated = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert (site / f"{page.stem}.html").exists()
        assert re.search(rf"\b{re.escape(page.name)}\b", navigated), f"{page.name} is in no menu"
    by_task = navigated.split("By task:")[1].split("- Reference:")[0]
    assert len(re.findall(r"\.md$", by_task, re.MULTILINE)) <= 12


def test_a_page_loads_nothing_from_elsewhere(site):
    pages = list(site.glob("*.html"))
    assert len(pages) > 20
    for page in pages:
        loaded = Loaded()
        loaded.feed(page.read_text())
        assert loaded.addresses
        assert [address for address in loaded.addresses if "://" in address] == [], page.name
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?https?:|@import", style.read_text()), style.name


def test_readme_leads_to_pages_and_to_files_of_the_repository(site):
    text = (site / "index.html").read_text()
    assert 'href="gateway.html"' in text
    assert 'href="real_vllm.html"' in text
    assert 'src="images/real_vllm.svg"' in text
    assert "docs/gateway.md" not in text
