"""What the site has beyond the files in docs/: the files that pages link to outside of it, and equations as MathML."""

from __future__ import annotations

import html
import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
"""Pages of the site that lie at the repository's root, where others look for them."""

LINK = re.compile(r"(?<=\]\()([^)#\s]+)(?=[)#])")
LOADED = re.compile(r'<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)="(https?://[^"]*)"')
EQUATION = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages at the root, and every file outside of docs/ that a page links to."""
    from mkdocs.structure.files import File

    texts = [(path, path.read_text(encoding="utf-8")) for path in (*DOCS.rglob("*.md"), *map(ROOT.joinpath, PAGES))]
    linked = {outside for path, text in texts for outside in _outside(text, path.parent)}
    for name in sorted({*PAGES, *linked}):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """The page with its links as they are on the site."""
    folder, here = Path(page.file.abs_src_path).parent, Path(page.file.src_uri).parent

    def on_site(link: re.Match[str]) -> str:
        target = (folder / link[1]).resolve()
        return os.path.relpath(_site_path(target), here) if target.is_file() else link[1]

    return LINK.sub(on_site, markdown)


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """The page with its equations as MathML, which browsers draw by themselves."""
    from latex2mathml.converter import convert

    return EQUATION.sub(lambda found: convert(html.unescape(found[1])), content)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """The page as it is; the build ends where it would load anything from a network."""
    from mkdocs.exceptions import PluginError

    if (loads := LOADED.search(output)) is not None:
        raise PluginError(f"{page.file.src_uri} would load {loads[1]}, and the site needs no network")
    return output


def _outside(markdown: str, folder: Path) -> set[str]:
    """The files of the repository outside of docs/ that a text in ``folder`` links to."""
    targets = ((folder / target).resolve() for target in LINK.findall(markdown))
    return {
        target.relative_to(ROOT).as_posix()
        for target in targets
        if target.is_file() and target.is_relative_to(ROOT) and not target.is_relative_to(DOCS) and target != README
    }


def _site_path(target: Path) -> Path:
    """Where a file of the repository lies on the site, as seen from the site's root, whose first page is no README."""
    if target == README:
        return Path("index.md")
    return target.relative_to(DOCS if target.is_relative_to(DOCS) else ROOT)
