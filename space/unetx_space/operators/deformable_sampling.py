"""The sum over the taps of a deformable upsampler, each read where its moves say, computed in two ways.

``grid_sampled`` uses torch's grid sampler, which CUDA runs fast and every exporter knows. On a CPU torch's sampler
walks a map channel by channel, so there ``bag_sampled`` reads whole rows of channels. Both give the same sum.

Letters: ``b`` batch, ``c'`` channels out, ``d`` axes, ``coarse`` and ``fine`` sizes, n fine voxels of a batch.
Positions are in coarse voxels; ``values[b, taps, c', *coarse]``; ``moves[b, taps, d + 1, *coarse]`` holds the offsets
and the logit of the modulation of every tap, the taps in the order of a kernel's weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unetx_space.operators.nd import interpolate, recomputed


def shifts(dims: int) -> tuple[tuple[int, ...], ...]:
    """The positions of the taps of a kernel of edge 3 about its centre, in the order of its weights."""
    return tuple(itertools.product((-1, 0, 1), repeat=dims))


FEWEST_FOR_BAGS: Mapping[int, int] = {2: 8192, 3: 1536}
"""Fine voxels of a batch, by dimension, from which bags are the faster on one thread (benchmarks/deformable.py)."""


def sampled(values: Tensor, moves: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Sum over taps of the modulated ``values`` read at centre + shift + offset, 0 outside: ``[b, c', *fine]``."""
    return (bag_sampled if _suits_bags(values, stride) else grid_sampled)(values, moves, stride)


def _suits_bags(values: Tensor, stride: tuple[int, ...]) -> bool:
    scripted = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if values.device.type != "cpu" or torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export() or scripted:
        return False
    dims, n_fine = len(stride), values.shape[0] * prod(values.shape[3:]) * prod(stride)
    return n_fine >= FEWEST_FOR_BAGS[dims] and n_fine << dims < 2**31  # bags count in int32


def _centres(n: int, stride: int, like: Tensor) -> Tensor:
    """The positions of an axis's fine voxels among its ``n`` coarse ones, at least float32: ``[n * stride]``."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return (torch.arange(n * stride, device=like.device, dtype=dtype) + 0.5) / stride - 0.5


# By the grid sampler

_TOGETHER = 2**24
"""Fine values of the taps that are read together; on a GPU 64 MiB, with which far fewer kernels are launched."""


def grid_sampled(values: Tensor, moves: Tensor, stride: tuple[int, ...]) -> Tensor:
    """``sampled`` by torch's grid sampler: tap by tap, and on a GPU as many at once as take little memory."""
    axes = [_centres(n, s, values) for n, s in zip(values.shape[3:], stride, strict=True)]
    centres = torch.stack(torch.meshgrid(*axes, indexing="ij"))  # [d, *fine]
    edge = torch.arange(-1, 2, device=values.device, dtype=centres.dtype)
    # [d, taps]: what ``shifts`` gives, as a tensor
    shift = torch.stack(torch.meshgrid(*[edge] * len(stride), indexing="ij")).flatten(1)
    n_taps, together = 3 ** len(stride), 1
    if values.device.type != "cpu":
        together = max(1, _TOGETHER // (values[:, 0].numel() * prod(stride)))
    total = torch.zeros((), device=values.device)
    for t in range(0, n_taps, together):
        taps = slice(t, t + together)
        # so that training keeps no fine-grid map of any of 3^d taps
        total = total + recomputed(_read_taps, values[:, taps], moves[:, taps], centres, shift[:, taps])
    return total


def _read_taps(values: Tensor, moves: Tensor, centres: Tensor, shift: Tensor) -> Tensor:
    """The sum over some taps: ``values[b, t, c', *coarse]`` read at centre + shift + offset and modulated."""
    dims, dtype, fine = len(centres), centres.dtype, centres.shape[1:]
    b, n_taps, c = values.shape[:3]
    refined = interpolate(moves.to(dtype).flatten(0, 1), fine)  # [b * t, d + 1, *fine]
    offsets = refined.reshape(b, n_taps, dims + 1, *fine)
    positions = [
        # grid_sample's own unit without corner alignment, which, unlike the one with it, also holds for a single voxel
        (2 * (centres[axis] + shift[axis].view(-1, *[1] * dims) + offsets[:, :, axis]) + 1) / values.shape[3 + axis] - 1
        for axis in reversed(range(dims))  # it wants the last axis first
    ]
    at = torch.stack(positions, -1).flatten(0, 1)
    read = F.grid_sample(values.to(dtype).flatten(0, 1), at, padding_mode="zeros", align_corners=False)
    return (read * (2 * torch.sigmoid(refined[:, dims:]))).reshape(b, n_taps, c, *fine).sum(1)  # [b, c', *fine]


# By weighted bags of rows

_AT_ONCE = 32768
"""Fine voxels per turn, or one image if that is more: small maps share the cost of a call, large ones no memory."""


def bag_sampled(values: Tensor, moves: Tensor, stride: tuple[int, ...]) -> Tensor:
    """``sampled`` as embedding bags: each fine voxel is a weighted sum of the 2^d rows of channels around its place."""
    total = _BagSampled.apply(values, moves, stride)  # type: ignore[no-untyped-call]
    assert isinstance(total, Tensor)
    return total


class _BagSampled(torch.autograd.Function):
    """Keeps its coarse inputs only: whatever has the size of the fine grid is computed again, tap by tap."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, moves: Tensor, stride: tuple[int, ...]) -> Tensor:
        grid = ctx.grid = _Grid.of(values, stride)
        ctx.save_for_backward(values, moves)
        total = torch.zeros(len(values), prod(grid.fine), values.shape[2], dtype=grid.dtype)
        for value, move, part in grid.turns(values, moves, total):
            for t, shift in enumerate(shifts(len(stride))):
                part += grid.read(value[:, t], grid.places(grid.refined(move[:, t]), shift)).view_as(part)
        return total.movedim(-1, 1).reshape(len(values), -1, *grid.fine)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        values, moves = ctx.saved_tensors
        by_value, by_move = torch.empty_like(values), torch.empty_like(moves)
        for turn in ctx.grid.turns(values, moves, grads[0], by_value, by_move):
            _BagSampled.pull_back(ctx.grid, *turn)
        return by_value, by_move, None

    @staticmethod
    def pull_back(grid: _Grid, values: Tensor, moves: Tensor, grad: Tensor, by_value: Tensor, by_move: Tensor) -> None:
        """Fill the gradients of some images from ``grad[b, c', *fine]``."""
        grad = grad.movedim(1, -1).flatten(0, -2).contiguous()  # [n, c']
        for t, shift in enumerate(shifts(len(grid.axes))):
            move = moves[:, t].detach().requires_grad_()
            with torch.enable_grad():
                refined = grid.refined(move)
            places = grid.places(refined.detach(), shift)
            by_value[:, t] = grid.scattered(grad, places)
            slopes = places.slopes(grid.products(values[:, t], places, grad))
            by_move[:, t] = torch.autograd.grad(refined, move, slopes.view_as(refined))[0]


@dataclass(frozen=True, slots=True)
class _Places:
    """Where one tap reads: its lowest corner's row, the way from there to the next along each axis, the modulation."""

    rows: Tensor  # [n], int32
    fractions: Tensor  # [d, n], from 0 to 1
    inside: Tensor  # [d, n], whether a small move changes what is read
    modulation: Tensor  # [n]

    def weights(self) -> Iterator[Tensor]:
        """The weights of the 2^d corners, the last axis fastest, times the modulation: ``[n]`` each."""
        for corner in itertools.product((0, 1), repeat=len(self.fractions)):
            weight = self.modulation
            for side, fraction in zip(corner, self.fractions, strict=True):
                weight = weight * fraction if side else torch.addcmul(weight, weight, fraction, value=-1)
            yield weight

    def slopes(self, corners: Tensor) -> Tensor:
        """Derivatives of the modulated interpolation of ``corners[2^d, n]`` by offsets and logit: ``[d + 1, n]``."""
        by_axis: list[Tensor] = []
        for fraction in self.fractions:
            halves = [slope.chunk(2) for slope in by_axis]
            lower, upper = corners.chunk(2)
            by_axis = [*(torch.lerp(low, high, fraction) for low, high in halves), upper - lower]
            corners = torch.lerp(lower, upper, fraction)
        by_offset = torch.cat(by_axis) * self.modulation * self.inside
        return torch.cat((by_offset, corners * (self.modulation * (1 - self.modulation / 2))))


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis: its coarse size and, for every fine voxel, its place and the coarse neighbours that surround it."""

    n: int
    centres: Tensor
    lower: Tensor
    upper: Tensor
    fractions: Tensor

    @classmethod
    def of(cls, n: int, stride: int, like: Tensor) -> _Axis:
        centres = _centres(n, stride, like)
        inside = centres.clamp(0, n - 1)
        lower = inside.long()
        return cls(n, centres, lower, (lower + 1).clamp(max=n - 1), inside - lower)


@dataclass(frozen=True, slots=True)
class _Grid:
    """The coarse map as a table: a row of channels per voxel, with a border of zero voxels around each image.

    A place beyond the border is moved onto it, where all it reads is 0, so that nothing need be masked.
    """

    axes: tuple[_Axis, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, values: Tensor, stride: tuple[int, ...]) -> _Grid:
        axes = tuple(_Axis.of(n, s, values) for n, s in zip(values.shape[3:], stride, strict=True))
        return cls(axes, axes[0].centres.dtype)

    @property
    def fine(self) -> tuple[int, ...]:
        return tuple(len(axis.centres) for axis in self.axes)

    @property
    def corners(self) -> list[int]:
        """How many rows each of the 2^d corners comes after the lowest one."""
        steps = [prod(axis.n + 2 for axis in self.axes[i + 1 :]) for i in range(len(self.axes))]
        return [sum(itertools.compress(steps, corner)) for corner in itertools.product((0, 1), repeat=len(steps))]

    def turns(self, *batches: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """The batches cut alike into the images of each turn."""
        n_images = max(1, _AT_ONCE // prod(self.fine))
        return zip(*(torch.split(batch, n_images) for batch in batches), strict=True)

    def table(self, values: Tensor) -> Tensor:
        """``values[b, c', *coarse]`` as ``[rows, c']``."""
        padded = F.pad(values.to(self.dtype), (1, 1) * len(self.axes))
        return padded.movedim(1, -1).flatten(0, -2).contiguous()

    def refined(self, moves: Tensor) -> Tensor:
        """``moves[b, d + 1, *coarse]`` on the fine grid: ``[d + 1, b, *fine]``.

        ``interpolate`` axis by axis, several times as fast on a CPU.
        """
        moves = moves.to(self.dtype).transpose(0, 1)
        for i, axis in reversed(list(enumerate(self.axes, 2))):
            weight = axis.fractions.view(-1, *[1] * (moves.ndim - i - 1))
            moves = torch.lerp(moves.index_select(i, axis.lower), moves.index_select(i, axis.upper), weight)
        return moves

    def places(self, refined: Tensor, shift: tuple[int, ...]) -> _Places:
        """Where a tap with the moves ``refined[d + 1, b, *fine]`` reads."""
        *offsets, logit = refined
        rows = torch.arange(len(logit), dtype=torch.int32).view(-1, *[1] * len(shift))
        fractions, inside = torch.empty_like(refined[:-1]), torch.empty_like(refined[:-1], dtype=torch.bool)
        for i, (axis, offset) in enumerate(zip(self.axes, offsets, strict=True)):
            free = offset + (axis.centres + shift[i]).view(-1, *[1] * (len(shift) - i - 1))
            at = free.clamp(-1, axis.n)
            base = at.nan_to_num(0).floor_().clamp_(max=axis.n - 1)  # a diverged run reads NaN, at a valid row
            torch.sub(at, base, out=fractions[i])
            torch.eq(at, free, out=inside[i])
            rows = rows * (axis.n + 2) + (base.int() + 1)
        return _Places(rows.flatten(), fractions.flatten(1), inside.flatten(1), 2 * logit.flatten().sigmoid())

    def read(self, values: Tensor, places: _Places) -> Tensor:
        """``values[b, c', *coarse]`` at the places, modulated: ``[n, c']``."""
        corners = self.corners
        weights = _columns(len(places.rows), len(corners), places.weights(), self.dtype)
        rows = places.rows[:, None] + torch.tensor(corners, dtype=torch.int32)
        return F.embedding_bag(rows, self.table(values), mode="sum", per_sample_weights=weights)

    def products(self, values: Tensor, places: _Places, grad: Tensor) -> Tensor:
        """``grad[n, c']`` times the rows at the corners of its places, summed over channels: ``[2^d, n]``."""
        flat, corners, channels = self.table(values).flatten(), self.corners, grad.shape[1]
        size = len(flat) - corners[-1] * channels
        shifted = (flat[corner * channels :][:size] for corner in corners)
        table = _columns(size, len(corners), shifted, self.dtype)  # [rows * c', 2^d]
        products = grad.new_empty(len(corners), len(grad))
        for begin in range(0, len(grad), _AT_ONCE):
            turn = slice(begin, begin + _AT_ONCE)
            rows, weights, part = places.rows[turn], grad[turn], products[:, turn]
            indices = rows[:, None] * channels + torch.arange(channels, dtype=torch.int32)
            part.copy_(F.embedding_bag(indices, table, mode="sum", per_sample_weights=weights).t())
        return products

    def scattered(self, grad: Tensor, places: _Places) -> Tensor:
        """The transpose of ``read``: ``grad[n, c']`` given back to the voxels that were read: ``[b, c', *coarse]``.

        A bag for every row holds the fine voxels that have it as their lowest corner.
        """
        sizes = [axis.n + 2 for axis in self.axes]
        table = grad.new_zeros(len(grad) // prod(self.fine) * prod(sizes), grad.shape[1])
        order = places.rows.sort(stable=True).indices.int()  # stable: the same bits every time
        counts = torch.bincount(places.rows)
        starts = (counts.cumsum(0) - counts).int()
        for corner, weight in zip(self.corners, places.weights(), strict=True):
            weight = weight.index_select(0, order)
            table[corner:][: len(starts)] += F.embedding_bag(order, grad, starts, mode="sum", per_sample_weights=weight)
        inside = (slice(None), *[slice(1, -1)] * len(sizes))
        return table.view(-1, *sizes, grad.shape[1])[inside].movedim(-1, 1)


def _columns(n: int, width: int, columns: Iterator[Tensor], dtype: torch.dtype) -> Tensor:
    """The ``columns[n]`` side by side, ``[n, width]``: three times as fast as torch.stack on a CPU."""
    matrix = torch.empty(n, width, dtype=dtype)
    for place, column in zip(matrix.unbind(1), columns, strict=True):
        place.copy_(column)
    return matrix
