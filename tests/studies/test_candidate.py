"""Where a design came from: data inside, the same words as ever outside."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from unetx_studies.candidate import Origin, OriginKind


@pytest.mark.parametrize(
    ("origin", "words", "is_given"),
    [
        (Origin(OriginKind.PRESET, "u-net"), "preset u-net", True),
        (Origin(OriginKind.PRESET, "no-skip", is_adapted=True), "preset no-skip, adapted", True),
        (Origin(OriginKind.REPLICATE, "u-net"), "replicate of preset u-net", True),
        (Origin(OriginKind.REPLICATE, "u-net", is_adapted=True), "replicate of preset u-net, adapted", True),
        (Origin(OriginKind.REPLICATE), "replicate", False),
        (Origin(OriginKind.REPLICATE, trial=7), "replicate of trial 7", False),
        (Origin(OriginKind.SAMPLER), "sampler", False),
        (Origin(OriginKind.RANDOM), "random", False),
    ],
)
def test_an_origin_has_its_words_and_comes_back_from_json(origin: Origin, words: str, is_given: bool) -> None:
    assert (str(origin), origin.is_given) == (words, is_given)
    assert Origin.from_json(json.loads(json.dumps(asdict(origin)))) == origin
