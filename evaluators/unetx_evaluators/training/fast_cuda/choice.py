"""Whether Triton computes a network's instance normalisations on CUDA: where that is wanted, and where it can."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import nn

from unetx_evaluators.device import check_alive, first_line
from unetx_evaluators.training.stand_ins import FusedNorm, NormWithActivation, exchanged

ARE_BY_TRITON = False
"""Whether evaluations and predictions on CUDA ask for these norms. They do not: no GPU has run them yet. The part
``norms`` of ``benchmarks/gpu.py`` measures what they are worth; where a step gets shorter, this is to become True."""

logger = logging.getLogger(__name__)


def norms_run_as(device: torch.device) -> str:
    """ "triton", or "torch: " and why not by Triton; empty where nobody asks: on CPUs, and unless ARE_BY_TRITON."""
    if device.type != "cuda" or not ARE_BY_TRITON:
        return ""
    return f"torch: {reason}" if (reason := trouble(device)) else "triton"


def fast_on_cuda(network: nn.Module, device: torch.device) -> AbstractContextManager[None]:
    """Inside, instance normalisations, with the activation that follows in a sequence, are fast, if Triton can.

    Maps that are too small, or of another precision, go through torch.
    """
    return nullcontext() if trouble(device) else exchanged(network, _by_triton().stand_ins)


@cache
def trouble(device: torch.device) -> str:
    """Why Triton cannot compute norms on a device, which is said once; empty where it can.

    It is tried with one small norm: Triton may not be installed, or find no compiler, or not know the device.
    """
    try:
        _try(device)
    except Exception as error:  # noqa: BLE001  whatever Triton lacks, torch can do without
        check_alive(device, error)
        reason = f"{type(error).__name__}: {first_line(error)}"
        logger.info("instance norms are computed by torch, not by Triton; %s", reason)
        return reason
    return ""


def _by_triton() -> NormWithActivation:
    from unetx_evaluators.training.fast_cuda.triton_norm import DTYPES, norm_act

    return NormWithActivation(norm_act, DTYPES)


@torch.inference_mode(False)
@torch.enable_grad()
def _try(device: torch.device) -> None:
    """Raises what Triton does, or RuntimeError where its numbers are not torch's."""
    norm, activation = nn.InstanceNorm2d(3, affine=True, device=device), nn.LeakyReLU(0.25)
    x = torch.linspace(-2, 3, 2 * 3 * 5 * 7, device=device).view(2, 3, 5, 7).square().requires_grad_()
    inputs = (x, norm.weight, norm.bias)
    results = []
    for y in (FusedNorm(norm, activation, _by_triton())(x), activation(norm(x))):
        results.append((y, *torch.autograd.grad(y.square().sum(), inputs)))
    if not all(torch.allclose(own, other, rtol=1e-3, atol=1e-3) for own, other in zip(*results, strict=True)):
        raise RuntimeError("its numbers are not torch's")
