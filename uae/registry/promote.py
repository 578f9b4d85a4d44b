"""The promote stage: register the release, and move the alias to it only if it passes the gate."""

import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

import uae
from uae.evaluation.fused import CONVEX, as_released
from uae.evaluation.testset import BASE, SECOND_STAGE, UAE, choose_questions, rank_with, test_set_hash
from uae.index.ann import index_recall
from uae.io.errors import ArtefactError
from uae.io.files import read_json, write_json
from uae.io.tables import PASSAGES, QUESTIONS, read_table
from uae.measures.fusion import Rankings
from uae.measures.metrics import retrieval_metrics
from uae.registry.errors import registry_errors
from uae.registry.gate import RECALL_AT, Bounds, Decision, decide_better, decide_second_stage, decide_serving, decide_whole
from uae.registry.tracking import ENCODER_TAG, RELEASE_TAG, code_version, connect, dvc_md5, run_of
from uae.registry.versions import has_artefacts, release_of, version_of, with_release
from uae.release.legs.dense import read_index
from uae.release.manifest import RERANKED, Manifest, read_manifest
from uae.release.open import Release
from uae.release.parity import Corpus, Parity, measure_parity
from uae.release.passages import Passages
from uae.retrievers.dense import encode, load_encoder
from uae.retrievers.lexical import rank_bm25
from uae.retrievers.passage_vectors import PassageVectors
from uae.retrievers.serving_forms import open_encoder
from uae.text.passage_template import PassageTemplate
from uae.validation.trained_on import check_not_trained_on
from uae.vectors.store import VectorStore

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


def promote(
    evaluation_path: Path,
    passages_path: Path,
    questions_path: Path,
    release_path: Path,
    promotion_path: Path,
    lineage: Mapping[str, Path],
    root: Path,
    uri: str,
    experiment: str,
    model: str,
    alias: str,
    bounds: Bounds,
    scope: str,
    device: str,
    vectors: VectorStore | None = None,
) -> dict[str, Any]:
    """Register the release, compare it, and move the alias to it if it is better.

    It is compared with the champion, which is measured anew on the test set of the tables. Where there is none, it is compared
    with the strongest system that needs no training: the base encoder with BM25. It must also serve what was trained: a good
    encoder is not promoted where its serving form or its index is worse.

    Args:
        evaluation_path: of this release, on the test set of these tables, in this scope.
        lineage: name -> artefact. Their DVC hashes are kept with the version.
        vectors: where vectors of passages are kept.

    Raises:
        ArtefactError: the evaluation is of another release, another test set or another scope. Or the release or the champion
            was trained on what is in the test set.
        ConfigError: the gate has no metric of that name.
        RegistryError: MLflow does not answer, or the champion's release is lost.
    """
    evaluation, manifest = read_json(evaluation_path), read_manifest(release_path)
    passages = read_table(passages_path, PASSAGES)
    questions = choose_questions(read_table(questions_path, QUESTIONS))
    _check_identity(evaluation_path, evaluation, manifest.fingerprint, test_set_hash(questions, passages, scope), scope)
    check_not_trained_on(release_path, f"release {manifest.fingerprint[:12]}", questions, passages, scope)
    client = connect(uri, experiment, root)
    champion = version_of(client, model, alias)
    if champion is not None and champion.tags.get(RELEASE_TAG) == manifest.fingerprint and has_artefacts(champion):
        decision, version = Decision(True, [f"this release is version {champion.version}, the {alias} already"]), champion
    else:
        means = {name: {m: v["mean"] for m, v in values.items()} for name, values in evaluation["systems"].items()}
        if champion is not None:
            name = f"version {champion.version} ({alias})"
            reference = _measure(champion, model, questions, passages, scope, device, means[UAE], vectors)
        elif CONVEX in means:
            name, reference = "the base encoder with BM25 (there is no champion yet)", means[CONVEX]
        else:
            name, reference = "the base encoder (there is no champion yet)", means[BASE]
        better = decide_better(means[UAE], reference, name, bounds)
        same = decide_serving(*measure_serving(release_path, manifest, questions, scope, device, vectors), bounds)
        parts = [better, same]
        if same.passed:  # a release with another encoder's graph would not even open
            exact = evaluation["recall_curve"][UAE][0]
            parts.append(decide_whole(served_recall(release_path, questions, scope, device), exact, bounds))
            if SECOND_STAGE in means:
                exact = evaluation["recall_curve"][SECOND_STAGE][0]
                with_it = served_recall(release_path, questions, scope, device, RERANKED)
                parts.append(decide_second_stage(means[SECOND_STAGE], means[UAE], bounds))
                parts.append(decide_whole(with_it, exact, bounds, "the second stage"))
        decision = Decision(all(part.passed for part in parts), [reason for part in parts for reason in part.reasons])
        run_id = run_of(client, experiment, manifest.dense().encoder)
        version = _register(client, model, run_id, release_path, manifest, evaluation, lineage, decision)
        if decision.passed:
            with registry_errors(f"the alias {alias!r} of {model} cannot be moved"):
                client.set_registered_model_alias(model, alias, version.version)
    promotion = _outcome(decision, model, alias, version, champion) | {"release": manifest.fingerprint}
    write_json(promotion_path, promotion)
    return promotion


def _check_identity(path: Path, evaluation: Mapping[str, Any], release: str, test_set: str, scope: str) -> None:
    """A candidate's figures and the champion's must be of one test set."""
    if evaluation["scope"] != scope:
        said = f"was measured with scope {evaluation['scope']}, but scope is {scope} now"
    elif evaluation["release"] != release:
        said = f"is of release {evaluation['release'][:12]}, but the release at hand is {release[:12]}"
    elif evaluation["dataset"] != test_set:
        said = "was measured on another test set: questions, answers, evidence or passages have changed since"
    else:
        return
    raise ArtefactError(f"{path} {said}. Run the evaluate stage again (uae evaluate), then promote")


def _outcome(decision: Decision, model: str, alias: str, version: ModelVersion, champion: ModelVersion | None) -> dict[str, Any]:
    before = int(champion.version) if champion else None
    now = int(version.version)
    return {
        "promoted": decision.passed,
        "model": model,
        "version": now,
        "alias": alias,
        "champion": now if decision.passed else before,
        "replaced": before if decision.passed and before != now else None,
        "reasons": decision.reasons,
        "run_id": version.run_id,
    }


def _measure(
    champion: ModelVersion,
    model: str,
    questions: pd.DataFrame,
    passages: pd.DataFrame,
    scope: str,
    device: str,
    metrics: Iterable[str],
    vectors: VectorStore | None,
) -> dict[str, float]:
    """The champion's retrieval on the present test questions: a figure from an older test set proves nothing today."""
    cutoffs = [int(name.partition("@")[2]) for name in metrics if name.startswith("recall@")]
    release = release_of(champion)
    check_not_trained_on(release, f"version {champion.version} of {model}", questions, passages, scope)
    return measure_release(release, questions, passages, scope, device, cutoffs, vectors)


def measure_release(
    folder: Path,
    questions: pd.DataFrame,
    passages: pd.DataFrame,
    scope: str,
    device: str,
    cutoffs: Sequence[int],
    vectors: VectorStore | None = None,
) -> dict[str, float]:
    """Retrieval by a release's promoted system, exactly: its trained encoder and, where the release fuses them, BM25.

    Both read the passages as the release's own template says.

    Args:
        questions, passages: of their schemas.
        vectors: where vectors of passages are kept.
    """
    manifest = read_manifest(folder)  # of whatever format this version can read
    dense, fusion = manifest.dense(), manifest.fusion()
    read = PassageTemplate(dense.passage_template).applied(passages)
    encoder = dense.encoder_folder(folder)
    rankings: Rankings = rank_with(encoder, questions, read, scope, device, "champion: passages", vectors)
    if fusion.weight:
        rankings = as_released(rankings, rank_bm25(questions, read, scope, None), fusion)
    evidence = dict(zip(questions["question_id"], questions["evidence"], strict=True))
    means = retrieval_metrics({q: ids for q, (ids, _) in rankings.items()}, evidence, cutoffs).mean()
    return {str(metric): float(mean) for metric, mean in means.items()}


def measure_serving(
    folder: Path, manifest: Manifest, questions: pd.DataFrame, scope: str, device: str, kept: VectorStore | None = None
) -> tuple[Parity, float]:
    """What serving changes on these questions: the encoder's parity, and recall@10 of the index against exact search.

    Args:
        folder: a release; ``manifest``: as ``read_manifest`` gave it.
        kept: where vectors of passages are kept.
    """
    folder, texts, dense = Path(folder), questions["text"].tolist(), manifest.dense()
    encoder = load_encoder(dense.encoder_folder(folder), device)
    trained = encode(encoder, texts, "query")
    served = open_encoder(folder / dense.folder, dense.serving.backend, device, None).encode(texts, "query")
    passages = Passages(folder)
    index, described = read_index(dense.index_path(folder)), dense.index
    corpus = Corpus(passages.ids(), passages.doc_ids(), index, described.parameters)
    parity = measure_parity(trained, served, questions, corpus, scope)
    if described.dtype == "float32":
        vectors = index.reconstruct_batch(np.arange(index.ntotal))  # they are as they were put in
    else:
        texts_read = passages.read(dense.passage_template, range(len(passages)))
        vectors = PassageVectors(encoder, dense.encoder_folder(folder), kept)(texts_read, "passages, for exact search")
    return parity, index_recall(index, vectors, served, RECALL_AT, described.parameters)


def served_recall(folder: Path, questions: pd.DataFrame, scope: str, device: str, system: str = UAE) -> float:
    """Recall@1 of a system as a service has it: by the serving encoder, the index, BM25 and the second stage together.

    Args:
        questions: with evidence, as QUESTIONS.
    """
    release = Release(folder, device)
    try:
        found = []
        for text, doc_id, evidence in zip(questions["text"], questions["doc_id"], questions["evidence"], strict=True):
            (hits,) = release.search([text], 1, doc_id if scope == "document" else None, system)
            found.append(sum(hit.passage_id in set(evidence) for hit in hits) / len(evidence))
        return float(np.mean(found))
    finally:
        release.close()


@registry_errors("the release cannot be registered")
def _register(
    client: MlflowClient,
    model: str,
    run_id: str,
    release_path: Path,
    manifest: Manifest,
    evaluation: Mapping[str, Any],
    lineage: Mapping[str, Path],
    decision: Decision,
) -> ModelVersion:
    """A version of this release, made once: a promotion that was killed half-way finds the one it made.

    A version whose artefacts were lost is left as it is, and a new one is made.
    """
    tags = {
        RELEASE_TAG: manifest.fingerprint,
        ENCODER_TAG: manifest.dense().encoder,
        "uae.index": manifest.files[manifest.dense().index.file],
        "uae.score": manifest.score(UAE),
        "uae.gate": "passed" if decision.passed else "refused",
        **{f"dvc.{name}": dvc_md5(path) for name, path in lineage.items()},
        **code_version(),
    }
    known = with_release(client, model, manifest.fingerprint)
    if known is None:
        with mlflow.start_run(run_id=run_id):
            for system, metrics in evaluation["systems"].items():
                values = {f"test/{system}/{name}".replace("@", "_at_"): v["mean"] for name, v in metrics.items()}
                mlflow.log_metrics(values)
            for context in evaluation.get("reader_contexts", ()):
                given = f"{context['reader'].replace(' ', '_')}_{context['passages']}_{context['order']}"
                for system, metrics in context["systems"].items():
                    mlflow.log_metrics({f"test/{system}/{given}/{name}": v["mean"] for name, v in metrics.items()})
            mlflow.log_dict(dict(evaluation), "evaluation.json")
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


def _requirements(manifest: Manifest) -> list[str]:
    names = (*_REQUIREMENTS, *(_TORCH_REQUIREMENTS if manifest.needs_torch() else ()))
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in names]
