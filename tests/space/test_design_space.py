"""The three spaces: their genes, their counts, Optuna parameters both ways, narrowing and printing."""

from __future__ import annotations

import itertools
import random

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetx_space.canonical import canonical
from unetx_space.design_space import (
    SPACES,
    DesignSpace,
    attention_genes,
    design_space,
    n_designs,
    narrowed,
    space_facts,
    space_text,
)
from unetx_space.errors import RequestError
from unetx_space.genome import Attention, DecoderNode, Genome, decoder, encoder
from unetx_space.operators.catalogue import ALIGNMENTS, ATTENTIONS, FUSIONS, UPSAMPLERS, by_default
from unetx_space.presets import PRESETS
from unetx_space.validity import genome_faults

names_of_spaces = st.sampled_from(list(SPACES))


def everything(name: str, n_levels: int) -> DesignSpace:
    return narrowed(design_space(name, n_levels), attention="all", upsampler="all", fusion="all", alignment="all")


def tiny(name: str, n_levels: int, **words: str) -> DesignSpace:
    few = {"attention": "none", "upsampler": "linear", "fusion": "concat", "alignment": "max", **words}
    return narrowed(design_space(name, n_levels), **few)


# Genes


def test_every_space_names_its_genes_after_where_they_act() -> None:
    assert [name for name in DesignSpace(3).genes if name.startswith("D1.")] == [
        *("D1.E0", "D1.E1", "D1.attention", "D1.upsampler", "D1.fusion", "D1.alignment")
    ]
    assert {"D0.D2", "D0.E3"} < design_space("full-scale", 4).genes.keys()
    assert {"D0.3.E0", "D0.3.D0.1", "D0.3.D0.2", "D0.3.attention"} < design_space("nested", 4).genes.keys()


@pytest.mark.parametrize("name", list(SPACES))
def test_no_gene_is_there_that_could_never_have_an_effect(name: str) -> None:
    genes = design_space(name, 4).genes
    # Nothing is finer than level 0, and the columns of a nested decoder read their own level only.
    assert {gene for gene in genes if gene.endswith("alignment")} == (
        set() if name == "nested" else {"D2.alignment", "D1.alignment"}
    )


@pytest.mark.parametrize(("name", "n_skips"), [("default", 19), ("full-scale", 22), ("nested", 20)])
def test_the_number_of_possible_skips_on_five_levels_is_known(name: str, n_skips: int) -> None:
    # default: five encoder stages for D0..D2, four for D3, whose coarser input is E4: 4 + 3 * 5 = 19.
    # full-scale: D2 and D3 for D0, D3 for D1, beside the coarser inputs D1 and D2: 3 more.
    # nested: E for each of the ten nodes, and 6 + 3 + 1 pairs of columns: 20.
    genes = design_space(name, 5).genes
    assert sum(choices == (False, True) for choices in genes.values()) == n_skips


@given(names_of_spaces, st.integers(2, 6), st.integers(0, 10_000))
def test_sampled_genomes_have_no_faults_and_translate_both_ways(name: str, n_levels: int, seed: int) -> None:
    space = everything(name, n_levels)
    genome = space.sample(random.Random(seed))
    assert not genome_faults(genome, n_levels)
    params = space.to_params(genome)
    assert list(params) == list(space.genes)
    assert space.from_params(params) == genome
    form = canonical(genome)
    assert canonical(space.from_params(space.to_params(form))) == form


def test_an_optuna_trial_is_asked_every_gene() -> None:
    space = DesignSpace(4)
    trial = optuna.trial.FixedTrial(dict(space.to_params(PRESETS["u-net"].genome(4))))
    assert space.suggest(trial) == PRESETS["u-net"].genome(4)
    assert trial.params.keys() == space.genes.keys()


def test_sampling_follows_the_generator_it_is_handed() -> None:
    space = DesignSpace(5)
    assert space.sample(random.Random(3)) == space.sample(random.Random(3))
    assert len({space.sample(random.Random(seed)) for seed in range(50)}) == 50


def test_nodes_that_nothing_reads_are_left_out_of_a_nested_genome() -> None:
    space = tiny("nested", 4)
    params = dict.fromkeys(space.genes, False) | {
        name: choices[0] for name, choices in space.genes.items() if choices != (False, True)
    }
    bare = space.from_params(params)
    assert {str(node.ref) for node in bare.nodes} == {"D0.3", "D1.2", "D2.1"}
    wider = space.from_params(params | {"D0.3.D0.2": True})
    assert {str(node.ref) for node in wider.nodes} == {"D0.3", "D1.2", "D2.1", "D0.2", "D1.1"}


# What lies inside


LACKING = {
    "default": {"unet++", "unet-3+", "attention-u-net-grid", "fpn"},
    "full-scale": {"unet++", "attention-u-net-grid", "fpn"},
    "nested": {"unet-3+", "attention-u-net-grid", "fpn", "dense", "multi-path"},
}


@pytest.mark.parametrize("name", list(SPACES))
def test_the_published_designs_lie_in_the_spaces_but_for_those_listed(name: str) -> None:
    space, lacking = design_space(name, 5), set()
    for preset in PRESETS.values():
        form = canonical(preset.genome(5))
        try:
            assert canonical(space.from_params(space.to_params(form))) == form
        except ValueError:
            lacking.add(preset.name)
    assert lacking == LACKING[name]


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_with_every_operator_each_published_design_lies_in_some_space(preset: str) -> None:
    genome, held = PRESETS[preset].genome(5), []
    for name in SPACES:
        space = everything(name, 5)
        try:
            held.append(canonical(space.from_params(space.to_params(genome))) == canonical(genome))
        except ValueError:
            continue
    assert any(held)
    assert all(held)


def test_every_operator_can_be_asked_for() -> None:
    space = everything("default", 4)
    assert {attention.type for attention in space.attentions} == set(ATTENTIONS)
    assert (space.upsamplers, space.fusions, space.alignments) == (tuple(UPSAMPLERS), tuple(FUSIONS), tuple(ALIGNMENTS))


def test_a_genome_outside_the_space_is_refused_by_gene() -> None:
    space = DesignSpace(3, attentions=attention_genes(("none",)))
    gated = Genome(
        (
            DecoderNode(decoder(1), encoder(2), attention=Attention("se", "block")),
            DecoderNode(decoder(0), decoder(1)),
        )
    )
    with pytest.raises(ValueError, match=r"D1\.attention: 'se@block'"):
        space.to_params(gated)
    with pytest.raises(ValueError, match="the nodes D1, D0, got D2, D1, D0"):
        space.to_params(PRESETS["u-net"].genome(4))
    with pytest.raises(ValueError, match="D2: its coarser input is D3"):
        DesignSpace(5).to_params(PRESETS["u-net"].genome(4))
    with pytest.raises(ValueError, match=r"the nodes D3\.1"):
        design_space("nested", 5).to_params(PRESETS["u-net"].genome(4))
    full_scale = Genome(
        (
            DecoderNode(decoder(2), encoder(3)),
            DecoderNode(decoder(1), decoder(2)),
            DecoderNode(decoder(0), decoder(1), (decoder(2),)),
        )
    )
    with pytest.raises(ValueError, match=r"D0\.D2: .* may read E0, E1, E2, E3"):
        DesignSpace(4).to_params(full_scale)
    assert design_space("full-scale", 4).to_params(full_scale)["D0.D2"] is True


def test_a_gene_without_effect_keeps_no_design_out_of_a_narrowed_space() -> None:
    space = narrowed(DesignSpace(3), attention="se@source", fusion="sum", alignment="average", upsampler="transposed")
    no_skip = PRESETS["no-skip"].genome(3)  # spelt with no attention, concatenation and maximum
    assert canonical(space.from_params(space.to_params(no_skip))) == canonical(no_skip)
    with pytest.raises(ValueError, match=r"D1\.attention"):
        space.to_params(PRESETS["u-net"].genome(3))


# Counts


def forms(space: DesignSpace) -> set[Genome]:
    """All distinct designs, by trying every value of every gene."""
    names = list(space.genes)
    return {
        canonical(space.from_params(dict(zip(names, values, strict=True))))
        for values in itertools.product(*space.genes.values())
    }


@pytest.mark.parametrize(
    "space",
    [
        narrowed(DesignSpace(3), attention="none,se", upsampler="linear", fusion="concat,sum", alignment="max,average"),
        narrowed(DesignSpace(3), attention="se@source,se@block", upsampler="linear,nearest", fusion="concat,sum"),
        tiny("default", 4, alignment="all"),
        tiny("default", 4, sources="same,finer", fusion="concat,sum"),
        tiny("full-scale", 4),
        tiny("full-scale", 3, attention="none,attention-gate", upsampler="linear,carafe", fusion="concat,mean"),
        tiny("nested", 3, attention="none,se@source", fusion="concat,gated"),
        tiny("nested", 3, attention="attention-gate,se@block", upsampler="linear,transposed"),
        tiny("nested", 4),
    ],
    ids=lambda space: f"{space.name}-{space.n_levels}-{len(space.genes)}",
)
def test_the_count_equals_an_enumeration(space: DesignSpace) -> None:
    assert n_designs(space) == len(forms(space))


def test_the_default_space_of_five_levels_has_a_known_size() -> None:
    # Attentions: none, three placements of se, cbam, eca and scse, and the gate: 14, of which 9 remain without sources.
    # 6 upsamplers; 3 fusions with sources, 2 alignments with finer ones: 14 * 3 = 42 and 42 * 2 = 84.
    # Sources but not finer ones: D3 may read E3: 1 set; D2 E2, E3, E4: 7; D1 15; D0 31. The empty set: 1 each.
    # With finer ones: the rest, 16 - 2 = 14 for D3, 32 - 8 = 24 for D2, 32 - 16 = 16 for D1, none for D0.
    by_hand = (
        (6 * (9 + 1 * 42 + 14 * 84))
        * (6 * (9 + 7 * 42 + 24 * 84))
        * (6 * (9 + 15 * 42 + 16 * 84))
        * (6 * (9 + 31 * 42))
    )
    assert n_designs(DesignSpace(5)) == by_hand


def test_the_nested_space_of_three_levels_has_a_known_number_of_wirings() -> None:
    # One operator each. X^{0,2} and X^{1,1} always live, each with or without its encoder stage: 4. X^{0,1} either is
    # not read (1 way) or is, with or without E0 (2 ways): 4 * 3.
    assert n_designs(tiny("nested", 3)) == 12


@pytest.mark.parametrize("name", list(SPACES))
def test_the_deepest_backbone_is_counted_too(name: str) -> None:
    sizes = [n_designs(design_space(name, n_levels)) for n_levels in range(2, 10)]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == len(sizes)


# Narrowing


def test_a_narrowed_space_has_the_choices_asked_for_and_keeps_the_others() -> None:
    space = narrowed(DesignSpace(4), attention="se@block, none", upsampler="transposed,linear,linear")
    assert space.genes["D2.attention"] == ("none", "se@block")
    assert space.genes["D2.upsampler"] == ("linear", "transposed")
    assert space.genes["D2.fusion"] == by_default(FUSIONS)
    assert narrowed(DesignSpace(4), upsampler="linear,transposed") == narrowed(
        DesignSpace(4), upsampler=["transposed", "linear"]
    )


def test_a_type_without_a_placement_means_all_it_can_have() -> None:
    space = narrowed(DesignSpace(4), attention="attention-gate,se")
    assert list(map(str, space.attentions)) == ["se@source", "se@fused", "se@block", "attention-gate@source"]


def test_sources_can_be_narrowed_to_levels_as_seen_from_the_node() -> None:
    space = narrowed(design_space("full-scale", 4), sources="same")
    assert [name for name, choices in space.genes.items() if choices == (False, True)] == ["D2.E2", "D1.E1", "D0.E0"]
    finer = narrowed(DesignSpace(4), sources="finer")
    assert "D0.fusion" not in finer.genes  # D0 can read nothing
    assert finer.from_params({name: choices[-1] for name, choices in finer.genes.items()})[decoder(0)].sources == ()
    assert n_designs(finer) > 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"attention": "none,ecca"}, "unknown attention 'ecca'; did you mean 'eca'"),
        ({"attention": "se@fusion"}, "unknown placement of attention 'se' 'fusion'; did you mean 'fused'"),
        ({"attention": "attention-gate@block"}, "placement of attention 'attention-gate' 'block'; known: source"),
        ({"attention": "none@block"}, "'none' has no placement"),
        ({"upsampler": "trasposed"}, "unknown upsampler 'trasposed'; did you mean 'transposed'"),
        ({"fusion": "conat"}, "did you mean 'concat'"),
        ({"alignment": "avg"}, "unknown alignment 'avg'"),
        ({"sources": "deeper"}, "unknown sources 'deeper'"),
        ({"upsampler": ""}, "upsampler: at least one name is needed"),
        ({"attention": " , "}, "attention: at least one name is needed"),
        ({"fusion": []}, "fusion: at least one name is needed"),
    ],
)
def test_words_that_are_not_known_are_refused_with_the_nearest_one(words: dict[str, str], message: str) -> None:
    with pytest.raises(RequestError) as refused:
        narrowed(DesignSpace(4), **words)
    assert message in str(refused.value)


def test_sources_that_leave_nothing_to_read_are_refused() -> None:
    with pytest.raises(RequestError, match="sources: with finer alone no node of the space 'nested' may read anything"):
        narrowed(design_space("nested", 4), sources="finer")


def test_an_unknown_space_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(RequestError, match="unknown space 'nestd'; did you mean 'nested'"):
        design_space("nestd", 4)


# In words


@pytest.mark.parametrize("name", list(SPACES))
def test_the_description_names_every_gene_choice_and_the_count(name: str) -> None:
    space = design_space(name, 4)
    text = space_text(space)
    assert max(map(len, text.splitlines())) <= 100
    words = set(text.replace(",", " ").split())
    assert set(space.genes) <= words
    assert {*space.upsamplers, *space.fusions, "se@source|fused|block", "attention-gate@source"} <= words
    assert f"{n_designs(space):,}" in text
    assert ("alignment" in words) == (name != "nested")
    facts = space_facts(space)
    assert facts["n_designs"] == n_designs(space)
    assert facts["genes"]["D2.upsampler" if name != "nested" else "D2.1.upsampler"] == list(space.upsamplers)


def test_attention_genes_pair_every_type_with_its_placements() -> None:
    genes = attention_genes(("none", "se", "attention-gate"))
    assert [str(gene) for gene in genes] == ["none", "se@source", "se@fused", "se@block", "attention-gate@source"]
