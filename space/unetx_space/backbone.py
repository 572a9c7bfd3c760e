"""The fixed half of an architecture: encoder, block style and head.

Frozen data without torch. Sizes are voxels per axis in the array's own order (``h w`` or ``d h w``).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self, get_args

Norm = Literal["instance", "batch", "group"]
Downsampling = Literal["strided-conv", "max-pool"]
DecoderBlock = Literal["plain", "residual"]
EncoderBlock = Literal["plain", "residual", "resnet-d"]

NORMS: tuple[Norm, ...] = get_args(Norm)
DOWNSAMPLINGS: tuple[Downsampling, ...] = get_args(Downsampling)
DECODER_BLOCKS: tuple[DecoderBlock, ...] = get_args(DecoderBlock)
ENCODER_BLOCKS: tuple[EncoderBlock, ...] = get_args(EncoderBlock)

MAX_LEVELS = 9
MAX_WIDTH = 4096
MAX_CLASSES = 256
MAX_STRIDE = 4
MAX_STAGE_DEPTH = 32
MAX_SLOPE = 0.5
HEAD_KERNELS = (1, 3)


@dataclass(frozen=True, slots=True)
class Backbone:
    """Encoder, head and block style of a U-Net with ``n_levels`` levels.

    ``strides[l]`` is the per-axis reduction from level l-1 to level l; ``strides[0]`` is all ones. Each backbone has
    one spelling: a depth that is the same on every level becomes one number, decoder widths that repeat ``widths``
    become None.
    """

    dims: Literal[2, 3]
    in_channels: int
    out_channels: int
    """Classes, background included."""
    widths: tuple[int, ...]
    """Channels of each level, encoder and (unless ``decoder_widths`` says otherwise) decoder alike."""
    strides: tuple[tuple[int, ...], ...]
    norm: Norm = "instance"
    downsampling: Downsampling = "strided-conv"
    encoder_block: EncoderBlock = "plain"
    """``resnet-d`` also puts a stem, one convolution without stride, before the first stage."""
    decoder_block: DecoderBlock = "plain"
    encoder_depth: int | tuple[int, ...] = 2
    """Convolutions of a plain stage, or blocks (of two) of a residual one: on every level, or for each."""
    decoder_depth: int | tuple[int, ...] = 2
    """Convolutions of a plain decoder node, or blocks of a residual one: on every level, or for each from 0 to L-2."""
    conv_bias: bool = False
    """Biases in blocks, projections and transposed upsampling; nearly idle before a normalisation."""
    negative_slope: float = 0.01
    """Slope of every LeakyReLU below zero; 0 makes it a ReLU."""
    decoder_widths: tuple[int, ...] | None = None
    """Channels of the decoder nodes of levels 0 to L-2, where they are not the encoder's."""
    source_width: int | None = None
    """When given, every source and the upsampled map enter the fusion with this many channels, the sources through a
    3^d convolution, normalisation and activation (UNet 3+, arXiv:2004.08790, section 2.1)."""
    normalise_upsampled: bool = False
    """Normalisation and activation behind every upsampler (Attention U-Net, UNet 3+)."""
    head_kernel: int = 1
    deep_supervision: bool = False
    """Heads on all nodes of level 0 where a nested decoder has several (UNet++), otherwise on every node (nnU-Net)."""

    def __post_init__(self) -> None:
        for name, length in (("encoder_depth", self.n_levels), ("decoder_depth", self.n_levels - 1)):
            depths = getattr(self, name)
            if isinstance(depths, tuple) and len(depths) == length and len(set(depths)) == 1:
                object.__setattr__(self, name, depths[0])
        if self.decoder_widths == self.widths[:-1]:
            object.__setattr__(self, "decoder_widths", None)
        object.__setattr__(self, "negative_slope", self.negative_slope + 0.0)  # 0 is 0.0, and -0.0 as well

    @property
    def n_levels(self) -> int:
        return len(self.widths)

    def decoder_width(self, level: int) -> int:
        """Channels of the decoder nodes of a level."""
        return self.widths[level] if self.decoder_widths is None else self.decoder_widths[level]

    @property
    def rounds_up(self) -> bool:
        """Whether reducing a map rounds its size up, as strided convolutions do, and not down, as pooling does."""
        return self.downsampling == "strided-conv"

    def sizes(self, patch: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """Size of every level's map for an input of ``patch``."""
        sizes, size = [], patch
        for stride in self.strides:
            size = tuple(-(-n // s) if self.rounds_up else n // s for n, s in zip(size, stride, strict=True))
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

        def scaled(width: int) -> int:
            return max(1, round(width * width_factor))

        return replace(
            self,
            widths=tuple(map(scaled, self.widths)),
            decoder_widths=None if self.decoder_widths is None else tuple(map(scaled, self.decoder_widths)),
            source_width=None if self.source_width is None else scaled(self.source_width),
        )

    def to_json(self) -> dict[str, Any]:
        return {name: _as_lists(value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The backbone in a document that has passed the schema."""
        return cls(**{name: _as_tuples(value) for name, value in data.items()})


def _as_lists(value: Any) -> Any:
    return [_as_lists(item) for item in value] if isinstance(value, tuple) else value


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list) else value


def isotropic_backbone(
    dims: Literal[2, 3],
    *,
    in_channels: int = 1,
    out_channels: int = 2,
    n_levels: int = 5,
    base_width: int = 32,
    max_width: int | None = None,
) -> Backbone:
    """A backbone with strides of 2 and widths doubling up to ``max_width`` (by default nnU-Net's: 512, in 3D 320)."""
    limit = max_width or (512 if dims == 2 else 320)
    return Backbone(
        dims=dims,
        in_channels=in_channels,
        out_channels=out_channels,
        widths=tuple(min(limit, base_width * 2**level) for level in range(n_levels)),
        strides=((1,) * dims, *[(2,) * dims] * (n_levels - 1)),
    )
