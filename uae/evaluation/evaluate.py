"""The evaluate stage: the base encoder and the trained one on the test questions, retrieval and answers, with intervals."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from uae.evaluation.metrics import answer_metrics, retrieval_metrics
from uae.evaluation.statistics import Gain, mean_with_interval, paired_gain
from uae.evaluation.testset import BASE, UAE, choose_questions, rank_with, test_set_hash
from uae.files import write_json, write_text
from uae.index.release import read_manifest
from uae.sources import fingerprint
from uae.tables import PASSAGES, QUESTIONS, RUNS, read_table, write_table


def evaluate(
    passages_path: Path,
    questions_path: Path,
    base_path: Path,
    release_path: Path,
    reader_path: Path,
    evaluation_path: Path,
    runs_path: Path,
    curve_path: Path,
    scope: str,
    cutoffs: Sequence[int],
    reader_passages: int,
    reader_questions: int | None,
    reader_new_tokens: int,
    reader_batch_size: int,
    resamples: int,
    confidence: float,
    device: str,
    dtype: str,
    seed: int,
) -> dict:
    """Write the evaluation (means, intervals, gains), every question's results, and a recall curve. Returns the evaluation.

    Retrieval is measured on test questions with evidence, answers on those with gold answers.

    Raises:
        ArtefactError: there is no test question with evidence.
    """
    manifest = read_manifest(release_path)
    passages = read_table(passages_path, PASSAGES)
    questions = choose_questions(read_table(questions_path, QUESTIONS))
    folders = {BASE: base_path, UAE: release_path / "encoder"}
    rankings = {
        system: rank_with(folder, questions, passages, scope, device, f"{system}: passages") for system, folder in folders.items()
    }
    evidence = dict(zip(questions["question_id"], questions["evidence"], strict=True))
    scores = {
        system: retrieval_metrics({q: ids for q, (ids, _) in ranked.items()}, evidence, cutoffs)
        for system, ranked in rankings.items()
    }
    answers = _answers(
        rankings, questions, passages, reader_path, reader_passages, reader_questions,
        reader_new_tokens, reader_batch_size, device, dtype,
    )  # fmt: skip
    for system, table in answers.items():
        scores[system] = scores[system].join(table[["token_f1", "exact_match"]])
    evaluation = {
        "dataset": test_set_hash(questions, passages),
        "scope": scope,
        "seeds": [seed],
        "confidence": confidence,
        "resamples": resamples,
        "counts": {
            "passages": len(passages),
            "test_questions": len(questions),
            "test_documents": int(questions["doc_id"].nunique()),
            "answered_questions": len(answers[BASE]),
        },
        "models": {BASE: fingerprint(base_path), UAE: manifest["encoder"], "reader": fingerprint(reader_path)},
        "release": manifest["fingerprint"],
        "systems": {system: _summary(table, confidence, resamples, seed) for system, table in scores.items()},
        "gains": {UAE: compare(scores[BASE], scores[UAE], confidence, resamples, seed)},
    }
    write_table(runs_path, RUNS, _runs(rankings, scores, answers, depth=max(20, *cutoffs)))
    write_text(curve_path, _recall_curve(rankings, evidence))
    write_json(evaluation_path, evaluation)
    return evaluation


def compare(base: pd.DataFrame, system: pd.DataFrame, confidence: float, resamples: int, seed: int) -> dict:
    """Gains of ``system`` over ``base`` by metric, on the questions where both have one."""
    gains = {}
    for metric in system.columns:
        pair = pd.concat([base[metric], system[metric]], axis=1).dropna()
        if not pair.empty:
            values = pair.to_numpy(dtype=np.float64)
            gains[metric] = _gain(paired_gain(values[:, 0], values[:, 1], confidence, resamples, seed), len(pair))
    return gains


def _gain(gain: Gain, questions: int) -> dict:
    relative = gain.relative._asdict() if gain.relative else None
    return {
        "absolute": gain.absolute._asdict(),
        "relative": relative,
        "p_value": gain.p_value,
        "questions": questions,
    }


def _summary(scores: pd.DataFrame, confidence: float, resamples: int, seed: int) -> dict:
    columns = {metric: scores[metric].dropna().to_numpy(dtype=np.float64) for metric in scores}
    return {
        metric: mean_with_interval(values, confidence, resamples, seed)._asdict() | {"questions": len(values)}
        for metric, values in columns.items()
        if len(values)
    }


def _answers(
    rankings, questions, passages, reader_path, top, limit, new_tokens, batch_size, device, dtype
) -> dict[str, pd.DataFrame]:
    from uae.evaluation.answers import Reader

    asked = questions[questions["answers"].str.len() > 0][:limit]
    if asked.empty:
        columns = ["answer", "token_f1", "exact_match"]
        return {system: pd.DataFrame(columns=columns, index=pd.Index([], name="question_id")) for system in rankings}
    texts = passages.set_index("passage_id")["text"]
    reader = Reader(reader_path, device, dtype, new_tokens, batch_size)
    requests = [
        (question, [texts[passage_id] for passage_id in rankings[system][question_id][0][:top]])
        for system in rankings
        for question_id, question in zip(asked["question_id"], asked["text"], strict=True)
    ]
    replies = iter(reader.answer(requests))
    tables = {}
    for system in rankings:
        rows = [
            {"question_id": question_id, "answer": reply} | answer_metrics(reply, gold)
            for question_id, gold, reply in zip(asked["question_id"], asked["answers"], replies, strict=False)
        ]
        tables[system] = pd.DataFrame(rows).set_index("question_id")
    return tables


def _runs(rankings, scores, answers, depth: int) -> list[dict]:
    return [
        {
            "system": system,
            "question_id": question_id,
            "passage_ids": ids[:depth],
            "scores": values[:depth],
            "metrics": list(scores[system].loc[question_id].dropna().items()),
            "answer": answers[system]["answer"].get(question_id, ""),
        }
        for system, ranked in rankings.items()
        for question_id, (ids, values) in sorted(ranked.items())
    ]


def _recall_curve(rankings, evidence) -> str:
    depths = range(1, 11)
    lines = ["k,system,recall"]
    for system, ranked in rankings.items():
        table = retrieval_metrics({q: ids for q, (ids, _) in ranked.items()}, evidence, depths)
        lines += [f"{k},{system},{table[f'recall@{k}'].mean():.6f}" for k in depths]
    return "\n".join(lines) + "\n"
