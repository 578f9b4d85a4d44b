"""The promote stage: register the release, and move the alias to it only if it passes the gate."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

import uae
from uae.encoding import encode, load_encoder
from uae.errors import ArtefactError
from uae.evaluation.metrics import retrieval_metrics
from uae.evaluation.testset import BASE, UAE, choose_questions, rank_with, test_set_hash
from uae.files import read_json, write_json
from uae.index.ann import index_recall
from uae.index.parity import Corpus, Parity, is_within, measure_parity
from uae.index.release import open_encoder, read_index, read_manifest
from uae.registry.gate import Decision, decide
from uae.registry.tracking import ENCODER_TAG, RELEASE_TAG, code_version, connect, dvc_md5, run_of
from uae.registry.versions import latest, release_of, version_of, with_release
from uae.tables import PASSAGES, QUESTIONS, read_table

_SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec("string", "query"), ColSpec("long", "k", required=False)]),
    outputs=Schema(
        [ColSpec("string", "query"), ColSpec("long", "rank")]
        + [ColSpec("string", name) for name in ("passage_id", "doc_id", "title", "section")]
        + [ColSpec("long", "start"), ColSpec("long", "end"), ColSpec("string", "text"), ColSpec("double", "score")]
    ),
)
_REQUIREMENTS = ("onnxruntime", "tokenizers", "faiss-cpu", "pandas", "pyarrow", "numpy", "filelock", "tqdm")
_TORCH_REQUIREMENTS = ("torch", "transformers", "sentence-transformers")
_RECALL_AT = 10  # of the index against exact search


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
    metric: str,
    min_gain: float,
    guarded: Sequence[str],
    max_loss: float,
    min_cosine: float,
    max_serving_loss: float,
    max_index_loss: float,
    scope: str,
    device: str,
) -> dict:
    """Compare with the champion (re-measured on the present test questions), or with the base encoder where there is none.

    And compare what the release serves with what was trained: an encoder that was good in training is not promoted where its
    serving form or its index would lose that.

    ``lineage`` names the artefacts whose DVC hashes are kept with the version.

    Raises:
        ArtefactError: the evaluation is of another release or of other data.
    """
    evaluation, manifest = read_json(evaluation_path), read_manifest(release_path)
    passages = read_table(passages_path, PASSAGES)
    questions = choose_questions(read_table(questions_path, QUESTIONS))
    if (evaluation["release"], evaluation["dataset"]) != (manifest["fingerprint"], test_set_hash(questions, passages)):
        raise ArtefactError(f"{evaluation_path} is of another release or other questions: run the evaluate stage again")
    client = connect(uri, experiment, root)
    champion = version_of(client, model, alias)
    if champion is not None and champion.tags.get(RELEASE_TAG) == manifest["fingerprint"]:
        decision, version = Decision(True, [f"this release is version {champion.version}, the {alias} already"]), champion
    else:
        reference = None
        if champion is not None:
            reference = _measure(champion, questions, passages, scope, device, evaluation["systems"][UAE])
        name = f"version {champion.version} ({alias})" if champion else "the base encoder (there is no champion yet)"
        better = decide_better(evaluation, reference, name, metric, min_gain, guarded, max_loss)
        parity, recall = measure_serving(release_path, manifest, questions, scope, device)
        same = decide_serving(parity, recall, min_cosine, max_serving_loss, max_index_loss)
        decision = Decision(better.passed and same.passed, better.reasons + same.reasons)
        run_id = run_of(client, experiment, manifest["encoder"])
        version = _register(client, model, run_id, release_path, manifest, evaluation, lineage, decision)
        if decision.passed:
            client.set_registered_model_alias(model, alias, version.version)
    promotion = _outcome(decision, model, alias, version, champion) | {"release": manifest["fingerprint"]}
    write_json(promotion_path, promotion)
    return promotion


def _outcome(decision: Decision, model: str, alias: str, version: ModelVersion, champion: ModelVersion | None) -> dict:
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


def decide_better(
    evaluation: Mapping,
    reference: Mapping[str, float] | None,
    name: str,
    metric: str,
    min_gain: float,
    guarded: Sequence[str],
    max_loss: float,
) -> Decision:
    """``gate.decide`` on what the evaluation found of UAE; reference: the champion's means; None: the base encoder's."""
    means = {name: values["mean"] for name, values in evaluation["systems"][UAE].items()}
    if reference is None:
        reference = {name: values["mean"] for name, values in evaluation["systems"][BASE].items()}
    return decide(means, reference, name, metric, min_gain, guarded, max_loss)


def _measure(champion, questions: pd.DataFrame, passages: pd.DataFrame, scope: str, device: str, metrics) -> dict[str, float]:
    """The champion's retrieval on the present test questions: a figure from an older test set proves nothing today."""
    folder = release_of(champion)
    read_manifest(folder)
    rankings = rank_with(folder / "encoder", questions, passages, scope, device, "champion: passages")
    cutoffs = [int(name.partition("@")[2]) for name in metrics if name.startswith("recall@")]
    evidence = dict(zip(questions["question_id"], questions["evidence"], strict=True))
    return retrieval_metrics({q: ids for q, (ids, _) in rankings.items()}, evidence, cutoffs).mean().to_dict()


def measure_serving(folder: Path, manifest: Mapping, questions: pd.DataFrame, scope: str, device: str) -> tuple[Parity, float]:
    """What serving changes on these questions: the encoder's parity, and recall@10 of the index against exact search.

    Args:
        folder: a release; ``manifest``: as ``read_manifest`` gave it.
    """
    folder, texts = Path(folder), questions["text"].tolist()
    encoder = load_encoder(folder / "encoder", device)
    trained = encode(encoder, texts, "query")
    served = open_encoder(folder, manifest["serving"]["backend"], device, None).encode(texts, "query")
    passages = read_table(folder / "passages.parquet", PASSAGES)
    index, described = read_index(folder / manifest["index"]["file"]), manifest["index"]
    corpus = Corpus(passages["passage_id"].to_numpy(), passages["doc_id"].to_numpy(), index, described["parameters"])
    parity = measure_parity(trained, served, questions, corpus, scope)
    if described["dtype"] == "float32":
        vectors = index.reconstruct_batch(np.arange(index.ntotal))  # they are as they were put in
    else:
        vectors = encode(encoder, passages["text"].tolist(), "document", "passages, for exact search")
    return parity, index_recall(index, vectors, served, _RECALL_AT, described["parameters"])


def decide_serving(
    parity: Parity, index_recall: float, min_cosine: float, max_serving_loss: float, max_index_loss: float
) -> Decision:
    """Pass if serving neither changes the questions' vectors nor loses Recall@1 or recall@10 beyond these limits (absolute)."""
    near = parity.cosine >= min_cosine
    found = is_within(parity.trained_recall - parity.served_recall, max_serving_loss)
    exact = is_within(1 - index_recall, max_index_loss)
    verdict = {True: "passed", False: "FAILED"}
    return Decision(
        near and found and exact,
        [
            f"cosine {parity.cosine:.4f} or more of {parity.questions} questions' served vectors with the trained encoder's "
            f"(must be at least {min_cosine:g}): {verdict[near]}",
            f"recall@1 {parity.served_recall:.4f} by served vectors against {parity.trained_recall:.4f} by the trained encoder's "
            f"(may fall by at most {max_serving_loss:g}): {verdict[found]}",
            f"recall@{_RECALL_AT} {index_recall:.4f} of the index against exact search (may lose at most {max_index_loss:g}): "
            f"{verdict[exact]}",
        ],
    )


def _register(client, model, run_id, release_path, manifest, evaluation, lineage, decision: Decision) -> ModelVersion:
    """A version of this release, made once: a promotion that was killed half-way finds the one it made."""
    tags = {
        RELEASE_TAG: manifest["fingerprint"],
        ENCODER_TAG: manifest["encoder"],
        "uae.index": manifest["files"]["index.faiss"],
        "uae.gate": "passed" if decision.passed else "refused",
        **{f"dvc.{name}": dvc_md5(path) for name, path in lineage.items()},
        **code_version(),
    }
    known = with_release(client, model, manifest["fingerprint"])
    if known is None:
        with mlflow.start_run(run_id=run_id):
            for system, metrics in evaluation["systems"].items():
                values = {f"test/{system}/{name}".replace("@", "_at_"): v["mean"] for name, v in metrics.items()}
                mlflow.log_metrics(values)
            mlflow.log_dict(evaluation, "evaluation.json")
            mlflow.pyfunc.log_model(
                name="release",
                python_model=str(Path(uae.__file__).parent / "registry" / "served_model.py"),
                artifacts={"release": Path(release_path).resolve().as_uri()},
                code_paths=[str(Path(uae.__file__).parent)],
                signature=_SIGNATURE,
                pip_requirements=_requirements(manifest),
                registered_model_name=model,
                tags=tags,
            )
        known = latest(client, model)
    for name, value in tags.items():
        client.set_model_version_tag(model, known.version, name, value)
    return client.get_model_version(model, known.version)


def _requirements(manifest: Mapping) -> list[str]:
    backends = {part["serving"]["backend"] for part in (manifest, manifest["base"]) if part is not None}
    names = (*_REQUIREMENTS, *(_TORCH_REQUIREMENTS if "torch" in backends else ()))
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in names]
