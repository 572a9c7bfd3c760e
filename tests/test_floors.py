"""Imports only go down: search -> studies -> evaluators -> space. The light modules stay light."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import networkx as nx
import pytest

from unetx_space.operators.catalogue import ALIGNMENTS, ATTENTIONS, FUSIONS, UPSAMPLERS, Spec

ROOT = Path(__file__).parents[1]
FLOORS = ["unetx_space", "unetx_evaluators", "unetx_studies", "unetx_search"]
ROOTS = {"unetx_space": "space", "unetx_evaluators": "evaluators", "unetx_studies": "studies", "unetx_search": "search"}


def modules() -> dict[str, Path]:
    """Every module of the product by its full name; that of a package is its ``__init__``."""
    found = {}
    for root in ROOTS.values():
        for path in sorted((ROOT / root).rglob("*.py")):
            *folders, name = path.relative_to(ROOT / root).with_suffix("").parts
            found[".".join(folders if name == "__init__" else (*folders, name))] = path
    return found


MODULES = modules()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """At any depth of the code, but for blocks ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from imports(child)


def imported_modules(path: Path) -> set[str]:
    """The modules of the product that a file imports when it runs."""
    names = set()
    for node in imports(tree(path)):
        module = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
        for alias in node.names:
            names.add(found if (found := module + alias.name) in MODULES else module[:-1])
    return names & MODULES.keys()


def imported_names(path: Path) -> set[str]:
    """Every module a file imports, at any depth of the code and for the type checker as well."""
    names: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports go by the package's name"
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_only_go_down(floor: str) -> None:
    above = set(FLOORS[FLOORS.index(floor) + 1 :])
    files = sorted((ROOT / ROOTS[floor]).rglob("*.py"))
    assert files
    for path in files:
        risen = {name for name in imported_names(path) if name.split(".")[0] in above}
        assert not risen, f"{path.relative_to(ROOT)} imports from a floor above: {risen}"


def test_no_module_imports_another_in_a_circle() -> None:
    """Imports inside functions count, for a circle may hide there; those for the type checker alone do not."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    for name, path in MODULES.items():
        graph.add_edges_from((name, found) for found in imported_modules(path) if found != name)
    assert list(nx.simple_cycles(graph)) == []


SPACE = ROOT / "space/unetx_space"
OF_TORCH = {SPACE / "network.py", SPACE / "initial_values.py", *(SPACE / "operators").glob("*.py")}


@pytest.mark.parametrize(
    "path",
    [
        *sorted(set(SPACE.rglob("*.py")) - OF_TORCH),
        ROOT / "evaluators/unetx_evaluators/evaluation.py",
        ROOT / "evaluators/unetx_evaluators/tasks/task.py",
    ],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_the_data_half_of_the_code_names_no_torch(path: Path) -> None:
    assert not {name for name in imported_names(path) if name.split(".")[0] == "torch"}


PUBLISHED = {SPACE / "presets.py", SPACE / "references.py"}
FAMILIES: tuple[Mapping[str, Spec], ...] = (ATTENTIONS, UPSAMPLERS, FUSIONS, ALIGNMENTS)
OPERATORS = {name for family in FAMILIES for name in family}
OTHER_MEANINGS = {"none", "sum", "mean", "max", "average", "nearest", "linear", "strided-conv"}
"""Of the same words elsewhere: modes of torch and of scipy, settings of a backbone, of data and of a search."""


def test_nothing_but_the_catalogue_and_published_designs_names_an_operator() -> None:
    for path in MODULES.values():
        if path in PUBLISHED or (SPACE / "operators/catalogue") in path.parents:
            continue
        words = {node.value for node in ast.walk(tree(path)) if isinstance(node, ast.Constant)}
        assert not words & (OPERATORS - OTHER_MEANINGS), path.relative_to(ROOT)


def modules_after(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_command_line_starts_without_heavy_libraries() -> None:
    heavy = {"torch", "optuna", "monai", "numpy", "sqlalchemy", "plotly", "networkx", "nibabel", "jsonschema"}
    assert not modules_after("import unetx_search.cli") & heavy


@pytest.mark.parametrize(
    "module", ["unetx_space", "unetx_search.run", "unetx_search.executors.worker", "unetx_search.doctor"]
)
def test_the_interface_of_the_space_the_coordinator_and_the_workers_door_import_no_torch(module: str) -> None:
    assert "torch" not in modules_after(f"import {module}")
