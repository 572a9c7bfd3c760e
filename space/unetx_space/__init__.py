"""What a design is: genome, backbone, rules, network, cost."""

from unetx_space.architecture import Architecture
from unetx_space.backbone import Backbone
from unetx_space.documents import load
from unetx_space.genome import Genome

__all__ = ["Architecture", "Backbone", "Genome", "load"]
