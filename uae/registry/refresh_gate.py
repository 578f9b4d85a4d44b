"""The gate of the refresh lane: the same encoder over a changed corpus must not be worse than what is served.

A corpus that changed by 1 % never brings a significant gain, so none is asked for. Both releases are asked as a service asks
them. What counts are the questions that both can answer: their evidence stands in both releases, word for word.

Each refresh is compared with the champion, and with the first release of its encoder: many small losses are a great one.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from uae.evaluation.testset import UAE
from uae.io.errors import ArtefactError
from uae.io.tables import read_table, scan_table
from uae.measures.metrics import retrieval_metrics
from uae.registry.compared import SHARED, QuestionSet
from uae.registry.gate import Bounds, Decision, decide_crept, decide_refreshed
from uae.registry.versions import first_of_encoder, release_of
from uae.release.manifest import RERANKED, Manifest, system_names
from uae.release.open import Release
from uae.release.tables import RELEASE_DOCUMENTS, RELEASE_PASSAGES
from uae.text.stored_passages import StoredPassages

DEPTH = 100  # passages of a ranking that are compared
_ROWS = 1 << 13  # of a release's table that are in memory together


class _Served:
    """Where some texts stand in a release."""

    def __init__(self, folder: Path, texts: Collection[str]):
        """
        Raises:
            ArtefactError: a table is missing or damaged.
        """
        documents = read_table(folder / "documents.parquet", RELEASE_DOCUMENTS, ["doc_id", "source"])
        sources = dict(zip(documents["doc_id"], documents["source"], strict=True))
        self.folder, self.size = folder, 0
        self.doc_of: dict[str, str] = {}  # of the passages that have one of the texts
        self._by_text: dict[tuple[str | None, str], str] = {}
        for part in scan_table(folder / "passages.parquet", RELEASE_PASSAGES, ["passage_id", "doc_id", "text"], _ROWS):
            self.size += len(part)
            part = part[part["text"].isin(texts)]
            for passage_id, doc_id, text in zip(part["passage_id"], part["doc_id"], part["text"], strict=True):
                self.doc_of[passage_id] = doc_id
                # A passage without a document is told when the release is opened.
                self._by_text[sources.get(doc_id), text] = passage_id
        self._anywhere = {text: passage_id for (_, text), passage_id in self._by_text.items()}

    def evidence(self, questions: pd.DataFrame, texts: Mapping[str, tuple[str, str]]) -> dict[str, list[str]]:
        """question_id -> its evidence as passages of this release; without the questions whose evidence it does not hold.

        Args:
            texts: passage_id -> its document's source key, and its text.
        """
        found = {}
        for question_id, wanted in zip(questions["question_id"], questions["evidence"], strict=True):
            here = [self._by_text.get(texts[each]) or self._anywhere.get(texts[each][1]) for each in wanted]
            if None not in here:
                found[question_id] = [passage_id for passage_id in here if passage_id is not None]
        return found

    def search(
        self, questions: pd.DataFrame, evidence: Mapping[str, Sequence[str]], scope: str, device: str, system: str
    ) -> dict[str, list[str]]:
        """question_id -> what a system of the release serves, best first.

        Scope document: from the document that holds the evidence.
        """
        release = Release(self.folder, device, mapped=True)
        try:
            found = {}
            for question_id, text in zip(questions["question_id"], questions["text"], strict=True):
                within = self.doc_of[evidence[question_id][0]] if scope == "document" else None
                (hits,) = release.search([text], min(DEPTH, self.size), within, system)
                found[question_id] = [hit.passage_id for hit in hits]
                release.drop_pages()
            return found
        finally:
            release.close()


class HeldOut(NamedTuple):
    """What two releases are asked, and how.

    Args:
        questions: test questions with evidence, of their schema.
        passages: of today: they say what the questions' evidence reads.
    """

    questions: pd.DataFrame
    passages: StoredPassages
    scope: str
    device: str


def decide_refresh(candidate: Path, champion: Path, champion_name: str, held_out: HeldOut, bounds: Bounds) -> Decision:
    """Whether a release of the same encoder over another corpus may be served in the champion's place.

    What serving changes (``decide_serving``, ``decide_whole``), validation and leakage are checked apart from this.

    Args:
        candidate, champion: folders of releases. Both are searched by index and serving encoder.
        champion_name: for the reasons, such as "version 3 (champion)".

    Raises:
        ArtefactError: the candidate does not hold the evidence of some question: it is not of these tables.
        ConfigError: the gate has no metric of that name.
    """
    shared, left_out = _ask_both(candidate, champion, held_out, bounds, UAE)
    if shared is None:
        said = f"no test question can be answered by both: the evidence of all {left_out} changed since {champion_name}"
        return Decision(False, [f"{said}. A person has to decide: uae rollback VERSION moves the alias to a version: FAILED"])
    return _decided(shared, left_out, champion_name, bounds)


def _decided(shared: QuestionSet, left_out: int, champion_name: str, bounds: Bounds) -> Decision:
    decision = decide_refreshed(shared, champion_name, bounds)
    if left_out:
        decision.reasons.append(f"{left_out} questions are left out: their evidence is not in {champion_name}, word for word")
    return decision


def decide_second_stages(
    candidate: Path, champion: Path, champion_name: str, held_out: HeldOut, bounds: Bounds
) -> list[Decision]:
    """As ``decide_refresh``, of the second stages, where both have one.

    A release may differ from the champion by its second stage alone, and a retrained one may be better without it and worse with
    it. Where one of the two has none there is nothing to compare, and nothing where no question can be answered by both: passages
    may be cut anew. Then the promoted systems' own comparison decides.
    """
    if any(RERANKED not in system_names(folder) for folder in (candidate, champion)):
        return []
    shared, left_out = _ask_both(candidate, champion, held_out, bounds, RERANKED)
    if shared is None:
        said = f"second stages are not compared: the evidence of all {left_out} test questions changed since {champion_name}"
        return [Decision(True, [said])]
    decision = _decided(shared, left_out, f"the second stage of {champion_name}", bounds)
    return [decision._replace(findings=())]  # those that are logged are the promoted system's


def since_trained(
    client: MlflowClient, release: Path, manifest: Manifest, champion: ModelVersion, held_out: HeldOut, bounds: Bounds
) -> Decision:
    """Whether refreshes of this encoder, in a row, have lost too much together. Nothing to say while the champion is the first.

    Raises:
        RegistryError: MLflow does not answer.
    """
    first = first_of_encoder(client, champion.name, manifest.dense().encoder, manifest.score(UAE))
    if first is None or first.version == champion.version:
        return Decision(True, [])
    return decide_since_trained(release, release_of(first), f"version {first.version}", held_out, bounds)


def decide_since_trained(candidate: Path, trained: Path, trained_name: str, held_out: HeldOut, bounds: Bounds) -> Decision:
    """Whether all refreshes of an encoder together have lost less than ``bounds.great_loss``. Arguments as ``decide_refresh``.

    Args:
        trained: the first release of this encoder that was promoted.
    """
    if bounds.great_loss >= 1:
        return Decision(True, [])
    shared, left_out = _ask_both(candidate, trained, held_out, bounds, UAE)
    if shared is None:
        return Decision(True, [f"the evidence of all {left_out} test questions changed since {trained_name}: nothing to compare"])
    return decide_crept(shared, trained_name, bounds)


def _ask_both(candidate: Path, before: Path, held_out: HeldOut, bounds: Bounds, system: str) -> tuple[QuestionSet | None, int]:
    """What both answer, and how many questions are left out. None: all are."""
    questions = held_out.questions
    beside = held_out.passages.rows({passage_id for wanted in questions["evidence"] for passage_id in wanted})
    texts = dict(zip(beside["passage_id"], zip(beside["source"], beside["text"], strict=True), strict=True))
    asked_for = {text for _, text in texts.values()}
    ours, theirs = _Served(candidate, asked_for), _Served(before, asked_for)
    evidence, evidence_before = ours.evidence(questions, texts), theirs.evidence(questions, texts)
    if missing := [question_id for question_id in questions["question_id"] if question_id not in evidence]:
        raise ArtefactError(
            f"{candidate} does not hold the evidence of {len(missing)} test questions, such as {missing[0]}: it is not of these "
            "tables. Build the release again (uae index)"
        )
    both = questions[questions["question_id"].isin(set(evidence_before))]
    left_out = len(questions) - len(both)
    if both.empty:
        return None, left_out
    cutoffs = [int(name.partition("@")[2]) for name in bounds.metrics() if name.startswith("recall@")]
    measured = []
    for served, known in ((ours, evidence), (theirs, evidence_before)):
        ranked = served.search(both, known, held_out.scope, held_out.device, system)
        wanted = {question_id: known[question_id] for question_id in ranked}
        measured.append(retrieval_metrics(ranked, wanted, cutoffs))
    documents = both.set_index("question_id")["doc_id"]
    return QuestionSet(SHARED, measured[0], measured[1], documents), left_out
