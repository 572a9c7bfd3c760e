"""Finals with a fake evaluator, to be run as a process of its own and killed: STUDY SECONDS_PER_STEP."""

import sys
from pathlib import Path

from rich.console import Console

from unetx_evaluators.fake import FakeEvaluator
from unetx_evaluators.tasks import DemoSource
from unetx_search.finals.config import FinalsConfig
from unetx_search.finals.run import finals

if __name__ == "__main__":
    found = finals(
        Path(sys.argv[1]),
        FinalsConfig(top=2, seeds=3, baselines="u-net,no-skip", race=False),
        console=Console(stderr=True),
        evaluator=FakeEvaluator(seconds_per_step=float(sys.argv[2])),
        source=DemoSource(n_cases=20),
    )
    sys.exit(130 if found.was_stopped else 0)
