"""The product uses public names of Optuna alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ("space", "evaluators", "studies", "search")
PACKAGES = ("optuna", "optuna_dashboard")


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def private_names(source: str) -> Iterator[str]:
    """Private names of Optuna in a module: those it imports, and any attribute of something other than ``self``."""
    tree = ast.parse(source)
    imported: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            imported += [f"{node.module}.{name.name}" for name in node.names]
    of_optuna = [name for name in imported if name.split(".")[0] in PACKAGES]
    yield from (name for name in of_optuna if any(map(is_private, name.split("."))))
    if of_optuna:
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and is_private(node.attr):
                owner = node.value
                if not (isinstance(owner, ast.Name) and owner.id in ("self", "cls")):
                    yield f"{ast.unparse(node)} in line {node.lineno}"


def test_no_module_of_the_product_uses_a_private_name_of_optuna() -> None:
    modules = [path for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))]
    found = {
        str(path.relative_to(ROOT)): names
        for path in modules
        if (names := list(private_names(path.read_text(encoding="utf-8"))))
    }
    assert found == {}
    assert sum("optuna" in path.read_text(encoding="utf-8") for path in modules) > 5, "there is something to look at"


@pytest.mark.parametrize(
    ("source", "n_found"),
    [
        ("from optuna.storages._rdb.models import TrialModel", 1),
        ("from optuna.storages import _in_memory", 1),
        ("import optuna.study._frozen", 1),
        ("import optuna\nstudy = optuna.create_study()\nstudy._storage.get_trial(study.trials[0]._trial_id)", 2),
        ("import optuna\nclass Mine:\n    def f(self) -> None:\n        self._storage = optuna.__version__", 0),
        ("from mine import _private\n_private._own", 0),
    ],
)
def test_what_counts_as_a_private_name_of_optuna(source: str, n_found: int) -> None:
    assert len(list(private_names(source))) == n_found
