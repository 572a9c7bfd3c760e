"""What a process does that only searches, until it is done or killed."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from unetx_evaluators.fake import FakeEvaluator, InjectedFault
from unetx_evaluators.tasks import DemoSource
from unetx_search.config import SearchConfig
from unetx_search.run import search
from unetx_search.summary import summary_json


def search_to_end(acts: Mapping[int, InjectedFault], *, notes_calls: bool = True, **settings: Any) -> NoReturn:
    """Search with a fake evaluator by the first arguments OUT TRIALS SECONDS_PER_STEP, and exit as the command does.

    ``acts`` are what the evaluator does for a seed, ``settings`` further ones of the search. With ``notes_calls`` the
    evaluator leaves a file for each call in the folder ``calls`` of OUT.
    """
    out, trials, seconds_per_step = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    given = {"study": "s", "gpus": 0, "steps": 12, "cpu_workers": 2, "pilot": False, **settings}
    calls = out / "calls" if notes_calls else None
    summary = search(
        SearchConfig(trials=trials, out=out, **given),
        console=Console(stderr=True),
        evaluator=FakeEvaluator(seconds_per_step=seconds_per_step, acts_by_seed=acts, calls_folder=calls),
        source=DemoSource(n_cases=6),
    )
    print(summary_json(summary))
    sys.exit(130 if summary.was_stopped else 0)
