"""The built-in demo task: synthetic anatomy, so that a search runs without network or files.

Each case is a 96x96 slice through a body with one organ, the vessels that branch inside it (1-2 voxels wide) and small
lesions (3-6 voxels across). It requires resolution and context: vessels and lesions vanish at the bottleneck's stride,
while a kidney, vertebra, strands and nodules outside the organ look like the classes and are background.

A case is drawn at three times the resolution, blurred, averaged down (partial volumes), and gets a bias field, texture
and noise. It depends on the seed and its own number alone. Intensities are rounded to 12 bits, as a scanner stores
them, so that they do not depend on the last bit of a platform's exponential.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.sources.base import RawCase

Mask = npt.NDArray[np.bool_]
Map = npt.NDArray[np.float64]
Point = tuple[float, float]

SIZE = 96
FINE = 3
"""Points of the drawing grid per voxel and axis."""

GENERATOR = 1
"""Version of the generator, raised whenever the same seed would draw other cases."""

ORGAN, VESSEL, LESION = 1, 2, 3

_ROW, _COLUMN = np.ogrid[: SIZE * FINE, : SIZE * FINE]
_Y, _X = (_ROW + 0.5) / FINE, (_COLUMN + 0.5) / FINE


@dataclass(frozen=True)
class DemoSource:
    """Synthetic 2D cases with four classes."""

    seed: int = 0
    n_cases: int = 80

    name: ClassVar[str] = "demo"
    layout: ClassVar[str] = "built-in demo"
    dims: ClassVar[Literal[2]] = 2
    channels: ClassVar[tuple[str, ...]] = ("intensity",)
    classes: ClassVar[tuple[str, ...]] = ("background", "organ", "vessel", "lesion")
    problems: ClassVar[tuple[DataError, ...]] = ()
    warnings: ClassVar[tuple[str, ...]] = ()
    n_bytes: ClassVar[int] = 0

    @property
    def origin(self) -> str:
        return f"{self.layout} ({self.n_cases} synthetic cases, seed {self.seed})"

    @property
    def identity(self) -> str:
        return json.dumps([self.layout, GENERATOR, self.seed, self.n_cases])

    @property
    def case_names(self) -> tuple[str, ...]:
        return tuple(f"demo_{number:03d}" for number in range(self.n_cases))

    def read(self, name: str) -> RawCase:
        """Draw the case of this name, with an image ``[1, h, w]``."""
        number = int(name.removeprefix("demo_"))
        rng = np.random.default_rng([self.seed, number])
        anatomy = _anatomy(rng)
        return RawCase(_scan(rng, anatomy)[None].astype(np.float32), _label(anatomy), (1.0, 1.0))


@dataclass(frozen=True, slots=True)
class _Anatomy:
    """The masks of all structures on the drawing grid."""

    body: Mask
    fat: Mask
    organ: Mask
    vessels: Mask
    lesions: Mask
    kidney: Mask
    vertebra: Mask
    strands: Mask
    nodules: Mask


def _anatomy(rng: np.random.Generator) -> _Anatomy:
    body_centre, body_radii = rng.normal(48, 1.0, 2), rng.uniform((37, 41), (41, 45))
    body = _blob(rng, body_centre, body_radii, 0.04)
    inner = _blob(rng, body_centre, body_radii - rng.uniform(2.5, 5), 0.04) & body
    centre = body_centre + rng.normal((-2, -14), 2)
    radii = rng.uniform((17, 15), (22, 19))
    organ = _blob(rng, centre, radii, 0.22) & inner
    hilum = (centre[0] + rng.normal(3, 2), centre[1] + radii[1] * 0.85)
    vessels = _tree(rng, hilum, heading=np.pi + rng.normal(0, 0.25), length=13.0) & organ
    beside = body_centre + rng.normal((0, 20), 1.5)
    kidney = _blob(rng, beside, rng.uniform((8, 6), (11, 8)), 0.12) & inner & ~organ
    vertebra = _blob(rng, body_centre + np.array((24, 2)), rng.uniform(5, 7, 2), 0.08) & inner & ~organ
    strands = _tree(rng, (beside[0] - 10, beside[1] + 2), heading=rng.normal(4.2, 0.3), length=10.0) & inner & ~organ
    return _Anatomy(
        body=body,
        fat=body & ~inner,
        organ=organ,
        vessels=vessels,
        lesions=_spots(rng, int(rng.integers(5, 10)), _blob(rng, centre, radii * 0.8, 0.1) & organ & ~vessels),
        kidney=kidney,
        vertebra=vertebra,
        strands=strands,
        nodules=_spots(rng, int(rng.integers(1, 4)), inner & ~organ & ~vertebra),
    )


def _blob(rng: np.random.Generator, centre: npt.ArrayLike, radii: npt.ArrayLike, wobble: float) -> Mask:
    """An ellipse with a wavy outline: r(angle) = 1 + sum over k of a_k cos(k angle + phase)."""
    (y, x), (ry, rx) = np.asarray(centre), np.asarray(radii)
    dy, dx = (_Y - y) / ry, (_X - x) / rx
    angle = np.arctan2(dy, dx)
    outline = np.ones_like(angle)
    for k in range(2, 6):
        outline += wobble / k * rng.normal() * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
    return np.asarray(np.hypot(dy, dx) < outline)


def _spots(rng: np.random.Generator, count: int, within: Mask) -> Mask:
    """Small ellipses, 3-6 voxels across, whose centres lie in ``within``; cut off at its border."""
    places = np.flatnonzero(within)
    spots = np.zeros_like(within)
    for place in rng.choice(places, count):
        row, column = np.unravel_index(place, within.shape)
        ry, rx = rng.uniform(1.5, 3.0, 2) * FINE
        spots |= np.hypot((_ROW - row) / ry, (_COLUMN - column) / rx) < 1
    return spots & within


def _tree(rng: np.random.Generator, root: Point, *, heading: float, length: float) -> Mask:
    """A tree of curves, 2 voxels wide at the root and 1 at the tips."""
    tree = np.zeros((SIZE * FINE, SIZE * FINE), dtype=bool)
    shoots = [(root, heading)]
    for width, share in ((2.0, 1.0), (1.5, 0.9), (1.2, 0.75), (1.0, 0.6)):
        curves = [_curve(rng, *shoot, length * share * rng.uniform(0.8, 1.2)) for shoot in shoots]
        for curve, _ in curves:
            _stroke(tree, curve, width)
        shoots = [  # two at the end of each curve
            ((float(curve[0, -1]), float(curve[1, -1])), heading + side * rng.uniform(0.3, 0.8))
            for curve, heading in curves
            for side in (-1, 1)
        ]
    return tree


def _stroke(mask: Mask, curve: Map, width: float) -> None:
    """Draw a curve into the mask with a round brush."""
    radius = width / 2 * FINE
    reach = np.arange(-np.ceil(radius), np.ceil(radius) + 1)
    brush = np.stack([axis.ravel() for axis in np.meshgrid(reach, reach, indexing="ij")])
    brush = brush[:, np.hypot(*brush) <= radius]
    points = (curve[:, :, None] * FINE + brush[:, None, :]).astype(int)
    rows, columns = np.clip(points, 0, SIZE * FINE - 1)
    mask[rows, columns] = True


def _curve(rng: np.random.Generator, start: Point, heading: float, length: float) -> tuple[Map, float]:
    """Points ``[2, n]`` a quarter voxel apart along a path that bends at random, and its last heading."""
    bends = np.cumsum(rng.normal(0, 0.04, max(2, int(length * 4)))) + heading
    steps = np.stack([np.sin(bends), np.cos(bends)]) / 4
    return np.asarray(start)[:, None] + np.cumsum(steps, axis=1), float(bends[-1])


def _scan(rng: np.random.Generator, anatomy: _Anatomy) -> Map:
    """The scan ``[h, w]`` of the anatomy, with intensities from 0 to 4095."""
    from scipy.ndimage import gaussian_filter

    tissue = np.where(anatomy.body, rng.normal(0.42, 0.02), 0.03)
    for mask, mean, spread in (
        (anatomy.fat, 0.62, 0.03),
        (anatomy.kidney, 0.56, 0.03),
        (anatomy.vertebra, 0.72, 0.04),
        (anatomy.nodules, 0.31, 0.04),
        (anatomy.strands, 0.60, 0.03),
        (anatomy.organ, 0.56, 0.02),
        (anatomy.vessels, 0.71, 0.03),
        (anatomy.lesions, 0.31, 0.03),
    ):
        tissue[mask] = rng.normal(mean, spread)
    tissue += anatomy.body * _smooth_noise(rng, SIZE * FINE, 2.0 * FINE) * 0.025
    voxels = _averaged(gaussian_filter(tissue, 0.45 * FINE))
    bias = np.exp(_smooth_noise(rng, SIZE, 28.0) * 0.14)
    noisy = np.hypot(voxels * bias + rng.normal(0, 0.045, voxels.shape), rng.normal(0, 0.045, voxels.shape))
    return np.clip(np.rint(noisy * 4096 * rng.uniform(0.5, 0.9)), 0, 4095)


def _smooth_noise(rng: np.random.Generator, size: int, sigma: float) -> Map:
    """Noise ``[size, size]`` with standard deviation 1 and a correlation length of ``sigma`` points."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(rng.normal(size=(size, size)), sigma, mode="reflect")
    centred = noise - noise.mean()
    return np.asarray(centred / centred.std())


def _averaged(fine: Map) -> Map:
    """The means ``[h, w]`` over the drawing points of each voxel."""
    return np.asarray(fine.reshape(SIZE, FINE, SIZE, FINE).mean(axis=(1, 3)))


def _label(anatomy: _Anatomy) -> npt.NDArray[np.uint8]:
    """The label map, where a voxel belongs to the structure that fills half of it, or to a vessel that fills 40%."""
    label = np.zeros((SIZE, SIZE), dtype=np.uint8)
    for index, mask, share in (
        (ORGAN, anatomy.organ, 0.5),
        (VESSEL, anatomy.vessels, 0.4),
        (LESION, anatomy.lesions, 0.5),
    ):
        label[_averaged(mask.astype(np.float64)) >= share] = index
    return label
