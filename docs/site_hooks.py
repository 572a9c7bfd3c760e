"""What the site has beyond the files in docs/: parts of the README where a page asks for them, the files that pages
link to outside of docs/, and equations as MathML.

A page asks for a part of the README by a line that is a link to its section and nothing else; read as a file, it stays
that link. ``[Privacy](../README.md#on-your-data)`` is the part of that section that begins with ``**Privacy.**``, and
``[On your data](../README.md#on-your-data)`` what stands before all such parts.
"""

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
MAY_BE_MISSING = "results.md"

PART = re.compile(r"^\[([^\]]+)\]\(\.\./README\.md#([\w-]+)\)$", re.MULTILINE)
LINK = re.compile(r"(?<=\]\()([^)#\s]+)(?=[)#])")
RUN_IN = re.compile(r"^\*\*([^*\n]+?)\.?\*\*[ \n]", re.MULTILINE)
LOADED = re.compile(r'<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)="(https?://[^"]*)"')
EQUATION = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)


def on_config(config: Any) -> Any:
    """The page of results comes when there are any."""
    if not (DOCS / MAY_BE_MISSING).is_file():
        for section in config.nav:
            for pages in section.values():
                if isinstance(pages, list):
                    pages[:] = [page for page in pages if MAY_BE_MISSING not in page.values()]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages at the root, and every file outside of docs/ that a page links to."""
    from mkdocs.structure.files import File

    texts = [(path, path.read_text(encoding="utf-8")) for path in (*DOCS.rglob("*.md"), *map(ROOT.joinpath, PAGES))]
    linked = {outside for path, text in texts for outside in _outside(whole_page(text), path.parent)}
    for name in sorted({*PAGES, *linked}):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """The page with the README's parts, its links as they are on the site."""
    folder, here = Path(page.file.abs_src_path).parent, Path(page.file.src_uri).parent

    def on_site(link: re.Match[str]) -> str:
        target = (folder / link[1]).resolve()
        return os.path.relpath(_site_path(target), here) if target.is_file() else link[1]

    return LINK.sub(on_site, whole_page(markdown))


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


def whole_page(markdown: str) -> str:
    """A page of docs/ with the README's parts in place of the links to them. Raises KeyError where there is none."""
    return PART.sub(lambda asked: readme_parts()[asked[2], asked[1]], markdown)


def readme_parts() -> dict[tuple[str, str], str]:
    """The README's parts by their section's anchor and their title, links as seen from docs/."""
    readme = LINK.sub(_from_docs, README.read_text(encoding="utf-8"))
    found = {}
    for section in re.split(r"^## ", readme, flags=re.MULTILINE)[1:]:
        title, _, text = section.partition("\n")
        anchor = re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")
        first, *parts = RUN_IN.split(text)
        found[anchor, title] = first.strip()
        for name, words in zip(parts[::2], parts[1::2], strict=True):
            found[anchor, name] = f"## {name}\n\n{words.strip()}"
    return found


def _from_docs(link: re.Match[str]) -> str:
    return f"../{link[1]}" if (ROOT / link[1]).is_file() else link[1]


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
