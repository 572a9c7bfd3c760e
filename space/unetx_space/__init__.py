"""What a design is: genome, backbone, rules, design spaces, cost, network. Other packages import from here.

Nothing here loads torch but ``build``, when it is asked for.
"""

from typing import TYPE_CHECKING, Any

from unetx_space.architecture import Architecture
from unetx_space.backbone import Backbone, isotropic_backbone
from unetx_space.canonical import canonical, key
from unetx_space.cost import Cost, cost
from unetx_space.design_space import (
    SPACES,
    DesignSpace,
    SpaceName,
    adapted,
    design_space,
    n_designs,
    narrowed,
    space_facts,
    space_text,
)
from unetx_space.documents import load, loads
from unetx_space.errors import DocumentError, Interrupted, RequestError, UnetxError, command, unknown_name
from unetx_space.files import read_object, write_whole, written_whole
from unetx_space.genome import (
    NO_ATTENTION,
    Attention,
    DecoderNode,
    Genome,
    Relation,
    StageRef,
    decoder,
    encoder,
    relation,
)
from unetx_space.presets import PRESETS, Preset, preset
from unetx_space.training_memory import training_memory
from unetx_space.validity import Fault, faults

if TYPE_CHECKING:
    from unetx_space.network import build

__all__ = [
    "NO_ATTENTION", "PRESETS", "SPACES", "Architecture", "Attention", "Backbone", "Cost", "DecoderNode",
    "DesignSpace", "DocumentError", "Fault", "Genome", "Interrupted", "Preset", "Relation", "RequestError",
    "SpaceName", "StageRef", "UnetxError", "adapted", "build", "canonical", "command", "cost",
    "decoder", "design_space", "encoder", "faults", "isotropic_backbone", "key",
    "load", "loads", "n_designs", "narrowed", "preset", "read_object", "relation", "space_facts",
    "space_text", "training_memory", "unknown_name", "write_whole", "written_whole",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "build":
        from unetx_space.network import build

        return build
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
