"""An architecture, which is a backbone with a genome at full size, and its JSON document."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unetx_space.backbone import Backbone
from unetx_space.files import write_whole
from unetx_space.genome import Genome

FORMAT = "unetx.architecture"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Architecture:
    """A network design at full size: what a search proposes, a file holds and ``build`` makes a network of."""

    backbone: Backbone
    genome: Genome
    score: Mapping[str, Any] = field(default_factory=dict, compare=False, hash=False)
    """Its score with the budget it was trained with; empty when it was never scored."""
    provenance: Mapping[str, Any] = field(default_factory=dict, compare=False, hash=False)
    """Where it comes from: study, trial, task, versions; empty where that is not known."""

    @property
    def searched_patch(self) -> tuple[int, ...] | None:
        """The training patch of the task it was searched on, where provenance has one that fits."""
        task = self.provenance.get("task")
        patch = task.get("patch") if isinstance(task, Mapping) else None
        if not isinstance(patch, list) or len(patch) != self.backbone.dims:
            return None
        return tuple(patch) if all(type(n) is int and 0 < n < 1 << 16 for n in patch) else None

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "backbone": self.backbone.to_json(),
            "genome": self.genome.to_json(),
            "score": dict(self.score),
            "provenance": dict(self.provenance),
        }

    def dumps(self) -> str:
        """The document as text, indented for people."""
        return json.dumps(self.to_json(), indent=2) + "\n"

    def save(self, path: Path | str) -> None:
        """Write the document; readers see the old file or the new one, never half of it."""
        write_whole(Path(path), self.dumps())
