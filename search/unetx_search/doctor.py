"""``unetx-search doctor``: what this machine offers a search, whether a dataset can be used, and how it would be."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from textwrap import TextWrapper, fill
from typing import TYPE_CHECKING

from unetx_evaluators.evaluation import DataError, DataErrors, distinct_messages
from unetx_evaluators.host_cores import usable_cores
from unetx_evaluators.tasks import CachedTask, cached_task, prepare
from unetx_evaluators.tasks.examination import Examination, examine
from unetx_search.audit.recommendation import AuditFile
from unetx_search.caches import CacheFacts, cache_facts, caches_text
from unetx_search.config import SearchConfig
from unetx_search.data_choices import DataChoices
from unetx_search.dataset_facts import dataset_facts, pictures, pilot_facts
from unetx_search.executors.engines import LOGS, check_torch, proxy_evaluator
from unetx_search.executors.gpus import GpuProbe, usable_gpus
from unetx_search.executors.local import LocalExecutor
from unetx_search.executors.slots import Slot, make_slots
from unetx_search.gpu_check import HEADS, GpuFacts, TryGpus, check_gpus
from unetx_search.piloting import PILOTS, PilotFailed
from unetx_search.preparing import PreparationBars, no_empty_folders
from unetx_search.progress import say
from unetx_search.resolving import audit_choice, piloted_spacing, settle_training, stored_pilot
from unetx_space.errors import RequestError
from unetx_space.files import json_text, write_whole
from unetx_studies.disk_full import full_disk_explained
from unetx_studies.sheet import PARTS, DatasetFacts, PilotFacts, axis_ranges, number_words, sheet_html, size_words

if TYPE_CHECKING:
    from rich.console import Console

    from unetx_evaluators.evaluation import Evaluator
    from unetx_evaluators.pilot import Pilot, Spacing
    from unetx_evaluators.tasks import Task
    from unetx_search.executors.base import Executor

PACKAGES = ("unetx-search", "torch", "optuna", "optuna-dashboard", "monai", "sqlalchemy", "numpy", "nibabel")
LINE = 120
"""Characters of a line, after which a sentence goes on in the next."""
TOLD_ELSEWHERE = "told in the terminal only, because it may name a file, and --pseudonyms was asked for"
OPTIONAL = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True, slots=True)
class Findings:
    """The findings of ``unetx-search doctor``."""

    machine: Mapping[str, str]
    workers: tuple[str, ...]
    """The slots that ``--gpus all`` would use."""
    packages: Mapping[str, str]
    data: DatasetFacts | None
    """The dataset's facts; None where no dataset is named, or nothing in it can be listed."""
    problems: tuple[str, ...]
    """Why the dataset cannot be used, each with file, reason and remedy."""
    caches: tuple[CacheFacts, ...]
    """The prepared datasets in the cache."""
    gpus: tuple[GpuFacts, ...] = ()
    """The GPUs that were tried; none where that was not asked for."""

    @property
    def is_fit(self) -> bool:
        """Whether a search could start."""
        return not self.problems and not any(gpu.problems for gpu in self.gpus)


def diagnose(
    choices: DataChoices,
    *,
    console: Console,
    sheet: Path | None = None,
    pilot: bool = False,
    gpu: bool = False,
    probe: GpuProbe = usable_gpus,
    evaluator: Evaluator | None = None,
    try_gpus: TryGpus | None = None,
) -> Findings:
    """Examine the machine, the cache and, where one is named, every case of a dataset.

    ``sheet`` is the file for the picture sheet; nothing else is written. With ``pilot`` the data are prepared, too, and
    their pilot is run, as a search would do. With ``gpu`` every visible GPU is tried. Raises RequestError when the
    sheet cannot be written, or there is no GPU to try. ``evaluator`` and ``try_gpus`` replace the trainer and the GPUs
    in tests.
    """
    for option, is_asked, does in (("sheet", sheet is not None, "shows"), ("pilot", pilot, "trains on")):
        if is_asked and choices.data is None:
            raise RequestError(f"--{option} {does} a dataset: name one with --data PATH")
    slots = make_slots("all", probe=probe)
    if gpu and slots[0].device == "cpu":
        raise RequestError(
            "--gpu tries GPUs, and none is visible: NVIDIA's driver lists none (nvidia-smi), or CUDA_VISIBLE_DEVICES "
            "leaves none"
        )
    gpus = check_gpus(slots, try_gpus=try_gpus) if gpu else ()
    facts: DatasetFacts | None = None
    problems: tuple[str, ...] = ()
    if choices.data is not None:
        if pilot and evaluator is None:
            check_torch(slots)
        dataset = _Dataset(choices, slots, console, evaluator)
        try:
            found = dataset.examined()
        except DataErrors as several:
            problems = tuple(distinct_messages(several.errors))
        except DataError as error:
            problems = (str(error),)
        else:
            found, facts = dataset.piloted(found, is_asked=pilot)
            problems = facts.problems
            if sheet is not None:
                _write_sheet(sheet, facts, found, choices, console)
    workers = tuple(slot.label for slot in slots)
    return Findings(_machine(), workers, _packages(), facts, problems, cache_facts(choices.cache_folder), gpus)


class _Dataset:
    """The dataset of a request, and the cache that a search of it with no further options would use."""

    def __init__(
        self, choices: DataChoices, slots: Sequence[Slot], console: Console, evaluator: Evaluator | None
    ) -> None:
        self._source = choices.source()
        self._options = choices.task_options(slots[0].device)
        self._config = SearchConfig.on(choices)
        self._slots = slots
        self._console = console
        self._evaluator = evaluator or proxy_evaluator(slots)

    def examined(self) -> Examination:
        with PreparationBars(self._source.name, self._console) as bars:
            return examine(self._source, self._options, watcher=bars)

    def piloted(self, found: Examination, *, is_asked: bool) -> tuple[Examination, DatasetFacts]:
        """The examination with what a pilot has settled, one that is kept or one run now, and all as facts."""
        if found.problems:
            return found, dataset_facts(found)
        pilot = self._kept_pilot()
        was_kept = pilot is not None
        if is_asked and not was_kept:
            try:
                pilot = self._run_pilot()
            except (DataError, PilotFailed) as error:
                facts = dataset_facts(found)
                errors = error.errors if isinstance(error, DataErrors) else (error,)
                return found, replace(facts, problems=tuple(map(str, errors)))
        if pilot is None:
            return found, dataset_facts(found)
        found = self._as_searched(found, pilot)
        return found, dataset_facts(found, pilot_facts(pilot, was_kept=was_kept))

    def _kept(self, spacing: Spacing | None = None) -> CachedTask | None:
        options = self._options if spacing is None else replace(self._options, spacing=spacing)
        return cached_task(self._source, self._config.cache_folder, options)

    def _kept_pilot(self) -> Pilot | None:
        prepared = self._kept()
        return None if prepared is None else stored_pilot(self._config, prepared.task)

    def _run_pilot(self) -> Pilot | None:
        cache = self._config.cache_folder
        with no_empty_folders(cache), full_disk_explained(cache):
            return settle_training(self._config, self._prepared, self._executor, self._console)[2]

    def _prepared(self, spacing: Spacing | None) -> Task:
        options = self._options if spacing is None else replace(self._options, spacing=spacing)
        with PreparationBars(self._source.name, self._console) as bars:
            return prepare(self._source, self._config.cache_folder, options, watcher=bars)

    def _executor(self, task: Task) -> Executor:
        return LocalExecutor(self._evaluator, task, self._slots, log_folder=task.folder / PILOTS / LOGS)

    def _as_searched(self, found: Examination, pilot: Pilot) -> Examination:
        """Adapt the examination to what a search would use: the pilot's voxel size, and the audit's steps."""
        planned = self._kept()
        spacing = None if planned is None else piloted_spacing(planned.task, pilot)
        moved = None if spacing is None else self._kept(spacing)
        if moved is not None:
            there = moved.examination
            found = replace(found, basis=there.basis, plan=there.plan, choices=there.choices)
        choices, prepared = pilot.choices(found.choices), moved or planned
        audit = None if prepared is None else AuditFile.of(prepared.task, pilot.budget).read()
        return replace(found, choices=choices if audit is None else {**choices, **audit_choice(audit)})


def _write_sheet(sheet: Path, facts: DatasetFacts, found: Examination, choices: DataChoices, console: Console) -> None:
    drawn = () if choices.no_images else tuple(pictures(found))
    why_not = (
        "left out as --no-images asks" if choices.no_images else "none can be shown before the problems are mended"
    )
    if choices.pseudonyms:
        facts = replace(facts, problems=(TOLD_ELSEWHERE,) * len(facts.problems))
    try:
        write_whole(sheet, sheet_html(facts, drawn, why_no_pictures=why_not))
    except OSError as error:
        raise RequestError(f"--sheet {sheet} cannot be written: {error.strerror or error}") from error
    say(console, f"picture sheet: {sheet}")


def _machine() -> dict[str, str]:
    disk = shutil.disk_usage(Path.cwd())
    facts = {
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "cores": str(usable_cores()),
        "free disk here": f"{disk.free / 2**30:.0f} GiB",
        "cpu": _cpu(),
    }
    return {**facts, "slurm": _slurm()} if shutil.which("sbatch") else facts


def _slurm() -> str:
    if find_spec("submitit") is None:
        return '--engine slurm needs submitit: pip install "unetx-search[slurm]"'
    from unetx_search.executors.slurm.queue import describe_cluster

    return describe_cluster()


def _cpu() -> str:
    from unetx_evaluators.device import profile

    cpu = profile("cpu")
    precision = str(cpu.autocast_dtype or "torch.float32").removeprefix("torch.")
    return f"{cpu.name}, trains in {precision}"


def _packages() -> dict[str, str]:
    found = {}
    for name in (*PACKAGES, *OPTIONAL):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = 'missing; pip install "unetx-search[export]"' if name in OPTIONAL else "missing"
    return found


def findings_text(findings: Findings) -> str:
    """Return the findings as text, a fact a line; problems come last, where they are read."""
    rows = [*findings.machine.items(), ("workers", "; ".join(findings.workers)), *findings.packages.items()]
    blocks = [_aligned(rows)]
    if findings.gpus:
        blocks.append(_aligned([HEADS, *(gpu.row() for gpu in findings.gpus)]))
        blocks += _block("warning", "of GPUs", [told for gpu in findings.gpus for told in gpu.warnings])
        blocks += _block(
            "problem", "no search can use these GPUs", [told for gpu in findings.gpus for told in gpu.problems]
        )
    if findings.data is not None:
        blocks += [_aligned(_data_rows(findings.data)), *_tables(findings.data)]
    if findings.caches:
        blocks.append(caches_text(findings.caches))
    if findings.data is not None:
        blocks += _block("warning", "a search can start", findings.data.warnings)
    blocks += _block("problem", "the data cannot be used before they are mended", findings.problems)
    return "\n\n".join(blocks)


def _data_rows(data: DatasetFacts) -> Iterator[tuple[str, str]]:
    yield "dataset", data.name
    yield "source", data.source
    yield "dims", str(data.dims)
    yield "channels", ", ".join(data.channels)
    yield "classes", ", ".join(data.classes)
    parts = ", ".join(f"{part} {len(data.names(part))}" for part in PARTS)
    yield "cases", f"{len(data.cases)} ({parts})"
    training = data.training_grids
    if training:
        yield "shapes", _ranges([case.shape for case in training])
        yield "spacings", f"{_ranges([case.spacing for case in training])} mm"
    if data.n_bytes:
        yield "files", size_words(data.n_bytes)
    if data.cache_bytes is not None:
        yield "cache", f"{size_words(data.cache_bytes)} when prepared"


def _ranges(rows: Sequence[Sequence[float]]) -> str:
    """``32..41 x 43..55 x 27..43``."""
    return " x ".join(
        number_words(low) if low == high else f"{number_words(low)}..{number_words(high)}"
        for low, _, high in axis_ranges(rows)
    )


def _tables(data: DatasetFacts) -> Iterator[str]:
    if data.class_sizes:
        rows = [(size.name, f"{100 * size.share:.3g} %", str(size.n_cases)) for size in data.class_sizes]
        yield _aligned([("class", "of voxels", "training cases"), *rows])
    if data.intensities:
        numbers = [
            (seen.channel, *map(number_words, (seen.low, seen.median, seen.high, seen.mean, seen.std)))
            for seen in data.intensities
        ]
        yield _aligned([("channel (foreground)", "0.5 %", "median", "99.5 %", "mean", "std"), *numbers])
    if data.choices:
        yield _aligned([(choice.what, choice.sentence) for choice in data.choices])
    if data.pilot is not None:
        yield from _pilot_blocks(data.pilot)


def _pilot_blocks(pilot: PilotFacts) -> Iterator[str]:
    heads, rows = pilot.table()
    yield fill(f"pilot: short trainings of the U-Net, Dice on the original voxels; {pilot.origin}", LINE)
    yield _aligned([heads, *rows])
    yield _aligned([(choice.what, choice.sentence) for choice in pilot.settled])
    if pilot.advice:
        yield fill(pilot.advice, LINE)


def _block(noun: str, note: str, findings: Sequence[str]) -> Iterator[str]:
    if findings:
        count = f"{len(findings)} {noun}{'s' if len(findings) > 1 else ''}"
        yield "\n".join([f"{count} ({note}):", *(f"- {finding}" for finding in findings)])


def _aligned(rows: Iterable[Sequence[str]]) -> str:
    """Columns two spaces apart; long words of the last one go on in lines of its own."""
    table = [tuple(row) for row in rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]) - 1)]
    indent = " " * sum(width + 2 for width in widths)
    filler = TextWrapper(LINE, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(filler.fill("  ".join([*map(str.ljust, row, widths), row[-1]])) for row in table)


def findings_json(findings: Findings) -> str:
    """Return the findings as JSON."""
    return json_text({**asdict(findings), "is_fit": findings.is_fit})
