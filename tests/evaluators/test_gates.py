"""How far gates are open: every kind at its start, and gates that were set by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from unetx_evaluators.device import DeviceProfile
from unetx_evaluators.gates import gate_statistics
from unetx_evaluators.insight import GateStatistics
from unetx_space.architecture import Architecture
from unetx_space.backbone import isotropic_backbone
from unetx_space.genome import Attention, Genome, attention_genes
from unetx_space.network import SkipUNet, build
from unetx_space.operators.catalogue import ATTENTIONS
from unetx_space.presets import unet

pytestmark = pytest.mark.usefixtures("one_thread")

FLOAT32 = DeviceProfile(torch.device("cpu"), autocast_dtype=None)
IMAGES = list(torch.randn(2, 1, 19, 16, generator=torch.Generator().manual_seed(0)))
GATED = [gene for gene in attention_genes(ATTENTIONS) if gene.placement is not None]
OPEN = 1 / (1 + math.exp(-3))
"""sigmoid(3), at which gates start (``attention.OPEN_LOGIT``)."""
STARTS = {"cbam": OPEN**2, "eca": 1.0, "scse-add": 1.0, "coordinate": OPEN**2}
"""Two gates in a row; twice and two times one half. SimAM has nothing to learn: sigmoid(1/2) to 1."""


def network_with(attention: Attention) -> SkipUNet:
    backbone = isotropic_backbone(2, n_levels=3, base_width=4)
    nodes = (replace(node, attention=attention) for node in unet(3).nodes)
    return build(Architecture(backbone, Genome(tuple(nodes))))


def seen(network: SkipUNet) -> tuple[GateStatistics, ...]:
    return gate_statistics(network, IMAGES, (16, 16), FLOAT32)


@pytest.mark.parametrize("gene", GATED, ids=map(str, GATED))
def test_every_gate_of_the_catalogue_is_found_and_open_at_its_start(gene: Attention) -> None:
    gates = seen(network_with(gene))
    places = ["E1", "E0"] if gene.placement == "source" else [gene.placement] * 2
    assert [(gate.node, gate.at, gate.type) for gate in gates] == [
        ("D1", places[0], gene.type),
        ("D0", places[1], gene.type),
    ]
    for gate in gates:
        assert gate.mean is not None
        if gene.type == "simam":
            assert 0.62 < gate.mean < 1
        else:
            assert gate.mean == pytest.approx(STARTS.get(gene.type, OPEN), abs=0.03)
        assert gate.share_closed == 0


@pytest.mark.parametrize(("logit", "closed", "opened"), [(-4.0, 1.0, 0.0), (0.0, 0.0, 0.0), (4.0, 0.0, 1.0)])
def test_a_gate_that_was_set_by_hand_has_its_sigmoid_as_the_mean(logit: float, closed: float, opened: float) -> None:
    network = network_with(Attention("se", "source"))
    excite = network.get_submodule("decoder.D0.sources.E0.attention.excite")
    excite.get_parameter("weight").data.zero_()
    excite.get_parameter("bias").data.fill_(logit)
    gate = seen(network)[1]
    assert gate.mean == pytest.approx(1 / (1 + math.exp(-logit)), rel=1e-3)
    assert (gate.share_closed, gate.share_open) == (closed, opened)


def test_a_map_without_a_value_above_zero_tells_nothing_of_its_gate() -> None:
    network = network_with(Attention("se", "source"))
    for name in ("norm2.weight", "norm2.bias"):
        network.encoder["E0"].get_parameter(name).data.zero_()
    assert seen(network)[1] == GateStatistics("D0", "E0", "se", None, None, None)


def test_a_network_without_attention_has_no_gates() -> None:
    assert seen(network_with(Attention())) == ()
