"""Which instance normalisation trains a short-proxy U-Net fastest on one CPU thread? All ways, side by side.

    python benchmarks/instance_norm.py > benchmarks/results/instance_norm-1thread.txt

Times are CPU milliseconds of this process, the least of several turns, the ways taking turns, so that a busy machine
distorts none more than the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetx_evaluators.training.fast_cpu import fast_on_cpu
from unetx_space.architecture import Architecture
from unetx_space.backbone import isotropic_backbone
from unetx_space.network import build
from unetx_space.operators.blocks import InstanceNorm2d, InstanceNorm3d
from unetx_space.presets import PRESETS

TURNS = 9
CASES = [(2, (96, 96), 8, 5), (3, (32, 48, 32), 2, 4)]
"""Dimensions, patch, batch size, levels."""


def torchs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.instance_norm(x, weight=weight, bias=bias)


def grouped(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.group_norm(x, x.shape[1], weight, bias)


def by_image(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.cat([F.batch_norm(image, None, None, weight, bias, training=True) for image in x.split(1)])


def by_hand(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    variance, mean = torch.var_mean(x, tuple(range(2, x.ndim)), correction=0, keepdim=True)
    per_channel = (1, -1, *[1] * (x.ndim - 2))
    scale = (variance + 1e-5).rsqrt() * weight.view(per_channel)
    return torch.addcmul(bias.view(per_channel) - mean * scale, x, scale)


WAYS: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor] | None] = {
    "fused": None,  # training/fast_cpu/fused_norm.py: with the activation, in compiled loops
    "ours": None,  # torch's, back in the layout of its input
    "torch": torchs,
    "group": grouped,
    "by image": by_image,
    "by hand": by_hand,
}


def network(dims: int, n_levels: int, way: Callable[[Tensor, Tensor, Tensor], Tensor] | None) -> nn.Module:
    """A U-Net of base width 8 whose instance normalisations compute ``way``."""
    backbone = isotropic_backbone(dims, n_levels=n_levels, base_width=8, in_channels=1, out_channels=3)
    built = build(Architecture(backbone, PRESETS["u-net"].genome(n_levels)))
    for module in built.modules():
        if way is not None and isinstance(module, InstanceNorm2d | InstanceNorm3d):
            module.forward = lambda x, way=way, of=module: way(x, of.weight, of.bias)  # type: ignore[method-assign]
    return built.to(memory_format=torch.channels_last if dims == 2 else torch.channels_last_3d)


def least_ms(case: int, dtype: torch.dtype) -> dict[str, float]:
    """CPU milliseconds of a forward and backward pass in ``dtype``."""
    dims, patch, batch_size, n_levels = CASES[case]
    networks = {name: network(dims, n_levels, way) for name, way in WAYS.items()}
    layout = torch.channels_last if dims == 2 else torch.channels_last_3d
    images = torch.randn(batch_size, 1, *patch).contiguous(memory_format=layout)
    least = dict.fromkeys(WAYS, float("inf"))
    for turn in range(TURNS + 1):
        for name, built in networks.items():
            built.zero_grad()
            with fast_on_cpu(built) if name == "fused" else nullcontext():
                begin = time.process_time()
                with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                    logits = built(images)
                logits.float().square().mean().backward()
            if turn > 0:  # the first turn warms up
                least[name] = min(least[name], 1000 * (time.process_time() - begin))
    return least


def main() -> None:
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, 1 thread, U-Net of base width 8,")
    print(f"channels last; CPU ms of forward and backward, least of {TURNS} turns, and against torch's")
    print(f"{'batch, patch':16s}{'precision':>10s}" + "".join(f"{name:>16s}" for name in WAYS))
    for case, (_, patch, batch_size, _) in enumerate(CASES):
        for dtype in (torch.float32, torch.bfloat16):
            least = least_ms(case, dtype)
            cells = "".join(f"{ms:9.1f} {ms / least['torch']:5.2f}x" for ms in least.values())
            print(f"{batch_size} x {'x'.join(map(str, patch)):12s}{str(dtype)[6:]:>10s}{cells}", flush=True)


if __name__ == "__main__":
    main()
