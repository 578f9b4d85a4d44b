"""``uae run``: the whole chain in a folder of its own, outside DVC, going on where an earlier run of it stopped."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

import uae
from uae.io.errors import ArtefactError
from uae.io.files import disk_error, read_json, sha256_bytes, sha256_file, sha256_tree, write_json, write_text
from uae.io.models import fingerprint, parse_reference, require_reachable
from uae.pipeline.chain import CHAIN, model_references, run_stage
from uae.pipeline.places import check_name, check_source
from uae.pipeline.settings import Settings, dump_settings
from uae.pipeline.source import source_of
from uae.pipeline.stage import Stage
from uae.pipeline.workspace import Workspace
from uae.registry.place import check_root

log = logging.getLogger(__name__)


def run_chain(
    settings: Settings,
    out: Path,
    model_cache: Path,
    announce: Callable[[str], None],
    until: str = CHAIN[-1].name,
    told: Callable[[str, dict[str, Any]], None] = lambda stage, summary: None,
    since: str = CHAIN[0].name,
) -> None:
    """Run every stage from ``since`` to ``until``, but skip one that has nothing new to do.

    A stage is skipped when its code, parameters, inputs and models have not changed since its last finished run in ``out``.
    What that run made must be unchanged, too.

    Args:
        told: called after each stage that ran, with its name and what there is to say about it.
        since: what the stages before it make lies in ``out`` already.

    Raises:
        ConfigError: a path cannot be used, or the run would read its own results. Nothing was done then.
        ArtefactError: another run works in ``out``.
    """
    import yaml

    workspace = Workspace(root=out, model_cache=model_cache, flat_reports=True)
    order = [stage.name for stage in CHAIN]
    first, last = order.index(since), order.index(until)
    _check_places(settings, workspace, CHAIN[first : last + 1])
    stamps = out / ".stages"
    hash_model = cache(_hash_model)  # once a run: models are large
    with _holding(stamps):
        write_text(out / "params.yaml", yaml.safe_dump(dump_settings(settings), sort_keys=False))
        for number, stage in enumerate(CHAIN[first : last + 1], first + 1):
            stamp = stamps / f"{stage.name}.json"
            # Before it runs: what changes meanwhile is new to the next run.
            given = _given(stage, settings, workspace, hash_model)
            same = stamp.exists() and read_json(stamp) == given | _made(stage, workspace)
            if same and not stage.unfinished(stage.parameters.of(settings), workspace):
                announce(f"[{number}/{len(CHAIN)}] {stage.name}: unchanged, skipped")
            else:
                announce(f"[{number}/{len(CHAIN)}] {stage.name}: {stage.summary}")
                summary = run_stage(stage, settings, workspace)
                write_json(stamp, given | _made(stage, workspace))
                told(stage.name, summary)


def _check_places(settings: Settings, workspace: Workspace, stages: Sequence[Stage[Any]]) -> None:
    """Check all paths of a run before any work: its folder, its source, where models are kept, the references of models.

    Args:
        stages: that will run. Their models have to be where a reference names a place of this machine.

    Raises:
        ConfigError: a path cannot be used, or the source holds what the run writes.
        ModelError: the reference of a model has none of the known forms, or a model of these stages is not there.
    """
    for path in (workspace.root, workspace.model_cache):
        check_name(str(path))
    check_source(settings.ingest.path, workspace)
    check_root(settings.tracking.uri, workspace.root)
    for reference in model_references(settings).values():
        parse_reference(reference)
    for stage in stages:
        for reference in models_of(stage, settings).values():
            require_reachable(reference)


@contextmanager
def _holding(stamps: Path) -> Iterator[None]:
    """Keep a second run out: each would take what the other writes for its own stages' work."""
    lock = FileLock(stamps / ".lock")
    try:
        stamps.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        said = f"{stamps.parent}: another uae run works in this folder; wait for it to end"
        raise ArtefactError(said, transient=True) from None
    except OSError as error:
        raise disk_error(stamps, error) from error
    try:
        yield
    finally:
        lock.release()


def models_of(stage: Stage[Any], settings: Settings) -> dict[str, str]:
    """role -> reference, of the models that a stage's parameters name."""
    declared = {key.removeprefix("models.") for key in stage.params}
    return {
        role: reference
        for role, reference in model_references(settings).items()
        if role in declared or ("teachers" if role.startswith("teacher ") else "models") in declared
    }


def _given(stage: Stage[Any], settings: Settings, workspace: Workspace, hash_model: Callable[[Path], str]) -> dict[str, str]:
    """Hashes of what a stage starts from: its code, its parameters, its source, its inputs, and its models on this machine.

    A model reference of another kind names a content that never changes, so its text in the parameters is enough.
    """
    paths = {name: workspace.path(name) for name in stage.needs}
    source = source_of(settings, workspace).look() if stage.reads_source else None
    local = {role: text for role, text in models_of(stage, settings).items() if text.strip().startswith("path:")}
    models = {f"model {role}": hash_model(Path(parse_reference(text).name).expanduser()) for role, text in local.items()}
    parameters = sha256_bytes(stage.parameters.of(settings).watched())
    read = {"source version": source.version} if source is not None else {}  # beside the artefact "source", which ingest makes
    return read | _hashes(paths) | models | {"params": parameters, "code": code_hash(stage)}


def code_hash(stage: Stage[Any]) -> str:
    """Hash of the files in ``Stage.code``, as they are installed: in a checkout or beside each other in site-packages."""
    root = Path(uae.__file__).resolve().parents[1]
    return sha256_bytes(*_hashes({path: root / path for path in stage.code}).values())


def _hash_model(path: Path) -> str:
    if path.is_dir():
        return fingerprint(path)
    return sha256_file(path) if path.is_file() else "missing"


def _made(stage: Stage[Any], workspace: Workspace) -> dict[str, str]:
    return _hashes({name: workspace.path(name) for name in stage.makes})


def _hashes(paths: dict[str, Path]) -> dict[str, str]:
    return {name: sha256_tree(path) if path.exists() else "missing" for name, path in paths.items()}
