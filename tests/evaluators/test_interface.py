"""The doors of the package: what each exports, how little that imports, and that no import goes in a circle."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import unetx_evaluators

ROOT = Path(unetx_evaluators.__file__).parent
PACKAGES = ("", ".metrics", ".tasks", ".tasks.sources", ".training", ".training.fast_cpu")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_exports_its_interface(package: str) -> None:
    door = importlib.import_module(f"unetx_evaluators{package}")
    tree = ast.parse(Path(door.__file__ or "").read_text(encoding="utf-8"))
    exported = [alias.asname for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert exported
    assert all(name is not None and hasattr(door, name) for name in exported)
    assert door.__doc__


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import unetx_evaluators", {"torch", "monai", "numpy", "scipy"}),
        ("import unetx_evaluators.training", {"torch", "monai", "numpy", "scipy"}),
        ("import unetx_evaluators.metrics, unetx_evaluators.tasks", {"torch", "monai", "nibabel", "PIL"}),
    ],
)
def test_the_doors_are_light(statement: str, heavy: set[str]) -> None:
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & heavy


def test_no_import_goes_in_a_circle() -> None:
    """Of what is imported when a module is, packages standing for their ``__init__``."""
    files = {_module(file): file for file in ROOT.rglob("*.py")}
    graph = {name: set(_imports(file, set(files))) for name, file in files.items()}
    assert len([*TopologicalSorter(graph).static_order()]) == len(files)


def _module(file: Path) -> str:
    parts = file.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(file: Path, modules: set[str]) -> Iterator[str]:
    for node in ast.parse(file.read_text(encoding="utf-8")).body:  # those inside functions and TYPE_CHECKING come later
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield from {submodule if submodule in modules else node.module} & modules
