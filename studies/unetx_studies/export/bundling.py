"""The source of classes and functions with everything that they need, put together as one file.

What is written elsewhere is the very text that computes here, so that there is no second implementation to keep in
step. Only top-level definitions that can be reached by name are taken, in an order in which each finds what it needs.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path

from unetx_space import RequestError

ALLOWED = "torch"
"""The one package beyond Python's own that a bundled file may import."""
_IGNORES = re.compile(r"\s*# type: ignore(\[[^\]]*\])?")


@dataclass(frozen=True, slots=True)
class Bundle:
    """The two parts of a bundled file, as text."""

    imports: str
    definitions: str


@dataclass(frozen=True, slots=True)
class _Module:
    """A module as text: where each top-level name is defined, and where each imported one comes from."""

    name: str
    lines: tuple[str, ...]
    statements: dict[str, ast.stmt] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    """Last line of each definition, the docstring below a constant included."""
    imports: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    """Module of each imported name, and its name there; None for a whole module."""

    def owns(self, name: str) -> bool:
        """Whether a statement that defines several names goes by this one."""
        return next(n for n, statement in self.statements.items() if statement is self.statements[name]) == name

    def text(self, name: str) -> str:
        """The definition of a name, decorators included, without words for a type checker."""
        statement = self.statements[name]
        decorators = getattr(statement, "decorator_list", [])
        begin = min([statement.lineno, *(decorator.lineno for decorator in decorators)])
        return "\n".join(_IGNORES.sub("", line) for line in self.lines[begin - 1 : self.ends[name]])


def bundle(roots: Iterable[Callable[..., object]]) -> Bundle:
    """The source of ``roots`` and of all that they reach in their own packages and in ours.

    Raises RequestError where something needs a package beyond torch, or where two modules use one name differently.
    """
    reached = _Reached({__package__.partition(".")[0], "unetx_space", *(r.__module__.partition(".")[0] for r in roots)})
    for root in roots:
        reached.reach(root.__module__, root.__qualname__)
    parts = [
        (module.text(name), isinstance(module.statements[name], ast.FunctionDef | ast.ClassDef))
        for module in map(_module, TopologicalSorter(reached.needs).static_order())
        for name in module.statements  # in the order of the source
        if reached.found.get(name) == module.name and module.owns(name)
    ]
    definitions = parts[0][0]
    for (_, before), (text, is_long) in pairwise(parts):
        definitions += ("\n\n\n" if before or is_long else "\n") + text
    return Bundle(_import_lines(reached.outside), definitions)


@dataclass(slots=True)
class _Reached:
    """The names that were reached so far, going from each to those that it needs."""

    packages: set[str]
    """Packages whose source is taken."""
    found: dict[str, str] = field(default_factory=dict)
    """The module of each name whose definition is taken."""
    outside: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    """Module and original name of each name that is imported."""
    needs: dict[str, set[str]] = field(default_factory=dict)
    """The modules that come before each module."""

    def reach(self, module_name: str, name: str) -> str | None:
        """Take a name and all that it needs, and return the module that defines it; None where it is imported."""
        module = _module(module_name)
        if name not in module.statements:
            return self._follow(module, name)
        if name not in self.found:
            self._claim(name, module_name)
            self.found[name] = module_name
            needed = self.needs.setdefault(module_name, set())
            used = {child.id: None for child in ast.walk(module.statements[name]) if isinstance(child, ast.Name)}
            for other in used:
                if other in module.statements or other in module.imports:
                    needed.add(self.reach(module_name, other) or module_name)
            needed.discard(module_name)
        self._claim(name, module_name)
        return module_name

    def _follow(self, module: _Module, name: str) -> str | None:
        origin, original = module.imports[name]
        package = origin.partition(".")[0]
        if package in sys.stdlib_module_names or package == ALLOWED:
            self._claim(name, f"{origin}:{original}")
            self.outside[name] = origin, original
            return None
        if package not in self.packages:
            raise RequestError(f"{module.name} needs the package {package}, and the file is to need {ALLOWED} alone")
        if original != name:
            raise RequestError(f"{module.name} imports {original or origin} as {name}, and a file keeps every name")
        return self.reach(origin, original)

    def _claim(self, name: str, source: str) -> None:
        taken = self.found.get(name)
        if name in self.outside:
            taken = ":".join(map(str, self.outside[name]))
        if taken not in (None, source):
            raise RequestError(f"{name} is one thing in {taken} and another in {source}; a file holds one of a name")


@cache
def _module(name: str) -> _Module:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise RequestError(f"{name} has no Python source to bundle")
    text = Path(spec.origin).read_text(encoding="utf-8")
    module = _Module(name, tuple(text.splitlines()))
    last: list[str] = []
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):  # words on what is above
            module.ends.update(dict.fromkeys(last, statement.end_lineno or 0))
        last = list(_defined(statement))
        for defined in last:
            module.statements[defined] = statement
            module.ends[defined] = statement.end_lineno or 0
        module.imports.update(_imported(statement))
    return module


def _defined(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Assign):
        for target in statement.targets:
            yield from (node.id for node in ast.walk(target) if isinstance(node, ast.Name))
    elif isinstance(statement, ast.AnnAssign):
        yield ast.unparse(statement.target)


def _imported(statement: ast.stmt) -> Iterator[tuple[str, tuple[str, str | None]]]:
    if isinstance(statement, ast.ImportFrom):
        for alias in statement.names:
            yield alias.asname or alias.name, (statement.module or "", alias.name)
    elif isinstance(statement, ast.Import):
        for alias in statement.names:
            yield alias.asname or alias.name, (alias.name, None)
    elif isinstance(statement, ast.If):  # of TYPE_CHECKING: annotations need these names
        for inner in statement.body:
            yield from _imported(inner)


def _import_lines(outside: dict[str, tuple[str, str | None]]) -> str:
    """The import statements in isort's order: Python's own, then torch; whole modules first."""
    blocks = []
    for of_torch in (False, True):
        here = {name: pair for name, pair in outside.items() if (pair[0].partition(".")[0] == ALLOWED) == of_torch}
        whole = sorted(
            f"import {origin}" + (f" as {name}" if name != origin else "")
            for name, (origin, original) in here.items()
            if original is None
        )
        names: dict[str, list[str]] = {}
        for name, (origin, original) in here.items():
            if original is not None:
                names.setdefault(origin, []).append(original if original == name else f"{original} as {name}")
        some = [f"from {origin} import {', '.join(sorted(names[origin], key=_as_isort))}" for origin in sorted(names)]
        blocks.append("\n".join([*whole, *some]))
    return "\n\n".join(block for block in blocks if block)


def _as_isort(name: str) -> tuple[int, str]:
    """A key that sorts names as isort does: constants, then classes, then the rest."""
    return (0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2), name
