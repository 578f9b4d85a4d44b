"""The evaluate stage: every system on the test questions, by retrieval and by answers. What asks other LLMs is in ``llm``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from uae.evaluation.comparison import Measured, gains_over, independent_units, summarise
from uae.evaluation.contexts import Answering, Tables, compare_contexts, read_in_contexts
from uae.evaluation.elsewhere import Collection, measure_elsewhere
from uae.evaluation.fused import CONVEX, as_released, choosing_questions, only, strongest_untrained
from uae.evaluation.llm import LlmTerms, with_llm
from uae.evaluation.page import evaluation_page
from uae.evaluation.second_stage import with_second_stage
from uae.evaluation.testset import BASE, SECOND_STAGE, UAE, choose_questions, test_set_hash
from uae.io.files import sha256_file, write_json, write_text
from uae.io.models import fingerprint
from uae.io.tables import QUESTIONS, RUNS, read_table, write_table
from uae.measures.answers import ANSWER_METRICS
from uae.measures.fusion import Fusion, Rankings, reciprocal_rank_fusion
from uae.measures.metrics import retrieval_metrics
from uae.measures.row_rankings import Asked
from uae.measures.statistics import Resampling
from uae.release.manifest import DENSE, RERANKED, Manifest, read_manifest
from uae.release.passages import check_same_passages
from uae.retrievers.both import Words, cut, rank_beside
from uae.retrievers.kinds import open_dense
from uae.retrievers.lexical import Bm25
from uae.text.passage_template import PassageTemplate
from uae.text.stored_passages import StoredPassages
from uae.validation.trained_on import check_not_trained_on
from uae.vectors.store import VectorStore

BM25, HYBRID = "bm25", "hybrid"
_CURVE_DEPTH = 10
_RUN_DEPTH = 20  # passages of a ranking that are stored


@dataclass(frozen=True)
class Inputs:
    """What is measured, on what."""

    passages: Path
    questions: Path
    base: Path  # the encoder that training started from
    release: Path
    rivals: Mapping[str, Path]  # name -> encoder of another student
    readers: Mapping[str, Path]  # name -> LLM that answers; the first one's metrics stand among the systems'
    training_curve: Path
    also: Sequence[Collection] = ()  # other collections that the release is asked of


@dataclass(frozen=True)
class Written:
    """Where the stage's artefacts go."""

    evaluation: Path
    cost: Path
    page: Path
    runs: Path
    curve: Path


def evaluate(
    inputs: Inputs,
    written: Written,
    scope: str,
    cutoffs: Sequence[int],
    answering: Answering,
    resampling: Resampling,
    llm: LlmTerms | None,
    device: str,
    dtype: str,
    vectors: VectorStore | None = None,
) -> dict[str, Any]:
    """Write the evaluation (means, intervals, gains), its page, each question's results, costs and a recall curve.

    Retrieval is measured on test questions with evidence, answers on those with gold answers, what asks an LLM about every
    passage on a few of them. Gains are over the base encoder, on the questions that both were measured on.

    Args:
        scope: ``document`` or ``corpus``.
        cutoffs: the k of recall@k.
        answering: how the readers are asked. They answer from what base, UAE, the rivals and ``convex_base`` found.
        llm: None: no LLM but the readers is asked.
        device, dtype: of encoders and readers, as params.yaml has them.
        vectors: where vectors of passages are kept.

    Raises:
        ArtefactError: there is no test question with evidence, or the release was trained on what is in the test set.
    """
    manifest = read_manifest(inputs.release)
    stored, everything = StoredPassages(inputs.passages), read_table(inputs.questions, QUESTIONS)
    read_as = PassageTemplate(manifest.dense().passage_template)  # every system reads passages as the release does
    questions = choose_questions(everything)
    check_same_passages(inputs.release, stored.parts(["passage_id", "text"]))
    check_not_trained_on(inputs.release, f"release {manifest.fingerprint[:12]}", questions, stored.documents(), scope)
    documents = questions.set_index("question_id")["doc_id"]
    folders = {BASE: inputs.base, **inputs.rivals, DENSE: manifest.dense().encoder_folder(inputs.release)}
    choosing = choosing_questions(everything)
    rankings, weights = _retrieve(folders, questions, choosing, stored, read_as, scope, device, _released(manifest), vectors)
    # Of texts only those are in memory that somebody reads from here on.
    passages = stored.rows(_first_of_all(rankings, _most_read(manifest, cutoffs, answering, llm)), read_as)
    reranked, parts = with_second_stage(inputs.release, manifest, rankings[UAE], questions, passages, device)
    if llm is not None:
        more, asked = with_llm(
            llm, rankings, questions, passages, read_as, inputs.release, scope, resampling,
            words=lambda: Bm25(stored.ids, stored.texts(read_as)),
        )  # fmt: skip
        rankings, parts = rankings | more, parts | asked
    rankings |= reranked
    evidence = dict(zip(questions["question_id"], questions["evidence"], strict=True))
    found = {system: rankings[system] for system in (BASE, *inputs.rivals, CONVEX, UAE) if system in rankings}
    contexts = read_in_contexts(found, questions, read_as.applied(passages), inputs.readers, answering, device, dtype)
    answers = {name: next(iter(of_reader.values())) for name, of_reader in contexts.items()}  # of the first context
    first = next(iter(answers.values()))
    scores = _scores(rankings, evidence, cutoffs, first)
    independent = independent_units(documents)
    curves = {BM25, *folders, UAE, HYBRID, CONVEX, SECOND_STAGE}
    evaluation = {
        "dataset": test_set_hash(questions, stored, scope),
        "scope": scope,
        "seeds": [resampling.seed],
        "confidence": resampling.confidence,
        "resamples": resampling.resamples,
        "intervals": independent._asdict(),
        "counts": {
            "passages": len(stored),
            "test_questions": len(questions),
            "test_documents": independent.documents,
            "answered_questions": len(first[BASE]),
        },
        "models": _models(inputs) | {DENSE: manifest.dense().encoder},
        "release": manifest.fingerprint,
        **_compared(scores, answers, [BM25, HYBRID, *inputs.rivals], documents, resampling),
        "reader_contexts": compare_contexts(contexts, documents, resampling),
        "fusion": weights,
        "recall_curve": _recall_curve({system: ranked for system, ranked in rankings.items() if system in curves}, evidence),
        "training": {"curve": _training_curve(inputs.training_curve)},
        **parts,
    }
    if inputs.also:
        evaluation["also"] = measure_elsewhere(inputs.also, inputs.release, inputs.base, device, resampling, vectors)
    runs = pd.DataFrame(_runs(rankings, scores, first, depth=max(_RUN_DEPTH, *cutoffs)))
    _write(written, evaluation, runs, everything, passages)
    return evaluation


def _write(
    written: Written, evaluation: Mapping[str, Any], runs: pd.DataFrame, questions: pd.DataFrame, passages: pd.DataFrame
) -> None:
    write_table(written.runs, RUNS, runs)
    evaluation = {**evaluation, "runs": sha256_file(written.runs)}  # the gate reads both, and they must be of one evaluation
    write_text(written.curve, _curve_csv(evaluation["recall_curve"]))
    evaluation_page({"cost": {}} | dict(evaluation), runs, questions, passages, written.page)
    # Costs by themselves: no two runs take the same time, and the gate must not run anew for that.
    write_json(written.cost, evaluation.get("cost", {}))
    write_json(written.evaluation, {name: part for name, part in evaluation.items() if name != "cost"})


def _models(inputs: Inputs) -> dict[str, str]:
    return {name: fingerprint(path) for name, path in {BASE: inputs.base, **inputs.rivals, **inputs.readers}.items()}


def _scores(
    rankings: Mapping[str, Rankings],
    evidence: Mapping[str, Sequence[str]],
    cutoffs: Sequence[int],
    answers: Mapping[str, pd.DataFrame],
) -> dict[str, pd.DataFrame]:
    """Each question's metrics by system, of its ranking and of the answer that was read from it."""
    scores = {
        system: retrieval_metrics(_ids(ranked), {question: evidence[question] for question in ranked}, cutoffs)
        for system, ranked in rankings.items()
    }
    return scores | {system: scores[system].join(table[list(ANSWER_METRICS)]) for system, table in answers.items()}


def _retrieve(
    folders: Mapping[str, Path],
    questions: pd.DataFrame,
    choosing: pd.DataFrame,
    passages: StoredPassages,
    read_as: PassageTemplate,
    scope: str,
    device: str,
    released: dict[str, Any],
    vectors: VectorStore | None,
) -> tuple[dict[str, Rankings], dict[str, dict[str, Any]]]:
    """Rankings of the test questions by every system, and how BM25 joins the encoders in those that have both.

    A ranking holds the first ``both.KEPT`` passages; evidence behind them counts as not found.

    The systems are BM25, the encoders in ``folders``, the promoted whole, and the untrained encoder with BM25, by places and in
    the best form.

    Args:
        choosing: more questions, which choose the best form; none: there is no such system.
        released: form and weight of BM25 in the release, and what they were chosen on.
    """
    tested = list(questions["question_id"])
    more = pd.concat([questions, choosing])
    words = Words(more, passages.ids, scope, texts=passages.texts(read_as))
    searched = passages.asked_of(more, scope)  # how rare a word is, is counted over all
    ranked: dict[str, Rankings] = {BM25: cut(only(words.rankings, tested))}
    weights: dict[str, dict[str, Any]] = {UAE: released}
    untrained: dict[str, Rankings] = {}
    for system, folder in folders.items():
        asked = more if system == BASE else questions
        encoder = open_dense(folder, device, vectors)
        found, beside = rank_beside(
            encoder, words, asked, searched.ids, scope, f"{system}: passages", texts=searched.texts(read_as)
        )
        if system == BASE and len(choosing):
            fused, weights[CONVEX] = strongest_untrained(found, beside, choosing, tested)
            untrained[CONVEX] = cut(fused)
        if system == DENSE:
            ranked[UAE] = cut(as_released(found, beside, Fusion(released["form"], released["weight"])))
        ranked[system] = cut(only(found, tested))
        del found, beside  # of each question twice as many places as are kept
    ranked = {system: ranked[system] for system in (BM25, *folders, UAE)}
    ranked[HYBRID] = reciprocal_rank_fusion([ranked[BM25], ranked[BASE]])
    return ranked | untrained, weights


def _most_read(manifest: Manifest, cutoffs: Sequence[int], answering: Answering, llm: LlmTerms | None) -> int:
    """How many passages of a ranking somebody reads, at most."""
    reranked = manifest.systems[RERANKED].rerank if RERANKED in manifest.systems else None
    depths = [reranked.depth if reranked else 0, llm.top_k if llm else 0]
    return max(_RUN_DEPTH, *cutoffs, *answering.passages, *depths)


def _first_of_all(rankings: Mapping[str, Rankings], most: int) -> set[str]:
    return {passage_id for ranked in rankings.values() for ids, _ in cut(ranked, most).values() for passage_id in ids}


def _released(manifest: Manifest) -> dict[str, Any]:
    """How BM25 joins the release's dense leg, and on which questions that was chosen, where it says so."""
    entry = manifest.systems[UAE].fusion
    chosen = entry.chosen if entry is not None else None
    facts: dict[str, Any] = dict(manifest.fusion()._asdict())
    if chosen is None:
        return facts
    return facts | {"questions": chosen["questions"], "splits": ["train", "validation"] if chosen["folds"] else ["validation"]}


def _compared(
    scores: Mapping[str, pd.DataFrame],
    answers: Mapping[str, Tables],
    rivals: Sequence[str],
    documents: pd.Series,
    resampling: Resampling,
) -> dict[str, Any]:
    """Means and gains with their intervals, by system."""

    def means(table: pd.DataFrame) -> dict[str, Measured]:
        return summarise(table, documents, resampling)

    def gains(base: str, system: str) -> dict[str, Measured]:
        return gains_over(scores[base], scores[system], documents, resampling)

    # A rival is an encoder, as the dense leg is: the promoted whole has BM25 besides.
    ours = [system for system in (UAE, DENSE) if system in scores]
    against = [*rivals, *([CONVEX] if CONVEX in scores else [])]
    return {
        "systems": {system: means(table) for system, table in scores.items()},
        "gains": {system: gains(BASE, system) for system in scores if system != BASE},
        "gains_over": {rival: {system: gains(rival, system) for system in ours} for rival in against}
        | ({UAE: {SECOND_STAGE: gains(UAE, SECOND_STAGE)}} if SECOND_STAGE in scores else {}),
        "readers": {
            name: {system: means(table[list(ANSWER_METRICS)]) for system, table in tables.items()}
            for name, tables in answers.items()
        },
    }


def _ids(rankings: Rankings) -> Mapping[str, list[str]]:
    return Asked(rankings, lambda question_id: rankings[question_id][0])


def _runs(
    rankings: Mapping[str, Rankings], scores: Mapping[str, pd.DataFrame], answers: Mapping[str, pd.DataFrame], depth: int
) -> list[dict[str, Any]]:
    return [
        {
            "system": system,
            "question_id": question_id,
            "passage_ids": ids,
            "scores": values,
            "metrics": list(scores[system].loc[question_id].dropna().items()),
            "answer": answers[system]["answer"].get(question_id, "") if system in answers else "",
        }
        for system, ranked in rankings.items()
        for question_id, (ids, values) in sorted(cut(ranked, depth).items())
    ]


def _recall_curve(rankings: Mapping[str, Rankings], evidence: Mapping[str, Sequence[str]]) -> dict[str, list[float]]:
    """system -> recall@1, recall@2, ..."""
    depths = range(1, _CURVE_DEPTH + 1)
    tables = {system: retrieval_metrics(_ids(cut(ranked, _CURVE_DEPTH)), evidence, depths) for system, ranked in rankings.items()}
    return {system: [float(table[f"recall@{k}"].mean()) for k in depths] for system, table in tables.items()}


def _curve_csv(curve: Mapping[str, list[float]]) -> str:
    rows = [f"{k},{system},{recall:.6f}" for system, values in curve.items() for k, recall in enumerate(values, start=1)]
    return "\n".join(["k,system,recall", *rows]) + "\n"


def _training_curve(path: Path) -> list[dict[str, float]]:
    table = pd.read_csv(path).rename(columns={"train_loss": "loss", "validation_ndcg": "validation"})
    return [
        {str(name): value for name, value in row.items() if not pd.isna(value)}
        for row in table[["step", "loss", "validation"]].to_dict("records")
    ]
