"""What the pages say holds: links lead somewhere, commands exist with their options, versions agree."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from unetx_search.cli import COMMANDS, app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")])
LINK = re.compile(r"\]\(([^)#\s]+)[^)\s]*\)")
FENCE = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^    (.*(?:\\\n    .*)*)$", re.MULTILINE)
INLINE = re.compile(r"`(unetx-search [^`]+)`")
COMMAND = re.compile(r"^\s*(?:\$ )?(unetx-search(?: [^\n]*)?)$", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if not re.match(r"\w+:", target):
            assert (page.parent / target).exists(), target


def commands_in(text: str) -> Iterator[str]:
    """The commands in a page's code, continued lines joined."""
    joined = text.replace("\\\n", " ")
    blocks = [*FENCE.findall(joined), *INDENTED.findall(FENCE.sub("", joined))]
    yield from INLINE.findall(FENCE.sub("", joined))
    for block in blocks:
        yield from COMMAND.findall(block)


def unknown_words(line: str) -> Iterator[str]:
    """What in a command the command line does not have: options, and a first word that is no command."""
    words = shlex.split(line.split(" > ")[0].replace("...", ""), comments=True)[1:]
    words = words[: words.index("&")] if "&" in words else words
    named = words[0] if words and not words[0].startswith("-") else None
    if named is not None and named not in COMMANDS:
        yield named
        return
    of = app if named is None else app[named]
    known = {name for argument in of.assemble_argument_collection() for name in (*argument.names, *argument.negatives)}
    for word in words:
        option = word.partition("=")[0]
        if re.match(r"--?[a-z]", option) and option not in {*known, "--config", "--help", "-h", "--version"}:
            yield option


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_on_a_page_exists_with_its_options(page: Path) -> None:
    for line in commands_in(page.read_text(encoding="utf-8")):
        assert list(unknown_words(line)) == [], line


@pytest.mark.parametrize(
    ("line", "unknown"),
    [
        ("unetx-search --trials 3 --no-pilot -c", ["-c"]),
        ("unetx-search shwo best.json", ["shwo"]),
        ("unetx-search status runs/s --watch --fast=1  # --not-read", ["--fast"]),
    ],
)
def test_a_command_that_does_not_exist_is_found(line: str, unknown: list[str]) -> None:
    assert list(commands_in(f"    $ {line}\n")) == [line]
    assert list(unknown_words(line)) == unknown


def test_the_citation_is_of_this_version_and_license() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = dict(re.findall(r"^([\w-]+): (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "abstract"} <= set(citation)
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert citation["title"] == project["name"]
