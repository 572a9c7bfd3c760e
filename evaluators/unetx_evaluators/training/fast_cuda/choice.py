"""The choice whether Triton or torch computes a network's instance normalisations on CUDA."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import nn

from unetx_evaluators.device import check_alive, first_line
from unetx_evaluators.training.module_swaps import FusedNorm, NormWithActivation, swapped_modules

USE_TRITON = False
"""Whether evaluations and predictions on CUDA use Triton's norms. They do not, since no GPU has run them yet. The part
``norms`` of ``benchmarks/gpu.py`` measures their gain; if a step gets shorter, this is to become True."""

logger = logging.getLogger(__name__)


def norm_backend(device: torch.device) -> str:
    """The backend of norms: "triton", or "torch: " and why not Triton; empty on CPUs, and unless USE_TRITON."""
    if device.type != "cuda" or not USE_TRITON:
        return ""
    return f"torch: {reason}" if (reason := triton_failure(device)) else "triton"


def fast_on_cuda(network: nn.Module, device: torch.device) -> AbstractContextManager[None]:
    """Inside, Triton computes instance normalisations, fused with the activation behind them, if it can.

    Maps that are too small, or of another precision, go through torch.
    """
    return nullcontext() if triton_failure(device) else swapped_modules(network, _triton_norms().replacements)


@cache
def triton_failure(device: torch.device) -> str:
    """Why Triton cannot compute norms on a device, which is logged once; empty where it can.

    It is tested with one small norm: Triton may not be installed, or find no compiler, or not support the device.
    """
    try:
        _try(device)
    except Exception as error:  # noqa: BLE001  whatever Triton lacks, torch can do without
        check_alive(device, error)
        reason = f"{type(error).__name__}: {first_line(error)}"
        logger.info("instance norms are computed by torch, not by Triton; %s", reason)
        return reason
    return ""


def _triton_norms() -> NormWithActivation:
    from unetx_evaluators.training.fast_cuda.triton_norm import DTYPES, norm_act

    return NormWithActivation(norm_act, DTYPES)


@torch.inference_mode(False)
@torch.enable_grad()
def _try(device: torch.device) -> None:
    """Raise what Triton raises, or RuntimeError where its numbers are not torch's."""
    norm, activation = nn.InstanceNorm2d(3, affine=True, device=device), nn.LeakyReLU(0.25)
    x = torch.linspace(-2, 3, 2 * 3 * 5 * 7, device=device).view(2, 3, 5, 7).square().requires_grad_()
    inputs = (x, norm.weight, norm.bias)
    results = []
    for y in (FusedNorm(norm, activation, _triton_norms())(x), activation(norm(x))):
        results.append((y, *torch.autograd.grad(y.square().sum(), inputs)))
    if not all(torch.allclose(own, other, rtol=1e-3, atol=1e-3) for own, other in zip(*results, strict=True)):
        raise RuntimeError("its numbers are not torch's")
