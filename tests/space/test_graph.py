"""Genomes as graphs: labels, paths, isomorphism, Weisfeiler-Lehman features."""

from __future__ import annotations

import random
import subprocess
import sys
import warnings
from collections import Counter
from dataclasses import replace
from itertools import combinations

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nested_genomes import free_nested, renamed, rings, shuffled_columns

from unetx_space import PRESETS, SPACES, Attention, Genome, canonical, design_space, encoder
from unetx_space.graph import is_isomorphic, path_counts, paths, to_graph, wl_features

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


# Paths


def test_the_paths_of_a_u_net_by_hand() -> None:
    assert set(paths(PRESETS["u-net"].genome(3))) == {
        ("E0", "D0"),
        ("E0", "E1", "D1", "D0"),
        ("E0", "E1", "E2", "D1", "D0"),
    }
    assert list(paths(PRESETS["no-skip"].genome(3))) == [("E0", "E1", "E2", "D1", "D0")]


@pytest.mark.parametrize(("preset", "n_paths"), [("no-skip", 1), ("u-net", 5), ("u-net-no-top", 4)])
def test_the_number_of_paths_from_the_image_is_known(preset: str, n_paths: int) -> None:
    assert path_counts(PRESETS[preset].genome(5))[encoder(0)] == n_paths


@given(st.sampled_from(list(SPACES)), seeds)
def test_counting_paths_agrees_with_listing_them(name: str, seed: int) -> None:
    genome = design_space(name, 4).sample(random.Random(seed))
    listed = list(paths(genome))
    assert len(set(listed)) == len(listed) == path_counts(genome)[encoder(0)]


# Isomorphism


@given(st.integers(3, 4), seeds)
def test_twins_by_columns_are_isomorphic_with_equal_features(n_levels: int, seed: int) -> None:
    rng = random.Random(seed)
    genome = free_nested(rng, n_levels)
    twin = renamed(genome, shuffled_columns(genome, rng))
    assert is_isomorphic(genome, twin)
    assert wl_features(genome) == wl_features(twin)
    assert sorted(path_counts(genome).values()) == sorted(path_counts(twin).values())


def test_genomes_are_isomorphic_exactly_when_their_canonical_forms_are_equal() -> None:
    rng = random.Random(0)
    by_features: dict[frozenset[tuple[str, int]], list[Genome]] = {}
    for _ in range(1500):  # so small that many coincide
        genome = free_nested(rng, 3, attentions=(Attention(),))
        by_features.setdefault(frozenset(wl_features(genome).items()), []).append(genome)
    n_equal = n_different = 0
    for group in by_features.values():
        for a, b in combinations(group[:4], 2):
            assert is_isomorphic(a, b) == (canonical(a) == canonical(b))
            n_equal += canonical(a) == canonical(b)
    firsts = [group[0] for group in by_features.values()]
    for a, b in rng.sample(list(combinations(firsts, 2)), 500):
        assert not is_isomorphic(a, b)
        assert canonical(a) != canonical(b)
        n_different += 1
    assert n_equal > 100
    assert n_different == 500


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
        assert wl_features(unet) != wl_features(other)


# Weisfeiler-Lehman


@given(st.sampled_from(list(SPACES)), st.integers(2, 5), seeds)
def test_designs_that_differ_have_different_features(name: str, n_levels: int, seed: int) -> None:
    rng, space = random.Random(seed), design_space(name, n_levels)
    a, b = space.sample(rng), space.sample(rng)
    assert (wl_features(a) == wl_features(b)) == (canonical(a) == canonical(b))


def test_the_first_features_are_the_genes_in_words() -> None:
    features = wl_features(PRESETS["u-net"].genome(3), 0)
    assert features == {
        "D1 attention none": 1,
        "D1 upsampler transposed": 1,
        "D1 fusion concat": 1,
        "D1 coarser E2": 1,
        "D1 source E1": 1,
        "D0 attention none": 1,
        "D0 upsampler transposed": 1,
        "D0 fusion concat": 1,
        "D0 coarser D1": 1,
        "D0 source E0": 1,
        "E1 encoder E0": 1,
        "E2 encoder E1": 1,
    }
    assert wl_features(PRESETS["unet++"].genome(4), 0)["D0 source D0"] == 3


def reified(genome: Genome) -> nx.DiGraph[str]:
    """Each edge as a node of its own, so that networkx sees its kind and its direction."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    view = to_graph(genome)
    graph.add_nodes_from((name, {"label": label}) for name, label in view.nodes(data="label"))
    for source, target, kind in view.edges(data="kind"):
        graph.add_node(f"{source}>{target}", label=kind)
        graph.add_edges_from([(source, f"{source}>{target}"), (f"{source}>{target}", target)])
    return graph


def test_the_hashes_tell_stages_apart_as_networkx_does() -> None:
    genomes = [free_nested(random.Random(seed), 4) for seed in range(25)] + [rings((2, 4)), rings((6,))]
    for i in (1, 2, 3):
        ours, theirs = [], []
        for genome in genomes:
            features = wl_features(genome, i)
            ours.append(frozenset((name, n) for name, n in features.items() if name.startswith(f"{i}:")))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # on every directed graph: hashes changed in 3.5
                hashes = nx.weisfeiler_lehman_subgraph_hashes(reified(genome), node_attr="label", iterations=2 * i)
            theirs.append(frozenset(Counter(hashes[stage][-1] for stage in to_graph(genome)).items()))
        assert [sorted(s for _, s in a) for a in ours] == [sorted(s for _, s in a) for a in theirs]
        equal_ours = {(a, b) for a, b in combinations(range(len(genomes)), 2) if ours[a] == ours[b]}
        assert equal_ours == {(a, b) for a, b in combinations(range(len(genomes)), 2) if theirs[a] == theirs[b]}


def test_features_are_the_same_in_another_process() -> None:
    code = (
        "from unetx_space.graph import wl_features; from unetx_space.presets import PRESETS; import sys;"
        "print(sorted(wl_features(PRESETS['unet++'].genome(4)).items())); assert 'networkx' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(sorted(wl_features(PRESETS["unet++"].genome(4)).items()))
