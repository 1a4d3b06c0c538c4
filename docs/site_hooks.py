"""What mkdocs is told beside mkdocs.yml: pages made from the code, and pages for files outside of docs/ that pages link to.

The pages in docs/ link to source files as a reader of the repository needs it (`../rlcore/run/rules.py`). On the site each
such file is a page under `source/`, so every link works without a network.
"""

from __future__ import annotations

import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
DOCS = Path(__file__).resolve().parent

SOURCE = "source"
LINK = re.compile(r"(?<!!)\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s#]+)(#[^)\s]*)?\)")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".sh": "bash", ".toml": "toml", ".sbatch": "bash"}
OPTIONAL = ("environments.md",)
"""Pages that the nav names and that need not exist."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    for section in config.nav or []:
        for entries in section.values():
            if isinstance(entries, str):
                continue
            entries[:] = [entry for entry in entries if not _is_absent(entry)]
    return config


def _is_absent(entry: str | dict[str, str]) -> bool:
    page = entry if isinstance(entry, str) else next(iter(entry.values()))
    return page in OPTIONAL and not (DOCS / page).exists()


def on_files(files: Files, config: MkDocsConfig) -> Files:
    # mkdocs has taken back by now what this file added to the path when it was imported
    sys.path[:0] = [str(ROOT), str(DOCS)]
    from site_reference import reference_pages

    for name, text in reference_pages().items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    pages = {file.src_uri: file.content_string for file in files.documentation_pages()}
    for path, text in _source_pages(pages).items():
        uri = _source_uri(path)
        files.append(
            File.generated(config, uri, content=text, inclusion=InclusionLevel.NOT_IN_NAV)
        )
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to files outside of docs/ lead to their pages under source/; the table of methods is made anew."""
    if page.file.src_uri == "methods.md":
        from site_methods import with_table

        markdown = with_table(markdown)
    folder = _folder_of(page.file.src_uri)

    def rewritten(match: re.Match[str]) -> str:
        target = _target(folder, match[1])
        if target is None:
            return match[0]
        uri = _site_uri(target)
        relative = posixpath.relpath(uri, posixpath.dirname(page.file.src_uri) or ".")
        return match[0].replace(f"]({match[1]}", f"]({relative}")

    return LINK.sub(rewritten, markdown)


def _source_pages(pages: dict[str, str]) -> dict[Path, str]:
    """File outside of docs/ -> its page, for all that pages link to, and what those link to in turn."""
    waiting = [target for uri, text in pages.items() for target in _targets(_folder_of(uri), text)]
    texts: dict[Path, str] = {}
    while waiting:
        path = waiting.pop()
        if path in texts or DOCS in path.parents or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        texts[path] = text if path.suffix == ".md" else _listing(path, text)
        if path.suffix == ".md":
            waiting += _targets(path.parent, text)
    return texts


def _listing(path: Path, text: str) -> str:
    longest = max((len(ticks) for ticks in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    language = LANGUAGES.get(path.suffix, "text")
    not_searched = "---\nsearch:\n  exclude: true\n---\n\n"
    name = path.relative_to(ROOT)
    return f"{not_searched}# `{name}`\n\n{fence}{language}\n{text.rstrip()}\n{fence}\n"


def _targets(folder: Path, text: str) -> Iterator[Path]:
    for match in LINK.finditer(text):
        target = _target(folder, match[1])
        if target is not None:
            yield target


def _target(folder: Path, link: str) -> Path | None:
    """The file that a relative link of a page means; None for an address."""
    if ":" in link or link.startswith("/"):
        return None
    path = (folder / link).resolve()
    return path if ROOT in path.parents else None


def _folder_of(uri: str) -> Path:
    """The folder in the repository of a page of the site."""
    if uri.startswith(f"{SOURCE}/"):
        return (ROOT / uri.removeprefix(f"{SOURCE}/")).parent
    return (DOCS / uri).parent


def _site_uri(path: Path) -> str:
    return path.relative_to(DOCS).as_posix() if DOCS in path.parents else _source_uri(path)


def _source_uri(path: Path) -> str:
    name = path.relative_to(ROOT).as_posix()
    return f"{SOURCE}/{name if path.suffix == '.md' else f'{name}.md'}"
