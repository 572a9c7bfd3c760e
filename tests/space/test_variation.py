"""Mutations and crossover: always inside the space, always another design, always buildable."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetx_space.canonical import canonical
from unetx_space.design_space import SPACES, DesignSpace, attention_genes, design_space, n_designs, narrowed
from unetx_space.genome import Attention, DecoderNode, Genome, StageRef, decoder
from unetx_space.presets import PRESETS
from unetx_space.validity import genome_faults
from unetx_space.variation import MUTATIONS, crossover, mutate

seeds = st.integers(0, 100_000)
names_of_spaces = st.sampled_from(list(SPACES))


def is_inside(genome: Genome, space: DesignSpace) -> bool:
    return canonical(space.from_params(space.to_params(genome))) == canonical(genome)


def skips(genome: Genome) -> set[tuple[StageRef, StageRef]]:
    return {(node.ref, source) for node in genome.nodes for source in node.sources}


def operators(node: DecoderNode) -> tuple[str, ...]:
    return str(node.attention), node.upsampler, node.fusion, node.alignment


@given(names_of_spaces, st.integers(2, 6), seeds)
def test_any_chain_of_variations_stays_valid_and_inside(name: str, n_levels: int, seed: int) -> None:
    rng, space = random.Random(seed), design_space(name, n_levels)
    mother, father = space.sample(rng), space.sample(rng)
    for _ in range(8):
        child = mutate(crossover(mother, father, space, rng), space, rng)
        assert not genome_faults(child, n_levels)
        assert is_inside(child, space)
        mother, father = father, child


@given(names_of_spaces, seeds)
def test_a_mutation_gives_another_design_and_leaves_its_parent_alone(name: str, seed: int) -> None:
    rng, space = random.Random(seed), design_space(name, 5)
    genome = space.sample(rng)
    before = genome.to_json()
    assert canonical(mutate(genome, space, rng)) != canonical(genome)
    assert all(m(genome, space, random.Random(1)) == m(genome, space, random.Random(1)) for m in MUTATIONS.values())
    assert genome.to_json() == before


def can_change(mutation: str, genome: Genome) -> bool:
    """Fusion needs a node with a source, alignment one with a finer source."""
    finer = [any(source.level < node.ref.level for source in node.sources) for node in genome.nodes]
    return {
        "change-fusion": any(node.sources for node in genome.nodes),
        "change-alignment": any(finer),
    }.get(mutation, True)


@given(st.sampled_from(["default", "full-scale"]), seeds)
def test_each_mutation_does_what_it_is_named_after(name: str, seed: int) -> None:
    rng, space = random.Random(seed), design_space(name, 5)
    genome = space.sample(rng)
    children = {mutation: apply(genome, space, rng) for mutation, apply in MUTATIONS.items()}
    gained = {mutation: skips(child) - skips(genome) for mutation, child in children.items()}
    lost = {mutation: skips(genome) - skips(child) for mutation, child in children.items()}
    assert {mutation: (len(gained[mutation]), len(lost[mutation])) for mutation in MUTATIONS} == {
        "add-skip": (1, 0),
        "drop-skip": (0, 1),
        "move-skip": (1, 1),
        "change-attention": (0, 0),
        "change-upsampler": (0, 0),
        "change-fusion": (0, 0),
        "change-alignment": (0, 0),
    }
    assert {node for node, _ in gained["move-skip"]} == {node for node, _ in lost["move-skip"]}
    for position, mutation in enumerate(("change-attention", "change-upsampler", "change-fusion", "change-alignment")):
        pairs = [(operators(node), operators(children[mutation][node.ref])) for node in genome.nodes]
        changed = [[i for i in range(4) if old[i] != new[i]] for old, new in pairs if old != new]
        assert changed == ([[position]] if can_change(mutation, genome) else [])


def test_mutations_without_anything_to_change_return_the_genome() -> None:
    space = narrowed(DesignSpace(4), sources="same", attention="none", fusion="concat")
    bare, rng = PRESETS["no-skip"].genome(4), random.Random(0)
    for mutation in ("drop-skip", "move-skip", "change-attention", "change-fusion", "change-alignment"):
        assert canonical(MUTATIONS[mutation](bare, space, rng)) == canonical(bare)
    full = PRESETS["u-net"].genome(4)
    assert MUTATIONS["add-skip"](full, space, rng) == full


def test_attention_is_never_changed_to_another_spelling_of_none() -> None:
    space = narrowed(DesignSpace(2), attention="none,se@source,attention-gate,se@block")
    bare = PRESETS["no-skip"].genome(2)
    seen = {MUTATIONS["change-attention"](bare, space, random.Random(seed)) for seed in range(20)}
    assert {genome[decoder(0)].attention for genome in seen} == {Attention("se", "block")}


def test_a_space_of_one_design_cannot_be_varied_and_says_so() -> None:
    space = DesignSpace(
        2, attention_genes(("none",)), ("linear",), ("concat",), ("max",), sources=("finer",)
    )  # nothing is finer than D0, the only node
    assert n_designs(space) == 1
    only = space.sample(random.Random(0))
    with pytest.raises(ValueError, match="one design only"):
        mutate(only, space, random.Random(0))
    assert crossover(only, only, space, random.Random(0)) == only


def test_a_node_that_comes_to_life_reads_nothing_itself() -> None:
    space = design_space("nested", 4)
    unet = PRESETS["u-net"].genome(4)
    for seed in range(40):
        child = MUTATIONS["add-skip"](unet, space, random.Random(seed))
        born = {node.ref for node in child.nodes} - {decoder(2, 1), decoder(1, 2), decoder(0, 3)}
        assert all(not child[ref].sources for ref in born)
        assert len(skips(child)) == 4
    deeper = {len(MUTATIONS["add-skip"](unet, space, random.Random(seed)).nodes) for seed in range(40)}
    # D0.1 comes alone, D0.2 with D1.1 below it, D1.1 alone: every node that may come to life does at some time.
    assert deeper == {4, 5}


@given(names_of_spaces, seeds)
def test_a_child_has_every_node_from_one_of_its_parents(name: str, seed: int) -> None:
    rng, space = random.Random(seed), design_space(name, 4)
    a, b = space.sample(rng), space.sample(rng)
    child = crossover(a, b, space, rng)
    for node in child.nodes:
        givers = [parent[node.ref] for parent in (a, b) if node.ref in parent]
        assert node in givers


def test_crossover_takes_from_both_parents_and_a_genome_with_itself_gives_itself() -> None:
    space = DesignSpace(5)
    a, b = space.sample(random.Random(1)), space.sample(random.Random(2))
    children = [crossover(a, b, space, random.Random(seed)) for seed in range(30)]
    assert any(any(node in a.nodes for node in c.nodes) and any(node in b.nodes for node in c.nodes) for c in children)
    assert all(crossover(a, a, space, random.Random(seed)) == a for seed in range(5))


def test_a_genome_outside_the_space_is_refused() -> None:
    with pytest.raises(ValueError, match="this space has the nodes D3, D2, D1, D0"):
        mutate(PRESETS["unet++"].genome(5), DesignSpace(5), random.Random(0))
