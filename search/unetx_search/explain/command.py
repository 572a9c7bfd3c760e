"""The command ``explain``: it parses, calls one function of the library and prints; nothing heavy is imported here."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from unetx_search.converters import Json
from unetx_search.data_choices import DataChoices


def explain(
    what: str,
    *,
    choices: Annotated[DataChoices, Parameter(name="*")] = DataChoices(),  # noqa: B008 (frozen)
    folder: Annotated[Path | None, Parameter(name=["--folder", "-o"])] = None,
    seeds: int = 1,
    steps: int | None = None,
    validation_cases: int | None = None,
    gpus: Literal["all"] | int = "all",
    json: Json = False,
) -> None:
    """Tell what each skip of a design or a trained model does: one after the other is replaced, and cases scored again.

    For each skip the change of Dice with an interval, its likeness to what the decoder has, and its gate; for each
    stage the gradient beside that of a twin without skips; targets by size, and edges. Killed or stopped, the same
    command goes on.

    Parameters
    ----------
    what
        A study's folder such as runs/NAME (its best design), runs/NAME:TRIAL, an architecture file, a preset, or a
        trained model's folder. A study knows its data; others need --data.
    folder
        Where explain.json, explain.svg and the finished parts go. By default explain/trial-N in the study's folder,
        explain/fold-N in the model's, or explain/NAME below --out.
    seeds
        Trainings of the design and of its twin; three or more also tell how far other trainings differ.
    steps
        Training steps. Those of the design's study by default, else those of a search on these data.
    validation_cases
        Cases that are scored, at most. All validation cases by default.
    gpus
        "all" for the first GPU where there is one, 0 for the CPU.
    json
        Print explain.json instead.
    """
    from unetx_search.explain.explaining import explain
    from unetx_search.progress import stderr_console
    from unetx_studies.explanation import explanation_text

    done = explain(
        what,
        choices,
        console=stderr_console(),
        folder=folder,
        seeds=seeds,
        steps=steps,
        validation_cases=validation_cases,
        gpus=gpus,
    )
    if json:
        print((done.folder / "explain.json").read_text(encoding="utf-8"), end="")
    else:
        print(f"{explanation_text(done.architecture, done.findings)}\n\n  drawing  {done.folder / 'explain.svg'}")
