"""A network as nnU-Net trains it: plans whose ``network_class_name`` is a class in the ``torch`` file beside them.

The class is in that file, not in ours, so that nnU-Net's environment needs nothing but nnU-Net; its folder goes on the
PYTHONPATH. nnU-Net reads deep supervision off ``network.decoder``, and asks for a head on every level.
"""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from unetx_space import key
from unetx_space.plan import NodePlan, Plan, make_plan
from unetx_studies.export import nnunet_plans, torch_file
from unetx_studies.export.model import DOCUMENT, Model

CONFIGURATIONS = {2: "2d", 3: "3d_fullres"}
"""nnU-Net's names for its configurations, by dimension."""


def write(model: Model, folder: Path) -> None:
    """Write the folder: plans, the network's class, a script that completes nnU-Net's plans, trained weights if any."""
    architecture, name = model.architecture, module_name(model)
    plan = with_heads(make_plan(architecture))
    texts = {
        DOCUMENT: architecture.dumps(),
        f"{name}.py": torch_file.torch_file(architecture, plan=plan, tail=_class(plan)),
        "plans.json": json.dumps(_plans(model, plan), indent=4) + "\n",
        "add_to_plans.py": Path(nnunet_plans.__file__).read_text(encoding="utf-8"),
        "README.md": _readme(model, name),
    }
    for file, text in texts.items():
        (folder / file).write_text(text, encoding="utf-8")
    if model.weights is not None:
        network = _network(folder, model)
        torch.save({"network_weights": network.state_dict()}, folder / "weights.pth")


def run(folder: Path, image: Tensor, model: Model) -> Tensor:
    """The logits of the class that nnU-Net makes, with its axes in their own order."""
    network = _network(folder, model).eval()
    with torch.no_grad():
        return network(image)  # type: ignore[no-any-return]


def _network(folder: Path, model: Model) -> torch.nn.Module:
    backbone = model.architecture.backbone
    module = torch_file.import_file(folder / f"{module_name(model)}.py")
    axes = list(range(backbone.dims))
    network: torch.nn.Module = module.NnUNet(
        backbone.in_channels, backbone.out_channels, strides=[], axes=axes, deep_supervision=False
    )
    network.load_state_dict(model.network.state_dict(), strict=False)  # heads of other levels are new
    return network


def module_name(model: Model) -> str:
    """The name of the Python file and of the plans, one for every design, so that several can be tried on a dataset."""
    return f"unetx_{key(model.architecture)[:8]}"


def with_heads(plan: Plan) -> Plan:
    """The plan with a head on the last node of every level but the finest, whose head is the output's."""
    last: dict[int, NodePlan] = {node.ref.level: node for node in plan.nodes[:-1] if node.ref.level}
    return replace(plan, side_heads=tuple(last[level] for level in sorted(last, reverse=True)))


def _plans(model: Model, plan: Plan) -> dict[str, object]:
    """What is added to nnU-Net's plans. ``strides`` lead from head to head, and to the deepest level."""
    backbone = plan.backbone
    levels = [0, *(node.ref.level for node in reversed(plan.side_heads)), plan.encoder[-1].ref.level]
    strides = [[1] * backbone.dims]
    strides += [list(backbone.factor(fine, coarse)) for fine, coarse in pairwise(levels)]
    configuration: dict[str, object] = {
        "architecture": {
            "network_class_name": f"{module_name(model)}.NnUNet",
            "arch_kwargs": {"strides": strides, "axes": list(range(backbone.dims))},
            "_kw_requires_import": [],
        }
    }
    if model.wanted_patch is not None:
        configuration["patch_size"] = list(model.patch)
    return {"plans_name": module_name(model), "configurations": {CONFIGURATIONS[backbone.dims]: configuration}}


def _class(plan: Plan) -> str:
    channels, classes = plan.backbone.in_channels, plan.backbone.out_channels
    return f'''class NnUNet(Network):
    """The network as nnU-Net makes and calls it.

    With ``decoder.deep_supervision`` it answers with the logits of every level, the finest first. ``axes`` tells which
    axis of the network each axis of nnU-Net's arrays is; ``strides`` is nnU-Net's to read.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        strides: Sequence[Sequence[int]],
        axes: Sequence[int],
        deep_supervision: bool = True,
    ) -> None:
        super().__init__()
        if (input_channels, num_classes) != ({channels}, {classes}):
            raise ValueError(
                "this network reads {channels} channels and tells {classes} classes apart, the dataset has "
                f"{{input_channels}} and {{num_classes}}"
            )
        order = [list(axes).index(axis) for axis in range(len(axes))]
        self.inwards = (0, 1, *(axis + 2 for axis in order))
        self.outwards = (0, 1, *(axis + 2 for axis in axes))
        self.decoder.deep_supervision = deep_supervision

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        logits = self.forward_all(image.permute(self.inwards))
        if self.decoder.deep_supervision:
            return [each.permute(self.outwards) for each in logits]
        return logits[0].permute(self.outwards)'''


def _readme(model: Model, name: str) -> str:
    configuration = CONFIGURATIONS[model.architecture.backbone.dims]
    pretrained = ""
    if model.weights is not None:
        pretrained = "\nTo start from the weights it was exported with: `-pretrained_weights weights.pth`.\n"
    return f"""# A network found by unetx-search, for nnU-Net 2.8

nnU-Net plans and preprocesses the dataset (here 4) as ever; then its plans get this network, and it trains:

    nnUNetv2_plan_and_preprocess -d 4 -c {configuration}
    python add_to_plans.py $nnUNet_preprocessed/Dataset004_NAME/nnUNetPlans.json
    export PYTHONPATH=$PWD    # where {name}.py lies, for training and for prediction
    nnUNetv2_train 4 {configuration} 0 -p {name}
    nnUNetv2_predict -d 4 -c {configuration} -f 0 -p {name} -i IMAGES -o OUT
{pretrained}
Nothing else changes: no trainer of its own, deep supervision as nnU-Net wants it, the same preprocessed data.
"""
