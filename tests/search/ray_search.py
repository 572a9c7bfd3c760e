"""A whole search on a Ray cluster with a fake evaluator, to be run as a process of its own and killed:
OUT TRIALS SECONDS_PER_STEP ADDRESS [MISDEED].
"""

import sys
from pathlib import Path

from rich.console import Console

from unetx_evaluators.fake import FakeEvaluator, InjectedFault
from unetx_evaluators.tasks import DemoSource
from unetx_search.config import SearchConfig
from unetx_search.run import search
from unetx_search.summary import summary_json

if __name__ == "__main__":
    out, trials, seconds_per_step, address = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
    acts = {0: InjectedFault(sys.argv[5])} if len(sys.argv) > 5 else {}
    config = SearchConfig(
        trials=trials,
        gpus=0,
        out=out,
        study="s",
        steps=12,
        cpu_workers=2,
        pilot=False,
        engine="ray",
        ray_address=address,
    )
    found = search(
        config,
        console=Console(stderr=True),
        evaluator=FakeEvaluator(seconds_per_step=seconds_per_step, acts_by_seed=acts, calls_folder=out / "calls"),
        source=DemoSource(n_cases=6),
    )
    print(summary_json(found))
    sys.exit(130 if found.was_stopped else 0)
