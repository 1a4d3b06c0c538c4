"""The documentation as a site: it builds without a warning, and opens from the file system without a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

from rlcore.objective.methods import METHODS
from rlcore.recipe.keys import all_keys
from tests.report.browser import Opened, browser_session

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="launch/docs.sh installs mkdocs")
    pytest.importorskip("mkdocstrings_handlers")
    folder = tmp_path_factory.mktemp("site")
    # a proxy that nobody serves: what asks the network fails
    environment = {
        **os.environ,
        "NO_MKDOCS_2_WARNING": "1",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
    }
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return folder


def test_every_link_leads_to_a_file(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    links = 0
    for page in pages:
        text = re.sub(r"<code.*?</code>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for link in re.findall(r'(?:href|src)="([^"]+)"', text):
            target, anchor = urldefrag(unquote(link))
            if ":" in target or page.name == "404.html":
                continue
            path = (page.parent / target).resolve() if target else page
            assert path.is_file(), f"{page.relative_to(site)}: {link}"
            if anchor and path.suffix == ".html" and not anchor.startswith("__"):
                assert f'id="{anchor}"' in path.read_text(encoding="utf-8"), f"{page}: {link}"
            links += 1
    assert len(pages) > 60 and links > 3000


def test_nothing_is_asked_of_the_network(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|iframe)[^>]* src="(https?:[^"]*)"', text)
        loaded += re.findall(r'<link[^>]* rel="(?:stylesheet|preconnect|icon)"[^>]* href="(https?:[^"]*)"', text)
        loaded += re.findall(r'<link[^>]* href="(https?:[^"]*)"[^>]* rel="(?:stylesheet|preconnect)"', text)
        assert loaded == [], page


def test_the_reference_is_complete(site: Path) -> None:
    keys = (site / "reference/keys.html").read_text(encoding="utf-8")
    for key in all_keys():
        assert f"<code>{key.key}</code>" in keys
    methods = (site / "methods.html").read_text(encoding="utf-8")
    assert all(f"<code>{name}</code>" in methods for name in METHODS)
    python = (site / "reference/python.html").read_text(encoding="utf-8")
    for name in ("rlcore.api.train", "rlcore.types.task.Verdict", "rlcore.objective.parts.clip"):
        assert f'id="{name}"' in python
    parts = (site / "reference/parts.html").read_text(encoding="utf-8")
    assert 'id="curriculum-sec"' in parts and "temperature" in parts


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_opens_and_searches_from_the_file_system(site: Path, scheme: str, width: int) -> None:
    with browser_session() as browser:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        page = Opened(context.new_page())
        page.page.goto((site / "index.html").as_uri())
        assert page.page.inner_text("h1").startswith("rlcore")
        assert page.page.evaluate("document.documentElement.scrollWidth <= innerWidth")

        page.page.focus(".md-search__input")
        page.until("document.querySelector('.md-search-result__meta').innerText.startsWith('Type')")
        page.page.keyboard.type("kl_to_old")  # the search listens to keys
        # results come while the word is being typed
        page.until(
            "[...document.querySelectorAll('.md-search-result__link')]"
            ".some(link => link.href.includes('metrics.html'))"
        )
        page.screenshot(f"site_{scheme}_{width}")
        assert page.problems == []
        context.close()
