"""A whole search with a fake evaluator, to be run as a process of its own and killed:
OUT TRIALS SECONDS_PER_STEP [SETTING=VALUE ...]; the setting ``act`` is what every evaluation with seed 0 does.
"""

import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from unetx_evaluators.fake import FakeEvaluator, InjectedFault
from unetx_evaluators.tasks import DemoSource
from unetx_search.config import SearchConfig
from unetx_search.run import search
from unetx_search.summary import summary_json

if __name__ == "__main__":
    out, trials, seconds_per_step = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    told: dict[str, Any] = dict(word.split("=", 1) for word in sys.argv[4:])
    acts = {0: InjectedFault(told.pop("act"))} if "act" in told else {}
    settings = {"study": "s", "gpus": 0, "steps": 12, "cpu_workers": 2, "pilot": False, **told}
    found = search(
        SearchConfig(trials=trials, out=out, **settings),
        console=Console(stderr=True),
        evaluator=FakeEvaluator(seconds_per_step=seconds_per_step, acts_by_seed=acts),
        source=DemoSource(n_cases=6),
    )
    print(summary_json(found))
    sys.exit(130 if found.was_stopped else 0)
