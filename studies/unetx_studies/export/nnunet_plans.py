"""Makes plans for nnU-Net of its own plans for a dataset and of the architecture beside this script.

    python add_to_plans.py $nnUNet_preprocessed/Dataset004_Hippocampus/nnUNetPlans.json

writes plans beside the ones that it reads, which stay as they are. They share the preprocessed data; what is new is the
network, and where its strides ask for it a patch of a size that they divide.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def merged(plans: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """nnU-Net's plans with the network of ``ours``."""
    [(name, wanted)] = ours["configurations"].items()
    if name not in plans["configurations"]:
        known = ", ".join(plans["configurations"])
        raise SystemExit(f"these plans have no configuration {name}, only {known}; the network is for {name} alone")
    architecture = json.loads(json.dumps(wanted["architecture"]))
    kwargs = architecture["arch_kwargs"]
    axes = axes_of(plans, len(kwargs["axes"]))
    kwargs["axes"] = axes
    kwargs["strides"] = [[stride[axis] for axis in axes] for stride in kwargs["strides"]]
    configuration = dict(plans["configurations"][name])
    total = [1] * len(axes)
    for stride in kwargs["strides"]:
        total = [t * s for t, s in zip(total, stride, strict=True)]
    patch = wanted.get("patch_size")
    patch = configuration["patch_size"] if patch is None else [patch[axis] for axis in axes]
    configuration["patch_size"] = [-(-n // t) * t for n, t in zip(patch, total, strict=True)]
    configuration["architecture"] = architecture
    return {
        **plans,
        "plans_name": ours["plans_name"],
        "configurations": {**plans["configurations"], name: configuration},
    }


def axes_of(plans: dict[str, Any], dims: int) -> list[int]:
    """Which axis of the network each axis of nnU-Net's arrays is.

    unetx-search has volumes as [x, y, z] and pictures as [h, w]; nnU-Net has volumes as [z, y, x], transposed as its
    plans say, and pictures as [1, h, w].
    """
    forward = plans["transpose_forward"]
    if dims == 3:
        return [2 - axis for axis in forward]
    return [0, 1] if plans["image_reader_writer"] == "NaturalImage2DIO" else [1, 0]


def main() -> None:
    """Run the script with the options of its command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("plans", type=Path, help="nnUNetPlans.json in the dataset's folder of nnUNet_preprocessed")
    source: Path = parser.parse_args().plans
    ours = json.loads(Path(__file__).with_name("plans.json").read_text(encoding="utf-8"))
    found = merged(json.loads(source.read_text(encoding="utf-8")), ours)
    target = source.with_name(f"{found['plans_name']}.json")
    target.write_text(json.dumps(found, indent=4) + "\n", encoding="utf-8")
    [name] = ours["configurations"]
    print(f"wrote {target}; patch {found['configurations'][name]['patch_size']}")
    print(f"  PYTHONPATH={Path(__file__).parent.resolve()} nnUNetv2_train DATASET {name} 0 -p {found['plans_name']}")


if __name__ == "__main__":
    main()
