"""The evaluate stage: all systems on the test questions, retrieval and answers, with intervals; the LLM's part is in ``llm``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from uae.evaluation.answers import read_answers
from uae.evaluation.llm import Judging, with_llm
from uae.evaluation.page import evaluation_page
from uae.evaluation.testset import BASE, UAE, choose_questions, rank_with, test_set_hash
from uae.io.files import write_json, write_text
from uae.io.models import fingerprint
from uae.io.tables import PASSAGES, QUESTIONS, RUNS, read_table, write_table
from uae.measures.fusion import Rankings, reciprocal_rank_fusion
from uae.measures.metrics import retrieval_metrics
from uae.measures.statistics import Gain, gain_over_groups, mean_with_interval, paired_gain
from uae.release.manifest import read_manifest
from uae.retrievers.lexical import rank_bm25

BM25, HYBRID = "bm25", "hybrid"
_CURVE_DEPTH = 10


@dataclass(frozen=True)
class Written:
    """Where the stage's artefacts go."""

    evaluation: Path
    cost: Path
    page: Path
    runs: Path
    curve: Path


@dataclass(frozen=True)
class Reading:
    """How the reader LLMs are asked; see ``read_answers``."""

    passages: int  # of a ranking, that a reader is given
    questions: int | None  # only the first so many
    new_tokens: int
    batch_size: int


def evaluate(
    passages_path: Path,
    questions_path: Path,
    base_path: Path,
    release_path: Path,
    rival_paths: Mapping[str, Path],
    reader_paths: Mapping[str, Path],
    training_curve_path: Path,
    written: Written,
    scope: str,
    cutoffs: Sequence[int],
    reading: Reading,
    resamples: int,
    confidence: float,
    judging: Judging | None,
    device: str,
    dtype: str,
    seed: int,
) -> dict:
    """Write the evaluation (means, intervals, gains), its page, each question's results, costs and a recall curve.

    Retrieval is measured on test questions with evidence, answers on those with gold answers, what asks an LLM about every
    passage on a few of them (``judging``). Gains are over the base encoder, on the questions that both were measured on.

    Args:
        rival_paths: name -> encoder of other students to measure.
        reader_paths: name -> LLM that answers the questions from what base and UAE found; the first one's metrics stand among the
            systems'.
        judging: None: no LLM but the readers is asked.

    Raises:
        ArtefactError: there is no test question with evidence.
    """
    manifest = read_manifest(release_path)
    passages, everything = read_table(passages_path, PASSAGES), read_table(questions_path, QUESTIONS)
    questions = choose_questions(everything)
    terms = {"confidence": confidence, "resamples": resamples, "seed": seed}
    folders = {BASE: base_path, **rival_paths, UAE: manifest.dense().encoder_folder(release_path)}
    rankings = _retrieve(folders, questions, passages, scope, device)
    parts = {}
    if judging is not None:
        more, parts = with_llm(judging, rankings, questions, passages, release_path, scope, **terms)
        rankings |= more
    evidence = dict(zip(questions["question_id"], questions["evidence"], strict=True))
    found = {system: rankings[system] for system in folders}
    answers = {
        name: read_answers(
            found, questions, passages, path, reading.passages, reading.questions, reading.new_tokens, reading.batch_size,
            device, dtype,
        )
        for name, path in reader_paths.items()
    }  # fmt: skip
    first = next(iter(answers.values()))
    scores = _scores(rankings, evidence, cutoffs, first)
    curve = _recall_curve({system: rankings[system] for system in (BM25, *folders, HYBRID)}, evidence)
    models = {name: fingerprint(path) for name, path in ({BASE: base_path} | dict(rival_paths) | dict(reader_paths)).items()}
    evaluation = {
        "dataset": test_set_hash(questions, passages, scope),
        "scope": scope,
        "seeds": [seed],
        "confidence": confidence,
        "resamples": resamples,
        "counts": {
            "passages": len(passages),
            "test_questions": len(questions),
            "test_documents": int(questions["doc_id"].nunique()),
            "answered_questions": len(first[BASE]),
        },
        "models": models | {UAE: manifest.dense().encoder},
        "release": manifest.fingerprint,
        **_compared(scores, answers, [BM25, HYBRID, *rival_paths], questions.set_index("question_id")["doc_id"], terms),
        "recall_curve": curve,
        "training": {"curve": _training_curve(training_curve_path)},
        **parts,
    }
    runs = pd.DataFrame(_runs(rankings, scores, first, depth=max(20, *cutoffs)))
    _write(written, evaluation, runs, everything, passages)
    return evaluation


def _write(written: Written, evaluation: Mapping, runs: pd.DataFrame, questions: pd.DataFrame, passages: pd.DataFrame) -> None:
    write_table(written.runs, RUNS, runs)
    write_text(written.curve, _curve_csv(evaluation["recall_curve"]))
    evaluation_page({"cost": {}} | evaluation, runs, questions, passages, written.page)
    # Costs by themselves: no two runs take the same time, and the gate must not run anew for that.
    write_json(written.cost, evaluation.get("cost", {}))
    write_json(written.evaluation, {name: part for name, part in evaluation.items() if name != "cost"})


def _scores(
    rankings: Mapping[str, Rankings], evidence: Mapping, cutoffs: Sequence[int], answers: Mapping[str, pd.DataFrame]
) -> dict[str, pd.DataFrame]:
    """Each question's metrics by system, of its ranking and of the answer that was read from it."""
    scores = {
        system: retrieval_metrics(_ids(ranked), {question: evidence[question] for question in ranked}, cutoffs)
        for system, ranked in rankings.items()
    }
    return scores | {system: scores[system].join(table[["token_f1", "exact_match"]]) for system, table in answers.items()}


def _retrieve(folders: Mapping[str, Path], questions: pd.DataFrame, passages: pd.DataFrame, scope: str, device: str):
    """Whole rankings by BM25, by the encoders in ``folders``, and by BM25 and the base encoder together."""
    rankings: dict[str, Rankings] = {BM25: rank_bm25(questions, passages, scope, None)}
    for system, folder in folders.items():
        rankings[system] = rank_with(folder, questions, passages, scope, device, f"{system}: passages")
    rankings[HYBRID] = reciprocal_rank_fusion([rankings[BM25], rankings[BASE]])
    return rankings


def _compared(
    scores: Mapping[str, pd.DataFrame],
    answers: Mapping[str, Mapping],
    rivals: Sequence[str],
    documents: pd.Series,
    terms: Mapping,
) -> dict:
    """Means and gains with their intervals, by system."""
    gains = partial(gains_over, documents=documents, **terms)
    return {
        "systems": {system: summarise(table, **terms) for system, table in scores.items()},
        "gains": {system: gains(scores[BASE], table) for system, table in scores.items() if system != BASE},
        "gains_over": {rival: {UAE: gains(scores[rival], scores[UAE])} for rival in rivals},
        "readers": {
            name: {system: summarise(table[["token_f1", "exact_match"]], **terms) for system, table in tables.items()}
            for name, tables in answers.items()
        },
    }


def gains_over(
    base: pd.DataFrame, system: pd.DataFrame, confidence: float, resamples: int, seed: int, documents: pd.Series | None = None
) -> dict:
    """Gains of ``system`` over ``base`` by metric, on the questions where both have one.

    Args:
        documents: question_id -> doc_id. Questions on one document are not independent: with it, each gain has a second interval
            and p-value over documents, where there are two of them at least.
    """
    terms = (confidence, resamples, seed)
    gains = {}
    for metric in system.columns.intersection(base.columns, sort=False):
        pair = pd.concat([base[metric], system[metric]], axis=1).dropna()
        if not pair.empty:
            values = pair.to_numpy(dtype=np.float64).T
            gains[metric] = _gain(paired_gain(*values, *terms)) | {"questions": len(pair)}
            asked = documents[pair.index].to_numpy() if documents is not None else np.array([""])
            if (number := len(np.unique(asked))) > 1 and (asked != "").all():
                by_document = _gain(gain_over_groups(*values, asked, *terms))
                gains[metric]["by_document"] = by_document | {"documents": number}
    return gains


def _gain(gain: Gain) -> dict:
    relative = gain.relative._asdict() if gain.relative else None
    return {"absolute": gain.absolute._asdict(), "relative": relative, "p_value": gain.p_value}


def summarise(scores: pd.DataFrame, confidence: float, resamples: int, seed: int) -> dict:
    columns = {metric: scores[metric].dropna().to_numpy(dtype=np.float64) for metric in scores}
    return {
        metric: mean_with_interval(values, confidence, resamples, seed)._asdict() | {"questions": len(values)}
        for metric, values in columns.items()
        if len(values)
    }


def _ids(rankings: Rankings) -> dict[str, list[str]]:
    return {question_id: ids for question_id, (ids, _) in rankings.items()}


def _runs(rankings: Mapping[str, Rankings], scores, answers, depth: int) -> list[dict]:
    return [
        {
            "system": system,
            "question_id": question_id,
            "passage_ids": ids[:depth],
            "scores": values[:depth],
            "metrics": list(scores[system].loc[question_id].dropna().items()),
            "answer": answers[system]["answer"].get(question_id, "") if system in answers else "",
        }
        for system, ranked in rankings.items()
        for question_id, (ids, values) in sorted(ranked.items())
    ]


def _recall_curve(rankings: Mapping[str, Rankings], evidence) -> dict[str, list[float]]:
    """system -> recall@1, recall@2, ..."""
    depths = range(1, _CURVE_DEPTH + 1)
    tables = {system: retrieval_metrics(_ids(ranked), evidence, depths) for system, ranked in rankings.items()}
    return {system: [float(table[f"recall@{k}"].mean()) for k in depths] for system, table in tables.items()}


def _curve_csv(curve: Mapping[str, list[float]]) -> str:
    rows = [f"{k},{system},{recall:.6f}" for system, values in curve.items() for k, recall in enumerate(values, start=1)]
    return "\n".join(["k,system,recall", *rows]) + "\n"


def _training_curve(path: Path) -> list[dict]:
    table = pd.read_csv(path).rename(columns={"train_loss": "loss", "validation_ndcg": "validation"})
    return [
        {name: value for name, value in row.items() if not pd.isna(value)}
        for row in table[["step", "loss", "validation"]].to_dict("records")
    ]
