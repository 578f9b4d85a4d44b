"""The command line: ``uae <stage>``, ``uae run``, ``uae compare``, ``uae summary``, ``uae lineage``, ``uae history``,
``uae rollback``, ``uae refresh``, ``uae vectors``, ``uae release``, ``uae models``."""

import logging
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.logging import RichHandler

from uae.cli import release as release_commands
from uae.cli import source as source_commands
from uae.cli.parameters import PARAMS, Params, RunParams, params_of
from uae.cli.signals import Stopping
from uae.io.errors import ArtefactError, ConfigError, UaeError
from uae.io.torchrun import leads
from uae.pipeline.chain import CHAIN, STAGES, model_references, run_stage
from uae.pipeline.settings import load_settings
from uae.pipeline.workspace import Workspace

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
errors = Console(stderr=True)

Overrides = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a parameter; may be repeated.")]
_NONE: list[str] = []


def _quiet() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=errors, show_path=False)])
    # Set before the libraries load. Their progress bars for reading weights say nothing, and none of them may wait for a hub.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    warnings.filterwarnings("ignore", message=".*input example was not provided.*")


def _announce(line: str) -> None:
    errors.print(line, style="bold", highlight=False, markup=False, soft_wrap=True)


def _tell(stage: str, told: dict[str, Any]) -> None:
    """What ``uae run`` says after a stage: the labels are judged before hours of training, not after."""
    from uae.cli.show import verdict

    if stage == "label":
        _announce(verdict(told["quality"]))
        errors.print(told["quality"]["summary"], markup=False, highlight=False, soft_wrap=True)


def _stage_command(name: str) -> Callable[..., None]:
    def command(params: Params = PARAMS, overrides: Overrides = _NONE) -> None:
        from uae.cli.show import print_stage

        result = run_stage(STAGES[name], load_settings(params, overrides), Workspace(Path(".")))
        if leads():
            print_stage(name, result)

    command.__doc__ = STAGES[name].summary
    return command


def _label(
    params: Params = PARAMS,
    overrides: Overrides = _NONE,
    plan: Annotated[bool, typer.Option("--plan", help="Say what it would cost, and ask nothing.")] = False,
    report: Annotated[bool, typer.Option("--report", help="Judge the labels that are there, and ask nothing.")] = False,
    calibration: Annotated[float, typer.Option(help="Seconds that --plan reads to learn the teacher's speed.")] = 10.0,
) -> None:
    """Ask the teacher for each answer's NLL with and without each candidate; store the raw readings; judge them."""
    from uae.cli.show import print_labels, print_plan, print_stage
    from uae.pipeline.stages.label import LabelParameters, plan_labels, report_labels

    settings, workspace = load_settings(params, overrides), Workspace(Path("."))
    if plan and report:
        raise typer.BadParameter("--plan and --report answer different questions: ask one at a time")
    if plan:
        print_plan(plan_labels(LabelParameters.of(settings), workspace, calibration))
        return
    if report:
        result = report_labels(LabelParameters.of(settings), workspace)
    else:
        counts = run_stage(STAGES["label"], settings, workspace)
        print_stage("label", counts)
        result = counts["quality"]
    print_labels(result, workspace.path("label_page"))


for _stage in CHAIN:
    app.command(_stage.name)(_label if _stage.name == "label" else _stage_command(_stage.name))


@app.command()
def run(
    out: Annotated[Path, typer.Option(help="The folder of this run; a second run with it goes on where the first stopped.")],
    params: Params = PARAMS,
    overrides: Overrides = _NONE,
    models: Annotated[Path, typer.Option(help="Where fetched models are kept.")] = Path("models"),
    until: Annotated[str, typer.Option(help="The last stage to run.")] = CHAIN[-1].name,
) -> None:
    """Run the whole chain on any data in a folder of its own, outside DVC. Writes OUT/evaluation.json."""
    from uae.pipeline.run import run_chain

    if until not in STAGES:
        raise typer.BadParameter(f"--until {until}: the stages are {', '.join(STAGES)}")
    if os.path.realpath(out / "params.yaml") == os.path.realpath(params):
        raise ConfigError(f"--out {out}: {params} would be written over there; name another folder, for example runs/mine")

    run_chain(
        load_settings(params, overrides),
        out,
        models,
        _announce,
        until,
        _tell,
    )
    if until == CHAIN[-1].name:
        _summarise(Workspace(out, flat_reports=True))


@app.command()
def compare(
    contenders: Annotated[
        list[str],
        typer.Option("--contender", help="'NAME: KEY=VALUE ...' or an objective; repeatable. Default: all objectives."),
    ] = _NONE,
    seeds: Annotated[int, typer.Option(min=1, help="How many, counted from the parameter file's.")] = 1,
    out: Annotated[Path, typer.Option(help="Where finished parts are kept; the same command goes on from them.")] = Path(
        "reports/compare"
    ),
    run: Annotated[Path | None, typer.Option(help="A folder of uae run to take the labels from; else the project.")] = None,
    split: Annotated[
        Literal["validation", "test"],
        typer.Option(help="Whose questions measure. Choose recipes on validation."),
    ] = "validation",
    params: RunParams = None,
    overrides: Overrides = _NONE,
) -> None:
    """Fit objectives and recipes on equal terms, measure them on the same questions, print one table."""
    from uae.cli.show import print_comparison
    from uae.experiments.compare import compare_recipes

    workspace = Workspace(run, flat_reports=True) if run else Workspace(Path("."))
    params = params_of(run, params)
    print_comparison(compare_recipes(params, overrides, contenders, seeds, workspace, out, _announce, split=split))


@app.command()
def summary(out: Annotated[Path | None, typer.Option(help="A folder of uae run; else the project.")] = None) -> None:
    """Print the last evaluation, what was registered and why, and where everything is."""
    _summarise(Workspace(out, flat_reports=True) if out else Workspace(Path(".")))


def _summarise(workspace: Workspace) -> None:
    from uae.cli.show import print_summary
    from uae.registry.versions import champion_now

    now = None
    with suppress(ConfigError):  # of an earlier version, perhaps: the summary tells what lies there all the same
        settings = load_settings(params_of(workspace.root, None))
        tracking, names = settings.tracking, settings.promote
        if workspace.path("promotion").exists():  # else there is no registry yet, and asking would make one
            now = champion_now(workspace.root, tracking.uri, tracking.experiment, names.model, names.alias)
    print_summary(workspace, now)


@app.command()
def lineage(
    version: Annotated[str, typer.Argument(metavar="MODEL_VERSION", help="A version's number, or an alias.")],
    params: RunParams = None,
    root: Annotated[Path, typer.Option(help="The project, or a folder of uae run.")] = Path("."),
) -> None:
    """Print the data, labels, code and index that a registered version came from."""
    from uae.cli.show import print_lineage
    from uae.registry.lineage import lineage as trace
    from uae.registry.tracking import connect

    settings = load_settings(params_of(root, params))
    client = connect(settings.tracking.uri, settings.tracking.experiment, root)
    print_lineage(trace(client, settings.promote.model, version))


@app.command()
def refresh(
    out: Annotated[Path | None, typer.Option(help="A folder of uae run; else the project.")] = None,
    read: Annotated[
        bool, typer.Option(help="Read and validate the source first; --no-read takes the tables as dvc repro validate left them.")
    ] = True,
    params: RunParams = None,
    overrides: Overrides = _NONE,
    models: Annotated[Path, typer.Option(help="Where fetched models are kept.")] = Path("models"),
) -> None:
    """Have the champion serve today's corpus: new texts are encoded, no LLM is asked, and nothing is trained."""
    from uae.cli.show import print_refresh
    from uae.pipeline.refresh import READING, read_source
    from uae.pipeline.refresh import refresh as refresh_champion
    from uae.pipeline.run import run_chain

    settings = load_settings(params_of(out, params), overrides)
    workspace = Workspace(out, models, flat_reports=True) if out else Workspace(Path("."), models)
    if read and out:
        run_chain(settings, out, models, _announce, READING[-1])
    elif read:
        read_source(settings, workspace)
    print_refresh(refresh_champion(settings, workspace), workspace.root)


@app.command()
def forget(
    source_key: Annotated[str, typer.Argument(metavar="SOURCE_KEY", help="The deleted document, as hits name it in source.")],
    store: Annotated[Path, typer.Option(help="The service's folder of releases.")] = Path("models/serving"),
    out: Annotated[Path | None, typer.Option(help="A folder of uae run; else the project.")] = None,
    who: Annotated[str | None, typer.Option(help="Default: UAE_WHO, or this user on this machine.")] = None,
    dvc: Annotated[
        bool | None, typer.Option("--dvc/--no-dvc", help="Also DVC's cache and remotes. Default: where the project has .dvc.")
    ] = None,
    params: RunParams = None,
    overrides: Overrides = _NONE,
) -> None:
    """Remove a deleted document from releases, registry, DVC, labels and vectors, for good; write a receipt."""
    from uae.cli.show import print_receipt
    from uae.pipeline.forget import forget as forget_document
    from uae.registry.history import this_user

    workspace = Workspace(out, flat_reports=True) if out else Workspace(Path("."))
    in_dvc = (workspace.root / ".dvc").is_dir() if dvc is None else dvc
    settings = load_settings(params_of(out, params), overrides)
    receipt = forget_document(settings, workspace, store, source_key, who or this_user(), in_dvc)
    print_receipt(receipt)
    if receipt["unreached"]:
        raise ArtefactError(f"{source_key} may still be in {len(receipt['unreached'])} places, which are named above")


@app.command()
def vectors(
    sweep: Annotated[bool, typer.Option("--sweep", help="Drop the vectors of encoders and texts that nothing uses.")] = False,
    out: Annotated[Path | None, typer.Option(help="A folder of uae run; else the project.")] = None,
    params: RunParams = None,
    overrides: Overrides = _NONE,
) -> None:
    """Print what the vector store holds, by encoder, and which of it is used. It is a cache: it may be deleted at any time."""
    from uae.cli.show import print_vectors
    from uae.pipeline.vectors_in_use import vectors_in_use
    from uae.vectors.store import VectorStore

    workspace = Workspace(out, flat_reports=True) if out else Workspace(Path("."))
    store, used = VectorStore(workspace.vectors), vectors_in_use(load_settings(params_of(out, params), overrides), workspace)
    dropped = store.sweep(used.encoders, used.texts)[0] if sweep else 0
    print_vectors(store.held(), used.encoders, dropped)


@app.command()
def history(
    params: RunParams = None,
    root: Annotated[Path, typer.Option(help="The project, or a folder of uae run.")] = Path("."),
) -> None:
    """Print who moved the alias, when and why, and every decision of the gate."""
    from uae.cli.show import print_history
    from uae.registry.history import History
    from uae.registry.tracking import RELEASE_TAG, connect
    from uae.registry.versions import version_of

    settings = load_settings(params_of(root, params))
    client = connect(settings.tracking.uri, settings.tracking.experiment, root)
    model, alias = settings.promote.model, settings.promote.alias
    present = version_of(client, model, alias)
    now, release = (int(present.version), str(present.tags.get(RELEASE_TAG, ""))) if present is not None else (None, "")
    print_history(model, alias, now, History(client, settings.tracking.experiment, model, alias).with_unknown_moves(now, release))


@app.command()
def rollback(
    why: Annotated[str, typer.Option(help="For whoever reads the history later.")],
    version: Annotated[
        str | None, typer.Argument(help="A version's number. Default: the champion before the present one.")
    ] = None,
    who: Annotated[str | None, typer.Option(help="Default: UAE_WHO, or this user on this machine.")] = None,
    params: RunParams = None,
    root: Annotated[Path, typer.Option(help="The project, or a folder of uae run.")] = Path("."),
) -> None:
    """Move the alias back in the registry. A service that follows it (uae release follow) takes the version over."""
    from uae.cli.show import how_to_serve, say
    from uae.registry.rollback import roll_back
    from uae.registry.tracking import connect

    settings = load_settings(params_of(root, params))
    client = connect(settings.tracking.uri, settings.tracking.experiment, root)
    model, alias = settings.promote.model, settings.promote.alias
    moved = roll_back(client, settings.tracking.experiment, model, alias, version, why, who)
    came = f"; it was version {moved.before}" if moved.before else ""
    say(f"{alias} of {model} is version {moved.version} now{came}")
    say(how_to_serve(root))


@app.command()
def drift(
    params: Params = PARAMS,
    overrides: Overrides = _NONE,
    store: Annotated[Path | None, typer.Option(help="The store of releases; else models/serving.")] = None,
) -> None:
    """Say whether users ask for other things than they did, from the service's log of queries (drift.log)."""
    from uae.cli.show import print_drift
    from uae.pipeline.drift import watch_drift

    workspace = Workspace(Path("."))
    print_drift(watch_drift(load_settings(params, overrides), workspace, store), workspace)


app.add_typer(release_commands.app, name="release")
app.add_typer(source_commands.app, name="source")


@app.command()
def models(params: Params = PARAMS, overrides: Overrides = _NONE) -> None:
    """Fetch the models that the parameters name into models/, and print where they are."""
    from uae.io.models import resolve

    settings = load_settings(params, overrides)
    for role, reference in model_references(settings).items():
        print(f"{role}: {resolve(reference, Path('models'))}")


def main() -> None:
    stopping = Stopping()
    _quiet()
    try:
        app()
    except UaeError as error:
        stopping.end_if_told()  # a signal came: some library turned it into this error
        errors.print("error:", style="bold red", end=" ")
        errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    finally:
        stopping.end_if_told()


if __name__ == "__main__":
    main()
