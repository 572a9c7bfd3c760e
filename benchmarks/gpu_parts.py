"""The parts of ``gpu.py``: what is measured on a GPU, item by item. On a CPU, as small as it can be, each can be tried.

An item is a name and a function that measures it; what it returns becomes a line of JSON.
"""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import extras
import numpy as np
import torch
from PIL import Image
from proxies import PLAIN, architecture, described

from unetx_evaluators.budgets import BATCH_SIZE, default_budget
from unetx_evaluators.device import DeviceProfile, memory_format, with_safe_precision
from unetx_evaluators.evaluation import MEMORY_FRACTION, Budget, DeviceFailed, NullObserver
from unetx_evaluators.pilot import with_steps
from unetx_evaluators.proxy import ProxyEvaluator
from unetx_evaluators.tasks import Task, TaskOptions, open_source, prepare
from unetx_evaluators.tasks.sources.files import FileSource
from unetx_evaluators.training import memory_demand, trainer
from unetx_evaluators.training import step as training_step
from unetx_evaluators.training.average import WeightAverage
from unetx_evaluators.training.batches import BatchStream
from unetx_evaluators.training.cases import Case, ResidentCases
from unetx_evaluators.training.fast_cuda.choice import fast_on_cuda, triton_failure
from unetx_evaluators.training.iteration import Iteration, LossLog, capture_if_possible
from unetx_evaluators.training.loss import heads_loss
from unetx_evaluators.training.recipe import Recipe
from unetx_evaluators.training.step import EagerStep
from unetx_search.executors.engines import proxy_evaluator
from unetx_search.executors.local import LocalExecutor
from unetx_search.executors.slots import make_slots
from unetx_search.sharing.measurement import ThroughputBenchmark
from unetx_search.sharing.mps import mps_enabled
from unetx_space import network
from unetx_space.architecture import Architecture
from unetx_space.backbone import isotropic_backbone
from unetx_space.canonical import canonical
from unetx_space.design_space import design_space
from unetx_space.genome import NO_ATTENTION, Attention, DecoderNode, Genome, decoder, encoder, plain_coarser
from unetx_space.network import SkipUNet, build
from unetx_space.operators.catalogue import ALIGNMENTS, ATTENTIONS, FUSIONS, UPSAMPLERS
from unetx_space.presets import PRESETS

Dims = Literal[2, 3]
Item = tuple[str, Callable[[], Mapping[str, Any]]]
Computed = Callable[[SkipUNet], AbstractContextManager[object]]
WARM_UPS = 3
N_NEW_DESIGNS = 6
DIMS: tuple[Dims, ...] = (2, 3)


@dataclass
class Bench:
    """The device of a measurement, and its size."""

    device: DeviceProfile
    folder: Path
    """Folder for data."""
    is_try_out: bool = False
    """Whether everything is as small as possible."""

    @property
    def on_cuda(self) -> bool:
        return self.device.device.type == "cuda"

    @property
    def n_steps(self) -> int:
        return 2 if self.is_try_out else 50

    def patch(self, dims: Dims) -> tuple[int, ...]:
        if self.is_try_out:
            return (8,) * dims
        return {2: (128, 128), 3: (32, 48, 32)}[dims]

    def design(self, dims: Dims, nodes: tuple[DecoderNode, ...] | None = None) -> Architecture:
        """The U-Net, or one of other nodes, at the width of a proxy."""
        n_levels, width = (3, 4) if self.is_try_out else ({2: 5, 3: 4}[dims], 8)
        genome = PRESETS["u-net"].genome(n_levels) if nodes is None else Genome(nodes)
        return Architecture(isotropic_backbone(dims, n_levels=n_levels, base_width=width), genome)

    def stream(self, dims: Dims) -> BatchStream:
        """Batches of noise that lies on the device."""
        patch = self.patch(dims)
        image = torch.randn(1, *(2 * n for n in patch), generator=torch.Generator().manual_seed(0))
        cases = [Case("noise", image, (image[0] > 0).to(torch.uint8), 2)]
        resident = ResidentCases(cases, self.device.device)
        return BatchStream(cases, patch, BATCH_SIZE[dims], 0, Recipe(), self.device.device, resident)

    def network(self, design: Architecture, layout: torch.memory_format | None = None) -> SkipUNet:
        made = build(design).to(self.device.device)
        layout = layout or memory_format(design.backbone.dims, self.device.device)
        made.to(memory_format=layout)  # type: ignore[call-overload]  # not in torch's stubs
        return made

    def iteration(self, trained: SkipUNet, n_steps: int) -> tuple[Iteration, LossLog]:
        losses, dims = LossLog(n_steps, self.device.device), trained.architecture.backbone.dims
        step = EagerStep(trained, Recipe(), self.precise(trained.architecture))
        return Iteration(step, self.stream(dims), WeightAverage(trained, 0), losses), losses

    def precise(self, design: Architecture) -> DeviceProfile:
        """The device in the precision that trainings of the design have there."""
        return with_safe_precision(self.device, design.backbone.sizes(self.patch(design.backbone.dims)))

    def ms(self, run: Callable[[int], object], first: int = 1) -> float:
        """Milliseconds of a step after warm-up, with steps queued as in a training."""
        for step in range(first, first + WARM_UPS):
            run(step)
        self.wait()
        began = time.perf_counter()
        for step in range(first + WARM_UPS, first + WARM_UPS + self.n_steps):
            run(step)
        self.wait()
        return 1000 * (time.perf_counter() - began) / self.n_steps

    def wait(self) -> None:
        if self.on_cuda:
            torch.cuda.synchronize(self.device.device)

    def clock(self) -> float:
        self.wait()
        return time.perf_counter()

    @cached_property
    def blobs(self) -> tuple[FileSource, Task, Budget]:
        """Files of bright discs on noise, as a task, and a budget for it."""
        return written_blobs(self.folder, self.is_try_out)


def operators(bench: Bench) -> Iterator[Item]:
    """Every operator: iterations replayed as a graph against eager ones."""
    kinds: Mapping[str, Mapping[str, Any]] = {
        "attention": ATTENTIONS,
        "upsampler": UPSAMPLERS,
        "fusion": FUSIONS,
        "alignment": ALIGNMENTS,
    }
    for dims in DIMS:
        for kind, names in kinds.items():
            for name in names:
                yield (
                    f"{dims}D {kind} {name}",
                    partial(graph_against_eager, bench, with_operator(bench, dims, kind, name)),
                )


def with_operator(bench: Bench, dims: Dims, kind: str, name: str) -> Architecture:
    """A network of two nodes or more with the operator wherever one stands, and the plain ones beside."""
    n_levels = len(bench.design(dims).backbone.widths)
    chosen: dict[str, Any] = {kind: name}
    if kind == "attention":
        chosen = {kind: NO_ATTENTION if name == "none" else Attention(name, ATTENTIONS[name].placements[0])}
    nodes = [
        DecoderNode(
            decoder(level), plain_coarser(level, n_levels), (encoder(0), encoder(level))[level == 0 :], **chosen
        )
        for level in range(n_levels - 1)
    ]
    return bench.design(dims, tuple(nodes))


def graph_against_eager(bench: Bench, design: Architecture) -> Mapping[str, Any]:
    n_steps = WARM_UPS + bench.n_steps
    eager, eager_losses = bench.iteration(bench.network(design), n_steps)
    other, losses = bench.iteration(bench.network(design), n_steps)
    chosen = capture_if_possible(other, 1)
    eager_ms, ms = bench.ms(eager), bench.ms(chosen.run)
    pairs = list(zip(eager_losses.values.tolist(), losses.values.tolist(), strict=True))[:WARM_UPS]
    difference = max(abs(one - two) / abs(one) for one, two in pairs)
    return {"steps": chosen.mode, "eager_ms": eager_ms, "ms": ms, "difference": difference}


def bare_loop(bench: Bench) -> Iterator[Item]:
    """An iteration beside a bare loop captured as a graph: a resident batch, forward, loss, backward, AdamW."""
    for dims in DIMS:
        yield f"{dims}D", partial(beside_a_bare_loop, bench, dims)


def beside_a_bare_loop(bench: Bench, dims: Dims) -> Mapping[str, Any]:
    trained, batch = bench.network(bench.design(dims)), bench.stream(dims).batch(1)
    images = batch.images.contiguous(memory_format=memory_format(dims, bench.device.device))
    device = bench.precise(trained.architecture)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-3, fused=True, capturable=bench.on_cuda)

    def step() -> None:
        with device.autocast():
            logits = trained(images)
        loss = heads_loss([logits], batch.labels, Recipe().background_weight)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    bare: Callable[[], None] = step
    if bench.on_cuda:
        aside, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                step()
        torch.cuda.current_stream().wait_stream(aside)
        optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            step()
        bare = graph.replay
    ours = capture_if_possible(bench.iteration(bench.network(bench.design(dims)), WARM_UPS + bench.n_steps)[0], 1)
    ms, bare_ms = bench.ms(ours.run), bench.ms(lambda _: bare())
    return {"ms": ms, "bare_ms": bare_ms, "ratio": ms / bare_ms, "steps": ours.mode}


def autotuner(bench: Bench) -> Iterator[Item]:
    """cuDNN's autotuner off and on: what a new design costs to its first step, and what each step takes then."""
    for dims in DIMS:
        backbone, rng = bench.design(dims).backbone, random.Random(0)
        space = design_space("default", backbone.n_levels)
        designs = [Architecture(backbone, canonical(space.sample(rng))) for _ in range(N_NEW_DESIGNS)]
        for tuned in (False, True):
            for number, design in enumerate(designs[:1] if bench.is_try_out else designs):
                name = f"{dims}D design {number} {'with' if tuned else 'without'} autotuner"
                yield name, partial(new_design, bench, design, tuned=tuned)


def new_design(bench: Bench, design: Architecture, *, tuned: bool) -> Mapping[str, Any]:
    torch.backends.cudnn.benchmark = tuned
    try:
        began = bench.clock()
        chosen = capture_if_possible(bench.iteration(bench.network(design), 1 + WARM_UPS + bench.n_steps)[0], 1)
        chosen.run(1)
        new_s = bench.clock() - began
        return {"new_s": new_s, "ms": bench.ms(chosen.run, first=2), "steps": chosen.mode}
    finally:
        torch.backends.cudnn.benchmark = False


def layouts(bench: Bench) -> Iterator[Item]:
    """Maps laid out plainly and with channels last."""
    for dims in DIMS:
        last = torch.channels_last if dims == 2 else torch.channels_last_3d
        for layout in (torch.contiguous_format, last):
            yield f"{dims}D {str(layout).removeprefix('torch.')}", partial(laid_out, bench, dims, layout)


def laid_out(
    bench: Bench, dims: Dims, layout: torch.memory_format, computed: Computed = nullcontext
) -> Mapping[str, Any]:
    trained = bench.network(bench.design(dims), layout)
    with patch.object(training_step, "memory_format", lambda dims, device: layout), computed(trained):
        chosen = capture_if_possible(bench.iteration(trained, WARM_UPS + bench.n_steps)[0], 1)
        return {"ms": bench.ms(chosen.run), "steps": chosen.mode}


def norms(bench: Bench) -> Iterator[Item]:
    """Instance norms by torch and by Triton: a step each way, and how far outputs and gradients lie apart."""
    for dims in DIMS:
        last = torch.channels_last if dims == 2 else torch.channels_last_3d
        for layout in (torch.contiguous_format, last):
            yield f"{dims}D {str(layout).removeprefix('torch.')}", partial(both_norms, bench, dims, layout)


def both_norms(bench: Bench, dims: Dims, layout: torch.memory_format) -> Mapping[str, Any]:
    """``difference`` is that of a pass in float32, relative to the largest logit or gradient."""
    device = bench.device.device
    by_torch = laid_out(bench, dims, layout)["ms"]
    by_triton = laid_out(bench, dims, layout, partial(fast_on_cuda, device=device))
    trained, images = bench.network(bench.design(dims), layout), bench.stream(dims).batch(1).images
    passes = []
    for computed in (nullcontext(trained), fast_on_cuda(trained, device)):
        with computed:
            logits = trained(images.contiguous(memory_format=layout))
            gradients = torch.autograd.grad(logits.square().mean(), [*trained.parameters()])
            passes.append((logits.detach(), torch.cat([gradient.flatten() for gradient in gradients])))
    apart = (float((one - two).abs().max() / one.abs().max()) for one, two in zip(*passes, strict=True))
    norms = f"torch: {reason}" if (reason := triton_failure(device)) else "triton"
    return {"torch_ms": by_torch, **by_triton, "norms": norms, "difference": max(apart)}


def phases(bench: Bench) -> Iterator[Item]:
    """A whole evaluation of the U-Net, the second in its process, by phase: seconds of the wall clock."""
    yield "u-net", partial(by_phase, bench)


def by_phase(bench: Bench) -> Mapping[str, Any]:
    _, task, budget = bench.blobs
    for diagnosed_above in (math.inf, -math.inf):
        with extras.timed(bench.clock, ("capture", trainer, "capture_if_possible")) as seconds:
            began = bench.clock()
            evaluator, design = ProxyEvaluator(str(bench.device.device)), architecture(task, "u-net")
            result = evaluator.evaluate(design, task, budget, 0, NullObserver(), diagnosed_above=diagnosed_above)
            whole = bench.clock() - began
    return {"whole": whole, "score": result.score, "steps_run_as": result.versions.get("steps"), "parts": dict(seconds)}


def workers(bench: Bench) -> Iterator[Item]:
    """Evaluations a minute of 1, 2 and 4 workers on the GPU, in turns and through a multi-process service (MPS)."""
    for n_workers in (1, 2) if bench.is_try_out else (1, 2, 4):
        yield f"{n_workers} in turns", partial(together, bench, n_workers, through_mps=False)
        if n_workers > 1 and bench.on_cuda:
            yield f"{n_workers} through MPS", partial(together, bench, n_workers, through_mps=True)


def together(bench: Bench, n_workers: int, *, through_mps: bool) -> Mapping[str, Any]:
    _, task, budget = bench.blobs
    slots = make_slots(1 if bench.on_cuda else 0, workers_per_gpu=n_workers, cpu_workers=n_workers)
    serve = mps_enabled if through_mps else nullcontext
    with LocalExecutor(proxy_evaluator(slots), task, slots, needs_mps=through_mps, mps_enabled=serve) as executor:
        sample = ThroughputBenchmark(executor, architecture(task, "u-net"), budget, None, lambda: None).sample()
    return {"n_workers": n_workers, "evaluations_per_min": sample.evaluations_per_min, "trouble": sample.trouble}


def faults(bench: Bench) -> Iterator[Item]:
    """The outcome of evaluations with a failed assertion on the device, and with too little memory, each in a
    process."""
    yield "out of memory", partial(alone, out_of_memory, bench)
    if bench.on_cuda:
        yield "device assert", partial(alone, device_assert, bench)


def alone(measure: Callable[[str, Task, Budget], Mapping[str, Any]], bench: Bench) -> Mapping[str, Any]:
    _, task, budget = bench.blobs
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, str(bench.device.device), task, budget).result()


def out_of_memory(device: str, task: Task, budget: Budget) -> Mapping[str, Any]:
    """An evaluation that cannot fit by its plan; one that fails to in its training, on CUDA; and the one after, which
    fits."""
    evaluator, design = ProxyEvaluator(device), architecture(task, "u-net")
    tried = {"planned": evaluator.evaluate(design, task, replace(budget, batch_size=10**6), 0, NullObserver())}
    if device.startswith("cuda"):
        large = with_steps(replace(budget, batch_size=4096), 3)
        with patch.dict(os.environ, {MEMORY_FRACTION: "0.05"}), patch.object(memory_demand, "check_memory"):
            tried["trained"] = evaluator.evaluate(design, task, large, 0, NullObserver())
    tried["after"] = evaluator.evaluate(design, task, with_steps(budget, 6), 0, NullObserver())
    return {name: [result.outcome, result.reason] for name, result in tried.items()}


def device_assert(device: str, task: Task, budget: Budget) -> Mapping[str, Any]:
    """An index out of range in the fifth forward pass: DeviceFailed is wanted, for the context is dead."""
    passes = count(1)

    def broken(module: object, inputs: object, output: torch.Tensor) -> torch.Tensor:
        far = torch.full((1,), 10**9 if next(passes) == 5 else 0, device=output.device)
        return output + output.flatten().index_select(0, far)

    def built(design: Architecture, *, seed: int) -> SkipUNet:
        made = build(design, seed=seed)
        made.register_forward_hook(broken)
        return made

    with patch.object(network, "build", built):
        try:
            result = ProxyEvaluator(device).evaluate(architecture(task, "u-net"), task, budget, 0, NullObserver())
        except DeviceFailed as error:
            return {"raised": "DeviceFailed", "reason": str(error), "may_be_design": error.may_be_design}
    return {"raised": "", "outcome": result.outcome, "reason": result.reason}


def scripts(bench: Bench) -> Iterator[Item]:
    """Seconds of an evaluation of the same U-Net by the script that a user would write, and by a good one."""
    for name, words in (("plain", ()), ("good", ("--good",))):
        yield name, partial(by_script, bench, words)


def by_script(bench: Bench, words: tuple[str, ...]) -> Mapping[str, Any]:
    source, task, budget = bench.blobs
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "task.json"
        file.write_text(json.dumps(described(source, task, "u-net", budget)), encoding="utf-8")
        command = [sys.executable, str(PLAIN), str(file), "--trials", "1", "--device", str(bench.device.device), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    return {"evaluations_per_hour": 3600 / told["seconds"], "dice": told["scores"][0]}


def written_blobs(folder: Path, is_try_out: bool) -> tuple[FileSource, Task, Budget]:
    """Images of 256x256 with discs, as PNG."""
    size, n_cases, rng = (32, 10, np.random.default_rng(0)) if is_try_out else (256, 60, np.random.default_rng(0))
    for part in ("images", "masks"):
        (folder / "blobs" / part).mkdir(parents=True, exist_ok=True)
    at = np.stack(np.meshgrid(*[np.arange(size)] * 2, indexing="ij"))
    for number in range(n_cases):
        label = np.zeros((size, size), bool)
        for middle in rng.uniform(0.2 * size, 0.8 * size, (3, 2, 1, 1)):
            label |= np.hypot(*(at - middle)) < size / 10
        image = np.clip(rng.normal(100, 25, label.shape) + 60 * label, 0, 255)
        for part, pixels in (("images", image), ("masks", 255 * label)):
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "blobs" / part / f"case{number:02d}.png")
    source = open_source(folder / "blobs")
    assert isinstance(source, FileSource)
    task = prepare(source, folder / "cache", TaskOptions())
    budget = default_budget(task)
    return source, task, with_steps(budget, 6) if is_try_out else budget
