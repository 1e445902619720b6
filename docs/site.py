"""What MkDocs needs besides the pages of this folder: the distributions' own pages, with links to what they name.

A distribution's README stands on its own, in a package index too, so it names pages (`docs/how-to/memory.md`) and
links to none; here each name becomes a link. Docstrings are read by editors too, so they name roles (`:class:`) that
MkDocs does not know; here these go.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "plugins/core.md": "vader_core/README.md",
    **{
        f"plugins/{folder.name}.md": f"plugins/{folder.name}/README.md"
        for folder in sorted(ROOT.glob("plugins/vader_*"))
    },
    "plugins/pretraining.md": "plugins/vader_shapes/src/vader_shapes/PRETRAINING.md",
}
"""Page of the site -> file of the repository."""

NAMED = re.compile(r"`(?:docs/)([\w/-]+\.md)`")
ROLE = re.compile(r":(?:class|func|meth|data|attr|mod|exc):(?=<code>)")
LITERAL = re.compile(r"<p>::</p>|(?<=:):(?=</p>)")  # what announces a block


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the distributions' pages."""
    for page, source in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Link what a distribution's page names."""
    if page.file.src_uri not in PAGES:
        return markdown
    here = posixpath.dirname(page.file.src_uri)

    def link(match: re.Match[str]) -> str:
        target = match[1]
        known = files.get_file_from_path(target) is not None
        return f"[{_title(target)}]({posixpath.relpath(target, here)})" if known else match[0]

    return NAMED.sub(link, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leave out markup of docstrings that shows."""
    return LITERAL.sub("", ROLE.sub("", html))


def _title(page: str) -> str:
    """The first heading of a page of this folder."""
    return (ROOT / "docs" / page).read_text(encoding="utf-8").split("\n", 1)[0].removeprefix("# ")
