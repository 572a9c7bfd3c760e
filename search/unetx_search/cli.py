"""The command line. Each command parses, calls one function of the library and prints; nothing heavy is imported here.

Results go to stdout, logs and progress to stderr. Exit codes: 0 done, 1 the work failed, 2 the request was wrong,
130 interrupted by the user (the study can be continued).
"""

from __future__ import annotations

import io
import os
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, CycloptsPanel, Parameter, UnusedCliTokensError
from cyclopts.config import Dict

from unetx_search import INTERRUPTED
from unetx_search.audit.config import AuditConfig
from unetx_search.config import Choices, SearchConfig
from unetx_search.converters import Json, convert_strictly, join_sizes
from unetx_search.data_choices import DataChoices
from unetx_search.explain.command import explain
from unetx_search.finals.config import FinalsConfig
from unetx_search.models.export_command import export
from unetx_search.models.predict_command import predict
from unetx_search.models.train_command import train
from unetx_space.design_space import design_space, space_text
from unetx_space.errors import Interrupted, RequestError, UnetxError, unknown_name
from unetx_space.files import json_text

if TYPE_CHECKING:
    from unetx_space.architecture import Architecture

app = App(
    name="unetx-search",
    default_parameter=Parameter(converter=convert_strictly),
    version=lambda: version("unetx-search"),
    suppress_keyboard_interrupt=False,  # main() says how to go on
    help=(
        "Find which skip connections a medical-segmentation U-Net should have, on your own data. "
        "Without a command it searches: unetx-search --trials 200 --gpus 4 --data PATH"
    ),
)

app.meta.suppress_keyboard_interrupt = False


@app.default
def search(
    config: Annotated[SearchConfig, Parameter(name="*")] = SearchConfig(),  # noqa: B008 (frozen)
    *,
    finals: Annotated[bool, Parameter(negative=())] = False,
    json: Json = False,
) -> int:
    """Search, or continue the study of the same name up to --trials.

    Parameters
    ----------
    finals
        At the end, hold finals as "unetx-search finals" does by default, and print their verdict, too.
    json
        Print the summary as JSON.
    """
    from unetx_search.progress import stderr_console
    from unetx_search.report.dashboard_plots import show_study_plots
    from unetx_search.report.study import read_reported_study
    from unetx_search.run import search
    from unetx_search.summary import summary_json, summary_text

    def plot(folder: Path) -> None:
        show_study_plots(read_reported_study(folder))

    summary = search(config, console=stderr_console(), plot=plot)
    if summary.evaluations:
        from unetx_search.report.page import REPORT, write_report

        study = read_reported_study(summary.folder)
        show_study_plots(study)
        write_report(study, summary.folder / REPORT)
    print(summary_json(summary) if json else summary_text(summary))
    if summary.was_stopped:
        return INTERRUPTED
    if finals and summary.best is not None and not summary.ran_out_of_time:
        return _finals(summary.folder, FinalsConfig(), json)
    return 0 if summary.best is not None else 1


@app.command
def finals(
    study: Path,
    *,
    config: Annotated[FinalsConfig, Parameter(name="*")] = FinalsConfig(),  # noqa: B008 (frozen)
    json: Json = False,
) -> int:
    """Train a study's best designs and published ones longer, on fresh seeds, and compare them on the test cases.

    Parameters
    ----------
    study
        The folder of the study, such as runs/demo.
    json
        Print the verdict as JSON.
    """
    return _finals(study, config, json)


def _finals(study: Path, config: FinalsConfig, json: bool) -> int:
    from unetx_search.finals.report import finals_facts, finals_text
    from unetx_search.finals.run import finals
    from unetx_search.progress import stderr_console

    results = finals(study, config, console=stderr_console())
    print(json_text(finals_facts(results)) if json else finals_text(results))
    return INTERRUPTED if results.was_stopped else 0


@app.command
def audit(
    config: Annotated[AuditConfig, Parameter(name="*")] = AuditConfig(),  # noqa: B008 (frozen)
    *,
    json: Json = False,
) -> int:
    """Measure how well short trainings foretell long ones on a dataset, and how many steps a search of it needs.

    Parameters
    ----------
    json
        Print the findings as JSON.
    """
    from unetx_search.audit.report import audit_facts, audit_text
    from unetx_search.audit.run import audit
    from unetx_search.progress import stderr_console

    found = audit(config, console=stderr_console())
    print(json_text(audit_facts(found)) if json else audit_text(found))
    return INTERRUPTED if found.was_stopped else 0


@app.command
def show(
    what: str | None = None,
    other: str | None = None,
    *,
    space: Annotated[bool, Parameter(negative=())] = False,
    levels: int = 5,
    choices: Annotated[Choices, Parameter(name="*")] = Choices(),  # noqa: B008 (frozen)
    svg: Path | None = None,
    html: Path | None = None,
    ascii: Annotated[bool, Parameter(negative=())] = False,
    json: Json = False,
) -> None:
    """Draw an architecture in the terminal, as SVG or as a page, or two with what differs; or with --space tell what a
    design space holds.

    Parameters
    ----------
    what
        A JSON file such as runs/NAME/best.json, or the name of a preset; with --space the name of a space.
    other
        Another one, to be compared with. A preset beside a file is put on the file's backbone.
    space
        Print the genes, the choices and the number of distinct designs of a space.
    levels
        Levels of the backbone, for a preset or a space.
    svg
        Also write the drawing there, or both side by side.
    html
        Also write a page there that tells parameters, multiply-adds and memory of each part it is pointed at.
    ascii
        Draw without box characters.
    json
        Print costs and facts as JSON instead.
    """
    from unetx_search import architectures

    if space:
        narrowed = choices.narrow(design_space(what or "default", levels))
        print(architectures.space_json(narrowed) if json else space_text(narrowed))
        return
    if what is None:
        raise RequestError("show needs an architecture file or the name of a preset, or --space")
    if other is None:
        found, beside = architectures.named_architecture(what, levels), None
    else:
        found, beside = architectures.named_architectures(what, other, levels)
    if svg is not None:
        architectures.write_svg(found, svg, beside)
    if html is not None:
        architectures.write_html(found, html, beside)
    if beside is None:
        print(architectures.architecture_json(found) if json else _drawn(found, ascii))
    else:
        print(architectures.difference_json(found, beside) if json else architectures.difference_text(found, beside))


def _drawn(architecture: Architecture, ascii: bool) -> str:
    """Draw with box characters where they are wanted and the terminal has them."""
    from unetx_search.architectures import architecture_text

    text = architecture_text(architecture, ascii=ascii)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return architecture_text(architecture, ascii=True)
    return text


app.command(export)
app.command(train)
app.command(predict)


@app.command
def report(study: Path, *, output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None) -> None:
    """Put a study on one page: who is the best, how sure that is, what it costs, and all that is behind it.

    Parameters
    ----------
    study
        The folder of the study, such as runs/demo.
    output
        The HTML file to write; tables as CSV and JSON go beside it. report.html in the study's folder by default.
    """
    from unetx_search.report.page import REPORT, write_report
    from unetx_search.report.study import read_reported_study

    target = output or study / REPORT
    write_report(read_reported_study(study), target)
    print(f"wrote {target}")


@app.command
def presets(*, json: Json = False) -> None:
    """List the published designs.

    Parameters
    ----------
    json
        Print them as JSON.
    """
    from unetx_search.architectures import presets_json, presets_text

    print(presets_json() if json else presets_text())


@app.command
def dashboard(study: Path, *, host: str = "127.0.0.1", port: int = 8080) -> None:
    """Serve Optuna's dashboard for a study to this machine, also while it runs. It changes nothing but notes.

    Parameters
    ----------
    study
        The folder of the study, such as runs/demo.
    host
        Address of the loopback to listen on, such as 127.0.0.1 or ::1; for another machine use an SSH tunnel.
    port
        Port to listen on.
    """
    from unetx_studies.dashboard import serve

    serve(study, host=host, port=port, announce=lambda url: print(f"serving {study} at {url} (Ctrl-C ends it)"))


@app.command
def runs(out: Path = Path("runs"), *, json: Json = False) -> None:
    """List the studies of a folder: how far they are, who leads, what their finals concluded.

    Parameters
    ----------
    out
        The folder that holds them.
    json
        Print them as JSON.
    """
    from unetx_search.listing import listing_json, listing_text, study_overviews

    found = study_overviews(out)
    print(listing_json(found) if json else listing_text(found, out))


@app.command
def status(
    study: Path,
    *,
    watch: Annotated[bool, Parameter(negative=())] = False,
    decisions: Annotated[bool, Parameter(negative=())] = False,
    json: Json = False,
) -> None:
    """Tell how a study stands, also while it runs: trials, workers, failures, and why each design was proposed.

    Parameters
    ----------
    study
        The folder of the study, such as runs/demo.
    watch
        Keep showing it until the run ends or Ctrl-C: workers, scores, what can be told apart, the best design.
    decisions
        Print why each design was proposed instead.
    json
        Print everything as JSON.
    """
    from unetx_search.progress import stderr_console
    from unetx_search.status import decisions_text, read_status, status_json, status_text
    from unetx_search.watching import watch as watch_study

    found = watch_study(study, stderr_console()) if watch else read_status(study)
    print(status_json(found) if json else decisions_text(found) if decisions else status_text(found))


@app.command
def doctor(
    *,
    choices: Annotated[DataChoices, Parameter(name="*")] = DataChoices(),  # noqa: B008 (frozen)
    sheet: Annotated[Path | None, Parameter(group="Data")] = None,
    pilot: Annotated[bool, Parameter(group="Data", negative=())] = False,
    gpu: Annotated[bool, Parameter(negative=())] = False,
    clean: Literal["stale", "all"] | None = None,
    json: Json = False,
) -> int:
    """Tell what this machine offers a search and, with --data, whether a dataset can be used and what is made of it.

    Parameters
    ----------
    sheet
        Also write an HTML page there with pictures of a dozen cases and all that was found.
    pilot
        Also prepare the data and train the U-Net a few times, as the first search would, and tell what that settled:
        learning rate, background weight, steps and voxel size. A search finds it in the cache and asks nothing again.
    gpu
        Also try every visible GPU for a few seconds, as a search does with those it will use: driver, compute mode,
        whether this torch was built for it, a training step captured and eager, the memory that is really free.
    clean
        Instead, remove prepared datasets from the cache: unfinished ones and those whose files have changed or gone
        (stale), or all of them. What a running search uses is kept.
    json
        Print the findings as JSON.
    """
    if clean is not None:
        from unetx_search.caches import clean_caches, cleaning_json, cleaning_text

        cleaned = clean_caches(choices.cache_folder, clean)
        print(cleaning_json(cleaned) if json else cleaning_text(cleaned))
        return 0
    from unetx_search.doctor import diagnose, findings_json, findings_text
    from unetx_search.progress import stderr_console

    findings = diagnose(choices, console=stderr_console(), sheet=sheet, pilot=pilot, gpu=gpu)
    print(findings_json(findings) if json else findings_text(findings))
    return 0 if findings.is_fit else 2


app.command(explain)


@app.meta.default
def launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[Path | None, Parameter(group="Parameters")] = None,
) -> Any:
    """Run the command that the words name; options that they do not give are read from a TOML file.

    Parameters
    ----------
    config
        TOML file with options by their names, such as trials = 200 or attention = ["none", "se"]. What is said on the
        command line wins.
    """
    app.config = [] if config is None else [_settings(config)]
    try:
        return app(join_sizes(tokens), error_formatter=_error_panel, result_action="return_value")
    finally:
        app.config = []


def _settings(path: Path) -> Dict:
    """What a file says, for cyclopts. Raises RequestError when it is no TOML file."""
    try:
        found = Dict(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except OSError as error:
        raise RequestError(f"--config {path} cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"--config {path} is no TOML file: {error}") from error
    found.source = str(path)
    return found


def main() -> None:
    """Run the command line. An error raised on purpose becomes a message and an exit code; a bug has its traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that the terminal lacks is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    try:
        result = app.meta(sys.argv[1:], error_formatter=_error_panel, result_action="return_value")
    except UnetxError as error:
        print(f"unetx-search: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, RequestError) else INTERRUPTED if isinstance(error, Interrupted) else 1)
    except BrokenPipeError:  # whoever read our output has enough, as "| head" does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        print("stopped; run the same command to continue", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(result or 0)


def _error_panel(error: CycloptsError) -> Any:
    """The error as cyclopts words it; where a first word is no command, the nearest command is named instead."""
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return unknown_name("command", error.unused_tokens[0], COMMANDS)
    return CycloptsPanel(error)


COMMANDS = [name for name in app if not name.startswith("-")]


if __name__ == "__main__":
    main()
