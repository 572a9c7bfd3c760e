"""The fixed half of an architecture: what the genome is hung on.

Frozen data without torch. Sizes are voxels per axis in the array's own order (``h w`` or ``d h w``).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self, get_args

Norm = Literal["instance", "batch", "group"]
Downsampling = Literal["strided-conv", "max-pool"]

NORMS: tuple[Norm, ...] = get_args(Norm)
DOWNSAMPLINGS: tuple[Downsampling, ...] = get_args(Downsampling)

MAX_LEVELS = 9
MAX_WIDTH = 4096
MAX_CLASSES = 256
MAX_STRIDE = 4


@dataclass(frozen=True, slots=True)
class Backbone:
    """Encoder, head and block style of a U-Net with ``n_levels`` levels.

    ``strides[l]`` is the per-axis reduction from level l-1 to level l; ``strides[0]`` is all ones.
    """

    dims: Literal[2, 3]
    in_channels: int
    out_channels: int
    """Classes, background included."""
    widths: tuple[int, ...]
    """Channels of each level, encoder and decoder alike."""
    strides: tuple[tuple[int, ...], ...]
    norm: Norm = "instance"
    downsampling: Downsampling = "strided-conv"

    @property
    def n_levels(self) -> int:
        return len(self.widths)

    def sizes(self, patch: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """Size of every level's map for an input of ``patch``: a strided convolution rounds up, pooling down."""
        up = self.downsampling == "strided-conv"
        sizes, size = [], patch
        for stride in self.strides:
            size = tuple(-(-n // s) if up else n // s for n, s in zip(size, stride, strict=True))
            sizes.append(size)
        return tuple(sizes)

    def factor(self, fine: int, coarse: int) -> tuple[int, ...]:
        """Per-axis reduction from level ``fine`` to level ``coarse``."""
        total = (1,) * self.dims
        for stride in self.strides[fine + 1 : coarse + 1]:
            total = tuple(t * s for t, s in zip(total, stride, strict=True))
        return total

    def scaled(self, width_factor: float) -> Self:
        """The same backbone with every width multiplied (at least 1, rounded): what a budget trains."""
        return replace(self, widths=tuple(max(1, round(w * width_factor)) for w in self.widths))

    def to_json(self) -> dict[str, Any]:
        data = asdict(self)
        return {k: [list(s) for s in v] if k == "strides" else list(v) if k == "widths" else v for k, v in data.items()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """From a document that has passed the schema."""
        return cls(
            **{
                **data,
                "widths": tuple(data["widths"]),
                "strides": tuple(tuple(s) for s in data["strides"]),
            }
        )


def isotropic_backbone(
    dims: Literal[2, 3],
    *,
    in_channels: int = 1,
    out_channels: int = 2,
    n_levels: int = 5,
    base_width: int = 32,
    max_width: int | None = None,
) -> Backbone:
    """Widths doubling from ``base_width`` up to ``max_width`` (nnU-Net's 512 in 2D, 320 in 3D), strides of 2."""
    limit = max_width or (512 if dims == 2 else 320)
    return Backbone(
        dims=dims,
        in_channels=in_channels,
        out_channels=out_channels,
        widths=tuple(min(limit, base_width * 2**level) for level in range(n_levels)),
        strides=((1,) * dims, *[(2,) * dims] * (n_levels - 1)),
    )
