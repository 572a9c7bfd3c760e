"""Genomes: spelling, JSON both ways, the output node."""

import pickle
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetx_space.backbone import Backbone, isotropic_backbone
from unetx_space.design_space import DesignSpace
from unetx_space.genome import Attention, DecoderNode, Genome, StageRef, decoder, encoder


@pytest.mark.parametrize("text", ["E0", "E12", "D0", "D3", "D0.1", "D2.14"])
def test_a_stage_reads_as_it_is_written(text: str) -> None:
    assert str(StageRef.parse(text)) == text


@pytest.mark.parametrize("text", ["", "E", "e1", "F1", "E01", "D1.0", "E1.2", "D1.", "D-1", "D1.2.3", " D1", "D999"])
def test_other_spellings_of_a_stage_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a stage"):
        StageRef.parse(text)


@pytest.mark.parametrize("text", ["none", "se@source", "cbam@fused", "eca@block"])
def test_an_attention_gene_reads_as_it_is_written(text: str) -> None:
    assert str(Attention.parse(text)) == text


@pytest.mark.parametrize("text", ["se", "none@source", "se@", "se@nowhere", "@fused", "se@source@block"])
def test_attention_without_a_valid_placement_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"none|expected"):
        Attention.parse(text)


@given(st.integers(2, 6), st.integers(0, 10_000))
def test_genomes_survive_json_and_pickle(n_levels: int, seed: int) -> None:
    genome = DesignSpace(n_levels).sample(random.Random(seed))
    assert Genome.from_json(genome.to_json()) == genome
    assert pickle.loads(pickle.dumps(genome)) == genome


def test_the_output_is_the_last_column_of_the_finest_level() -> None:
    nodes = [DecoderNode(decoder(0, column), encoder(1)) for column in (2, 3, 1)]
    assert Genome(tuple(nodes)).output.ref == decoder(0, 3)


def test_a_genome_without_a_finest_node_has_no_output() -> None:
    with pytest.raises(LookupError):
        _ = Genome((DecoderNode(decoder(1), encoder(2)),)).output


def test_sizes_round_up_under_strided_convolution_and_down_under_pooling() -> None:
    strided = isotropic_backbone(2, n_levels=4)
    assert strided.sizes((33, 47)) == ((33, 47), (17, 24), (9, 12), (5, 6))
    pooled = Backbone(**{**{f: getattr(strided, f) for f in strided.__slots__}, "downsampling": "max-pool"})
    assert pooled.sizes((33, 47)) == ((33, 47), (16, 23), (8, 11), (4, 5))


def test_factors_multiply_the_strides_between_two_levels() -> None:
    backbone = Backbone(3, 1, 2, (8, 16, 32), ((1, 1, 1), (1, 2, 2), (2, 2, 2)))
    assert backbone.factor(0, 2) == (2, 4, 4)
    assert backbone.factor(1, 2) == (2, 2, 2)
    assert backbone.factor(1, 1) == (1, 1, 1)


def test_widths_double_up_to_the_published_limits() -> None:
    assert isotropic_backbone(2, n_levels=7).widths == (32, 64, 128, 256, 512, 512, 512)
    assert isotropic_backbone(3, n_levels=6).widths == (32, 64, 128, 256, 320, 320)
