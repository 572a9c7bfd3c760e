"""A network as a bundle of MONAI: a folder that ``python -m monai.bundle run`` applies to a folder of images.

The network's class is the ``torch`` file in the bundle's ``scripts``, so that the bundle needs MONAI and nothing of
ours. Its weights are a plain state dict, which MONAI reads with ``weights_only``; beside it lie ONNX and torch.export.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unetx_space import RequestError
from unetx_studies.drawing.captions import printable
from unetx_studies.export import torch_file, traced
from unetx_studies.export.model import DOCUMENT, Model

LICENSE = """Code and configuration of this bundle are licensed under the Apache License, Version 2.0
(http://www.apache.org/licenses/LICENSE-2.0), on an "AS IS" basis, without warranties or conditions of any kind.

The licence of the weights in models/ is for those to say who trained them.
"""
_LOGGING = """[loggers]
keys=root

[handlers]
keys=console

[formatters]
keys=plain

[logger_root]
level=INFO
handlers=console

[handler_console]
class=StreamHandler
level=INFO
formatter=plain
args=(sys.stdout,)

[formatter_plain]
format=%(asctime)s - %(levelname)s - %(message)s
"""
_KEYS = {"keys": "image"}


def write(model: Model, folder: Path) -> None:
    """Write the whole bundle. Raises RequestError where MONAI has no transform for what the images need."""
    try:
        inference = _inference(model)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RequestError(
            f"the document's provenance.task is not as a search writes it ({error!r}), and a bundle prepares images by "
            "it; mend or remove its fields spacing and normalisation"
        ) from error
    for name in ("configs", "docs", "models", "scripts"):
        (folder / name).mkdir()
    texts = {
        "LICENSE": LICENSE,
        DOCUMENT: model.architecture.dumps(),
        "configs/metadata.json": json.dumps(_metadata(model), indent=4) + "\n",
        "configs/inference.json": json.dumps(inference, indent=4) + "\n",
        "configs/logging.conf": _LOGGING,
        "docs/README.md": _readme(model),
        "scripts/__init__.py": "",
        "scripts/network.py": torch_file.torch_file(model.architecture),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    torch.save(model.network.state_dict(), folder / "models/model.pt")
    traced.write_pt2(model, folder / "models/model.pt2")
    traced.write_onnx(model, folder / "models/model.onnx")


def run(folder: Path, image: Tensor, model: Model) -> Tensor:
    """The logits of the bundle's three networks for one image, one behind the other along the batch."""
    network = torch_file.import_file(folder / "scripts/network.py").load(folder / "models/model.pt")
    with torch.no_grad():
        answers = [network(image)]
    answers.append(traced.run_pt2(folder / "models/model.pt2", image, model))
    answers.append(traced.run_onnx(folder / "models/model.onnx", image, model))
    return torch.cat(answers)


def _metadata(model: Model) -> dict[str, Any]:
    """The metadata that MONAI's schema requires of every bundle."""
    backbone, task = model.architecture.backbone, _task(model)
    shape = {"spatial_shape": list(model.patch), "dtype": "float32", "value_range": [], "is_patch_data": True}
    channels = _names(task.get("channels"), backbone.in_channels, "channel")
    classes = _names(task.get("classes"), backbone.out_channels, "class")
    image = {"type": "image", "format": "magnitude", "num_channels": backbone.in_channels, **shape}
    pred = {"type": "image", "format": "segmentation", "num_channels": backbone.out_channels, **shape}
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
        "meta_schema_20240725.json",
        "version": "0.1.0",
        "changelog": {"0.1.0": "written by unetx-search"},
        "monai_version": version("monai"),
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {package: version(package) for package in ("nibabel", "pillow")},
        "name": f"Segmentation network for {_plain(task.get('name', 'a dataset of yours'))}",
        "task": f"Segmentation of {', '.join(list(classes.values())[1:])}",
        "description": "A U-Net whose skip connections were found by unetx-search.",
        "authors": "whoever ran the search",
        "copyright": "of whoever ran the search",
        "network_data_format": {
            "inputs": {"image": {**image, "channel_def": channels}},
            "outputs": {"pred": {**pred, "channel_def": classes}},
        },
    }


def _names(names: Any, n: int, otherwise: str) -> dict[str, str]:
    """Names by number: those of the task where it has as many, else numbered ones."""
    known = names if isinstance(names, list) and len(names) == n else [f"{otherwise} {i}" for i in range(n)]
    return {str(i): _plain(name) for i, name in enumerate(known)}


def _plain(text: object) -> str:
    """A stranger's text without the signs by which MONAI knows what it is to evaluate."""
    return re.sub(r"[$@%]", "", printable(str(text)))


def _task(model: Model) -> Mapping[str, Any]:
    task = model.architecture.provenance.get("task")
    return task if isinstance(task, Mapping) else {}


def _inference(model: Model) -> dict[str, Any]:
    """The configuration that ``monai.bundle run`` runs."""
    is_planar = model.architecture.backbone.dims == 2
    return {
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "ckpt_path": "$@bundle_root + '/models/model.pt'",
        "dataset_dir": "images",
        "pattern": "*.png" if is_planar else "*.nii.gz",
        "output_dir": "$@bundle_root + '/eval'",
        "datalist": "$sorted(glob.glob(os.path.join(@dataset_dir, @pattern)))",
        "network_def": {"_target_": "scripts.network.Network"},
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": _preprocessing(model)},
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': path} for path in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(model.patch),
            "sw_batch_size": 1,
            "overlap": 0.5,
            "mode": "gaussian",
        },
        "postprocessing": {"_target_": "Compose", "transforms": _postprocessing(".png" if is_planar else ".nii.gz")},
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": "@ckpt_path",
                "load_dict": {"model": "@network"},
                "map_location": "@device",
            }
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        "run": ["$@evaluator.run()"],
    }


def _preprocessing(model: Model) -> list[dict[str, Any]]:
    """MONAI's transforms that prepare an image as the search did: turned, cropped, normalised, resampled."""
    task, is_planar = _task(model), model.architecture.backbone.dims == 2
    turned: dict[str, Any] = {"_target_": "Orientationd", **_KEYS, "axcodes": "RAS", "labels": None}
    if is_planar:  # MONAI reads a picture as [c, w, h]
        turned = {"_target_": "Transposed", **_KEYS, "indices": [0, 2, 1]}
    transforms = [
        {"_target_": "LoadImaged", **_KEYS},
        {"_target_": "EnsureChannelFirstd", **_KEYS},
        turned,
        {"_target_": "CropForegroundd", **_KEYS, "source_key": "image", "select_fn": "$lambda image: image != 0"},
        *_normalisation(task.get("normalisation")),
    ]
    spacing = [*map(float, task.get("spacing") or [])]
    if spacing and (not is_planar or any(mm != 1 for mm in spacing)):
        transforms.append({"_target_": "Spacingd", **_KEYS, "pixdim": spacing, "mode": "bilinear"})
    return [*transforms, {"_target_": "EnsureTyped", **_KEYS, "device": "@device"}]


def _postprocessing(suffix: str) -> list[dict[str, Any]]:
    """MONAI's transforms that bring logits back to the image's grid and write the class of every voxel."""
    return [
        {
            "_target_": "Invertd",
            "keys": "pred",
            "transform": "@preprocessing",
            "orig_keys": "image",
            "nearest_interp": False,
        },
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
        {
            "_target_": "SaveImaged",
            "keys": "pred",
            "output_dir": "@output_dir",
            "output_ext": suffix,
            "output_postfix": "seg",
            "output_dtype": "$np.uint8",
            "separate_folder": False,
            "resample": False,
        },
    ]


def _normalisation(channels: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """MONAI's transforms for what was done to every channel; a z-score where that is not known."""
    channels = channels or [{"scheme": "case"}]
    schemes = {(channel["scheme"], channel.get("masked", False)) for channel in channels}
    if len(schemes) > 1:
        names = ", ".join(sorted({scheme for scheme, _ in schemes}))
        raise RequestError(
            f"the channels are normalised in different ways ({names}), for which MONAI has no transform; choose the "
            "format onnx or pt2, whose script knows them"
        )
    scheme, masked = schemes.pop()
    each = {**_KEYS, "channel_wise": True}
    match scheme:
        case "ct":
            low, high = ([float(channel[end]) for channel in channels] for end in ("low", "high"))
            clip = f"$lambda image: image.clamp({_column(low)}, {_column(high)})"
            shift, scale = ([float(channel[name]) for channel in channels] for name in ("mean", "std"))
            return [
                {"_target_": "Lambdad", **_KEYS, "func": clip},
                {"_target_": "NormalizeIntensityd", **each, "subtrahend": shift, "divisor": scale},
            ]
        case "range":
            return [{"_target_": "ScaleIntensityd", **each, "minv": 0.0, "maxv": 1.0}]
        case "rgb":
            return [{"_target_": "ScaleIntensityd", **_KEYS, "minv": None, "maxv": None, "factor": 1 / 255 - 1}]
        case "none":
            return []
        case _:
            return [{"_target_": "NormalizeIntensityd", **each, "nonzero": bool(masked)}]


def _column(values: list[float]) -> str:
    """Code for a tensor with one number for every channel, which broadcasts against an image."""
    return f"torch.tensor({values}).reshape(-1, *[1] * (image.ndim - 1))"


def _readme(model: Model) -> str:
    kind = "PNG pictures" if model.architecture.backbone.dims == 2 else "NIfTI volumes"
    return f"""# A segmentation network found by unetx-search

`scripts/network.py` holds it, with its drawing and what to cite. To segment a folder of {kind}, in this folder:

    pip install "monai[fire,ignite,nibabel,pillow]"
    python -m monai.bundle run --bundle_root . --config_file configs/inference.json \\
        --meta_file configs/metadata.json --logging_file configs/logging.conf --dataset_dir IMAGES

The results lie in `eval`; `--output_dir FOLDER` puts them elsewhere, `--pattern "*.jpg"` chooses other files.
Windows of {" x ".join(map(str, model.patch))} voxels go through the network, as in training. `models` holds the weights
as a state dict (`model.pt`), and the network with them for torch.export (`model.pt2`) and ONNX (`model.onnx`).
"""
