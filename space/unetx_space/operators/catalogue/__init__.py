"""Every operator of the design space as data: name, paper, parameter and multiply-add formulas, flags.

No torch here: each spec names the module that holds its class, and a network imports it when it is built. To add an
operator: one spec here, one module beside (docs/extending.md). Nothing else names an operator, published designs aside.

Letters, used everywhere in this package:

========== =========================================================================================
``dims``   spatial axes, 2 or 3
``sites``  voxels of the map an operator reads (one image, not a batch)
``stride`` finer voxels per coarser one along each axis; ``factor`` the same across several levels
========== =========================================================================================

``conv_macs`` are the multiply-adds of convolutions and matrix products, exactly as ``torch.utils.flop_counter`` counts
them (half its FLOPs). ``other_macs`` are what it leaves out: 2^dims per interpolated or sampled value, one per pooled,
gated or added value. Without them sampling operators would look free.
"""

from collections.abc import Mapping

from unetx_space.operators.catalogue.alignment import ALIGNMENTS
from unetx_space.operators.catalogue.attention import ATTENTIONS
from unetx_space.operators.catalogue.fusion import FUSIONS
from unetx_space.operators.catalogue.spec import (
    PLACEMENTS,
    AlignmentSpec,
    AttentionContext,
    AttentionSpec,
    FusionSpec,
    Gate,
    Placement,
    Spec,
    UpsamplerSpec,
    taps,
)
from unetx_space.operators.catalogue.upsampling import UPSAMPLERS

PLAIN_ATTENTION, PLAIN_UPSAMPLER, PLAIN_FUSION, PLAIN_ALIGNMENT = "none", "transposed", "concat", "max"
"""The operators of U-Net, which are also what is written where a gene has no effect."""

__all__ = [
    "ALIGNMENTS", "ATTENTIONS", "FUSIONS", "PLACEMENTS", "PLAIN_ALIGNMENT", "PLAIN_ATTENTION", "PLAIN_FUSION",
    "PLAIN_UPSAMPLER", "UPSAMPLERS", "AlignmentSpec", "AttentionContext", "AttentionSpec", "FusionSpec", "Gate",
    "Placement", "Spec", "UpsamplerSpec", "by_default", "taps",
]  # fmt: skip


def by_default(family: Mapping[str, Spec]) -> tuple[str, ...]:
    """The operators of a family that a search may choose without being asked to."""
    return tuple(name for name, spec in family.items() if spec.by_default)
