"""Imports only go down: search -> studies -> evaluators -> space. The light modules stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = ["unetx_space", "unetx_evaluators", "unetx_studies", "unetx_search"]
ROOTS = {"unetx_space": "space", "unetx_evaluators": "evaluators", "unetx_studies": "studies", "unetx_search": "search"}


def imported_names(path: Path) -> set[str]:
    """Every module a file imports, at any depth of the code."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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


@pytest.mark.parametrize(
    "path",
    [
        "space/unetx_space/genome.py",
        "space/unetx_space/backbone.py",
        "space/unetx_space/architecture.py",
        "space/unetx_space/validity.py",
        "space/unetx_space/canonical.py",
        "space/unetx_space/plan.py",
        "space/unetx_space/cost.py",
        "space/unetx_space/design_space/space.py",
        "space/unetx_space/design_space/narrowing.py",
        "space/unetx_space/variation.py",
        "space/unetx_space/references.py",
        "space/unetx_space/memory.py",
        "space/unetx_space/graph.py",
        "space/unetx_space/labelling.py",
        "space/unetx_space/presets.py",
        "space/unetx_space/operators/catalogue/__init__.py",
        "space/unetx_space/operators/catalogue/attention.py",
        "space/unetx_space/operators/catalogue/upsampling.py",
        "space/unetx_space/operators/catalogue/fusion.py",
        "space/unetx_space/operators/catalogue/alignment.py",
        "space/unetx_space/operators/catalogue/spec.py",
        "evaluators/unetx_evaluators/evaluation.py",
        "evaluators/unetx_evaluators/tasks/task.py",
    ],
)
def test_the_data_half_of_the_code_names_no_torch(path: str) -> None:
    assert not {name for name in imported_names(ROOT / path) if name.split(".")[0] == "torch"}


def modules_after(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_command_line_starts_without_heavy_libraries() -> None:
    heavy = {"torch", "optuna", "monai", "numpy", "sqlalchemy", "plotly", "networkx", "nibabel", "jsonschema"}
    assert not modules_after("import unetx_search.cli") & heavy


@pytest.mark.parametrize("module", ["unetx_search.run", "unetx_search.executors.worker", "unetx_search.doctor"])
def test_the_coordinator_and_the_workers_door_import_no_torch(module: str) -> None:
    assert "torch" not in modules_after(f"import {module}")
