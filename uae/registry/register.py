"""A release as a version of the registered model, with what was measured and the tags that say where it came from."""

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

import uae
from uae.evaluation.testset import UAE
from uae.registry.errors import registry_errors
from uae.registry.tracking import ENCODER_TAG, GATE_TAG, PASSED, RELEASE_TAG, SCORE_TAG, code_version, dvc_md5
from uae.registry.versions import with_release
from uae.release.manifest import Manifest

_SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec("string", "query"), ColSpec("long", "k", required=False)]),
    outputs=Schema(
        [
            ColSpec("string", "query"),
            ColSpec("long", "rank"),
            *(ColSpec("string", name) for name in ("passage_id", "doc_id", "source", "title", "section")),
            *(ColSpec("long", name) for name in ("start", "end")),
            ColSpec("string", "text"),
            ColSpec("double", "score"),
        ]
    ),
)
_REQUIREMENTS = (
    "onnxruntime", "tokenizers", "faiss-cpu", "bm25s", "PyStemmer", "regex", "pandas", "pyarrow", "numpy", "pydantic", "filelock",
    "tqdm",
)  # fmt: skip
_TORCH_REQUIREMENTS = ("torch", "transformers", "sentence-transformers")


@registry_errors("the release cannot be registered")
def register(
    client: MlflowClient,
    model: str,
    run_id: str,
    release_path: Path,
    manifest: Manifest,
    metrics: Mapping[str, float],
    files: Mapping[str, Mapping[str, Any]],
    lineage: Mapping[str, Path],
    passed: bool,
    more_tags: Mapping[str, str] | None = None,
) -> ModelVersion:
    """A version of this release, made once: a promotion that was killed half-way finds the one it made.

    A version whose artefacts were lost is left as it is, and a new one is made.

    Args:
        run_id: of the run that the version belongs to: its encoder's training.
        release_path: a folder named release. MLflow keeps it under its name, and that is where it is looked for.
        metrics: name -> value, to be logged to the run.
        files: name -> JSON, likewise.
        lineage: name -> artefact. Their DVC hashes are kept with the version.
        passed: what the gate decided.

    Raises:
        RegistryError: MLflow does not answer, or cannot keep it.
    """
    tags = {
        **(more_tags or {}),
        RELEASE_TAG: manifest.fingerprint,
        ENCODER_TAG: manifest.dense().encoder,
        "uae.index": manifest.files[manifest.dense().index.file],
        SCORE_TAG: manifest.score(UAE),
        GATE_TAG: PASSED if passed else "refused",
        **{f"dvc.{name}": dvc_md5(path) for name, path in lineage.items()},
        **code_version(),
    }
    known = with_release(client, model, manifest.fingerprint)
    if known is None:
        with mlflow.start_run(run_id=run_id):
            mlflow.log_metrics(dict(metrics))
            for name, content in files.items():
                mlflow.log_dict(dict(content), name)
            logged = mlflow.pyfunc.log_model(
                name="release",
                python_model=str(Path(uae.__file__).parent / "registry" / "served_model.py"),
                artifacts={"release": Path(release_path).resolve().as_uri()},
                code_paths=[str(Path(uae.__file__).parent)],
                signature=_SIGNATURE,
                pip_requirements=_requirements(manifest),
                registered_model_name=model,
                tags=tags,
            )
        number = str(logged.registered_model_version)  # not the newest: another promotion may have registered since
    else:
        number = known.version
    for name, value in tags.items():
        client.set_model_version_tag(model, number, name, value)
    version: ModelVersion = client.get_model_version(model, number)
    return version


def means_logged(system: str, means: Mapping[str, float]) -> dict[str, float]:
    """metric -> value under the names that ``versions.origin_of`` reads."""
    return {f"test/{system}/{name}".replace("@", "_at_"): value for name, value in means.items()}


def _requirements(manifest: Manifest) -> list[str]:
    names = (*_REQUIREMENTS, *(_TORCH_REQUIREMENTS if manifest.needs_torch() else ()))
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in names]
