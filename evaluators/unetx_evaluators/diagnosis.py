"""Diagnostics of a training that cost little: gradients by stage, and the similarity of skips to the upsampled maps.

Both describe and do not score. A source that resembles the upsampled map may be superfluous; linear CKA alone is no
proof of it, for it follows what has the largest variance (Davari et al. 2022, arXiv:2210.16156).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from unetx_evaluators.device import DeviceProfile, in_memory_format
from unetx_evaluators.insight import SkipSimilarity, StageGradient
from unetx_evaluators.training.batches import Batch
from unetx_space.network import SkipUNet

HEAD = "head"
"""Name of the output head among the stages."""

# Gradients


def stage_gradients(network: SkipUNet) -> tuple[StageGradient, ...]:
    """Size of the gradients that a backward pass left in ``network``, by stage: encoder stages, finest first, decoder
    nodes in the order in which they run, and the head. The stem counts as part of E0.

    A parameter without a gradient counts as zero. Synchronises with the device once. Clipping has multiplied all
    gradients by one factor, so only ratios are comparable. Raises ValueError where there is no gradient at all.
    """
    stages = _stage_parameters(network)
    if all(parameter.grad is None for parameters in stages.values() for parameter in parameters):
        raise ValueError("stage gradients are read after a backward pass; this network holds no gradient")
    gradients = [[p.new_zeros(()) if p.grad is None else p.grad for p in parameters] for parameters in stages.values()]
    norms = torch.stack([nn.utils.get_total_norm(part) for part in gradients]).tolist()
    sizes = [sum(p.numel() for p in parameters) for parameters in stages.values()]
    return tuple(
        StageGradient(stage, _finite(norm / math.sqrt(size)))
        for stage, norm, size in zip(stages, norms, sizes, strict=True)
    )


def _stage_parameters(network: SkipUNet) -> dict[str, list[nn.Parameter]]:
    plan = network.plan
    stages: dict[str, list[nn.Parameter]] = {}
    for stage, module in zip(plan.encoder, network.encoder.values(), strict=True):
        stages[str(stage.ref)] = list(module.parameters())
    stages["E0"] += network.stem.parameters()
    for node, module in zip(plan.nodes, network.decoder.values(), strict=True):
        stages[str(node.ref)] = list(module.parameters())
    stages[HEAD] = list(network.head.parameters())
    return stages


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


# Similarity of skips

MAX_ROWS = 4096
"""Largest number of voxels of a batch that are compared."""
FEWEST_ROWS = 4
"""Number of voxels that the unbiased estimate needs."""


@torch.no_grad()
def skip_similarities(
    network: SkipUNet, batches: Sequence[Batch], device: DeviceProfile, *, seed: int = 0
) -> tuple[SkipSimilarity, ...]:
    """Linear CKA of every source, as it enters the fusion, with the upsampled map beside it, in inference mode.

    Rows are voxels of all images of a batch, at most MAX_ROWS of them, drawn with ``seed``. Several batches are joined
    as minibatches: CKA = mean HSIC(X, Y) / sqrt(mean HSIC(X, X) mean HSIC(Y, Y)) (Kornblith et al. 2019,
    arXiv:1905.00414; Nguyen et al. 2021, arXiv:2010.15327). The mode of every module is restored. Costs about a forward
    pass per batch.
    """
    nodes = list(zip(network.plan.nodes, network.decoder.values(), strict=True))
    terms: dict[tuple[str, str], list[Tensor]] = {
        (str(node.ref), str(source.ref)): [] for node, _ in nodes for source in node.sources
    }
    with _inference(network):
        for batch in batches:
            with _fused_maps(module for _, module in nodes) as fused, device.autocast():
                network(in_memory_format(batch.images))
            triples = (_hsic_triples(maps, seed) for maps in fused)
            for term, triple in zip(terms.values(), chain.from_iterable(triples), strict=True):
                term.append(triple)
    known = torch.stack([torch.stack(term).sum(0) for term in terms.values()]).tolist() if terms else []
    return tuple(
        SkipSimilarity(*pair, _finite(xy / math.sqrt(xx * yy)) if xx > 0 and yy > 0 else None)
        for pair, (xy, xx, yy) in zip(terms, known, strict=True)
    )


@contextmanager
def _inference(network: nn.Module) -> Iterator[None]:
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _fused_maps(nodes: Iterable[nn.Module]) -> Iterator[list[list[Tensor]]]:
    """Forward passes inside record what every node fuses, in the order in which the nodes run: its sources, each
    ``[b, c_i, *size]``, then the upsampled map."""
    fused: list[list[Tensor]] = []

    def record(module: nn.Module, args: tuple[list[Tensor]]) -> None:
        fused.append(args[0])

    handles = [node.get_submodule("fusion").register_forward_pre_hook(record) for node in nodes]
    try:
        yield fused
    finally:
        for handle in handles:
            handle.remove()


def _hsic_triples(maps: Sequence[Tensor], seed: int) -> list[Tensor]:
    """The HSIC of (X, Y), (X, X) and (Y, Y) for every source X with the upsampled map Y."""
    n_voxels = maps[0][:, 0].numel()
    chosen = torch.randperm(n_voxels, generator=torch.Generator().manual_seed(seed))[:MAX_ROWS].to(maps[0].device)
    *sources, upsampled = (x.movedim(1, -1).flatten(0, -2)[chosen].double() for x in maps)  # each [n, c_i]
    own = linear_hsic(upsampled, upsampled)
    return [torch.stack([linear_hsic(x, upsampled), linear_hsic(x, x), own]) for x in sources]


def linear_hsic(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased Hilbert-Schmidt independence criterion of ``x[n, c]`` and ``y[n, c']`` with linear kernels (Song et al.
    2012, JMLR 13:1393), NaN for fewer than FEWEST_ROWS rows.

    Without the n x n kernels: once the columns are centred, which the criterion does not notice, a row of K without its
    diagonal sums to -K_ii, so that only the diagonals and ||X^T Y||_F^2 = tr(K L) remain.
    """
    n = len(x)
    if n < FEWEST_ROWS:
        return x.new_tensor(torch.nan)
    x, y = _centred(x), _centred(y)
    a, b = x.square().sum(1), y.square().sum(1)  # the diagonals
    total = (x.T @ y).square().sum() - n / (n - 2) * (a @ b) + a.sum() * b.sum() / ((n - 1) * (n - 2))
    return total / (n * (n - 3))


def _centred(x: Tensor) -> Tensor:
    x = x - x[0]  # a constant column becomes exactly zero, which the mean's rounding would prevent
    return x - x.mean(0)
