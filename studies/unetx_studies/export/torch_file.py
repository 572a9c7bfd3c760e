"""The network of an architecture as one Python file that needs torch alone, its forward pass written out.

Operators and blocks are bundled from the very modules that ``unetx_space`` builds with; written here is only what this
one design makes of them: a class for every decoder node, and the network that reads like the drawing. Parameters have
the names that they have in ``unetx_space``, so that weights fit, and the same initial values.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from unetx_space import PRESETS, Architecture, Backbone, RequestError, StageRef
from unetx_space.initial_values import initialise
from unetx_space.network import BLOCK_MODULES, module_name, module_of
from unetx_space.operators.alignment import SourceModule
from unetx_space.operators.blocks import NormAct, PlainStage, Style
from unetx_space.operators.catalogue import ALIGNMENTS, ATTENTIONS, FUSIONS, PLAIN_ATTENTION, UPSAMPLERS, Spec
from unetx_space.operators.nd import conv
from unetx_space.operators.upsampling import crop_or_pad
from unetx_space.plan import BlockPlan, NodePlan, Plan, SourcePlan, make_plan
from unetx_studies.drawing import to_text
from unetx_studies.export.bundling import bundle
from unetx_studies.export.model import Model
from unetx_studies.export.weights_reader import read_weights

BELOW = "# What all networks of unetx-search share, as far as this one needs it.\n\n\n"
_IDENTITY = "nn.Identity()"


def torch_file(architecture: Architecture, *, plan: Plan | None = None, tail: str = "") -> str:
    """The text of the file for an architecture without faults; with ``tail``, a class that calls ``forward_all``.

    ``plan`` is the architecture's unless it has other heads. Laid out by ruff where that is installed. Raises
    RequestError naming an operator that cannot be a part of it.
    """
    plan = plan or make_plan(architecture)
    writer = _Writer(plan.backbone, has_all_heads=bool(plan.side_heads or tail))
    code = [writer.network(plan), writer.load(), *map(writer.node, plan.nodes), *([tail] if tail else [])]
    parts = bundle(writer.roots)
    style = f'STYLE = {writer.style!r}\n"""What all blocks of this network share."""'.replace("'", '"')
    head = '"""' + _escaped(_docstring(architecture, plan)) + '"""\n\nfrom __future__ import annotations'
    return _laid_out("\n\n\n".join((f"{head}\n\n{parts.imports}", *code, BELOW + parts.definitions, style)) + "\n")


def write(model: Model, path: Path) -> None:
    """Write the Python file, which holds no weights."""
    path.write_text(torch_file(model.architecture), encoding="utf-8")


def run(path: Path, image: Tensor, model: Model) -> Tensor:
    """The logits of the network in a file for an image, with the model's weights."""
    network = import_file(path).Network()
    network.load_state_dict(model.network.state_dict())
    with torch.no_grad():
        return network.eval()(image)  # type: ignore[no-any-return]


def import_file(path: Path) -> ModuleType:
    """Import a Python file that was just written."""
    loader = SourceFileLoader(f"unetx_written_{path.stem}", str(path))
    module = ModuleType(loader.name)
    sys.modules[loader.name] = module  # where its dataclasses look themselves up
    try:
        loader.exec_module(module)
    finally:
        del sys.modules[loader.name]
    return module


def operators(plan: Plan) -> Iterator[Spec]:
    """The specs of a network's operators, each once for every place that it has."""
    for node in plan.nodes:
        yield UPSAMPLERS[node.upsampler]
        if node.sources:
            yield FUSIONS[node.fusion]
        yield from (ALIGNMENTS[source.alignment] for source in node.sources if source.alignment)
        attentions = (*(source.attention for source in node.sources), node.fused_attention, node.block_attention)
        yield from (ATTENTIONS[name] for name in attentions if name != PLAIN_ATTENTION)


@dataclass(slots=True)
class _Writer:
    """Writes the classes of this design alone, and remembers what they name, which is to be bundled."""

    backbone: Backbone
    has_all_heads: bool
    """Whether the network has ``forward_all`` for deep supervision."""
    roots: dict[Callable[..., object], None] = field(default_factory=dict)

    @property
    def style(self) -> Style:
        return Style(self.backbone.norm, self.backbone.conv_bias, self.backbone.negative_slope)

    def uses(self, *needed: Callable[..., object]) -> str:
        """The name of the first of some definitions, all of which are bundled."""
        self.roots.update(dict.fromkeys(needed))
        return needed[0].__name__

    def operator(self, spec: Spec) -> str:
        """The name of an operator's class. Raises RequestError where that cannot be bundled."""
        found = module_of(spec)
        try:
            bundle([found])
        except RequestError as error:
            raise RequestError(f"the operator {spec.name} cannot be a part of a torch file: {error}") from error
        return self.uses(found)

    def attention(self, name: str, channels: int, node: NodePlan) -> str:
        at = node.attention_context(channels, self.backbone.norm)
        self.uses(type(at))
        return f"{self.operator(ATTENTIONS[name])}({at!r})".replace("'", '"')

    def block(self, plan: BlockPlan) -> str:
        kind = BLOCK_MODULES[plan.kind]
        options = f", depth={plan.depth}" + (", pool=True" if plan.pool else "")
        return f"{self.uses(kind, Style)}({plan.c_in}, {plan.c_out}, {plan.stride}, STYLE{options})"

    def head(self, node: NodePlan) -> str:
        backbone = self.backbone
        return f"{self.uses(conv)}({backbone.dims}, {node.c_out}, {backbone.out_channels}, {backbone.head_kernel})"

    def source(self, plan: SourcePlan, node: NodePlan) -> str | None:
        """What is built for a source; None for one that enters as it is."""
        backbone, alignment, projection, attention = self.backbone, _IDENTITY, _IDENTITY, _IDENTITY
        if plan.alignment is not None:
            kind = self.operator(ALIGNMENTS[plan.alignment])
            alignment = f"{kind}({plan.c_in}, {plan.factor}, ceil={backbone.rounds_up})"
        if plan.projection == "pointwise":
            options = f"1, bias={backbone.conv_bias}"
            projection = f"{self.uses(conv)}({backbone.dims}, {plan.c_aligned}, {plan.c_out}, {options})"
        elif plan.projection == "block":
            ones = (1,) * backbone.dims
            projection = f"{self.uses(PlainStage, Style)}({plan.c_aligned}, {plan.c_out}, {ones}, STYLE, depth=1)"
        if plan.attention != PLAIN_ATTENTION:
            attention = self.attention(plan.attention, plan.c_out, node)
        if alignment == projection == attention == _IDENTITY and plan.relation == "same":
            return None
        options = f", gate={ATTENTIONS[plan.attention].gate!r}" if ATTENTIONS[plan.attention].gate else ""
        options += ", on_node_grid=True" if plan.projection == "block" else ""
        return f"{self.uses(SourceModule)}({alignment}, {projection}, {attention}{options})"

    def node(self, plan: NodePlan) -> str:
        """The class of a decoder node."""
        upsampler = UPSAMPLERS[plan.upsampler]
        bias = f", bias={self.backbone.conv_bias}" if upsampler.optional_bias else ""
        built = {source.ref: self.source(source, plan) for source in plan.sources}
        parts = {
            "upsampler": f"{self.operator(upsampler)}({plan.c_coarser}, {plan.c_upsampled}, {plan.stride}{bias})",
            "upsampled": "",
            "sources": _modules({module_name(ref): text for ref, text in built.items() if text}),
            "fusion": "",
            "fused_attention": "",
            "block": self.block(plan.block),
            "block_attention": "",
        }
        if self.backbone.normalise_upsampled:
            parts["upsampled"] = f"{self.uses(NormAct, Style)}({plan.c_upsampled}, {self.backbone.dims}, STYLE)"
        if plan.sources:
            fusion = self.operator(FUSIONS[plan.fusion])
            parts["fusion"] = f"{fusion}({len(plan.sources) + 1}, {plan.c_fused})"
        if plan.fused_attention != PLAIN_ATTENTION:
            parts["fused_attention"] = self.attention(plan.fused_attention, plan.c_fused, plan)
        if plan.block_attention != PLAIN_ATTENTION:
            parts["block_attention"] = self.attention(plan.block_attention, plan.c_out, plan)
        return "\n".join(
            (
                f"class {module_name(plan.ref)}(nn.Module):",
                f'    """{_summary(plan)}"""\n',
                "    def __init__(self) -> None:",
                "        super().__init__()",
                *(f"        self.{name} = {text}" for name, text in parts.items() if text),
                "",
                *self.node_forward(plan, [ref for ref, text in built.items() if text], {k for k in parts if parts[k]}),
            )
        )

    def node_forward(self, plan: NodePlan, built: list[StageRef], parts: set[str]) -> Iterator[str]:
        coarser = _variable(plan.coarser)
        maps = dict.fromkeys([coarser, *(_variable(source.ref) for source in plan.sources)])
        has_gates = any(ATTENTIONS[source.attention].gate for source in plan.sources)
        gates = ", gates" if has_gates else ""
        inputs = [
            f'self.sources["{module_name(source.ref)}"]({_variable(source.ref)}, size{gates})'
            if source.ref in built
            else _variable(source.ref)
            for source in plan.sources
        ]
        up = f"self.upsampler({coarser})"
        if "upsampled" in parts:
            up = f"self.upsampled({up})"
        arguments = ", ".join(f"{name}: Tensor" for name in maps)
        yield f"    def forward(self, {arguments}, *, size: Sequence[int]) -> Tensor:"
        yield f"        up = {self.uses(crop_or_pad)}({up}, size)  # [b, {plan.c_upsampled}, *size]"
        if has_gates:
            yield f'        gates: dict[Gate, Tensor] = {{"upsampled": up, "coarse": {coarser}}}'
        joined = f"self.fusion([{', '.join([*inputs, 'up'])}])" if plan.sources else "up"
        yield f"        x = {joined}  # [b, {plan.c_fused}, *size]"
        steps = [name for name in ("fused_attention", "block", "block_attention") if name in parts]
        yield from (f"        x = self.{name}(x)" for name in steps[:-1])
        yield f"        return self.{steps[-1]}(x)  # [b, {plan.c_out}, *size]"

    def network(self, plan: Plan) -> str:
        """The class of the network."""
        backbone = self.backbone
        heads = {module_name(node.ref): self.head(node) for node in plan.side_heads}
        parts = {
            "stem": self.block(plan.stem) if plan.stem else "",
            "encoder": _modules({module_name(stage.ref): self.block(stage.block) for stage in plan.encoder}),
            "decoder": _modules({module_name(node.ref): f"{module_name(node.ref)}()" for node in plan.nodes}),
            "head": self.head(plan.nodes[-1]),
            "side_heads": _modules(heads),
        }
        image, logits = _shapes(backbone)
        return "\n".join(
            (
                "class Network(nn.Module):",
                f'    """``image{image}`` to ``logits{logits}``, for images of any size.\n',
                '    Initial values depend on the seed alone.\n    """\n',
                "    def __init__(self, seed: int = 0) -> None:",
                "        super().__init__()",
                *(f"        self.{name} = {text}" for name, text in parts.items() if text),
                f"        {self.uses(initialise)}(self, seed)",
                "",
                *self.network_forward(plan),
            )
        )

    def network_forward(self, plan: Plan) -> Iterator[str]:
        if self.has_all_heads:
            yield "    def forward(self, image: Tensor) -> Tensor:"
            yield "        return self.forward_all(image)[0]\n"
            yield "    def forward_all(self, image: Tensor) -> list[Tensor]:"
            yield '        """The logits of every head for deep supervision, the output\'s first."""'
        else:
            yield "    def forward(self, image: Tensor) -> Tensor:"
        last = "image"
        if plan.stem:
            yield "        x = self.stem(image)"
            last = "x"
        for stage in plan.encoder:
            yield self.step(stage.ref, "encoder", last, stage.block.c_out)
            last = _variable(stage.ref)
        for node in plan.nodes:
            maps = dict.fromkeys(map(_variable, [node.coarser, *(source.ref for source in node.sources)]))
            yield self.step(node.ref, "decoder", f"{', '.join(maps)}, size=e{node.ref.level}.shape[2:]", node.c_out)
        output = f"self.head({_variable(plan.output)})"
        sides = [f'self.side_heads["{module_name(n.ref)}"]({_variable(n.ref)})' for n in reversed(plan.side_heads)]
        yield f"        return [{', '.join([output, *sides])}]" if self.has_all_heads else f"        return {output}"

    def step(self, ref: StageRef, where: str, inputs: str, channels: int) -> str:
        factors = self.backbone.factor(0, ref.level)
        size = [axis if n == 1 else f"{axis}/{n}" for axis, n in zip("dhw"[-len(factors) :], factors, strict=True)]
        name = module_name(ref)
        return f'        {_variable(ref)} = self.{where}["{name}"]({inputs})  # [b, {channels}, {", ".join(size)}]'

    def load(self) -> str:
        """The function that reads weights."""
        return f'''def load(path: str | Path) -> Network:
    """The network with the weights in a file, ready to predict: safetensors, or a state dict of torch."""
    network = Network()
    network.load_state_dict({self.uses(read_weights)}(path))
    return network.eval()'''


def _modules(parts: dict[str, str]) -> str:
    """A ``ModuleDict`` of what is written; nothing for none."""
    inside = "".join(f'            "{name}": {text},\n' for name, text in parts.items())
    return f"nn.ModuleDict(\n            {{\n{inside}            }}\n        )" if parts else ""


def _variable(ref: StageRef) -> str:
    """The variable that holds the output of a stage in the code: ``e1``, ``d0_2``."""
    return module_name(ref).lower()


def _summary(plan: NodePlan) -> str:
    """A sentence on a node."""
    sources = ", ".join(f"{source.ref}" for source in plan.sources)
    joined = f", joined with {sources} by {plan.fusion}" if sources else ""
    places = {
        **{source.attention: "on sources" for source in plan.sources},
        plan.fused_attention: "after fusion",
        plan.block_attention: "after the block",
    }
    attention = "".join(f", {name} {place}" for name, place in places.items() if name != PLAIN_ATTENTION)
    return f"{plan.ref}: {plan.coarser} brought up by {plan.upsampler}{joined}{attention}."


def _shapes(backbone: Backbone) -> tuple[str, str]:
    """The shapes of an image and of its logits, such as ``[b, 1, h, w]``."""
    size = ", ".join("dhw"[-backbone.dims :])
    return f"[b, {backbone.in_channels}, {size}]", f"[b, {backbone.out_channels}, {size}]"


def _docstring(architecture: Architecture, plan: Plan) -> str:
    backbone = architecture.backbone
    image, logits = _shapes(backbone)
    known = architecture.provenance.get("preset")
    cited = {spec.title: spec.paper for spec in operators(plan) if spec.paper}
    if isinstance(known, str) and known in PRESETS:
        cited = {PRESETS[known].title: PRESETS[known].paper} | cited
    return (
        "\n\n".join(
            (
                "A segmentation network found by unetx-search, in one file that needs torch alone.",
                f"    network = load(WEIGHTS)  # or Network(), with initial values\n"
                f"    logits = network(image)  # {image} -> {logits}",
                to_text(architecture),
                "To cite beside what this design was trained for:\n\n"
                + "\n".join(f"- {title}: {paper}" for title, paper in cited.items())
                if cited
                else "It holds no operator that asks to be cited.",
                "The architecture as unetx-search reads it:",
                _document(architecture),
            )
        )
        + "\n"
    )


def _document(architecture: Architecture) -> str:
    """The architecture's JSON document, a line for every field and node."""
    fields = architecture.to_json()
    nodes = ",\n".join(json.dumps(node) for node in fields["genome"]["nodes"])
    lines = [f'"{name}": {json.dumps(value)}' for name, value in fields.items() if name != "genome"]
    return "{\n" + ",\n".join([*lines, f'"genome": {{"nodes": [\n{nodes}\n]}}']) + "\n}"


def _escaped(text: str) -> str:
    """Text as it stands in a docstring, which nothing in a stranger's document can end."""
    return text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')


def _laid_out(code: str) -> str:
    """The code as ruff lays it out; as it is where ruff is not installed."""
    if importlib.util.find_spec("ruff") is None:
        return code
    ruff = [sys.executable, "-m", "ruff", "format", "--isolated", "-"]
    return subprocess.run(ruff, input=code, capture_output=True, text=True, encoding="utf-8", check=True).stdout
