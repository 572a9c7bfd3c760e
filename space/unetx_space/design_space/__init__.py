"""The choices a search may make: three spaces, how to narrow them, count them and print them."""

from unetx_space.design_space.counting import n_designs
from unetx_space.design_space.decoder_kinds import SPACES, CandidateNode, SpaceName, SpaceSpec
from unetx_space.design_space.describing import space_facts, space_text
from unetx_space.design_space.narrowing import adapted, design_space, narrowed
from unetx_space.design_space.space import Choice, DesignSpace, NodeGenes, Params, Suggester
from unetx_space.genome import attention_genes

__all__ = [
    "SPACES", "CandidateNode", "Choice", "DesignSpace", "NodeGenes", "Params", "SpaceName", "SpaceSpec",
    "Suggester", "adapted", "attention_genes", "design_space", "n_designs", "narrowed", "space_facts", "space_text",
]  # fmt: skip
