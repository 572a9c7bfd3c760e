"""The choices a search may make: three spaces, how to narrow them, count them and print them."""

from unetx_space.design_space.describing import describe, description
from unetx_space.design_space.layouts import SPACES, Slot, SpaceName, SpaceSpec
from unetx_space.design_space.narrowing import adapted, design_space, narrowed
from unetx_space.design_space.space import Choice, DesignSpace, NodeGenes, Params, Suggester, attention_genes

__all__ = [
    "SPACES",
    "Choice",
    "DesignSpace",
    "NodeGenes",
    "Params",
    "Slot",
    "SpaceName",
    "SpaceSpec",
    "Suggester",
    "adapted",
    "attention_genes",
    "describe",
    "description",
    "design_space",
    "narrowed",
]
