"""One key per function: twins agree, look-alikes differ."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nested_genomes import free_nested, is_isomorphic, renamed, rings, shuffled_columns
from torch import Tensor

from unetx_space.architecture import Architecture
from unetx_space.backbone import isotropic_backbone
from unetx_space.canonical import canonical, key
from unetx_space.design_space import SPACES, DesignSpace, design_space, narrowed
from unetx_space.genome import NO_ATTENTION, Attention, DecoderNode, Genome, StageRef, decoder, encoder
from unetx_space.network import build, module_name, module_of
from unetx_space.operators.catalogue import ATTENTIONS, FUSIONS, AttentionContext
from unetx_space.presets import PRESETS
from unetx_space.validity import genome_faults

BACKBONE = isotropic_backbone(2, n_levels=4, base_width=4)
SPACE = DesignSpace(4)
GATED = [name for name, spec in ATTENTIONS.items() if spec.placements == ("source",)]
seeds = st.integers(0, 100_000)
names_of_spaces = st.sampled_from(list(SPACES))


def key_of(genome: Genome) -> str:
    return key(Architecture(BACKBONE, genome))


def change(genome: Genome, level: int, **genes: object) -> Genome:
    """The genome with genes of one node changed."""
    nodes = (replace(node, **genes) if node.ref.level == level else node for node in genome.nodes)  # type: ignore[arg-type]
    return Genome(tuple(nodes))


@given(names_of_spaces, seeds)
def test_canonical_form_is_reached_in_one_step(name: str, seed: int) -> None:
    once = canonical(design_space(name, 5).sample(random.Random(seed)))
    assert not genome_faults(once, 5)
    assert canonical(once) == once


@given(names_of_spaces, seeds)
def test_the_order_of_nodes_and_sources_does_not_move_the_key(name: str, seed: int) -> None:
    rng = random.Random(seed)
    genome = design_space(name, 4).sample(rng)
    nodes = [replace(node, sources=tuple(rng.sample(node.sources, len(node.sources)))) for node in genome.nodes]
    rng.shuffle(nodes)
    assert key_of(Genome(tuple(nodes))) == key_of(genome)


@given(seeds, st.integers(0, 2), st.sampled_from(list(FUSIONS)), st.sampled_from(GATED))
def test_genes_without_effect_do_not_move_the_key(seed: int, level: int, fusion: str, gated: str) -> None:
    genome = SPACE.sample(random.Random(seed))
    bare = change(genome, level, sources=(), attention=NO_ATTENTION)
    for genes in (
        {"fusion": fusion},
        {"alignment": "average"},
        {"attention": Attention("se", "source")},
        {"attention": Attention(gated, "source")},
    ):
        assert key_of(change(bare, level, **genes)) == key_of(bare)
    own_level = change(genome, level, sources=(encoder(level),))
    assert key_of(change(own_level, level, alignment="max")) == key_of(change(own_level, level, alignment="average"))


@given(seeds, st.integers(0, 2))
def test_genes_with_effect_move_the_key(seed: int, level: int) -> None:
    genome = change(SPACE.sample(random.Random(seed)), level, sources=(encoder(level),), attention=NO_ATTENTION)
    node = genome[decoder(level)]
    others = [
        change(genome, level, sources=()),
        change(genome, level, attention=Attention("se", "source")),
        change(genome, level, attention=Attention("se", "fused")),
        change(genome, level, attention=Attention("se", "block")),
        *(change(genome, level, fusion=fusion) for fusion in FUSIONS if fusion != node.fusion),
        change(genome, level, upsampler="linear" if node.upsampler != "linear" else "deformable"),
    ]
    assert len({key_of(other) for other in [genome, *others]}) == len(others) + 1


def test_alignment_counts_as_soon_as_one_source_is_finer() -> None:
    unet = PRESETS["u-net"].genome(4)
    finer = change(unet, 2, sources=(encoder(0), encoder(2)))
    assert key_of(change(finer, 2, alignment="max")) != key_of(change(finer, 2, alignment="average"))
    coarser = change(unet, 0, sources=(encoder(0), encoder(2)))
    assert key_of(change(coarser, 0, alignment="max")) == key_of(change(coarser, 0, alignment="average"))


def test_attention_after_fusion_counts_without_sources() -> None:
    bare = PRESETS["no-skip"].genome(4)
    assert key_of(change(bare, 1, attention=Attention("se", "fused"))) != key_of(bare)


def test_dead_nodes_and_gaps_in_columns_do_not_move_the_key() -> None:
    plain = PRESETS["u-net"].genome(4)
    as_columns = renamed(plain, {node.ref: decoder(node.ref.level, 2) for node in plain.nodes})
    assert key_of(as_columns) == key_of(plain)
    dead = DecoderNode(decoder(2, 1), encoder(3), (encoder(2),))
    assert key_of(Genome((dead, *as_columns.nodes))) == key_of(plain)


def test_the_nested_space_spells_the_plain_decoder_too() -> None:
    nested = design_space("nested", 4)
    unet = PRESETS["u-net"].genome(4)
    spelt = nested.from_params(nested.to_params(unet))
    assert {node.ref for node in spelt.nodes} == {decoder(2, 1), decoder(1, 2), decoder(0, 3)}
    assert key_of(spelt) == key_of(unet)


# Columns


@given(st.integers(3, 5), st.integers(1, 4), seeds)
def test_a_permutation_of_columns_does_not_move_the_key(n_levels: int, max_columns: int, seed: int) -> None:
    rng = random.Random(seed)
    genome = free_nested(rng, n_levels, max_columns=max_columns)
    twin = renamed(genome, shuffled_columns(genome, rng))
    assert not genome_faults(genome, n_levels)
    assert not genome_faults(twin, n_levels)
    form = canonical(genome)
    assert canonical(twin) == form
    assert not genome_faults(form, n_levels)
    assert canonical(form) == form


def two_towers(first: str, second: str, reads: int) -> Genome:
    """Two nodes on level 1 with these upsamplers: an inner node reads both, the output brings up one of them."""
    return Genome(
        (
            DecoderNode(decoder(1, 1), encoder(2), upsampler=first),
            DecoderNode(decoder(1, 2), encoder(2), upsampler=second),
            DecoderNode(decoder(0, 1), decoder(1, 1), (decoder(1, 2),)),
            DecoderNode(decoder(0, 2), decoder(1, reads), (decoder(0, 1),)),
        )
    )


def test_columns_that_differ_in_what_reads_them_are_no_twins() -> None:
    assert key_of(two_towers("linear", "transposed", 1)) != key_of(two_towers("linear", "transposed", 2))
    assert key_of(two_towers("linear", "linear", 1)) != key_of(two_towers("linear", "linear", 2))


def test_graphs_that_colour_refinement_cannot_tell_apart_are_told_apart() -> None:
    assert canonical(rings((2, 4))) != canonical(rings((6,)))
    assert not is_isomorphic(rings((2, 4)), rings((6,)))
    rng = random.Random(0)
    for genome in (rings((2, 4)), rings((6,)), rings((3, 3))):
        for _ in range(10):
            assert canonical(renamed(genome, shuffled_columns(genome, rng))) == canonical(genome)


def test_many_equal_columns_are_named_in_reasonable_time() -> None:
    twins = [DecoderNode(decoder(1, k), encoder(2)) for k in range(1, 40)]  # 39! orders, all alike
    output = DecoderNode(decoder(0, 1), decoder(1, 1), tuple(node.ref for node in twins[1:]))
    form = canonical(Genome((*twins, output)))
    assert canonical(form) == form
    pairs = rings((2,) * 8)  # 8! * 2^8 automorphisms
    assert canonical(renamed(pairs, shuffled_columns(pairs, random.Random(1)))) == canonical(pairs)


def concatenating(attention: str, order: tuple[int, int]) -> Genome:
    """An output on the concatenation of two different nodes of level 1, which have these columns."""
    linear, transposed = (decoder(1, column) for column in order)
    return Genome(
        (
            DecoderNode(linear, encoder(2), upsampler="linear"),
            DecoderNode(transposed, encoder(2), upsampler="transposed"),
            DecoderNode(decoder(1, 3), encoder(2), (linear, transposed), Attention.parse(attention)),
            DecoderNode(decoder(0, 1), decoder(1, 3)),
        )
    )


def test_the_order_of_columns_counts_where_attention_slides_along_the_channels() -> None:
    # ECA's one kernel runs over neighbouring channels, so [a, b] and [b, a] are different functions for it.
    assert key_of(concatenating("eca@fused", (1, 2))) != key_of(concatenating("eca@fused", (2, 1)))
    for attention in ("none", "se@fused", "eca@source", "eca@block"):
        assert key_of(concatenating(attention, (1, 2))) == key_of(concatenating(attention, (2, 1)))


def minds_the_order(name: str) -> bool:
    """Whether no renumbering of its weights makes up for a permutation of the channels."""
    n_channels = 13  # no other size in these modules
    generator = torch.Generator().manual_seed(0)
    context = AttentionContext(n_channels, (2, 2), n_channels, n_channels)
    module, permuted = (module_of(ATTENTIONS[name])(context).eval() for _ in range(2))
    order = torch.randperm(n_channels, generator=generator)
    weights = {path: torch.randn(value.shape, generator=generator) for path, value in module.state_dict().items()}
    module.load_state_dict(weights)
    for path, value in weights.items():
        for axis in range(value.ndim):
            if value.shape[axis] == n_channels:
                value = value.index_select(axis, order)
        weights[path] = value
    permuted.load_state_dict(weights)
    x = torch.randn(1, n_channels, 6, 5, generator=generator)
    return not torch.allclose(permuted(x[:, order]), module(x)[:, order], rtol=1e-4, atol=1e-5)


def test_the_attentions_that_mind_the_order_of_channels_are_known() -> None:
    fused = [name for name, spec in ATTENTIONS.items() if "fused" in spec.placements]
    assert {name for name in fused if minds_the_order(name)} == {
        name for name in fused if ATTENTIONS[name].orders_channels
    }


# Equal keys mean equal functions


def output_of(genome: Genome, weights: Mapping[str, Tensor] | None = None) -> Tensor:
    network = build(Architecture(BACKBONE, genome), seed=5).eval()
    if weights is not None:
        network.load_state_dict(dict(weights))
    with torch.no_grad():
        return network(torch.randn(1, 1, 21, 26, generator=torch.Generator().manual_seed(1)))  # type: ignore[no-any-return]


def idle_twin(genome: Genome, rng: random.Random) -> Genome:
    """The same function with other values of idle genes, another order and a dead node."""
    nodes = []
    for node in genome.nodes:
        sources = tuple(rng.sample(node.sources, len(node.sources)))
        if not node.sources:
            node = replace(node, fusion=rng.choice(list(FUSIONS)), alignment="average")
            if node.attention == NO_ATTENTION:
                node = replace(node, attention=Attention(rng.choice(["se", *GATED]), "source"))
        elif all(source.level >= node.ref.level for source in node.sources):
            node = replace(node, alignment="average" if node.alignment == "max" else "max")
        nodes.append(replace(node, sources=sources))
    if any(node.ref.column for node in nodes):
        nodes.append(DecoderNode(decoder(2, 9), encoder(3), (encoder(2),)))
    rng.shuffle(nodes)
    return Genome(tuple(nodes))


@pytest.mark.parametrize("name", list(SPACES))
@pytest.mark.parametrize("seed", range(5))
def test_twins_by_idle_genes_compute_the_same(name: str, seed: int) -> None:
    rng = random.Random(seed)
    space = narrowed(design_space(name, 4), attention="all", upsampler="all", fusion="all", alignment="all")
    genome = space.sample(rng)
    twin = idle_twin(change(genome, 1, sources=()), rng)
    assert twin != change(genome, 1, sources=())
    assert key_of(twin) == key_of(change(genome, 1, sources=()))
    assert torch.equal(output_of(twin), output_of(change(genome, 1, sources=())))


def transferred(genome: Genome, names: Mapping[StageRef, StageRef]) -> dict[str, Tensor]:
    """The weights of a genome for its twin with other names: the same tensors, with the input channels of each node's
    block in the twin's order of concatenation. All concatenated maps of a node have one width here."""
    modules = {module_name(ref): module_name(name) for ref, name in names.items()}
    weights = {}
    for path, value in build(Architecture(BACKBONE, genome), seed=5).state_dict().items():
        parts = [modules.get(part, part) for part in path.split(".")]
        if path.endswith("block.conv1.weight") and path.startswith("decoder."):
            ref = next(ref for ref in names if module_name(ref) == path.split(".")[1])
            before = sorted(genome[ref].sources)
            after = sorted(before, key=lambda source: names.get(source, source))
            maps = value.chunk(len(before) + 1, 1)
            value = torch.cat([*(maps[before.index(source)] for source in after), maps[-1]], 1)
        weights[".".join(parts)] = value
    return weights


@pytest.mark.parametrize("seed", range(12))
def test_twins_by_columns_compute_the_same_once_weights_are_transferred(seed: int) -> None:
    rng = random.Random(seed)
    genome = canonical(free_nested(rng, 4))
    names = shuffled_columns(genome, rng)
    twin = renamed(genome, names)
    assert key_of(twin) == key_of(genome)
    torch.testing.assert_close(output_of(twin, transferred(genome, names)), output_of(genome), rtol=1e-4, atol=1e-5)


# What the key is made of


def test_the_backbone_is_part_of_the_key() -> None:
    unet = PRESETS["u-net"].genome(4)
    assert key(Architecture(isotropic_backbone(3, n_levels=4), unet)) != key_of(unet)


def test_scores_and_provenance_are_not_part_of_the_key() -> None:
    unet = Architecture(BACKBONE, PRESETS["u-net"].genome(4))
    assert key(replace(unet, score={"dice": 1.0}, provenance={"study": "x"})) == key(unet)


@pytest.mark.parametrize("preset", ["u-net", "unet++"])
def test_keys_are_the_same_in_another_process_and_for_ever(preset: str) -> None:
    code = (
        "from unetx_space import Architecture; from unetx_space.backbone import isotropic_backbone;"
        "from unetx_space.canonical import key; from unetx_space.presets import PRESETS;"
        f"print(key(Architecture(isotropic_backbone(2, n_levels=4, base_width=4), PRESETS['{preset}'].genome(4))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == key_of(PRESETS[preset].genome(4))


def test_no_published_designs_share_a_key_but_those_that_differ_in_the_backbone() -> None:
    by_key: dict[str, set[str]] = {}
    for name, preset in PRESETS.items():
        by_key.setdefault(key_of(preset.genome(4)), set()).add(name)
    assert [names for names in by_key.values() if len(names) > 1] == [{"u-net", "nnu-net", "nnu-net-resenc"}]
