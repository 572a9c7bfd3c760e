"""Architecture documents from strangers: loaded as valid, or refused with the path of the bad field."""

import copy
import json
import random
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from jsonschema import Draft202012Validator

from unetx_space import Architecture, load
from unetx_space.backbone import isotropic_backbone
from unetx_space.design_space import DesignSpace
from unetx_space.documents import MAX_BYTES, loads, schema
from unetx_space.errors import DocumentError, RequestError
from unetx_space.network import build
from unetx_space.presets import PRESETS


def document(n_levels: int = 3) -> dict[str, Any]:
    return Architecture(isotropic_backbone(2, n_levels=n_levels), PRESETS["u-net"].genome(n_levels)).to_json()


def refusal(data: object) -> DocumentError:
    with pytest.raises(DocumentError) as caught:
        loads(data if isinstance(data, (str, bytes)) else json.dumps(data))
    return caught.value


def test_documents_survive_saving_and_loading(tmp_path: Path) -> None:
    rng = random.Random(0)
    for dims in (2, 3):
        for n_levels in (2, 5):
            found = Architecture(
                isotropic_backbone(dims, n_levels=n_levels),
                DesignSpace(n_levels).sample(rng),
                score={"dice": 0.5},
                provenance={"study": "s"},
            )
            found.save(tmp_path / "a.json")
            again = load(tmp_path / "a.json")
            assert again == found
            assert (again.score, again.provenance) == (found.score, found.provenance)
            assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(("dims", "size"), [(2, (33, 47)), (3, (17, 20, 23))])
def test_a_loaded_architecture_builds_and_runs(dims: Literal[2, 3], size: tuple[int, ...], tmp_path: Path) -> None:
    backbone = isotropic_backbone(dims, in_channels=2, out_channels=3, n_levels=3, base_width=4)
    Architecture(backbone, DesignSpace(3).sample(random.Random(1))).save(tmp_path / "best.json")
    net = build(load(tmp_path / "best.json"))
    assert net(torch.zeros(1, 2, *size)).shape == (1, 3, *size)


def test_the_schema_is_a_valid_schema_and_accepts_what_we_write() -> None:
    Draft202012Validator.check_schema(schema())
    Draft202012Validator(schema()).validate(document())


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (("format",), "other", "format"),
        (("version",), 2, "version"),
        (("backbone", "dims"), 4, "backbone.dims"),
        (("backbone", "widths", 1), "wide", "backbone.widths[1]"),
        (("backbone", "widths", 1), 10**400, "backbone.widths[1]"),
        (("backbone", "widths", 1), 8.0, "backbone.widths[1]"),
        (("backbone", "dims"), 2.0, "backbone.dims"),
        (("backbone", "dims"), "2", "backbone.dims"),
        (("backbone", "widths", 1), True, "backbone.widths[1]"),
        (("backbone", "widths"), [8], "backbone.widths"),
        (("backbone", "strides", 1), [2, 2, 2], "backbone.strides[1]"),
        (("backbone", "strides", 0), [2, 2], "backbone.strides[0]"),
        (("genome", "nodes"), [], "genome.nodes"),
        (("genome", "nodes", 0, "node"), "X1", "genome.nodes[0].node"),
        (("genome", "nodes", 0, "coarser"), "E9", "genome.nodes[0].coarser"),
        (("genome", "nodes", 0, "sources"), "E1", "genome.nodes[0].sources"),
        (("genome", "nodes", 0, "sources"), ["E1", "E1"], "genome.nodes[0].sources"),
        (("genome", "nodes", 0, "sources"), ["D0"], "genome.nodes[0].sources[0]"),
        (("genome", "nodes", 1, "attention"), "se", "genome.nodes[1].attention"),
        (("genome", "nodes", 1, "upsampler"), "tranposed", "genome.nodes[1].upsampler"),
        (("genome", "nodes", 1, "extra"), 1, "genome.nodes[1]"),
        (("genome", "nodes", 0, "upsampler"), "pixelshuffle", "genome.nodes[0].upsampler"),
        (("score",), 3, "score"),
        (("surprise",), {}, "document"),
    ],
)
def test_a_damaged_field_is_named(path: tuple[str | int, ...], value: object, field: str) -> None:
    damaged: Any = copy.deepcopy(document())
    place = damaged
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    error = refusal(damaged)
    assert error.field == field
    assert value != "pixelshuffle" or "did you mean 'pixel-shuffle'?" in str(error)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("{", "not JSON"),
        ("[" * 100_000, "nested deeper"),
        ('{"a": ' * 1000 + "1" + "}" * 1000, "nested deeper"),
        (b"\xff\xfe{}", "not UTF-8"),
        (" " * (MAX_BYTES + 1), "at most"),
        ('{"format": NaN}', "NaN"),
        ('{"format": 1, "format": 2}', "twice"),
        ('{"version": ' + "9" * 5000 + "}", "cannot be read"),
        ("[]", "type object"),
        ("null", "type object"),
    ],
)
def test_what_is_no_document_is_refused_in_one_line(data: str | bytes, problem: str) -> None:
    error = refusal(data)
    assert error.field == "document"
    assert problem in str(error)
    assert len(str(error)) < 300


def test_brackets_inside_strings_are_no_depth() -> None:
    found = document()
    found["provenance"] = {"note": '[[["{' * 100 + '\\"'}
    assert loads(json.dumps(found)).provenance == found["provenance"]


def test_a_refused_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text("{}")
    with pytest.raises(DocumentError, match=r"broken\.json: document"):
        load(path)
    with pytest.raises(RequestError, match="cannot be read"):
        load(tmp_path / "absent.json")
    with pytest.raises(RequestError, match="cannot be read"):
        load(tmp_path)
