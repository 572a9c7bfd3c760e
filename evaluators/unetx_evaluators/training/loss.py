"""The training loss: soft Dice over the foreground plus weighted cross entropy, in float32.

MONAI's DiceCELoss computes the same; importing it takes every worker seconds, and it works on a one-hot copy of the
labels. Its default smoothing of 1e-5 also makes the Dice loss of a class absent from a batch 1, whatever is predicted;
with 1 it falls as the false voxels go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from unetx_evaluators.tasks.task import IGNORED

SMOOTH = 1.0
"""Voxels added to both sides of the Dice ratio."""

Total = Callable[[Tensor], Tensor]
"""A function that sums values over the processes that share a batch."""


def heads_loss(
    heads: Sequence[Tensor],
    labels: Tensor,
    background_weight: float,
    *,
    ignores: bool = False,
    total: Total | None = None,
) -> Tensor:
    """Weighted mean of ``dice_ce_loss`` over the logits of several heads, the output's first.

    The weight halves from resolution to resolution, as in nnU-Net (Nature Methods 18, 203-211); heads of one
    resolution weigh the same, as in UNet++ (arXiv:1807.10165). Coarse heads are compared to the nearest labels.
    """
    sizes = sorted({head.shape[2:] for head in heads}, key=lambda size: size.numel(), reverse=True)
    weights = [0.5 ** sizes.index(head.shape[2:]) for head in heads]
    losses = []
    for weight, head in zip(weights, heads, strict=True):
        seen, size = labels, tuple(head.shape[2:])
        if seen.shape[1:] != size:
            seen = F.interpolate(labels[:, None], size=size, mode="nearest-exact")[:, 0]
        losses.append(weight * dice_ce_loss(head, seen, background_weight, ignores=ignores, total=total))
    return torch.stack(losses).sum() / sum(weights)


def dice_ce_loss(
    logits: Tensor, labels: Tensor, background_weight: float, *, ignores: bool = False, total: Total | None = None
) -> Tensor:
    """The loss, a scalar, of logits ``[b, k, *spatial]`` and labels ``[b, *spatial]`` of integers below ``k``.

    With ``ignores`` a label may be IGNORED: such voxels enter no sum. With ``total``, which sums over processes, the
    logits are a part of a batch, and the loss is that of the whole.
    """
    log_probabilities = F.log_softmax(logits.float(), dim=1)
    targets = labels.long()
    weight = torch.ones(logits.shape[1], device=logits.device)
    weight[:1].fill_(background_weight)  # unlike an assignment, this copies nothing from the host
    probabilities = log_probabilities.exp()
    if not ignores and total is None:
        return soft_dice_loss(probabilities, targets) + F.nll_loss(log_probabilities, targets, weight)
    counts = targets != IGNORED
    summed = F.nll_loss(log_probabilities, targets, weight, ignore_index=IGNORED, reduction="sum")
    weights = weight[targets.where(counts, 0)].where(counts, 0).sum()
    if total is not None:
        summed, weights = total(torch.stack([summed, weights]))
    cross_entropy = summed / weights.clamp_min(SMOOTH)  # a batch of nothing but ignored voxels gives 0, not NaN
    return soft_dice_loss(probabilities * counts.unsqueeze(1), targets, total) + cross_entropy


def soft_dice_loss(probabilities: Tensor, targets: Tensor, total: Total | None = None) -> Tensor:
    """1 - Dice (arXiv:1606.04797, without squares), mean over foreground classes.

    Sums run over the whole batch, as in nnU-Net, so that a class that is rare in one patch may be frequent in another.
    """
    k = probabilities.shape[1]
    dims = [0, *range(2, probabilities.ndim)]
    truth = torch.stack([targets == c for c in range(1, k)], dim=1)
    foreground = probabilities[:, 1:]
    both = (foreground * truth).sum(dims)
    sizes = foreground.sum(dims) + truth.sum(dims)
    if total is not None:
        both, sizes = total(torch.stack([both, sizes]))
    return 1 - ((2 * both + SMOOTH) / (sizes + SMOOTH)).mean()
