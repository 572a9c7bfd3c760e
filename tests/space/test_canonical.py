"""One key per function: twins agree, look-alikes differ."""

import random
import subprocess
import sys
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from unetx_space.architecture import Architecture
from unetx_space.backbone import isotropic_backbone
from unetx_space.canonical import canonical, key
from unetx_space.design_space import DesignSpace
from unetx_space.genome import NO_ATTENTION, Attention, DecoderNode, Genome, decoder, encoder
from unetx_space.presets import PRESETS

BACKBONE = isotropic_backbone(2, n_levels=4, base_width=8)
SPACE = DesignSpace(4)
seeds = st.integers(0, 100_000)


def key_of(genome: Genome) -> str:
    return key(Architecture(BACKBONE, genome))


def change(genome: Genome, level: int, **genes: object) -> Genome:
    """The genome with genes of one node changed."""
    nodes = (replace(node, **genes) if node.ref.level == level else node for node in genome.nodes)  # type: ignore[arg-type]
    return Genome(tuple(nodes))


@settings(derandomize=True, deadline=None)
@given(seeds)
def test_canonical_form_is_reached_in_one_step(seed: int) -> None:
    once = canonical(SPACE.sample(random.Random(seed)))
    assert canonical(once) == once


@settings(derandomize=True, deadline=None)
@given(seeds)
def test_the_order_of_nodes_and_sources_does_not_move_the_key(seed: int) -> None:
    rng = random.Random(seed)
    genome = SPACE.sample(rng)
    nodes = [replace(node, sources=tuple(rng.sample(node.sources, len(node.sources)))) for node in genome.nodes]
    rng.shuffle(nodes)
    assert key_of(Genome(tuple(nodes))) == key_of(genome)


@settings(derandomize=True, deadline=None)
@given(seeds, st.integers(0, 2))
def test_genes_without_effect_do_not_move_the_key(seed: int, level: int) -> None:
    genome = SPACE.sample(random.Random(seed))
    bare = change(genome, level, sources=(), attention=NO_ATTENTION)
    for genes in ({"fusion": "sum"}, {"alignment": "average"}, {"attention": Attention("se", "source")}):
        assert key_of(change(bare, level, **genes)) == key_of(bare)
    own_level = change(genome, level, sources=(encoder(level),))
    assert key_of(change(own_level, level, alignment="max")) == key_of(change(own_level, level, alignment="average"))


@settings(derandomize=True, deadline=None)
@given(seeds, st.integers(0, 2))
def test_genes_with_effect_move_the_key(seed: int, level: int) -> None:
    genome = change(SPACE.sample(random.Random(seed)), level, sources=(encoder(level),), attention=NO_ATTENTION)
    others = [
        change(genome, level, sources=()),
        change(genome, level, attention=Attention("se", "source")),
        change(genome, level, attention=Attention("se", "fused")),
        change(genome, level, attention=Attention("se", "block")),
        change(genome, level, fusion="sum" if genome[decoder(level)].fusion == "concat" else "concat"),
        change(genome, level, upsampler="linear" if genome[decoder(level)].upsampler != "linear" else "deformable"),
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
    as_columns = Genome(
        tuple(
            replace(
                node,
                ref=decoder(node.ref.level, 2),
                coarser=node.coarser if node.coarser.kind == "E" else decoder(node.coarser.level, 2),
            )
            for node in plain.nodes
        )
    )
    assert key_of(as_columns) == key_of(plain)
    dead = DecoderNode(decoder(2, 1), encoder(3), (encoder(2),))
    assert key_of(Genome((dead, *as_columns.nodes))) == key_of(plain)


def test_the_backbone_is_part_of_the_key() -> None:
    unet = PRESETS["u-net"].genome(4)
    assert key(Architecture(isotropic_backbone(3, n_levels=4), unet)) != key_of(unet)


def test_scores_and_provenance_are_not_part_of_the_key() -> None:
    unet = Architecture(BACKBONE, PRESETS["u-net"].genome(4))
    assert key(replace(unet, score={"dice": 1.0}, provenance={"study": "x"})) == key(unet)


def test_keys_are_the_same_in_another_process_and_for_ever() -> None:
    code = (
        "from unetx_space import Architecture; from unetx_space.backbone import isotropic_backbone;"
        "from unetx_space.canonical import key; from unetx_space.presets import PRESETS;"
        "print(key(Architecture(isotropic_backbone(2, n_levels=4, base_width=8), PRESETS['u-net'].genome(4))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == key_of(PRESETS["u-net"].genome(4))
