"""``uae source``: what the source holds now against what was last read, and a person's word where much of it is gone."""

import datetime
import getpass
from pathlib import Path
from typing import Annotated

import typer

from uae.cli.parameters import RunParams, params_of
from uae.cli.show import say
from uae.corpus.loss import confirm, is_confirmed
from uae.corpus.snapshot import Snapshot
from uae.corpus.watch import Watch, readable
from uae.io.errors import ConfigError
from uae.pipeline.settings import load_settings
from uae.pipeline.source import source_of
from uae.pipeline.workspace import Workspace

app = typer.Typer(no_args_is_help=True, help=__doc__)

Out = Annotated[Path | None, typer.Option(help="A folder of uae run; else the project.")]
_NAMED = 10


@app.command()
def show(params: RunParams = None, out: Out = None) -> None:
    """Say what the source holds, when it last changed, and what is new, changed or gone since it was last read."""
    watch, now = _look(params, out)
    changed = datetime.datetime.fromtimestamp(now.changed, datetime.UTC)
    say(f"{watch.path}: {len(now.contents)} objects, {now.bytes:,} bytes, version {now.version}")
    say(f"last change: {changed:%Y-%m-%d %H:%M:%S} UTC")
    if not watch.before:
        say("it was not read yet")
        return
    contents = readable(now.contents)
    _name("new", sorted(contents.keys() - watch.before.keys()))
    _name("changed", sorted(name for name, content in watch.before.items() if contents.get(name, content) != content))
    _name("gone", sorted(watch.before.keys() - contents.keys()))
    if said := watch.objects_lost(now):
        say(f"{said}. This is {'' if is_confirmed(now.version, watch.confirmations) else 'not '}confirmed.")


@app.command("confirm")
def confirm_loss(
    why: Annotated[str, typer.Option(help="The reason, for those who ask later.")],
    params: RunParams = None,
    out: Out = None,
) -> None:
    """Confirm that the source, as it is now, may lack what it lacks. It holds for this content only."""
    watch, now = _look(params, out)
    confirm(now.version, getpass.getuser(), why, watch.confirmations)
    say(f"{watch.path}, version {now.version}: {len(now.contents)} objects are what there is to be. The next run reads them.")


def _look(params: Path | None, out: Path | None) -> tuple[Watch, Snapshot]:
    settings = load_settings(params_of(out, params))
    watch = source_of(settings, Workspace(out, flat_reports=True) if out else Workspace(Path(".")))
    now = watch.look()
    if now is None:
        raise ConfigError(f"{watch.path} is pinned to a revision: it loses nothing, and there is nothing to confirm")
    return watch, now


def _name(what: str, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        say(f"{what}: {len(names)}: {', '.join(names[:_NAMED])}{more}")
