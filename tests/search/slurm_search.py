"""A whole search in jobs of Slurm with a fake evaluator, to be run as a process of its own and killed:
OUT TRIALS SECONDS_PER_STEP [OPTION...].
"""

import sys
from pathlib import Path

from rich.console import Console

from unetx_evaluators.fake import FakeEvaluator
from unetx_evaluators.tasks import DemoSource
from unetx_search.config import SearchConfig
from unetx_search.run import search
from unetx_search.summary import summary_json

if __name__ == "__main__":
    out, trials, seconds_per_step = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    config = SearchConfig(
        trials=trials,
        gpus=0,
        out=out,
        study="s",
        steps=12,
        cpu_workers=2,
        pilot=False,
        engine="slurm",
        slurm=tuple(sys.argv[4:]),
        deterministic=2,
    )
    found = search(
        config,
        console=Console(stderr=True),
        evaluator=FakeEvaluator(seconds_per_step=seconds_per_step, calls_folder=out / "calls"),
        source=DemoSource(n_cases=6),
    )
    print(summary_json(found))
    sys.exit(130 if found.was_stopped else 0)
