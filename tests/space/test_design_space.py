"""The default space: its genes, its count, Optuna parameters both ways."""

import itertools
import random

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unetx_space.canonical import canonical
from unetx_space.design_space import DesignSpace, attention_genes
from unetx_space.genome import Attention, DecoderNode, Genome, decoder, encoder
from unetx_space.presets import PRESETS


@settings(derandomize=True, deadline=None)
@given(st.integers(2, 6), st.integers(0, 10_000))
def test_parameters_and_genomes_translate_both_ways(n_levels: int, seed: int) -> None:
    space = DesignSpace(n_levels)
    genome = space.sample(random.Random(seed))
    params = space.to_params(genome)
    assert list(params) == list(space.genes)
    assert space.from_params(params) == genome


def test_an_optuna_trial_is_asked_every_gene() -> None:
    space = DesignSpace(4)
    trial = optuna.trial.FixedTrial(dict(space.to_params(PRESETS["u-net"].genome(4))))
    assert space.suggest(trial) == PRESETS["u-net"].genome(4)
    assert trial.params.keys() == space.genes.keys()


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_the_space_holds_the_presets(name: str) -> None:
    space = DesignSpace(5)
    genome = canonical(PRESETS[name].genome(5))
    assert space.from_params(space.to_params(genome)) == genome


def test_the_count_equals_an_enumeration() -> None:
    space = DesignSpace(
        3,
        attentions=attention_genes(("none", "se")),
        upsamplers=("linear", "transposed"),
        fusions=("concat", "sum"),
        alignments=("max", "average"),
    )
    names = list(space.genes)
    designs = {
        canonical(space.from_params(dict(zip(names, values, strict=True))))
        for values in itertools.product(*space.genes.values())
    }
    assert space.size() == len(designs)


def test_the_default_space_of_five_levels_has_a_known_size() -> None:
    # One node by hand, D3: 16 source sets, 13 attentions (9 with effect when there is no source), 4 upsamplers; 2
    # fusions with sources, 2 alignments with finer ones: 4 * (9 + 1 * 26 + 14 * 52) = 3052.
    # D2 (32 sets, 4 with finer... E0 or E1 in 24): 4 * (9 + 7 * 26 + 24 * 52); D1: 4 * (9 + 15 * 26 + 16 * 52);
    # D0 (nothing is finer): 4 * (9 + 31 * 26).
    by_hand = 3052 * 4 * (9 + 182 + 1248) * 4 * (9 + 390 + 832) * 4 * (9 + 806)
    assert DesignSpace(5).size() == by_hand


def test_sampling_follows_the_generator_it_is_handed() -> None:
    space = DesignSpace(5)
    assert space.sample(random.Random(3)) == space.sample(random.Random(3))
    assert len({space.sample(random.Random(seed)) for seed in range(50)}) == 50


def test_a_genome_outside_the_space_is_refused_by_gene() -> None:
    space = DesignSpace(3, attentions=attention_genes(("none",)))
    gated = Genome(
        (
            DecoderNode(decoder(1), encoder(2), attention=Attention("se", "block")),
            DecoderNode(decoder(0), decoder(1)),
        )
    )
    with pytest.raises(ValueError, match=r"D1\.attention"):
        space.to_params(gated)
    with pytest.raises(ValueError, match="D1, D0"):
        space.to_params(PRESETS["u-net"].genome(4))
    full_scale = Genome(
        (
            DecoderNode(decoder(2), encoder(3)),
            DecoderNode(decoder(1), decoder(2)),
            DecoderNode(decoder(0), decoder(1), (decoder(2),)),
        )
    )
    with pytest.raises(ValueError, match="D0: inputs outside"):
        DesignSpace(4).to_params(full_scale)


def test_attention_genes_pair_every_type_with_every_placement() -> None:
    assert [str(gene) for gene in attention_genes(("none", "se"))] == ["none", "se@source", "se@fused", "se@block"]
