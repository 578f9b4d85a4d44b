"""Publish the data version at hand: data to DVC's remote, verified there, and only then the commit and the tag that name it.

    python -m dagster_project.publish --message "corpus of 12 May" [--remote NAME] [--git-remote origin] [--rehash]

Whoever clones the repository can always ``dvc pull``, wherever this was killed: git never names data that the remote does not
hold. The same command goes on where it stopped. Run it when the chain is done (``dvc status`` says that nothing changed).
"""

import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dagster_project.dvc_errors import remote_errors
from uae.io.errors import ArtefactError, ConfigError, UaeError

if TYPE_CHECKING:
    from dvc.repo import Repo

_NAMED = ("dvc.lock", "dvc.yaml", "params.yaml", ".dvc/config")  # what a clone needs to know which data it wants, and from where
_CHUNK = 1 << 20
_AGAIN = "Nothing was committed; run this again"
VERSIONS = "data-*"  # the tags of data versions, as git takes a pattern


@dataclass
class Publication:
    """What is published, and where to."""

    root: Path
    message: str
    remote: str | None  # DVC's; None: its default
    git_remote: str
    rehash: bool  # read every object back and hash it, instead of comparing sizes
    announce: Callable[[str], None]
    behind: bool = False  # stages may be older than what they read, as after a refresh; what each made is published
    lock: bytes = b""  # dvc.lock as it was when its data were verified
    paths: list[str] = field(default_factory=list)  # that are committed

    @property
    def tag(self) -> str:
        """Of the data version: the same data have the same name, so a second run finds its own tag."""
        return f"data-{hashlib.sha256(self.lock).hexdigest()[:12]}"

    def git(self, *words: str, check: bool = True) -> str:
        """What git answers.

        Raises:
            ArtefactError: git refuses, and ``check`` is true.
        """
        done = subprocess.run(["git", "-C", str(self.root), *words], capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise ArtefactError(f"git {words[0]} failed: {done.stderr.strip()}. What was done so far stays; run this again")
        return done.stdout.strip() if done.returncode == 0 else ""


def publish(publication: Publication) -> str:
    """Do all steps in their order. Returns the tag.

    Raises:
        ConfigError: there is no remote, or a clone would not know it.
        ArtefactError: the workspace is not what dvc.lock says, data are missing, or git refuses.
    """
    for name, step in STEPS:
        publication.announce(name)
        step(publication)
    return publication.tag


def _check(publication: Publication) -> None:
    """Nothing is half-done here, and both remotes are there."""
    if publication.git("rev-parse", "--show-toplevel", check=False) == "":
        raise ConfigError(f"{publication.root} is no git repository: git init, and add a remote")
    if publication.git("remote", "get-url", publication.git_remote, check=False) == "":
        raise ConfigError(f"git has no remote {publication.git_remote!r}: git remote add {publication.git_remote} ADDRESS")
    if publication.git("symbolic-ref", "--short", "HEAD", check=False) == "":
        raise ConfigError("git is on no branch: git switch to one")
    with _repository(publication) as repo:
        name = publication.remote or repo.config["core"].get("remote")
        known = repo.config.load_one("repo")
        if not name or name not in repo.config["remote"]:
            raise ConfigError("DVC has no such remote: dvc remote add --default NAME ADDRESS, or name one with --remote")
        if name not in known.get("remote", {}) or (publication.remote is None and known["core"].get("remote") != name):
            raise ConfigError(
                f"DVC's remote {name!r} stands in .dvc/config.local alone: a clone would not know it (dvc remote add)"
            )
        if changed := sorted(_stage(name) for name, said in repo.status().items() if not publication.behind or _made_other(said)):
            raise ArtefactError(f"dvc.lock is not what lies here: {', '.join(changed)} changed. Run dvc repro, then publish")
    publication.lock = (publication.root / "dvc.lock").read_bytes()
    added = [str(path.relative_to(publication.root)) for path in publication.root.rglob("*.dvc") if path.is_file()]
    publication.paths = [path for path in (*_NAMED, *sorted(added)) if (publication.root / path).is_file()]


def _stage(name: str) -> str:
    """A stage's name, as ``dvc repro`` takes it: DVC puts the file's path before it where the working folder is another."""
    return name.rpartition(":")[2]


def _made_other(said: Any) -> bool:
    """Whether what lies here is not what the stage made, by one entry of DVC's status."""
    return any(isinstance(part, dict) and "changed outs" in part for part in said)


def _push(publication: Publication) -> None:
    with _repository(publication) as repo, remote_errors("DVC cannot push", _AGAIN):
        repo.push(remote=publication.remote)


def _verify(publication: Publication) -> None:
    """Ask the remote itself for every object: DVC remembers what it once saw there, and somebody may have cleaned up since."""
    wrong = []
    with _repository(publication) as repo, remote_errors("the remote cannot be asked", _AGAIN):
        there = repo.cloud.get_remote_odb(publication.remote, "push")
        for out in repo.index.outs:
            if not out.use_cache or not out.hash_info:
                continue
            for oid, size in _objects(repo, there, out.hash_info.value, out.meta.size if out.meta else None):
                path = there.oid_to_path(oid)
                if not there.fs.exists(path):
                    wrong.append(f"{oid} of {out.def_path} is missing")
                elif size is not None and there.fs.info(path)["size"] != size:
                    wrong.append(f"{oid} of {out.def_path} has {there.fs.info(path)['size']} bytes instead of {size}")
                elif publication.rehash and _md5(there, path) != oid.removesuffix(".dir"):
                    wrong.append(f"{oid} of {out.def_path} has another content")
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ArtefactError(
            f"the remote does not hold the data: {'; '.join(wrong[:5])}{more}. Nothing was committed. Delete there what is "
            "damaged, then dvc push; where DVC believes that all is there, delete .dvc/tmp first"
        )
    if (publication.root / "dvc.lock").read_bytes() != publication.lock:
        raise ArtefactError("dvc.lock changed meanwhile: another run ended. Nothing was committed; run this again")


def _objects(repo: "Repo", there: Any, oid: str, size: int | None) -> Iterator[tuple[str, int | None]]:
    """An object and, of a folder, what it lists: (oid, size); the size as the cache has it, None where it does not."""
    if not oid.endswith(".dir"):
        yield oid, size
        return
    yield oid, None
    listing = there.oid_to_path(oid)
    if not there.fs.exists(listing):
        return
    with there.fs.open(listing, "rb") as stream:
        entries = json.load(stream)
    cache = repo.cache.local
    for entry in entries:
        here = cache.oid_to_path(entry["md5"])
        yield entry["md5"], cache.fs.info(here)["size"] if cache.fs.exists(here) else None


def _md5(there: Any, path: str) -> str:
    found = hashlib.md5(usedforsecurity=False)
    with there.fs.open(path, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def _commit(publication: Publication) -> None:
    """Only what names the data is committed, whatever else is staged."""
    publication.git("add", "--", *publication.paths)
    if publication.git("status", "--porcelain", "--", *publication.paths):
        publication.git("commit", "--only", "-m", publication.message, "--", *publication.paths)
    committed = publication.git("show", "HEAD:./dvc.lock") if publication.lock else ""
    if committed.encode() != publication.lock.strip():
        raise ArtefactError("dvc.lock changed meanwhile: run this again")


def _tag(publication: Publication) -> None:
    known = publication.git("rev-parse", "--verify", "--quiet", f"{publication.tag}^{{commit}}", check=False)
    if known and publication.git("merge-base", known, "HEAD", check=False) == known:
        return
    # A rebase after an earlier try left the tag on a commit that is on no branch: it was never pushed.
    publication.git("tag", "-f", "-a", publication.tag, "-m", publication.message)


def _push_git(publication: Publication) -> None:
    """Branch and tag together, or neither."""
    branch = publication.git("symbolic-ref", "--short", "HEAD")
    references = f"HEAD:refs/heads/{branch}", f"refs/tags/{publication.tag}"
    publication.git("push", "--atomic", publication.git_remote, *references)


# In this order: what a step names, the step before has made safe.
STEPS: list[tuple[str, Callable[[Publication], None]]] = [
    ("check", _check),
    ("push data", _push),
    ("verify data", _verify),
    ("commit", _commit),
    ("tag", _tag),
    ("push git", _push_git),
]


def _repository(publication: Publication) -> "Repo":
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        return Repo(str(publication.root))
    except DvcException as error:
        raise ConfigError(f"{publication.root} is no DVC project: {error}") from error


def main(
    message: Annotated[str, typer.Option(help="Of the commit and the tag.")],
    remote: Annotated[str | None, typer.Option(help="DVC's remote. Default: its default.")] = None,
    git_remote: Annotated[str, typer.Option(help="Where branch and tag go.")] = "origin",
    rehash: Annotated[bool, typer.Option("--rehash", help="Read every object back; else sizes are compared.")] = False,
    behind: Annotated[bool, typer.Option("--behind", help="After a refresh: stages may be older than what they read.")] = False,
    root: Annotated[Path, typer.Option(help="The project.")] = Path("."),
) -> None:
    """Push data, verify them at the remote, then commit and tag what names them."""
    publication = Publication(root.resolve(), message, remote, git_remote, rehash, lambda step: typer.echo(f"{step} ..."), behind)
    try:
        typer.echo(f"published as {publish(publication)}")
    except UaeError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    typer.run(main)
