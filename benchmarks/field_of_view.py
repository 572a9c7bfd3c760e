"""How thick the classes of datasets are, what that allows their voxels to become, and what the coarser voxels cost.

    OMP_NUM_THREADS=1 python benchmarks/field_of_view.py [DATA] > benchmarks/results/field_of_view.txt

Every folder in DATA is a dataset (default: UNETX_TEST_DATA). All cases are surveyed, where a search plans from its
training cases. The ceiling is the mean Dice, by class, of true label maps that were resampled to the planned voxels and
back, over some cases that show the class: what a network that makes no mistake reaches if labels are what is brought
back. Nothing is trained; times are CPU times of one core. docs/planning.md has the rule.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import process_time

import numpy as np

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.field_of_view import coarsest_voxel, with_field_of_view
from unetx_evaluators.tasks.fingerprint import CaseFacts, Fingerprint, fingerprint, survey
from unetx_evaluators.tasks.options import Machine, TaskOptions
from unetx_evaluators.tasks.planning import plan
from unetx_evaluators.tasks.preprocessing import Preparation, choose_preparation, prepare_case, restored_label
from unetx_evaluators.tasks.sources import Source, open_source
from unetx_evaluators.tasks.task import IGNORED

MACHINES: Mapping[Machine, str] = {"cpu": "one CPU core", "cuda": "a GPU"}
N_CASES = 12
"""Of each dataset, evenly chosen, for the ceiling."""


def main() -> None:
    data = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ["UNETX_TEST_DATA"])
    for folder in sorted(entry for entry in data.iterdir() if entry.is_dir()):
        try:
            _show(open_source(folder, labels=None))
        except DataError as error:
            print(f"{folder.name}: {str(error).splitlines()[0]}\n")


def _show(source: Source) -> None:
    seconds, facts = 0.0, {}
    for name in source.case_names:
        case = source.read(name)
        start = process_time()
        facts[name] = survey(case, name, len(source.classes))
        seconds += process_time() - start
    seen = fingerprint(list(facts.values()))
    shape, spacing = seen.median_shape, seen.median_spacing
    print(f"{source.name}: {seen.n_cases} cases of {_by(shape)} voxels, {_by(spacing)} mm (medians)")
    print(f"  {1e3 * seconds / seen.n_cases:.1f} ms to survey a case")
    for name, thickness in zip(source.classes, seen.thickness, strict=True):
        if thickness is not None:
            print(f"  {name}: typically {thickness.typical:.3g} mm thick, the finest {thickness.finest:.3g} mm")
    limit = coarsest_voxel(seen, source.classes)
    print(f"  voxels may be up to {limit.mm:.3g} mm; coarser ones would {limit.harm}")
    for machine, words in MACHINES.items():
        _plans(source, facts, seen, TaskOptions(machine=machine), words)
    print()


def _plans(
    source: Source, facts: Mapping[str, CaseFacts], seen: Fingerprint, options: TaskOptions, machine: str
) -> None:
    before = choose_preparation(seen, source.dims, source.channels, options)
    start = process_time()
    after = with_field_of_view(seen, before, len(source.channels), source.classes, options)
    seconds = process_time() - start
    print(f"  for {machine}, decided in {1e3 * seconds:.0f} ms{'; a pilot can try others' * bool(after.alternatives)}")
    for when, preparation in (("before", before), ("after", after)):
        made = plan(seen, preparation, len(source.channels), len(source.classes), options)
        ceiling = ", ".join(f"{dice:.3f}" for dice in _ceiling(source, facts, preparation))
        print(
            f"    {when:7}{_by(preparation.spacing):>22} mm, patch {_by(made.patch):>10}, share {made.share:7.1%}, "
            f"ceiling {ceiling}"
        )
        if after == before:
            break


def _ceiling(source: Source, facts: Mapping[str, CaseFacts], preparation: Preparation) -> list[float]:
    """Dice by foreground class."""
    found: list[list[float]] = [[] for _ in source.classes[1:]]
    names = source.case_names
    for name in names[:: max(1, len(names) // N_CASES)]:
        case = source.read(name)
        known = case.label != IGNORED
        back = restored_label(prepare_case(case, facts[name], preparation)[1], facts[name], preparation)
        for index, of_class in enumerate(found, start=1):
            truth, again = (case.label == index) & known, (back == index) & known
            if truth.any():
                of_class.append(float(2 * np.sum(truth & again) / (np.sum(truth) + np.sum(again))))
    return [float(np.mean(of_class)) if of_class else float("nan") for of_class in found]


def _by(numbers: Sequence[float]) -> str:
    return "x".join(f"{number:.4g}" for number in numbers)


if __name__ == "__main__":
    main()
