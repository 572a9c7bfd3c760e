"""A trained model as a folder that needs nothing else; all of it is JSON and numbers, so that loading runs no code.

MODEL/plan.json                    how images are read, prepared and cut, and what masks are to hold
MODEL/architecture.json            the network as it was trained
MODEL/weights-fold0.safetensors    one file per fold; its header says of which plan and architecture it is
MODEL/training.json                options, versions, curves
MODEL/scores.json                  scores on the test cases
MODEL/verdict.json                 the comparison with a preset trained the same way, in MODEL/against-PRESET, if any
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unetx_evaluators.predicting.model_plan import ModelPlan
from unetx_space.canonical import key
from unetx_space.documents import load
from unetx_space.errors import RequestError
from unetx_space.files import read_object, write_whole
from unetx_studies.weights import REMEDY, STAMP, check_stamp, digest, load_weights, stamp_of

if TYPE_CHECKING:
    from torch import Tensor

    from unetx_space.architecture import Architecture
    from unetx_space.network import SkipUNet

FORMAT = "unetx.model"
VERSION = 1
"""Version of the format, raised when an earlier model can no longer be read as it is."""
PLAN, ARCHITECTURE, TRAINING, SCORES = "plan.json", "architecture.json", "training.json", "scores.json"
VERDICT = "verdict.json"
_WEIGHTS = re.compile(r"weights-fold(\d+)\.safetensors")


@dataclass(frozen=True)
class ModelFolder:
    """A trained model's folder with its plan and architecture, read; weights are read when they are needed."""

    path: Path
    plan: ModelPlan
    architecture: Architecture

    @classmethod
    def write(cls, path: Path, plan: ModelPlan, architecture: Architecture) -> ModelFolder:
        """Make a model's folder of a plan and an architecture; ``add_weights`` adds the folds."""
        path.mkdir(parents=True, exist_ok=True)
        architecture.save(path / ARCHITECTURE)
        write_json(path / PLAN, {"plan": plan.to_json()})
        return cls(path, plan, architecture)

    @classmethod
    def load(cls, path: Path) -> ModelFolder:
        """Read a model's folder. Raises RequestError where it is none, and where a file is damaged or too new."""
        if not (path / PLAN).is_file():
            raise RequestError(f"{path}: is no trained model: it holds no {PLAN}; give the folder that train -o wrote")
        data = read_json(path / PLAN, {"plan": dict})
        try:
            plan = ModelPlan.from_json(data["plan"])
        except (KeyError, TypeError, ValueError) as error:
            raise RequestError(f"{path / PLAN} is damaged: {error!r} in its plan; {REMEDY}") from error
        architecture = load(path / ARCHITECTURE)
        backbone = architecture.backbone
        for what, has, needs in (
            ("dimensions", backbone.dims, plan.preparation.dims),
            ("input channels", backbone.in_channels, len(plan.channels)),
            ("output channels", backbone.out_channels, len(plan.classes)),
            ("dimensions", backbone.dims, len(plan.patch)),
        ):
            if has != needs:
                raise RequestError(
                    f"{path / ARCHITECTURE}: has {has} {what}, and the {PLAN} beside it needs {needs}; {REMEDY}"
                )
        return cls(path, plan, architecture)

    @property
    def folds(self) -> tuple[int, ...]:
        """Numbers of the folds that have weights, ascending."""
        names = (_WEIGHTS.fullmatch(file.name) for file in self.path.iterdir())
        return tuple(sorted(int(match[1]) for match in names if match))

    def weights_file(self, fold: int) -> Path:
        return self.path / f"weights-fold{fold}.safetensors"

    def add_weights(self, fold: int, tensors: Mapping[str, Tensor]) -> None:
        """Write the weights of a fold, whole or not at all."""
        from safetensors.torch import save

        stamp = {**self._stamp(), "fold": str(fold), "sha256": digest(tensors)}
        text = json.dumps(stamp, sort_keys=True)  # one entry, for safetensors keeps several in no order
        write_whole(self.weights_file(fold), save(dict(tensors), {STAMP: text}))

    def networks(self, folds: Sequence[int] | None = None) -> list[SkipUNet]:
        """The trained networks of some folds, of all by default.

        Raises RequestError on a fold that is not there, weights of another architecture or plan, and damaged files.
        """
        from unetx_space.network import build

        there = self.folds
        missing = [fold for fold in folds or () if fold not in there]
        if missing or not there:
            has = f"folds {', '.join(map(str, there))}" if there else "no weights yet"
            asked = f"fold {missing[0]} was asked for" if missing else "one fold at least is needed"
            raise RequestError(f"{self.path}: has {has}, and {asked}; train goes on where it was broken off")
        networks = []
        for fold in folds if folds is not None else there:
            network = build(self.architecture)
            load_weights(network, self.weights_file(fold))
            self._check_stamp(fold, network.state_dict())
            networks.append(network)
        return networks

    def _stamp(self) -> dict[str, str]:
        plan = json.dumps(self.plan.to_json(), sort_keys=True)
        return {
            "format": FORMAT,
            "version": str(VERSION),
            "architecture": key(self.architecture),
            "plan": hashlib.sha256(plan.encode()).hexdigest(),
        }

    def _check_stamp(self, fold: int, tensors: Mapping[str, Tensor]) -> None:
        file = self.weights_file(fold)
        stamp = stamp_of(file)
        check_version(file, stamp.get("format"), stamp.get("version"))
        check_stamp(file, stamp, tensors, self._stamp())


def write_json(file: Path, data: Mapping[str, Any]) -> None:
    """Write one of a model's JSON files, with format and version."""
    write_whole(file, json.dumps({"format": FORMAT, "version": VERSION, **data}, indent=2) + "\n")


def read_json(file: Path, fields: Mapping[str, type]) -> dict[str, Any]:
    """Read what ``write_json`` wrote. Raises RequestError where the file is damaged, something else or too new."""
    data = read_object(file, {}, REMEDY)
    check_version(file, data.get("format"), data.get("version"))
    return read_object(file, fields, REMEDY)


def check_version(file: Path, form: object, version: object) -> None:
    """Raises RequestError unless a file is of a model, and of a version that can be read."""
    if form != FORMAT or not str(version).isdecimal():
        raise RequestError(f"{file}: is not of a model of unetx-search (its format is {form!r}); {REMEDY}")
    if int(str(version)) > VERSION:
        raise RequestError(
            f"{file}: was written by a newer unetx-search (version {version} of the format, this one reads up to "
            f"{VERSION}); update unetx-search"
        )
