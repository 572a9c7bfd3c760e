"""The page on extending, cut into what it says to write where."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]
STEP = re.compile(r"(?:[Ii]nto `(\w+)`\s+in|and as)\s+`([^`]+\.py)`[^`]*?:\n\n```python\n(.*?)```", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Step:
    """One piece of code."""

    table: str
    """Which it is an entry of; empty for a module."""
    path: str
    """Of the table's file, or of the module."""
    code: str


STEPS = tuple(Step(*found) for found in STEP.findall((ROOT / "docs/extending.md").read_text(encoding="utf-8")))


def module_of(path: str) -> ModuleType:
    """The module that the page has under a path, executed."""
    (step,) = (step for step in STEPS if step.path == path and not step.table)
    module = ModuleType(Path(path).stem)
    exec(compile(step.code, f"docs/extending.md: {path}", "exec"), vars(module))
    return module


def entry_of(table: str, module: ModuleType, **known: object) -> Any:
    """What the page's entry of a table is, with the module's names and those of the table's file."""
    (step,) = (step for step in STEPS if step.table == table)
    return eval(step.code, vars(module) | known)
