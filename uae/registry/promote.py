"""The promote stage: register the release, and move the alias to it only if it passes the gate."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from uae.evaluation.answers import Context, Reader
from uae.evaluation.fused import CONVEX
from uae.evaluation.testset import BASE, SECOND_STAGE, UAE, choose_questions, test_set_hash
from uae.io.errors import ArtefactError
from uae.io.files import read_json
from uae.io.tables import QUESTIONS, read_table
from uae.measures.answers import ANSWER_METRICS
from uae.registry.as_served import measure_serving, served_recall
from uae.registry.budget import next_look
from uae.registry.champion import Answered, measure_release, metrics_of_runs, read_runs
from uae.registry.compared import ANSWERED, FROZEN, RECENT, QuestionSet
from uae.registry.decided import (
    FIRST,
    REFRESHED,
    RETRAINED,
    SAME,
    Place,
    Verdict,
    conclude,
    number_of,
    release_tag,
    withdrawn_verdict,
)
from uae.registry.elsewhere_gate import decide_elsewhere
from uae.registry.gate import (
    Bounds,
    Decision,
    decide_better,
    decide_latency,
    decide_retrained,
    decide_second_stage,
    decide_serving,
    decide_whole,
    together,
)
from uae.registry.history import DECIDED, Event, History, withdrawn
from uae.registry.latency import query_times
from uae.registry.refresh_gate import HeldOut, decide_refresh, decide_second_stages, since_trained
from uae.registry.register import means_logged, register
from uae.registry.tracking import connect, run_of
from uae.registry.versions import has_artefacts, release_of, version_of
from uae.release.manifest import RERANKED, Manifest, read_manifest
from uae.release.passages import check_same_passages
from uae.text.stored_passages import StoredPassages
from uae.validation.trained_on import came_since, check_not_trained_on
from uae.vectors.store import VectorStore


@dataclass(frozen=True)
class Judged:
    """What the gate reads."""

    evaluation: Path
    runs: Path  # of that evaluation
    passages: Path
    questions: Path
    release: Path
    lineage: Mapping[str, Path]  # name -> artefact; their DVC hashes are kept with the version


class Asked(NamedTuple):
    """How both sides are measured."""

    scope: str
    device: str
    reader: Callable[[], Reader]  # that evaluation asked first
    context: Context  # in which it was asked
    vectors: VectorStore | None = None  # where vectors of passages are kept


class _Case(NamedTuple):
    """What there is to decide about."""

    release: Path
    manifest: Manifest
    evaluation: Mapping[str, Any]
    runs: pd.DataFrame
    questions: pd.DataFrame
    passages: StoredPassages
    documents: pd.DataFrame  # of the passages: doc_id and source


def promote(judged: Judged, place: Place, promotion_path: Path, page_path: Path, bounds: Bounds, asked: Asked) -> dict[str, Any]:
    """Register the release, compare it, and move the alias to it if the gate passes.

    It is compared with the champion, which is measured anew on the test set of the tables. A retrained encoder has to show a gain
    and may not lose. The champion's own encoder over another corpus may not lose. Where there is no champion, it is compared by
    its means with the strongest system that needs no training: the base encoder with BM25. It must also serve what was trained: a
    good encoder is not promoted where its serving form or its index is worse. What a person rolled back is not promoted again.

    Raises:
        ArtefactError: the evaluation is of another release, another test set or another scope. Or the release or the champion
            was trained on what is in the test set.
        ConfigError: the gate has no metric of that name.
        RegistryError: MLflow does not answer, or the champion's release is lost.
    """
    evaluation, manifest = read_json(judged.evaluation), read_manifest(judged.release)
    passages = StoredPassages(judged.passages)
    documents = passages.documents()
    questions = choose_questions(read_table(judged.questions, QUESTIONS))
    test_set = test_set_hash(questions, passages, asked.scope)
    _check_identity(judged.evaluation, evaluation, manifest.fingerprint, test_set, asked.scope)
    check_not_trained_on(judged.release, f"release {manifest.fingerprint[:12]}", questions, documents, asked.scope)
    check_same_passages(judged.release, passages.parts(["passage_id", "text"]))
    runs = read_runs(judged.runs, evaluation.get("runs"))
    client = connect(place.uri, place.experiment, place.root)
    champion = version_of(client, place.model, place.alias)
    history = History(client, place.experiment, place.model, place.alias)
    events = history.with_unknown_moves(number_of(champion), release_tag(champion))
    case = _Case(judged.release, manifest, evaluation, runs, questions, passages, documents)
    if champion is not None and release_tag(champion) == manifest.fingerprint and has_artefacts(champion):
        same = Decision(True, [f"this release is version {champion.version}, the {place.alias} already"])
        verdict, version = Verdict(SAME, same), champion
    else:
        verdict = _judge(client, case, champion, place, events, bounds, asked)
        run_id = run_of(client, place.experiment, manifest.dense().encoder)
        version = register(
            client,
            place.model,
            run_id,
            judged.release,
            manifest,
            _metrics(evaluation),
            {"evaluation.json": evaluation},
            judged.lineage,
            verdict.decision.passed,
        )
    return conclude(
        client, place, history, verdict, version, champion, manifest.fingerprint, bounds, test_set, promotion_path, page_path
    )  # fmt: skip


def _judge(
    client: MlflowClient,
    case: _Case,
    champion: ModelVersion | None,
    place: Place,
    events: Sequence[Event],
    bounds: Bounds,
    asked: Asked,
) -> Verdict:
    if (left := withdrawn(events).get(case.manifest.fingerprint)) is not None:
        return withdrawn_verdict(left)
    as_served = [*_as_served(case, bounds, asked), decide_elsewhere(case.evaluation.get("also") or {}, bounds)]
    if champion is None:
        return Verdict(FIRST, together([_first(case, bounds), *as_served]))
    name = f"version {champion.version} ({place.alias})"
    folder = release_of(champion)
    questions = case.questions
    check_not_trained_on(folder, f"version {champion.version} of {place.model}", questions, case.documents, asked.scope)
    look, times = None, None
    held_out = HeldOut(questions, case.passages, asked.scope, asked.device)
    if _same_system(read_manifest(folder), case.manifest):
        lane = REFRESHED
        parts = [decide_refresh(case.release, folder, name, held_out, bounds)]
        parts.append(since_trained(client, case.release, case.manifest, champion, held_out, bounds))
    else:
        lane = RETRAINED
        sets, notes = _sets(case, folder, name, bounds, asked)
        units = _whole(sets).units()
        look = next_look(bounds.error_budget, units, _earlier_looks(events, case.manifest.fingerprint))
        parts = [decide_retrained(sets, name, bounds, look), Decision(True, notes)]
    parts += decide_second_stages(case.release, folder, name, held_out, bounds)
    if bounds.max_slowdown is not None:
        found = query_times(case.release, folder, questions["text"].tolist(), asked.device)
        times = found._asdict()
        parts.append(decide_latency(found.candidate_ms, found.reference_ms, found.queries, name, bounds))
    return Verdict(lane, together([*parts, *as_served]), look, times)


def _first(case: _Case, bounds: Bounds) -> Decision:
    """By means: nothing is served yet that could be lost."""
    means = _means(case.evaluation)
    strongest = CONVEX if CONVEX in means else BASE
    name = "the base encoder with BM25" if strongest == CONVEX else "the base encoder"
    # Questions need no gold answers: where none has any, no reader answered.
    unread = [metric for metric in bounds.guarded if metric in ANSWER_METRICS and metric not in means[strongest]]
    kept = replace(bounds, guarded=tuple(metric for metric in bounds.guarded if metric not in unread))
    decision = decide_better(means[UAE], means[strongest], f"{name} (there is no champion yet)", kept)
    said = [f"{metric} was measured on no question: it is not guarded" for metric in unread]
    return decision._replace(reasons=[*decision.reasons, *said])


def _as_served(case: _Case, bounds: Bounds, asked: Asked) -> list[Decision]:
    """Whether what is served is what was trained and evaluated."""
    means, curve = _means(case.evaluation), case.evaluation["recall_curve"]
    serving = case.release, case.manifest, case.questions, asked.scope, asked.device
    parts = [decide_serving(*measure_serving(*serving, asked.vectors), bounds)]
    if parts[0].passed:  # a release with another encoder's graph would not even open
        served = served_recall(case.release, case.questions, asked.scope, asked.device)
        parts.append(decide_whole(served, curve[UAE][0], bounds))
        if SECOND_STAGE in means:
            with_it = served_recall(case.release, case.questions, asked.scope, asked.device, RERANKED)
            parts.append(decide_second_stage(means[SECOND_STAGE], means[UAE], bounds))
            parts.append(decide_whole(with_it, curve[SECOND_STAGE][0], bounds, "the second stage"))
    return parts


def _sets(case: _Case, champion: Path, name: str, bounds: Bounds, asked: Asked) -> tuple[list[QuestionSet], list[str]]:
    """The sets of questions that count, and what there is to say about them.

    Frozen: questions on documents that were there, and held out, when the champion was trained. Recent: on test documents that
    came since. A document's split is decided once, when it comes (``uae.corpus.ledger``), so nobody ever trains on either.
    """
    wanted = bounds.metrics()
    ours = metrics_of_runs(case.runs, UAE)
    cutoffs = [int(metric.partition("@")[2]) for metric in wanted if metric.startswith("recall@")]
    answered = Answered(asked.reader, asked.context) if any(metric in ANSWER_METRICS for metric in wanted) else None
    theirs = measure_release(
        champion, case.questions, case.passages, asked.scope, asked.device, cutoffs, case.runs, answered, asked.vectors
    )
    documents = case.questions.set_index("question_id")["doc_id"]

    def of(name: str, ids: list[str]) -> QuestionSet:
        return QuestionSet(name, ours.loc[ids], theirs.loc[ids], documents.loc[ids])

    everything = list(case.questions["question_id"])
    new = came_since(champion, case.questions, case.documents)
    notes = []
    if new is None:
        notes.append(f"{name} does not say which documents it knew, so there is no recent test set yet")
    recent = [question_id for question_id in everything if question_id in (new or ())]
    frozen = [question_id for question_id in everything if question_id not in (new or ())]
    sets = [of(FROZEN, frozen)] if frozen else []
    if recent:
        latest = of(RECENT, recent)
        if latest.units() >= bounds.recent_documents or not frozen:
            sets.append(latest)
        else:
            notes.append(
                f"{latest.units()} test documents came since {name}: a recent test set counts from {bounds.recent_documents} on"
            )
    return [*sets, of(ANSWERED, everything)], notes


def _whole(sets: Sequence[QuestionSet]) -> QuestionSet:
    """All test questions: answers are looked for in all of them."""
    return sets[-1]


def _earlier_looks(events: Sequence[Event], release: str) -> list[int]:
    """Documents of the test set at each earlier look; a release that is judged twice is one look, and this one is not earlier."""
    looks = {event.release: event.units for event in events if event.kind == DECIDED and event.units is not None}
    return [units for seen, units in looks.items() if seen != release]


def _same_system(one: Manifest, other: Manifest) -> bool:
    """Whether two releases differ by their corpus alone, as far as rankings go."""

    def what(manifest: Manifest) -> tuple[object, ...]:
        return manifest.dense().encoder, manifest.dense().passage_template, manifest.fusion()

    return what(one) == what(other)


def _means(evaluation: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    return {name: {metric: v["mean"] for metric, v in values.items()} for name, values in evaluation["systems"].items()}


def _metrics(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """What is logged of an evaluation: every system's means, and those by reader and context."""
    found: dict[str, float] = {}
    for system, means in _means(evaluation).items():
        found |= means_logged(system, means)
    for context in evaluation.get("reader_contexts", ()):
        given = f"{context['reader'].replace(' ', '_')}_{context['passages']}_{context['order']}"
        for system, metrics in context["systems"].items():
            found |= {f"test/{system}/{given}/{name}": v["mean"] for name, v in metrics.items()}
    return found


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
