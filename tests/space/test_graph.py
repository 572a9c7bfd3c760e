"""Genomes as graphs: labels and isomorphism."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import combinations

import networkx as nx
from hypothesis import given
from hypothesis import strategies as st
from nested_genomes import free_nested, is_isomorphic, renamed, shuffled_columns

from unetx_space import PRESETS, SPACES, Attention, Genome, canonical, design_space, encoder
from unetx_space.graph import to_graph

seeds = st.integers(0, 100_000)


def test_the_graph_of_a_u_net_by_hand() -> None:
    graph = to_graph(PRESETS["u-net"].genome(3))
    assert dict(graph.nodes(data="level")) == {"E0": 0, "E1": 1, "E2": 2, "D1": 1, "D0": 0}
    assert graph.nodes["D1"]["label"] == "D1, attention none, upsampler transposed, fusion concat"
    assert set(graph.edges(data="kind")) == {
        ("E0", "E1", "encoder"),
        ("E1", "E2", "encoder"),
        ("E2", "D1", "coarser"),
        ("E1", "D1", "source"),
        ("D1", "D0", "coarser"),
        ("E0", "D0", "source"),
    }


def test_dead_nodes_are_not_in_the_graph() -> None:
    unet_plus_plus = PRESETS["unet++"].genome(3)
    output = unet_plus_plus.output
    without = Genome(tuple(n if n != output else replace(n, sources=(encoder(0),)) for n in unet_plus_plus.nodes))
    assert "D0.1" in to_graph(unet_plus_plus)
    assert "D0.1" not in to_graph(without)


def test_alignment_and_fusion_are_part_of_a_label_only_where_they_count() -> None:
    dense = to_graph(PRESETS["dense"].genome(4))
    assert "alignment" in dense.nodes["D2"]["label"]
    assert "alignment" not in dense.nodes["D0"]["label"]
    assert "fusion" not in to_graph(PRESETS["no-skip"].genome(4)).nodes["D1"]["label"]


@given(st.sampled_from(list(SPACES)), seeds)
def test_every_genome_is_an_acyclic_graph_whose_stages_all_reach_the_output(name: str, seed: int) -> None:
    genome = design_space(name, 4).sample(random.Random(seed))
    graph = to_graph(genome)
    assert nx.is_directed_acyclic_graph(graph)
    assert {*nx.ancestors(graph, str(genome.output.ref)), str(genome.output.ref)} == set(graph)


# Isomorphism


@given(st.integers(3, 4), seeds)
def test_twins_by_columns_are_isomorphic(n_levels: int, seed: int) -> None:
    rng = random.Random(seed)
    genome = free_nested(rng, n_levels)
    twin = renamed(genome, shuffled_columns(genome, rng))
    assert is_isomorphic(genome, twin)


def test_genomes_are_isomorphic_exactly_when_their_canonical_forms_are_equal() -> None:
    rng = random.Random(0)
    drawn = [free_nested(rng, 3, attentions=(Attention(),)) for _ in range(1500)]  # so small that many coincide
    by_form: dict[Genome, list[Genome]] = {}
    for genome in drawn:
        by_form.setdefault(canonical(genome), []).append(genome)
    twins = [pair for group in by_form.values() for pair in combinations(group[:4], 2)]
    assert len(twins) > 100
    assert all(is_isomorphic(a, b) for a, b in twins)
    firsts = [group[0] for group in by_form.values()]
    assert not any(is_isomorphic(a, b) for a, b in rng.sample(list(combinations(firsts, 2)), 500))


def test_isomorphism_sees_labels_kinds_and_directions() -> None:
    unet = PRESETS["u-net"].genome(4)
    for change in (
        {"upsampler": "linear"},
        {"attention": Attention("se", "source")},
        {"fusion": "sum"},
        {"sources": (encoder(1), encoder(3))},
    ):
        nodes = (replace(node, **change) if node.ref.level == 1 else node for node in unet.nodes)
        other = Genome(tuple(nodes))
        assert not is_isomorphic(unet, other)
