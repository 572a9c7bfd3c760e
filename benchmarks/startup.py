"""How long a person waits for ``unetx-search --help``, beside a bare Python start, in turns.

python benchmarks/startup.py > benchmarks/results/startup-2cores.txt
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

N_RUNS = 15
ALLOWED_S = 0.6


def seconds(*command: str) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> int:
    script = Path(sys.executable).with_name("unetx-search")
    program = str(script if script.exists() else shutil.which("unetx-search"))
    helps, bares = [], []
    for _ in range(N_RUNS):
        helps.append(seconds(program, "--help"))
        bares.append(seconds(sys.executable, "-c", "pass"))
    for name, times in (("unetx-search --help", helps), ("python -c pass", bares)):
        print(f"{name:<20} median {statistics.median(times):.3f} s, from {min(times):.3f} to {max(times):.3f} s")
    print(f"ratio of the medians {statistics.median(helps) / statistics.median(bares):.1f}, allowed {ALLOWED_S} s")
    return 0 if statistics.median(helps) <= ALLOWED_S else 1


if __name__ == "__main__":
    sys.exit(main())
