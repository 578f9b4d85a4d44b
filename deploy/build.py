"""Build a Bento of a release: ``python -m deploy.build --release DIR --origin JSON --out DIR --name NAME --version VERSION``.

Inside are the release and where it came from, the modules that serving imports and no others, and the exact versions of all
packages it needs. A Dockerfile makes an image of it.
"""

import argparse
import atexit
import functools
import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from uae.release.manifest import read_manifest
from uae.release.store import write_origin

_SERVICE = "deploy.service"
# What the code imports itself, whatever serves the release. Each brings its own requirements.
_SERVING = (
    "bentoml", "fastapi", "starlette", "structlog", "prometheus-client", "pydantic", "faiss-cpu", "onnxruntime", "tokenizers",
    "numpy", "pandas", "pyarrow", "filelock", "mcp", "mcp-types", "bm25s", "PyStemmer", "regex",
)  # fmt: skip
_DATABASE = ("psycopg[binary]", "pgvector")  # the extra postgres
_TORCH = ("torch", "transformers", "sentence-transformers", "tqdm")
_HERE = Path(__file__).resolve().parent


def build(release: Path, out: Path, name: str, version: str, origin: Mapping[str, Any] | None = None) -> None:
    """Write the built Bento's folder to ``out``. It needs no checkout; of the network it needs a package index, once.

    Args:
        origin: where the release came from, as ``uae.release.store`` keeps it; None: nobody knows.

    Raises:
        ArtefactError: ``release`` is not a whole release.
        ModuleNotFoundError: a package that serving needs is not installed here, so that its version is not known.
    """
    packages = pinned(requirements(read_manifest(release).needs_torch()))
    bentoml = _bentoml()
    with tempfile.TemporaryDirectory(prefix="bento-") as scratch:
        context = Path(scratch) / "context"
        copy_code(context)
        shutil.copytree(release, context / "release")
        if origin is not None:
            write_origin(context / "release", origin)
        bento = bentoml.bentos.build(
            f"{_SERVICE}:Retriever",
            name=name,
            version=version,
            build_ctx=str(context),
            include=["uae/", "deploy/", "release/", "release.origin.json"],
            # Locking is done above, by what is installed and tested: BentoML would ask the network.
            python={"packages": packages, "lock_packages": False},
        )
        shutil.copytree(bento.path, out)
        bentoml.bentos.delete(bento.tag)
    shutil.copyfile(_HERE / "container" / "Dockerfile", Path(out) / "Dockerfile")
    shutil.copyfile(_HERE / "container" / "Dockerfile.dockerignore", Path(out) / ".dockerignore")


@functools.cache
def _bentoml() -> Any:
    """BentoML with a store of this process, so that the user's store stays as it is. It reads the variable at its import."""
    home = tempfile.TemporaryDirectory(prefix="bentoml-")
    atexit.register(home.cleanup)
    os.environ["BENTOML_HOME"] = home.name
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    import bentoml

    return bentoml


def copy_code(target: Path) -> None:
    """Copy into ``target`` what the service imports of ``uae`` and ``deploy``, at once or later, and the page's files."""
    import uae

    with tempfile.TemporaryDirectory(prefix="code-") as scratch:
        # A folder with nothing else in it: the finder takes everything it finds for ours.
        for package in (Path(uae.__file__).parent, _HERE):
            shutil.copytree(package, Path(scratch) / package.name, ignore=shutil.ignore_patterns("__pycache__"))
        finder = ModuleFinder([scratch])
        finder.import_hook(_SERVICE)
        for module in finder.modules.values():
            file: str | None = getattr(module, "__file__", None)
            if file is None:  # built into Python
                continue
            place = target / Path(file).relative_to(scratch)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
    shutil.copytree(_HERE / "page", target / "deploy" / "page")


def requirements(with_torch: bool) -> tuple[str, ...]:
    """The packages that serving a release imports.

    Torch and its like only where an encoder in it is served by torch. The client of a database only where it is installed here.
    """
    try:
        importlib.metadata.distribution("psycopg")
    except importlib.metadata.PackageNotFoundError:
        database: tuple[str, ...] = ()
    else:
        database = _DATABASE
    return (*_SERVING, *database, *(_TORCH if with_torch else ()))


def pinned(packages: Iterable[str]) -> list[str]:
    """``name==version``, sorted, of packages and all that they need on this platform, as they are installed here.

    BentoML is not among them: it adds itself.

    Raises:
        ModuleNotFoundError: one is not installed (importlib.metadata.PackageNotFoundError).
    """
    found: dict[str, str] = {}
    todo = [Requirement(package) for package in packages]
    done: set[tuple[str, str]] = set()
    while todo:
        needed = todo.pop()
        name = canonicalize_name(needed.name)
        extras = {"", *needed.extras} - {extra for other, extra in done if other == name}
        if not extras:
            continue
        done |= {(name, extra) for extra in extras}
        distribution = importlib.metadata.distribution(name)
        # The mark of a local build, such as +cpu, is in no index.
        found[name] = distribution.version.partition("+")[0]
        for line in distribution.requires or ():
            further = Requirement(line)
            if further.marker is None or any(further.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(further)
    return [f"{name}=={version}" for name, version in sorted(found.items()) if name != "bentoml"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", type=Path, required=True)
    parser.add_argument(
        "--origin",
        type=json.loads,
        help="model, version, promoted_at (when it was registered) and metrics, as JSON; default: not known",
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--version", required=True)
    build(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
