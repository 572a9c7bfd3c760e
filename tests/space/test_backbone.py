"""The backbone: one spelling, its rules, its document."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields, replace
from typing import Any

import pytest

from unetx_space import PRESETS, Architecture, Backbone, DocumentError, faults, isotropic_backbone, key, loads

BACKBONE = isotropic_backbone(2, n_levels=3, base_width=8)
RICH = replace(
    BACKBONE,
    norm="group",
    downsampling="max-pool",
    encoder_block="resnet-d",
    decoder_block="residual",
    encoder_depth=(1, 2, 3),
    decoder_depth=(1, 2),
    conv_bias=True,
    negative_slope=0.1,
    decoder_widths=(6, 12),
    source_width=5,
    normalise_upsampled=True,
    head_kernel=3,
    deep_supervision=True,
)
UNET = PRESETS["u-net"].genome(3)


def test_the_example_changes_every_field_that_has_a_default() -> None:
    optional = [f.name for f in fields(Backbone) if f.default is not MISSING]
    assert len(optional) == 13
    assert [name for name in optional if getattr(RICH, name) == getattr(BACKBONE, name)] == []


@pytest.mark.parametrize("backbone", [BACKBONE, RICH])
def test_a_backbone_survives_its_document(backbone: Backbone) -> None:
    found = loads(Architecture(backbone, UNET).dumps())
    assert found.backbone == backbone
    assert not faults(found)


@pytest.mark.parametrize(
    ("spelling", "simple"),
    [
        ({"encoder_depth": (3, 3, 3)}, {"encoder_depth": 3}),
        ({"decoder_depth": (1, 1)}, {"decoder_depth": 1}),
        ({"decoder_widths": (8, 16)}, {}),
        ({"negative_slope": 0}, {"negative_slope": 0.0}),
        ({"negative_slope": -0.0}, {"negative_slope": 0.0}),
    ],
)
def test_each_backbone_has_one_spelling_and_one_key(spelling: dict[str, Any], simple: dict[str, Any]) -> None:
    one, other = replace(BACKBONE, **spelling), replace(BACKBONE, **simple)
    assert one == other
    assert json.dumps(one.to_json()) == json.dumps(other.to_json())
    assert key(Architecture(one, UNET)) == key(Architecture(other, UNET))


def test_a_budget_scales_every_width() -> None:
    half = RICH.scaled(0.5)
    assert (half.widths, half.decoder_widths, half.source_width) == ((4, 8, 16), (3, 6), 2)
    assert BACKBONE.scaled(0.25) == replace(BACKBONE, widths=(2, 4, 8))
    assert BACKBONE.scaled(0.01).widths == (1, 1, 1)  # never none at all


def test_the_decoder_is_as_wide_as_the_encoder_unless_told_otherwise() -> None:
    assert [BACKBONE.decoder_width(level) for level in (0, 1)] == [8, 16]
    assert [RICH.decoder_width(level) for level in (0, 1)] == [6, 12]


@pytest.mark.parametrize(
    ("change", "field", "rule"),
    [
        ({"encoder_block": "residul"}, "backbone.encoder_block", "did you mean 'residual'?"),
        ({"decoder_block": "resnet-d"}, "backbone.decoder_block", "unknown decoder block"),
        ({"encoder_depth": 0}, "backbone.encoder_depth", "must lie in 1..32, got 0"),
        ({"encoder_depth": (1, 2, 99)}, "backbone.encoder_depth[2]", "must lie in 1..32, got 99"),
        ({"encoder_depth": (1, 2)}, "backbone.encoder_depth", "needs 3 numbers, one per level, got 2"),
        ({"decoder_depth": (1, 2, 3)}, "backbone.decoder_depth", "needs 2 numbers, one per level but the coarsest"),
        ({"decoder_widths": (4,)}, "backbone.decoder_widths", "needs 2 numbers"),
        ({"decoder_widths": (4, 0)}, "backbone.decoder_widths[1]", "must lie in 1..4096, got 0"),
        ({"source_width": 0}, "backbone.source_width", "must lie in 1..4096, got 0"),
        ({"negative_slope": -0.1}, "backbone.negative_slope", "must lie in 0..0.5, got -0.1"),
        ({"negative_slope": 1.0}, "backbone.negative_slope", "must lie in 0..0.5, got 1.0"),
        ({"head_kernel": 2}, "backbone.head_kernel", "must be one of (1, 3), got 2"),
    ],
)
def test_a_broken_backbone_is_told_where_and_why(change: dict[str, Any], field: str, rule: str) -> None:
    found = faults(Architecture(replace(BACKBONE, **change), UNET))
    assert [fault.field for fault in found] == [field]
    assert rule in found[0].rule


@pytest.mark.parametrize(
    ("field", "value", "path", "problem"),
    [
        ("encoder_depth", "two", "backbone.encoder_depth", "must be of type integer or array"),
        ("encoder_depth", None, "backbone.encoder_depth", "must be of type integer or array"),
        ("encoder_depth", 2.0, "backbone.encoder_depth", "must be of type integer or array"),
        ("encoder_depth", [1, 2, 10**30], "backbone.encoder_depth[2]", "maximum is 32"),
        ("encoder_depth", [], "backbone.encoder_depth", "minItems is 1"),
        ("encoder_depth", [1, 2], "backbone.encoder_depth", "needs 3 numbers"),
        ("decoder_widths", 8, "backbone.decoder_widths", "must be of type null or array"),
        ("decoder_widths", [8, True], "backbone.decoder_widths[1]", "must be of type integer"),
        ("source_width", -1, "backbone.source_width", "minimum is 1"),
        ("conv_bias", 1, "backbone.conv_bias", "must be of type boolean"),
        ("negative_slope", True, "backbone.negative_slope", "must be of type number"),
        ("negative_slope", 10**400, "backbone.negative_slope", "maximum is 0.5"),
        ("head_kernel", 5, "backbone.head_kernel", "must be one of 1, 3, got 5"),
    ],
)
def test_a_damaged_backbone_document_is_refused_by_field(field: str, value: object, path: str, problem: str) -> None:
    document = Architecture(BACKBONE, UNET).to_json()
    document["backbone"][field] = value
    with pytest.raises(DocumentError) as caught:
        loads(json.dumps(document))
    assert caught.value.field == path
    assert problem in caught.value.problem


@pytest.mark.parametrize("name", [f.name for f in fields(Backbone)])
def test_every_field_of_the_backbone_is_required_in_a_document(name: str) -> None:
    document = Architecture(BACKBONE, UNET).to_json()
    del document["backbone"][name]
    with pytest.raises(DocumentError, match=f"'{name}' is missing"):
        loads(json.dumps(document))
