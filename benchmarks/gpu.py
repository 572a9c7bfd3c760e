"""The first minutes on a GPU: what no machine without one could tell, in the order of what is to be known first.

    python benchmarks/gpu.py              # about 8 minutes; the same command goes on where it stopped
    python benchmarks/gpu.py --try-out    # every part on the CPU, as small as it can be, to see that the script works

Each figure is written as soon as it is there, a line of JSON each, to benchmarks/results/gpu-NAME.jsonl, NAME being the
GPU's; what stands there is not measured again. What fails is written, too, with its reason. Where the GPU itself fails
the script ends, and the next call goes on behind it. At the end the ratios that are aimed at are printed. Without a GPU
it says what it would do, and ends.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gpu_parts
import torch
from gpu_parts import Bench, Item

from unetx_evaluators.device import check_alive, first_line, profile, torch_settings
from unetx_evaluators.evaluation import DeviceFailed
from unetx_search.executors.slots import MAX_THREADS

RESULTS = Path(__file__).parent / "results"
PARTS: Mapping[str, Callable[[Bench], Iterator[Item]]] = {
    part.__name__: part
    for part in (
        gpu_parts.operators,
        gpu_parts.bare_loop,
        gpu_parts.autotuner,
        gpu_parts.layouts,
        gpu_parts.norms,
        gpu_parts.phases,
        gpu_parts.workers,
        gpu_parts.faults,
        gpu_parts.scripts,
    )
}
MINUTES = 8.0
STEP_AT_MOST = 1.05
"""Of a bare captured loop."""
TIMES = {"plain": "6 to 10", "good": "2 to 4"}
"""The script's evaluations an hour: what is aimed at."""

Row = Mapping[str, Any]


def would_do() -> None:
    print("no GPU is visible to torch, so nothing is measured; with one this would measure, in this order:")
    for number, (name, part) in enumerate(PARTS.items(), start=1):
        print(f"  {number}. {name.replace('_', ' ')}: {(part.__doc__ or '').strip()}")
    print("python benchmarks/gpu.py --try-out runs every part on the CPU, as small as it can be")


def measured(file: Path) -> list[Row]:
    """The figures that were measured with this version of torch."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    return [row for row in rows if row["torch"] == torch.__version__]


def measure(bench: Bench, file: Path, ends_s: float) -> bool:
    """Measure and write the missing figures; return False where time was over before, or the device failed."""
    done = {(row["part"], row["name"]) for row in measured(file)}
    for part, items in PARTS.items():
        for name, call in items(bench):
            if (part, name) in done:
                continue
            if time.monotonic() > ends_s:
                print(f"the time is over before {part}: {name}; the same command goes on from there")
                return False
            found, is_alive = outcome(call, bench)
            row = {"part": part, "name": name, "torch": torch.__version__, **found}
            with file.open("a", encoding="utf-8") as results:
                results.write(json.dumps({**row, "at": datetime.now(UTC).isoformat(timespec="seconds")}) + "\n")
            print(f"{part}: {name}: {told(found)}", flush=True)
            if not is_alive:
                print("the GPU answers this process no more; the same command goes on with the next item")
                return False
    return True


def outcome(call: Callable[[], Row], bench: Bench) -> tuple[Row, bool]:
    """The figure, or the reason why it failed; and whether this process can still use its device."""
    try:
        return call(), True
    except Exception as error:  # noqa: BLE001  whatever it is, the other items are to be measured
        try:
            check_alive(bench.device.device, error)
        except DeviceFailed:
            return {"trouble": first_line(error)}, False
        return {"trouble": f"{type(error).__name__}: {first_line(error)}"}, True


def told(found: Row) -> str:
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in found.items()
    )


def summary(rows: Sequence[Row]) -> Iterator[str]:
    """The target ratios, as far as they are measured."""
    sound = [row for row in rows if "trouble" not in row or not row["trouble"]]
    for row in sound:
        if row["part"] == "bare_loop":
            ratio = f"{row['ratio']:.2f} of a bare captured loop"
            yield f"{row['name']}: a round takes {ratio}; at most {STEP_AT_MOST:g} is aimed at"
        if row["part"] == "norms" and row["norms"] == "triton":
            yield f"{row['name']}: a step with norms by Triton takes {row['ms'] / row['torch_ms']:.2f} of torch's"
    ours = max((row["evaluations_per_min"] * 60 for row in sound if row["part"] == "workers"), default=None)
    for row in sound:
        if row["part"] == "scripts" and ours is not None:
            times = ours / row["evaluations_per_hour"]
            script = f"the {row['name']} script"
            yield f"{times:.1f} times the evaluations an hour of {script}; {TIMES[row['name']]} is aimed at"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=MINUTES, help="nothing begins later than this")
    parser.add_argument("--try-out", action="store_true", help="on the CPU, as small as it can be")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the figures")
    asked = parser.parse_args()
    if not asked.try_out and not torch.cuda.is_available():
        would_do()
        return 0
    device = profile("cpu" if asked.try_out else "cuda")
    name = "try-out" if asked.try_out else re.sub(r"\W+", "-", device.name.lower())
    file = asked.results / f"gpu-{name}.jsonl"
    with tempfile.TemporaryDirectory() as folder, torch_settings(device, 1 if asked.try_out else MAX_THREADS):
        whole = measure(Bench(device, Path(folder), asked.try_out), file, time.monotonic() + 60 * asked.minutes)
    if asked.try_out:
        print("none of these figures means anything: all is as small as it can be, and on the CPU")
    print(*summary(measured(file)), sep="\n")
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
