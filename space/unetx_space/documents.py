"""Reading an architecture from a stranger: the document is data, and nothing in it is imported, evaluated or unpickled.

The order of the checks: size, depth, JSON, schema, faults. Each refusal is a DocumentError with the path of the field.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from itertools import accumulate
from math import isinf
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from unetx_space import backbone as rules
from unetx_space.architecture import FORMAT, VERSION, Architecture
from unetx_space.backbone import MAX_LEVELS, MAX_WIDTH, Backbone
from unetx_space.errors import DocumentError, RequestError, unknown_name
from unetx_space.genome import Genome, attention_genes
from unetx_space.operators.catalogue import ALIGNMENTS, ATTENTIONS, FUSIONS, UPSAMPLERS
from unetx_space.validity import faults

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

MAX_BYTES = 1 << 20
MAX_DEPTH = 16
MAX_NODES = MAX_LEVELS * MAX_LEVELS

_STRING = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)
"""A JSON string, also one that never ends."""
_BRACKETS = {"[": 1, "{": 1, "]": -1, "}": -1}


def load(path: Path | str) -> Architecture:
    """The architecture in a file such as ``best.json``.

    Raises RequestError when there is no such file, DocumentError with the offending field when it is no valid
    architecture.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        return loads(data)
    except DocumentError as error:
        raise DocumentError(error.field, error.problem, file=str(path)) from None


def loads(data: bytes | str) -> Architecture:
    """The architecture in a JSON text. Raises DocumentError."""
    document = _parse(data.encode() if isinstance(data, str) else data)
    _check_schema(document)
    architecture = Architecture(
        backbone=Backbone.from_json(document["backbone"]),
        genome=Genome.from_json(document["genome"]),
        score=document.get("score", {}),
        provenance=document.get("provenance", {}),
    )
    for fault in faults(architecture):
        raise DocumentError(fault.field, fault.rule)
    return architecture


def _parse(data: bytes) -> Any:
    if len(data) > MAX_BYTES:
        raise DocumentError("document", f"an architecture has at most {MAX_BYTES:,} bytes")
    if not data.strip():
        raise DocumentError("document", "is empty")
    try:
        text = data.decode("utf-8-sig")  # some editors put a byte order mark first
    except UnicodeDecodeError as error:
        raise DocumentError("document", f"is not UTF-8 text: {error.reason} at byte {error.start}") from None
    steps = (_BRACKETS.get(char, 0) for char in _STRING.sub("", text))
    if max(accumulate(steps), default=0) > MAX_DEPTH:
        raise DocumentError("document", f"is nested deeper than {MAX_DEPTH} levels")
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        raise DocumentError(
            "document", f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except ValueError as error:  # a number of more digits than Python reads
        raise DocumentError("document", f"holds a number that cannot be read: {error}") from None


def _refuse_constant(name: str) -> NoReturn:
    raise DocumentError("document", f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if isinf(number):  # 1e999, which could not be written again
        raise DocumentError("document", f"{_short(digits)} is beyond what a number of 64 bits can hold")
    return number


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        times = Counter(name for name, _ in pairs)
        twice = next(name for name, n in times.items() if n > 1)
        raise DocumentError("document", f"the field {_short(twice)} occurs twice in one object")
    return table


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of an architecture document, its names read from the catalogue."""
    stage = {"type": "string", "pattern": r"^(E([0-9]|[1-9][0-9])|D([0-9]|[1-9][0-9])(\.[1-9][0-9]?)?)$"}
    node = _object(
        node=stage,
        coarser=stage,
        sources={"type": "array", "items": stage, "maxItems": MAX_NODES, "uniqueItems": True},
        attention={"enum": [str(gene) for gene in attention_genes(ATTENTIONS)]},
        upsampler={"enum": list(UPSAMPLERS)},
        fusion={"enum": list(FUSIONS)},
        alignment={"enum": list(ALIGNMENTS)},
    )
    nodes = {"type": "array", "items": node, "minItems": 1, "maxItems": MAX_NODES}
    document = _object(
        format={"const": FORMAT}, version={"const": VERSION}, backbone=_backbone_schema(), genome=_object(nodes=nodes)
    )
    document["properties"] |= {"score": {"type": "object"}, "provenance": {"type": "object"}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "An architecture of unetx-search",
        **document,
    }


def _backbone_schema() -> dict[str, Any]:
    return _object(
        dims={"type": "integer", "enum": [2, 3]},
        in_channels=_integer(1, MAX_WIDTH),
        out_channels=_integer(1, rules.MAX_CLASSES),
        widths={"type": "array", "items": _integer(1, MAX_WIDTH), "minItems": 2, "maxItems": MAX_LEVELS},
        strides={
            "type": "array",
            "minItems": 2,
            "maxItems": MAX_LEVELS,
            "items": {"type": "array", "items": _integer(1, rules.MAX_STRIDE), "minItems": 2, "maxItems": 3},
        },
        norm={"enum": list(rules.NORMS)},
        downsampling={"enum": list(rules.DOWNSAMPLINGS)},
        encoder_block={"enum": list(rules.ENCODER_BLOCKS)},
        decoder_block={"enum": list(rules.DECODER_BLOCKS)},
        encoder_depth=_per_level("integer", rules.MAX_STAGE_DEPTH),
        decoder_depth=_per_level("integer", rules.MAX_STAGE_DEPTH),
        conv_bias={"type": "boolean"},
        negative_slope={"type": "number", "minimum": 0, "maximum": rules.MAX_SLOPE},
        decoder_widths=_per_level("null", MAX_WIDTH),
        source_width={"type": ["integer", "null"], "minimum": 1, "maximum": MAX_WIDTH},
        normalise_upsampled={"type": "boolean"},
        head_kernel={"type": "integer", "enum": list(rules.HEAD_KERNELS)},
        deep_supervision={"type": "boolean"},
    )


def _integer(low: int, high: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": low, "maximum": high}


def _per_level(otherwise: str, high: int) -> dict[str, Any]:
    """One number per level, each in 1..``high``, or a single value of the type ``otherwise``."""
    number = _integer(1, high)
    return {**number, "type": [otherwise, "array"], "items": number, "minItems": 1, "maxItems": MAX_LEVELS}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    """An object with exactly these fields."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _check_schema(document: Any) -> None:
    from jsonschema.exceptions import best_match  # here, so that the command line starts without it

    error = best_match(_validator().iter_errors(document))
    if error is not None:
        parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path]
        raise DocumentError("".join(parts).removeprefix(".") or "document", _problem(error))


@cache
def _validator() -> Any:
    """Stricter than the draft in one point: 8.0 is no integer here, since it would become a float in Python.

    And quick where a list is too long: then its length is the fault, and nobody looks at a million items or compares
    each with each.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    checker = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    rules = {name: _unless_too_long(Draft202012Validator.VALIDATORS[name]) for name in ("items", "uniqueItems")}
    return extend(Draft202012Validator, validators=rules, type_checker=checker)(schema())


_Rule = Callable[[Any, Any, Any, dict[str, Any]], "Iterator[ValidationError] | None"]


def _unless_too_long(rule: _Rule) -> _Rule:
    def checked(validator: Any, value: Any, instance: Any, place: dict[str, Any]) -> Iterator[ValidationError]:
        if not isinstance(instance, list) or len(instance) <= place.get("maxItems", len(instance)):
            yield from rule(validator, value, instance, place) or ()

    return checked


def _problem(error: ValidationError) -> str:
    """One line whatever the document holds; jsonschema's own text repeats the whole value."""
    given = _short(error.instance)
    expected = error.validator_value
    match error.validator:
        case "required":
            missing = [name for name in expected if name not in error.instance]
            return f"the field {missing[0]!r} is missing"
        case "additionalProperties":
            extra = next(name for name in error.instance if name not in error.schema["properties"])
            return unknown_name("field", extra[:40], error.schema["properties"])
        case "enum" if isinstance(error.instance, str):
            return unknown_name("value", error.instance, map(str, expected))
        case "enum":
            return f"must be one of {', '.join(map(str, expected))}, got {given}"
        case "type":
            return f"must be of type {expected if isinstance(expected, str) else ' or '.join(expected)}, got {given}"
        case "const":
            return f"must be {expected!r}, got {given}"
        case "pattern":
            return f"must name a stage such as E2, D1 or D0.3, got {given}"
        case "minimum" | "maximum" | "minItems" | "maxItems":
            return f"its {error.validator} is {expected}, got {given}"
        case _:
            return f"breaks the rule {error.validator}, got {given}"


def _short(value: object) -> str:
    text = f"{len(value)} items" if isinstance(value, list) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
