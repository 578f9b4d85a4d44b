"""The refresh lane: the champion over today's corpus, compared with the champion, registered, and the alias moved to it."""

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from uae.evaluation.testset import UAE, choose_questions, test_set_hash
from uae.io.errors import ConfigError, InputError
from uae.io.tables import QUESTIONS, read_table
from uae.measures.answers import ANSWER_METRICS
from uae.registry.as_served import measure_serving, served_recall
from uae.registry.champion import measure_release
from uae.registry.decided import REFRESHED, SAME, Place, Verdict, conclude, number_of, release_tag, withdrawn_verdict
from uae.registry.gate import Bounds, Decision, decide_latency, decide_second_stage, decide_serving, decide_whole, together
from uae.registry.history import History, withdrawn
from uae.registry.latency import query_times
from uae.registry.refresh_gate import HeldOut, decide_refresh, decide_second_stages, since_trained
from uae.registry.register import means_logged, register
from uae.registry.tracking import connect, run_of
from uae.registry.versions import release_of, version_of
from uae.release.manifest import RERANKED, Manifest, read_manifest
from uae.release.rebuild import Corpus
from uae.text.stored_passages import StoredPassages
from uae.validation.trained_on import check_not_trained_on
from uae.vectors.store import VectorStore

REFRESH_OF_TAG, CORPUS_TAG = "uae.refresh_of", "uae.corpus"
# Of the champion's training: a refresh makes neither candidates nor labels.
_INHERITED = ("dvc.candidates", "dvc.labels")
_CORPUS_DIGITS = 12  # of a corpus's hash, for people
_RECALL = "recall@1"


class Champion(NamedTuple):
    """The version that is refreshed."""

    version: ModelVersion
    folder: Path  # of its release
    manifest: Manifest


def find_champion(client: MlflowClient, place: Place, passage_words: int) -> Champion:
    """
    Args:
        passage_words: what today's passages are cut to.

    Raises:
        InputError: there is no champion.
        ConfigError: the champion's passages are cut to another length: then nearly every text is new.
        RegistryError: MLflow does not answer, or the champion's release is lost.
        ArtefactError: its release is damaged.
    """
    version = version_of(client, place.model, place.alias)
    if version is None:
        raise InputError(
            f"no version of {place.model} is the {place.alias}, so there is nothing to refresh: run the whole chain first "
            "(make pipeline, dvc repro or uae run)"
        )
    folder = release_of(version)
    manifest = read_manifest(folder)
    cut = manifest.chunking["passage_words"]
    if cut != passage_words:
        raise ConfigError(
            f"ingest.passage_words is {passage_words}, and version {version.version} ({place.alias}) was cut to {cut}: a refresh "
            f"changes the corpus alone. Set it to {cut}, or retrain (make pipeline, dvc repro or uae run)"
        )
    return Champion(version, folder, manifest)


class Measured(NamedTuple):
    """How both releases are measured."""

    scope: str
    device: str
    vectors: VectorStore


def promote_refreshed(
    release: Path,
    corpus: Corpus,
    champion: Champion,
    place: Place,
    bounds: Bounds,
    how: Measured,
    promotion_path: Path,
    page_path: Path,
) -> dict[str, Any]:
    """Register a refreshed release, compare it with the champion, and move the alias to it if it is not worse.

    It must serve what its encoder finds, like any release, and may not lose more than ``bounds`` allow on the questions that both
    can answer. No gain is asked for. What a person rolled back is not promoted again.

    Args:
        release: of ``rebuild_release`` on ``corpus`` and ``champion``.

    Returns:
        As ``uae.registry.promote.promote``.

    Raises:
        ArtefactError: there is no test question with evidence, the encoder was trained on some of them, or the release is not of
            these tables.
        RegistryError: MLflow does not answer.
    """
    manifest = read_manifest(release)
    passages = StoredPassages(corpus.passages)
    questions = choose_questions(read_table(corpus.questions, QUESTIONS))
    name = f"version {champion.version.version} ({place.alias})"
    check_not_trained_on(champion.folder, name, questions, passages.documents(), how.scope)
    client = connect(place.uri, place.experiment, place.root)
    history = History(client, place.experiment, place.model, place.alias)
    events = history.with_unknown_moves(number_of(champion.version), release_tag(champion.version))
    if release_tag(champion.version) == manifest.fingerprint:
        same = Decision(
            True, [f"the corpus is that of version {champion.version.version}, the {place.alias}: nothing to refresh"]
        )
        verdict, version = Verdict(SAME, same), champion.version
    else:
        left = withdrawn(events).get(manifest.fingerprint)
        measured = measure_release(release, questions, passages, how.scope, how.device, _cutoffs(bounds), vectors=how.vectors)
        means = {str(metric): float(mean) for metric, mean in measured.mean().items()}
        if left is not None:
            verdict = withdrawn_verdict(left)
        else:
            verdict = _judge(client, release, manifest, champion, name, questions, passages, means[_RECALL], bounds, how)
        version = register(
            client,
            place.model,
            run_of(client, place.experiment, manifest.dense().encoder),
            release,
            manifest,
            means_logged(UAE, means),
            {},
            corpus._asdict(),
            verdict.decision.passed,
            _tags(champion, manifest),
        )
    test_set = test_set_hash(questions, passages, how.scope)
    return conclude(
        client,
        place,
        history,
        verdict,
        version,
        champion.version,
        manifest.fingerprint,
        bounds,
        test_set,
        promotion_path,
        page_path,
    )


def _judge(
    client: MlflowClient,
    release: Path,
    manifest: Manifest,
    champion: Champion,
    name: str,
    questions: pd.DataFrame,
    passages: StoredPassages,
    exact: float,
    bounds: Bounds,
    how: Measured,
) -> Verdict:
    """
    Args:
        name: of the champion, for people.
        exact: Recall@1 of the release's encoder and BM25 without index and serving form.
    """
    held_out = HeldOut(questions, passages, how.scope, how.device)
    parts = [decide_refresh(release, champion.folder, name, held_out, bounds)]
    parts += decide_second_stages(release, champion.folder, name, held_out, bounds)
    parts.append(since_trained(client, release, manifest, champion.version, held_out, bounds))
    parts.append(decide_serving(*measure_serving(release, manifest, questions, how.scope, how.device, how.vectors), bounds))
    times = None
    if parts[-1].passed:  # a release with another encoder's graph would not even open
        served = served_recall(release, questions, how.scope, how.device)
        parts.append(decide_whole(served, exact, bounds))
        if RERANKED in manifest.systems:
            again = served_recall(release, questions, how.scope, how.device, RERANKED)
            parts.append(decide_second_stage({_RECALL: again}, {_RECALL: served}, bounds))
    if bounds.max_slowdown is not None:
        found = query_times(release, champion.folder, questions["text"].tolist(), how.device)
        times = found._asdict()
        parts.append(decide_latency(found.candidate_ms, found.reference_ms, found.queries, name, bounds))
    return Verdict(REFRESHED, together(parts), None, times)


def _cutoffs(bounds: Bounds) -> list[int]:
    """Of the recalls that the gate names, and 1."""
    names = {_RECALL, *(name for name in bounds.metrics() if name.startswith("recall@") and name not in ANSWER_METRICS)}
    return sorted(int(name.partition("@")[2]) for name in names)


def _tags(champion: Champion, manifest: Manifest) -> dict[str, str]:
    known = champion.version.tags
    inherited = {name: known[name] for name in _INHERITED if name in known}
    return inherited | {REFRESH_OF_TAG: str(champion.version.version), CORPUS_TAG: manifest.passage_texts[:_CORPUS_DIGITS]}
