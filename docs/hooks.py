"""Hooks of mkdocs: files outside ``docs/`` become pages, and one form of link works everywhere.

Links are written as a forge needs them, relative to the file in the repository; the site gets them
relative to the page.
"""

import logging
import posixpath
import re
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).resolve().parent.parent
OUTSIDE: Final = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "weights/README.md": "model-card.md",
    "weights/first_set/README.md": "model-card-first-set.md",
    "benchmarks/NOTES.md": "notes.md",
    "benchmarks/results/fit_budget.png": "assets/fit_budget.png",
    "benchmarks/results/val_outlines.png": "assets/val_outlines.png",
    "benchmarks/results/val_outlines_first_set.png": "assets/val_outlines_first_set.png",
    "benchmarks/results/calibration.png": "assets/calibration.png",
}
"""Path in the repository → path in the site."""
FAULTS: Final = {
    "a list or table that is shown as a paragraph": re.compile(
        r"<p>(?:(?!</p>).)*\n(?:-|\d\.|\|) ", re.DOTALL
    ),
    "a file that is loaded from elsewhere": re.compile(
        r"<(?:script|img|iframe)[^>]*\bsrc=\"?https?:|<link[^>]*stylesheet[^>]*https?:"
    ),
}
"""What no page may have, although it is valid → how it looks in HTML."""
_SOURCES: Final = {uri: path for path, uri in OUTSIDE.items()}
_logger = logging.getLogger("mkdocs.hooks")
_ROLE: Final = re.compile(r":(?:class|func|meth|mod|data|attr|exc):(?=<code>)")
_LINK: Final = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside ``docs/``."""
    for path, uri in OUTSIDE.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    page_uri = page.file.src_uri
    page_folder = posixpath.dirname(page_uri) or "."
    folder = posixpath.dirname(_SOURCES.get(page_uri, f"docs/{page_uri}"))

    def to_site(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, link[0]))
        uri = OUTSIDE.get(path, path.removeprefix("docs/") if path.startswith("docs/") else None)
        return link[0] if uri is None else posixpath.relpath(uri, page_folder)

    return _LINK.sub(to_site, markdown)


def on_page_content(html: str, **_: object) -> str:
    """Drop the roles of Sphinx that docstrings have before names in code font."""
    return _ROLE.sub("", html)


def on_post_page(output: str, page: Page, **_: object) -> str:
    """Warn of faults, which ends a strict build."""
    for fault, pattern in FAULTS.items():
        if found := pattern.search(output):
            _logger.warning("%s: found %s: %s", page.file.src_uri, fault, found[0][:100])
    return output
