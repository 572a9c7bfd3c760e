"""Random architectures of every kind for the tests of plan, cost and network, made without the design space's help."""

from __future__ import annotations

import random
from typing import Literal

from unetx_space import Architecture, Attention, Backbone, DecoderNode, Genome, StageRef, decoder, encoder
from unetx_space.backbone import DECODER_BLOCKS, DOWNSAMPLINGS, ENCODER_BLOCKS, HEAD_KERNELS, NORMS
from unetx_space.genome import plain_coarser
from unetx_space.operators.catalogue import ALIGNMENTS, ATTENTIONS, FUSIONS, UPSAMPLERS

Kind = Literal["default", "full-scale", "nested"]
KINDS: tuple[Kind, ...] = ("default", "full-scale", "nested")


def sampled(seed: int, dims: Literal[2, 3], kind: Kind) -> tuple[Architecture, tuple[int, ...]]:
    """A small valid architecture and a patch that leaves its bottleneck 2 or 3 voxels per axis."""
    rng = random.Random(f"{seed}|{dims}|{kind}")
    n_levels = rng.randint(2, 4 if dims == 2 else 3)
    backbone = _backbone(rng, dims, n_levels)
    whole = tuple(f * rng.randint(2, 3) for f in backbone.factor(0, n_levels - 1))
    return Architecture(backbone, _genome(rng, n_levels, kind)), tuple(_odd(rng, n, backbone) for n in whole)


def _backbone(rng: random.Random, dims: Literal[2, 3], n_levels: int) -> Backbone:
    return Backbone(
        dims=dims,
        in_channels=rng.randint(1, 3),
        out_channels=rng.randint(2, 4),
        widths=tuple(rng.randint(1, 12) for _ in range(n_levels)),
        strides=((1,) * dims, *(_stride(rng, dims) for _ in range(n_levels - 1))),
        norm=rng.choice(NORMS),
        downsampling=rng.choice(DOWNSAMPLINGS),
        encoder_block=rng.choice(ENCODER_BLOCKS),
        decoder_block=rng.choice(DECODER_BLOCKS),
        encoder_depth=tuple(rng.randint(1, 3) for _ in range(n_levels)),
        decoder_depth=rng.randint(1, 2),
        conv_bias=rng.random() < 0.5,
        negative_slope=rng.choice((0.0, 0.01, 0.1)),
        decoder_widths=rng.choice((None, tuple(rng.randint(1, 12) for _ in range(n_levels - 1)))),
        source_width=rng.choice((None, None, rng.randint(1, 8))),
        normalise_upsampled=rng.random() < 0.5,
        head_kernel=rng.choice(HEAD_KERNELS),
        deep_supervision=rng.random() < 0.5,
    )


def _odd(rng: random.Random, n: int, backbone: Backbone) -> int:
    """A size that leaves as many voxels at the bottleneck, but is usually no multiple of the strides."""
    return n - rng.randint(0, 1) if backbone.downsampling == "strided-conv" else n + rng.randint(0, 1)


def _stride(rng: random.Random, dims: int) -> tuple[int, ...]:
    stride = [rng.choice((1, 2, 2, 3)) for _ in range(dims)]
    stride[rng.randrange(dims)] = 2
    return tuple(stride)


def _genome(rng: random.Random, n_levels: int, kind: Kind) -> Genome:
    refs = [
        decoder(level, column)
        for level in reversed(range(n_levels - 1))
        for column in (range(1, n_levels - level) if kind == "nested" else (0,))
    ]
    nodes = [_node(rng, ref, n_levels, refs[: refs.index(ref)] if kind != "default" else []) for ref in refs]
    rng.shuffle(nodes)  # the order of nodes carries no meaning
    return Genome(tuple(nodes))


def _node(rng: random.Random, ref: StageRef, n_levels: int, earlier: list[StageRef]) -> DecoderNode:
    below = [decoder(ref.level + 1, ref.column - 1) if ref.column > 1 else encoder(ref.level + 1)]
    coarser = below[0] if ref.column else plain_coarser(ref.level, n_levels)
    possible = [stage for stage in [*map(encoder, range(n_levels)), *earlier] if stage != coarser]
    type_ = rng.choice(list(ATTENTIONS))
    return DecoderNode(
        ref=ref,
        coarser=coarser,
        sources=tuple(rng.sample(possible, rng.randint(0, min(3, len(possible))))),
        attention=Attention() if type_ == "none" else Attention(type_, rng.choice(ATTENTIONS[type_].placements)),
        upsampler=rng.choice(list(UPSAMPLERS)),
        fusion=rng.choice(list(FUSIONS)),
        alignment=rng.choice(list(ALIGNMENTS)),
    )
