"""Zero-cost features of an untrained network, for a surrogate model that reads all of them.

No feature ranks designs by itself: on dense prediction their correlations with accuracy change sign between spaces,
and counting parameters is often as good (Krishnakumar et al. 2022, arXiv:2210.03230; Abdelfattah et al. 2021,
arXiv:2101.08134, who gathered most of them). The papers define their features for chains of Conv2d and Linear; here
convolutions of one to three dimensions, transposed ones and linear layers count, gates included. Gates and
normalisations need special care, described at each feature.

Letters: ``b`` images, ``c`` channels, W the weight of a counted layer, L the training loss.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from unetx_evaluators.device import DeviceProfile, in_memory_format
from unetx_evaluators.insight import ZeroCost
from unetx_evaluators.training.batches import Batch
from unetx_evaluators.training.dry_run import LOSS_SCALE
from unetx_evaluators.training.loss import dice_ce_loss
from unetx_space.cost import Cost
from unetx_space.network import module_of
from unetx_space.operators.catalogue import ALIGNMENTS, ATTENTIONS, FUSIONS, UPSAMPLERS

COUNTED = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
)
"""Types of layers whose weights enter the features."""


def zero_cost(
    network: nn.Module,
    batch: Batch,
    cost: Cost,
    background_weight: float,
    device: DeviceProfile,
    *,
    ignores: bool = False,
) -> ZeroCost:
    """The features of ``network``, which lies on ``device``, with the loss and in the precision of training.

    ``cost`` is that of the full-size architecture, which no budget changes; it is copied into the result. Only copies
    of the network are run, so that it stays the same to the bit. The same inputs give the same bits on a CPU. Takes
    about the time of two training steps and the memory of one. Raises what the device raises when its memory is
    exhausted.
    """
    loss = partial(dice_ce_loss, labels=batch.labels, background_weight=background_weight, ignores=ignores)
    by_loss = _loss_features(deepcopy(network), batch.images, loss, device)
    flow = log_synflow(network, batch.images)
    return ZeroCost(cost.n_parameters, cost.macs, **by_loss, log_synflow=flow)


def counted_weights(network: nn.Module) -> list[Tensor]:
    """The weights of all layers of a type in COUNTED."""
    return [module.weight for module in network.modules() if isinstance(module, COUNTED)]


# With the loss: one forward and one backward pass


def _loss_features(
    network: nn.Module, images: Tensor, loss: Callable[[Tensor], Tensor], device: DeviceProfile
) -> dict[str, float]:
    """The features that need the loss; changes the network's mode and running statistics, but no weight."""
    network.train().requires_grad_()
    rectified = RectifiedMaps(images.ndim)
    with rectified, device.autocast():
        logits = network(in_memory_format(images))
    fisher = record_fisher(rectified.maps)
    scale = LOSS_SCALE if device.needs_loss_scaling else 1.0
    weights = counted_weights(network)
    gradients = torch.autograd.grad(loss(logits) * scale, weights, allow_unused=True)
    # Heads for deep supervision do not reach the output: they have no gradient.
    pairs = [(w.detach(), g / scale) for w, g in zip(weights, gradients, strict=True) if g is not None]
    return {
        "grad_norm": _total(g.norm() for _, g in pairs),
        "snip": _total((w * g).abs().sum() for w, g in pairs),
        "fisher": _total(fisher) / scale**2,
        "nwot": log_determinant(hamming_kernel(rectified.maps)),
    }


class RectifiedMaps(TorchFunctionMode):
    """Inside, forward passes record the output of every ReLU and LeakyReLU on a map, as a module or as a function.

    Only tensors with ``ndim`` axes are recorded: units inside of channel gates, and rectified weights, have fewer.
    Nothing may change a map in place afterwards, and no operator of the catalogue does.
    """

    def __init__(self, ndim: int) -> None:
        super().__init__()
        self.maps: list[Tensor] = []
        self._ndim = ndim

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in (F.relu, F.leaky_relu) and output.ndim == self._ndim:
            self.maps.append(output)
        return output


def record_fisher(maps: Iterable[Tensor]) -> list[Tensor]:
    """Return a list to which the next backward pass adds the Fisher information of every map.

    It is the sum over channels of 1/(2b) sum over images of (sum over voxels of a dL/da)^2, a being the activations
    (Turner et al. 2020, arXiv:1906.04113; Theis et al. 2018, arXiv:1801.05787). It is taken behind the rectifier, not
    at the convolution as elsewhere: an instance normalisation undoes every scaling of a channel, so that in front of it
    the inner sum is always zero.
    """
    parts: list[Tensor] = []

    def hook(activation: Tensor) -> Callable[[Tensor], None]:
        def record(gradient: Tensor) -> None:
            by_channel = (activation.float() * gradient.float()).flatten(2).sum(2)  # [b, c]
            parts.append(by_channel.double().square().sum() / (2 * len(by_channel)))

        return record

    for rectified in maps:
        rectified.register_hook(hook(rectified.detach()))  # type: ignore[no-untyped-call]
    return parts


def hamming_kernel(maps: Iterable[Tensor]) -> Tensor:
    """The number of rectified units on the same side of zero for each pair of images, ``[b, b]`` in float64 (Mellor et
    al. 2021, arXiv:2006.04647). The slope of a LeakyReLU does not matter."""
    agreeing = torch.zeros(())
    for rectified in maps:
        active = (rectified.detach() > 0).flatten(1).float()  # [b, units]
        both = (active @ active.T).double()
        count = both.diagonal()
        agreeing = agreeing + (active.shape[1] - count[:, None] - count[None] + 2 * both).cpu()
    return agreeing


def log_determinant(kernel: Tensor) -> float:
    """The log-determinant of a Hamming kernel, the score of Mellor et al. 2021: high where a network tells images
    apart.

    Eigenvalues below 1, that of two images which differ in one unit, count as 1, so that equal images, such as empty
    patches, leave the score finite. Without any rectified map it is 0.
    """
    return float(torch.linalg.eigvalsh(kernel).clamp_min(1).log().sum()) if kernel.ndim else 0.0


def _total(parts: Iterable[Tensor]) -> float:
    """The sum of scalars, in float64, read from the device once."""
    return float(sum((part.double() for part in parts), torch.zeros((), dtype=torch.float64)))


# Without data: synaptic flow

_TRANSPARENT = (
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.GroupNorm,
    *(module_of(spec) for spec in ATTENTIONS.values() if spec.only_reweights),
)
"""Modules that synaptic flow passes unchanged: normalisations, and attention that does nothing but reweight."""

_DECIDING: Mapping[type[nn.Module], tuple[str, float]] = {
    module_of(spec): spec.decision
    for family in (ATTENTIONS, UPSAMPLERS, FUSIONS, ALIGNMENTS)
    for spec in family.values()
    if spec.decision is not None
}
"""The layer whose output decides how maps are read, and the logit at which it is frozen, by type of operator."""


class _Transparent(nn.Module):
    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        return x


def log_synflow(network: nn.Module, images: Tensor) -> float:
    """Natural logarithm of the synaptic flow, the sum of W dR/dW over all weights of ``linearised(network)``, R being
    the sum of its output for one image of ones, with the channels and the size of ``images[b, c, *size]`` (Tanaka et
    al. 2020, arXiv:2006.05467, section 6).

    The flow grows exponentially with depth. It is summed in float32, as all terms are positive, and where it exceeds
    that in float64, which takes a CPU seven times as long in 3D; beyond float64 it is clipped.
    """
    flow = _flow(network, images, torch.float32)
    if not math.isfinite(flow):
        flow = _flow(network, images, torch.float64)
    if math.isnan(flow):  # infinity times a weight of zero
        flow = math.inf
    return math.log(min(max(flow, sys.float_info.min), sys.float_info.max))


def _flow(network: nn.Module, images: Tensor, dtype: torch.dtype) -> float:
    flowing = linearised(network, dtype)
    weights = counted_weights(flowing)
    # Twice the same image: on a CPU, torch convolves two images in 3D three times as fast as one.
    ones = torch.ones((2, *images.shape[1:]), dtype=dtype, device=images.device)
    gradients = torch.autograd.grad(flowing(ones).sum() / 2, weights, allow_unused=True)
    pairs = zip(weights, gradients, strict=True)
    return _total((w.detach() * g).double().sum() for w, g in pairs if g is not None)


def linearised(network: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A copy whose output scales linearly with non-negative inputs.

    Weights are replaced by their absolute values, so that rectifiers change nothing; biases are zero. Normalisations
    and attention are left out, for they would cancel the input's scale, or saturate. Layers that decide from a map how
    it is read are frozen at their start: equal weights, equal shares, no offsets.
    """
    copy = deepcopy(network).to(dtype).train().requires_grad_()
    for module in [*copy.modules()]:
        for name, child in module.named_children():
            if isinstance(child, _TRANSPARENT):
                setattr(module, name, _Transparent())
    with torch.no_grad():
        for layer in copy.modules():
            if isinstance(layer, COUNTED):
                layer.weight.abs_()
                if layer.bias is not None:
                    layer.bias.zero_()
        for module in copy.modules():
            _freeze(module)
    return copy


def _freeze(module: nn.Module) -> None:
    name, logit = _DECIDING.get(type(module), ("", 0.0))
    layer = getattr(module, name, None)
    if isinstance(layer, COUNTED):  # a fusion of one map decides nothing
        layer.weight.zero_()
        if layer.bias is not None:
            layer.bias.fill_(logit)
