"""The basis of a preparation: all that the prepared arrays depend on beside the files, and the memory they need."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.host_memory import available_bytes
from unetx_evaluators.tasks.fingerprint import CaseFacts, Fingerprint
from unetx_evaluators.tasks.preprocessing import (
    Preparation,
    changes_grid,
    in_mm,
    original_shape,
    original_spacing,
    prepared_shape,
)
from unetx_evaluators.tasks.privacy import Pseudonymous
from unetx_evaluators.tasks.sources.base import Source, shape_text


@dataclass(frozen=True, slots=True)
class Basis:
    """All that the prepared arrays depend on beside the files, computed by reading every case once."""

    facts: Mapping[str, CaseFacts]
    """Facts by name of the case, without intensities."""
    fingerprint: Fingerprint
    preparation: Preparation
    scored: tuple[str, ...]
    """The validation and test cases."""

    @property
    def originals(self) -> dict[str, tuple[float, ...]]:
        """The mm per voxel and axis of every original label map that is kept, by name of the case."""
        names = filter(self.keeps_original, self.scored)
        return {name: original_spacing(self.facts[name], self.preparation) for name in names}

    def keeps_original(self, name: str) -> bool:
        """Whether the original label map of a case is kept: it is scored, and preparation changes its grid."""
        return name in self.scored and changes_grid(self.facts[name], self.preparation)

    def n_bytes(self, names: Iterable[str], n_channels: int) -> int:
        """Size of the prepared arrays of cases: images (float32), label maps and originals (uint8), without headers."""
        n_bytes = 0
        for name in names:
            n_bytes += math.prod(prepared_shape(self.facts[name], self.preparation)) * (4 * n_channels + 1)
            if self.keeps_original(name):
                n_bytes += math.prod(original_shape(self.facts[name], self.preparation))
        return n_bytes

    def to_json(self) -> dict[str, Any]:
        """The basis as JSON values."""
        return {
            "facts": [asdict(facts) for facts in self.facts.values()],
            "fingerprint": asdict(self.fingerprint),
            "preparation": asdict(self.preparation),
            "scored": self.scored,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The basis of which ``data`` is ``to_json()``, read from JSON."""
        facts = [CaseFacts.from_json(case) for case in data["facts"]]
        return cls(
            {case.name: case for case in facts},
            Fingerprint.from_json(data["fingerprint"]),
            Preparation.from_json(data["preparation"]),
            tuple(data["scored"]),
        )


def too_large(source: Source, basis: Basis, names: Sequence[str]) -> list[DataError]:
    """An error for each of the cases ``names`` that this machine has too little memory to prepare."""
    free_bytes = available_bytes()
    if free_bytes is None:
        return []
    n_channels = len(source.channels)
    # In memory at once when a case is resampled: its channels twice, or once beside what the label map takes.
    bytes_per_voxel = max(8 * n_channels, 4 * n_channels + 14)
    needed = {name: math.prod(prepared_shape(basis.facts[name], basis.preparation)) * bytes_per_voxel for name in names}
    return [
        no_memory(source, basis, name, f"about {needed[name] / 2**30:.3g} GiB, {free_bytes / 2**30:.3g} GiB are free")
        for name in names
        if needed[name] > free_bytes
    ]


def no_memory(source: Source, basis: Basis, name: str, how_much: str) -> DataError:
    """The error on a case that there is too little memory to prepare; ``how_much`` is a text on needed and free
    memory."""
    facts, preparation = basis.facts[name], basis.preparation
    real_name = source.real_names[name] if isinstance(source, Pseudonymous) else name
    return DataError(
        f"case {real_name}: its {shape_text(facts.shape)} voxels of {in_mm(facts.spacing)} become "
        f"{shape_text(prepared_shape(facts, preparation))} at the spacing {in_mm(preparation.spacing)}, and the memory "
        f"does not hold them ({how_much}); correct the spacing in its header if it is wrong, remove the case, choose a "
        "coarser --spacing, or free memory"
    )
