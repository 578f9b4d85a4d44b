"""Take a deleted document out of what DVC keeps: its cache, and every remote that the project names.

    python -m dagster_project.forget SOURCE_KEY [--root DIR]

``uae forget`` runs this where the project is DVC's. All objects are read, whatever version they are of. What holds a text of the
document goes. Of a folder, such as an old release, everything goes that no other version needs: its vectors, too. So an old
version that held the document cannot be pulled as a whole any more, and all others can. What dvc.lock names now stays, and is
told: the chain has to make it anew first. Prints one JSON line last. The exit code is 1 where something could not be reached.
"""

import io
import json
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import pyarrow.parquet as pq
import typer
import yaml

from uae.io.errors import ArtefactError, ConfigError, UaeError
from uae.pipeline.workspace import Workspace
from uae.text.traces import Traces, texts_of

if TYPE_CHECKING:
    from dvc.repo import Repo

_DIRECTORY = ".dir"
_CACHE = "cache"
_HERE = "the project as it is"  # beside the versions that git knows


def store_errors() -> tuple[type[BaseException], ...]:
    """What DVC's file systems let through; the clients of S3 are not installed everywhere."""
    try:
        from uae.corpus.objects import store_errors as of_s3

        return of_s3()
    except ImportError:
        return (OSError,)


@dataclass
class Kept:
    """What DVC keeps, and where."""

    stores: dict[str, Any]  # place -> DVC's object store
    places: dict[str, list[str]] = field(default_factory=dict)  # oid -> the places that hold it
    unreached: list[str] = field(default_factory=list)

    def open(self, oid: str) -> IO[bytes]:
        """An object of the first place that can be read.

        Raises:
            OSError: none can.
        """
        said: BaseException | None = None
        for place in self.places[oid]:
            store = self.stores[place]
            try:
                if place == _CACHE:
                    return open(store.oid_to_path(oid), "rb")
                with store.fs.open(store.oid_to_path(oid), "rb") as stream:
                    return io.BytesIO(stream.read())
            except store_errors() as error:
                said = error
        raise OSError(f"object {oid} cannot be read: {said}")

    def members(self, oid: str) -> list[str]:
        """The objects that a folder lists."""
        with self.open(oid) as stream:  # a source on S3 is listed, too: by ETags, of objects that are not DVC's
            return [entry["md5"] for entry in json.load(stream) if "md5" in entry]


def forget(root: Path, source_key: str) -> dict[str, Any]:
    """Remove what holds the document from the cache and from all remotes.

    Args:
        source_key: the document's, as the tables name it in ``source``.

    Returns:
        ``found``, whether anything held it; ``removed``, place -> objects; ``versions``, version -> what it has lost;
        ``standing``, paths that dvc.lock names now and that hold it; ``unreached``, sentences.

    Raises:
        ConfigError: ``root`` is no DVC project.
        ArtefactError: the tables of the project still hold the document.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            return _forget(repo, root, source_key)
    except DvcException as error:
        raise ConfigError(f"{root} is no DVC project, or DVC cannot use it: {error}") from error


def _forget(repo: "Repo", root: Path, source_key: str) -> dict[str, Any]:
    kept = _list(repo)
    traces = _traces(kept, root, source_key)
    if traces is None:
        return {"found": False, "removed": {}, "versions": {}, "standing": [], "unreached": kept.unreached}
    named = _versions(root)
    holding = {oid for oid in kept.places if not oid.endswith(_DIRECTORY) and _holds(kept, oid, traces)}
    folders = {oid: _members(kept, oid) for oid in kept.places if oid.endswith(_DIRECTORY)}
    tainted = holding | {oid for oid, members in folders.items() if holding & set(members)}
    now = {oid: path for oid, path in named.get(_HERE, {}).items() if oid in tainted}
    needed = {oid for outs in named.values() for oid in outs if oid not in tainted} | set(now)
    needed |= {each for oid, members in folders.items() if oid not in tainted or oid in now for each in members}
    doomed = (tainted | {each for oid in tainted for each in folders.get(oid, ())}) - needed
    removed = {place: _remove(kept, place, doomed) for place in kept.stores}
    return {
        "found": bool(tainted),
        "removed": {place: oids for place, oids in removed.items() if oids},
        "versions": {
            version: lost
            for version, outs in named.items()
            if version != _HERE and (lost := sorted(path for oid, path in outs.items() if oid in doomed))
        },
        "standing": sorted(now.values()),
        "unreached": kept.unreached,
    }


def _list(repo: "Repo") -> Kept:
    """All objects of all places. A place that cannot be listed is told."""
    from dvc.exceptions import DvcException

    kept = Kept({_CACHE: repo.cache.local})
    for name in sorted(repo.config["remote"]):
        try:
            kept.stores[f"remote {name}"] = repo.cloud.get_remote_odb(name, "forget")
        except (DvcException, ImportError, *store_errors()) as error:
            kept.unreached.append(f"DVC's remote {name}: {error}")
    for place, store in list(kept.stores.items()):
        try:
            there = store.fs.exists(store.path)  # a bucket without objects has no such folder, either
            disk = Path(store.path).parents[1]
            if place != _CACHE and store.fs.protocol == "local" and not disk.exists():
                name = place.removeprefix("remote ")
                raise FileNotFoundError(
                    f"{disk} does not exist: is its disk there? Where nothing was ever pushed, dvc remote remove {name}"
                )
            oids = list(store.all()) if there else []
        except store_errors() as error:
            kept.unreached.append(f"DVC's {place} cannot be listed: {error}")
            del kept.stores[place]
            continue
        for oid in oids:
            kept.places.setdefault(oid, []).append(place)
    return kept


def _traces(kept: Kept, root: Path, source_key: str) -> Traces | None:
    """What to look for; None where no object has texts of the document alone.

    Raises:
        ArtefactError: the tables of the project still hold the document.
    """
    table = Workspace(root).path("passages")
    texts: set[str] = set()
    ids: set[str] = set()
    for oid in kept.places:
        if not oid.endswith(_DIRECTORY):
            with suppress(OSError), kept.open(oid) as stream:
                of_text, of_id = texts_of(stream, source_key)
                texts |= of_text
                ids |= of_id
    others: set[str] = set()
    if table.exists():
        now = pq.read_table(table, columns=["source", "text", "doc_id", "passage_id"]).to_pydict()
        if source_key in now["source"]:
            raise ArtefactError(f"{table} still holds {source_key}: delete it from the source, run uae refresh, then this again")
        others = set(now["text"])
        ids -= {*now["doc_id"], *now["passage_id"]}
    texts -= others
    return Traces(texts, ids, source_key if texts else "", others) if texts or ids else None


def _holds(kept: Kept, oid: str, traces: Traces) -> bool:
    try:
        with kept.open(oid) as stream:
            return traces.in_file(stream)
    except OSError as error:
        kept.unreached.append(str(error))
        return False


def _members(kept: Kept, oid: str) -> list[str]:
    try:
        return kept.members(oid)
    except (OSError, ValueError, KeyError) as error:
        kept.unreached.append(f"folder {oid} cannot be read: {error}")
        return []


def _remove(kept: Kept, place: str, doomed: set[str]) -> list[str]:
    """Delete objects at one place. Returns those that are gone."""
    from dvc_data.hashfile.db import get_index

    store, gone = kept.stores[place], []
    for oid in sorted(doomed):
        if place not in kept.places.get(oid, ()):
            continue
        try:
            store.delete(oid)
            if store.fs.exists(store.oid_to_path(oid)):
                raise OSError("it is still there")
        except store_errors() as error:
            kept.unreached.append(f"DVC's {place}: object {oid} cannot be removed: {error}")
        else:
            gone.append(oid)
    if gone and place != _CACHE:
        get_index(store).clear()  # DVC remembers what it once saw there
    return gone


def _versions(root: Path) -> dict[str, dict[str, str]]:
    """Version (a tag, else a commit's first digits) -> oid -> path, of all that git knows, and of the project as it is."""
    found = {_HERE: _outs((root / name).read_text(encoding="utf-8") for name in _files(path.name for path in root.iterdir()))}
    tags: dict[str, str] = {}
    for line in _git(root, "for-each-ref", "refs/tags", "--format=%(objectname) %(*objectname) %(refname:short)").splitlines():
        own, _, rest = line.partition(" ")
        behind, _, name = rest.partition(" ")
        tags[behind or own] = name
    for commit in _git(root, "log", "--all", "--format=%H", "--", "dvc.lock", "*.dvc").split():
        names = _files(_git(root, "ls-tree", "--name-only", commit).splitlines())
        found[tags.get(commit, commit[:12])] = _outs(_git(root, "show", f"{commit}:./{name}") for name in names)
    return found


def _files(names: Iterable[str]) -> list[str]:
    return [name for name in names if name == "dvc.lock" or (name.endswith(".dvc") and name != ".dvc")]


def _outs(texts: Iterable[str]) -> dict[str, str]:
    """oid -> path of what these files of DVC's name."""
    found: dict[str, str] = {}
    for text in texts:
        content = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}
        entries = [entry for stage in content.get("stages", {}).values() for entry in stage.get("outs", ())]
        found |= {entry["md5"]: entry["path"] for entry in (*entries, *content.get("outs", ())) if "md5" in entry}
    return found


def _git(root: Path, *words: str) -> str:
    """What git answers; nothing where there is no repository: then the project as it is is all there is."""
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


def main(
    source_key: Annotated[str, typer.Argument(metavar="SOURCE_KEY", help="The deleted document, as hits name it in source.")],
    root: Annotated[Path, typer.Option(help="The project.")] = Path("."),
) -> None:
    """Take a deleted document out of DVC's cache and remotes."""
    try:
        receipt = forget(root.resolve(), source_key)
    except UaeError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(json.dumps(receipt))
    if receipt["unreached"] or receipt["standing"]:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
