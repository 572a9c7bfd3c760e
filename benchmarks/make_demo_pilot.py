"""Runs the pilot of the built-in demo on CPU workers and stores its answer with the package, a few minutes:

    python benchmarks/make_demo_pilot.py

A search of the demo with its default options then asks no pilot. A test fails where the stored answer is of another
question than such a search would ask.
"""

from __future__ import annotations

import shutil
import sys
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from unetx_evaluators.evaluation import Outcome
from unetx_search.config import SearchConfig
from unetx_search.piloting import PILOTS
from unetx_search.run import search


def main() -> None:
    folder = Path(str(files("unetx_evaluators"))) / PILOTS
    shutil.rmtree(folder, ignore_errors=True)
    with TemporaryDirectory() as out:
        config = SearchConfig(trials=1, gpus=0, out=Path(out))
        summary = search(config, console=Console(stderr=True))
        if summary.evaluations[0].outcome is not Outcome.COMPLETE:
            sys.exit("the search after the pilot came to nothing")
        (answer,) = config.cache_folder.glob(f"*/{PILOTS}/*.json")
        folder.mkdir()
        print("wrote", shutil.copy(answer, folder))


if __name__ == "__main__":
    main()
