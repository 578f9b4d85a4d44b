"""``uae compare``: objectives and recipes fitted on equal terms (same pairs, seeds and steps), measured on the same questions."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from uae.evaluation.comparison import Measured, decisive, gains_over, independent_units, summarise
from uae.evaluation.testset import BASE, choose_questions, rank_with, test_set_hash
from uae.io.files import read_json, sha256_bytes, write_json, write_text
from uae.io.models import fingerprint
from uae.io.tables import RUNS, read_table, write_table
from uae.measures.fusion import ALONE, SCORES, Fusion, Rankings, fuse
from uae.measures.metrics import retrieval_metrics
from uae.measures.statistics import Resampling, bonferroni, holm
from uae.retrievers.lexical import rank_bm25
from uae.training.checkpoints import checkpoints_beside, identity
from uae.training.curve import learning_curve
from uae.training.data import TrainingData
from uae.training.fit import fit
from uae.training.lexical import LexicalPart, lexical_part
from uae.training.options import TrainOptions
from uae.training.refresh import MoreLabels
from uae.training.train import Prepared, prepare
from uae.vectors.store import VectorStore


@dataclass(frozen=True)
class Contender:
    name: str
    options: TrainOptions
    teacher_temperature: float  # nats per token
    aggregation: Mapping[str, str]  # see ``TrainingData``
    fusion: Fusion | None = None  # how BM25 joins the student where it is measured. None: as in training, ``lexical_weight``

    @property
    def measured_with(self) -> Fusion:
        return self.fusion or Fusion(SCORES, self.options.lexical_weight)


def compare(
    data: TrainingData,
    base_path: Path,
    folder: Path,
    contenders: Sequence[Contender],
    seeds: Sequence[int],
    more: MoreLabels,
    split: str,
    cutoffs: Sequence[int],
    resampling: Resampling,
    device: str,
    announce: Callable[[str], None] = lambda text: None,
    vectors: VectorStore | None = None,
) -> dict[str, Any]:
    """Fit every contender with every seed and measure it on the questions of a split. Finished parts are kept in ``folder``.

    A recipe that was chosen on the test questions has no honest figure on them: choose on ``validation``.

    A contender is measured with BM25 as its ``measured_with`` says, the base encoder alone.

    A question's metric is its mean over seeds; intervals and p-values are over questions or documents, as
    ``comparison.independent_units`` says. Each contender stands against the base encoder and against the first contender. Among
    many contenders one looks good by chance. So each gain has the figures of ``evaluate`` and ``corrected`` ones: p-values by
    Holm and intervals by Bonferroni, over the contenders of a family, each metric by itself.

    Args:
        vectors: where vectors of passages are kept: the base encoder's, which some students leave as they are. The others'
            are not kept: students of a comparison are asked once.
        resampling: its confidence holds for one interval; in ``corrected`` for all of a family together.

    Returns:
        ``{"split", "questions", "documents", "intervals", "seeds", "confidence", "systems": {name: {metric: estimate}},
        "by_seed": {name: {metric: [mean, ...]}}, "gains": {name: {metric: gain over base}},
        "gains_over": {first: {name: {metric: gain}}}, "training": {name: {...}}}``, estimates and gains as ``evaluate`` has
        them; also written to ``folder/compare.json``.

    Raises:
        ArtefactError: labels are missing, or a contender has nothing to be fitted to.
    """
    asked = choose_questions(data.questions, split)
    evidence = dict(zip(asked["question_id"], asked["evidence"], strict=True))
    passages = data.corpus()
    rank = _Ranker(folder, asked, passages, more.scope, device)
    base = retrieval_metrics(rank(BASE, base_path, vectors), evidence, cutoffs)
    scores, by_seed, training = {BASE: base}, {}, {}
    for contender in contenders:
        each, summaries = [], []
        for seed in seeds:
            announce(f"{contender.name}, seed {seed}")
            student, prepared, summary = fit_contender(
                contender, seed, data, base_path, folder, more, device, lambda: passages, vectors
            )
            summaries.append(summary)
            each.append(retrieval_metrics(rank(student.name, student, fusion=contender.measured_with), evidence, cutoffs))
        scores[contender.name] = sum(each[1:], each[0]) / len(each)
        by_seed[contender.name] = {metric: [float(table[metric].mean()) for table in each] for metric in base.columns}
        questions = len(prepared.examples["train"])
        training[contender.name] = {
            "recipe": contender.options.for_questions(questions).model_dump(mode="json")
            | {"teacher_temperature": prepared.teacher_temperature, "aggregation": dict(contender.aggregation)},
            "measured_with_bm25": contender.measured_with._asdict(),
            "questions": questions,
            "runs": summaries,
        }
    result = {
        "split": split,
        "seeds": list(seeds),
        **_measured(scores, asked.set_index("question_id")["doc_id"], resampling),
        "by_seed": by_seed,
        "training": training,
    }
    write_json(folder / "compare.json", result)
    return result


def _measured(scores: Mapping[str, pd.DataFrame], documents: pd.Series, resampling: Resampling) -> dict[str, Any]:
    """Means by system, and the two families of gains. The first system is the base encoder."""
    first, *others = [name for name in scores if name != BASE]
    independent = independent_units(documents)
    return {
        "questions": len(documents),
        "documents": independent.documents,
        "intervals": independent._asdict(),
        "confidence": resampling.confidence,
        "systems": {name: summarise(table, documents, resampling) for name, table in scores.items()},
        "gains": _family(scores, BASE, [first, *others], documents, resampling),
        "gains_over": {first: _family(scores, first, others, documents, resampling)},
    }


def _family(
    scores: Mapping[str, pd.DataFrame], base: str, names: Sequence[str], documents: pd.Series, resampling: Resampling
) -> dict[str, dict[str, Measured]]:
    """Gains of several systems over one. ``corrected`` holds the interval and p-value to go by, for all of them together."""
    widened = bonferroni(resampling, len(names))
    gains = {name: gains_over(scores[base], scores[name], documents, resampling) for name in names}
    wide = {name: gains_over(scores[base], scores[name], documents, widened) for name in names}
    for metric in scores[base].columns:
        adjusted = holm({name: decisive(gains[name][metric])["p_value"] for name in names})
        for name in names:
            intervals = decisive(wide[name][metric])
            gains[name][metric]["corrected"] = {
                "absolute": intervals["absolute"],
                "relative": intervals["relative"],
                "p_value": adjusted[name],
            }
    return gains


class FittedContender(NamedTuple):
    """A contender's student of one seed."""

    student: Path
    prepared: Prepared
    summary: dict[str, Any]  # what the run was like


def fit_contender(
    contender: Contender,
    seed: int,
    data: TrainingData,
    base_path: Path,
    folder: Path,
    more: MoreLabels,
    device: str,
    corpus: Callable[[], pd.DataFrame],
    vectors: VectorStore | None = None,
) -> FittedContender:
    """Fit a contender with one seed, into ``folder/students/NAME-SEED``. The very same student is not fitted twice.

    Args:
        more: as ``compare`` takes it. What a refreshing contender has judged then is at ``refreshed_path``.
        corpus: gives all passages with what the student reads, for the few contenders that need them.
        vectors: as ``fit`` takes it.

    Raises:
        ArtefactError: labels are missing, or there is nothing to be fitted to.
    """
    one = f"{contender.name}-{seed}"
    prepared = prepare(
        replace(data, aggregation=contender.aggregation),
        base_path,
        contender.options,
        contender.teacher_temperature,
        folder / "reward_models" / one,
        replace(more, candidates_path=refreshed_path(folder, one)),
        device,
        seed,
    )
    student = folder / "students" / one
    added = lexical_part(corpus, more.scope, contender.options.lexical_weight)
    summary = _fitted(student, prepared, base_path, contender.options, seed, device, added, vectors)
    return FittedContender(student, prepared, summary)


def refreshed_path(folder: Path, name: str) -> Path:
    """Where all pairs of a student that refreshed its candidates are."""
    return folder / "refreshed_candidates" / f"{name}.parquet"


def _fitted(
    student: Path,
    prepared: Prepared,
    base_path: Path,
    options: TrainOptions,
    seed: int,
    device: str,
    added: LexicalPart | None,
    vectors: VectorStore | None,
) -> dict[str, Any]:
    """Fit a student unless the very same one is there. Returns what the run was like."""
    stamp = student.with_name(f"{student.name}.json")
    examples, temperature, refresher = prepared.examples, prepared.teacher_temperature, prepared.refresher
    run = identity(examples, base_path, options, temperature, seed, refresher.terms if refresher else None, added)
    if stamp.exists() and student.is_dir():
        kept: dict[str, Any] = read_json(stamp)
        if kept["identity"] == run and kept["fingerprint"] == fingerprint(student):
            return kept
    checkpoints = checkpoints_beside(student)
    fitted = fit(
        examples, base_path, student, checkpoints, options, temperature, device, seed, refresher=refresher, vectors=vectors,
        added=added,
    )  # fmt: skip
    write_text(student.with_name(f"{student.name}.csv"), learning_curve(fitted.before, fitted.history))
    summary = {
        "identity": run,
        "fingerprint": fingerprint(student),
        "seed": seed,
        "steps": fitted.steps,
        "seconds": fitted.seconds,
        "seconds_per_step": fitted.seconds_per_step,
        "peak_memory_mb": fitted.peak_memory_mb,
        "validation_ndcg_before": fitted.before,
        "validation_ndcg": fitted.after,
    }
    write_json(stamp, summary)
    shutil.rmtree(checkpoints)
    return summary


def rankings_path(
    folder: Path,
    name: str,
    encoder: Path,
    asked: pd.DataFrame,
    passages: pd.DataFrame,
    scope: str,
    fusion: Fusion = ALONE,
) -> Path:
    """Where a comparison keeps this encoder's rankings of these questions.

    Args:
        passages: as the encoder reads them (``PassageTemplate.applied``).
        fusion: how BM25 joins it.
    """
    with_words = [fusion.form, str(fusion.weight)] if fusion.weight else []
    of = sha256_bytes(test_set_hash(asked, passages, scope), fingerprint(encoder), *passages["text"], *with_words)[:12]
    return folder / "runs" / f"{name}-{of}.parquet"


class _Ranker:
    """Rankings of the asked questions by an encoder, kept in a table: encoding a corpus takes minutes on a CPU."""

    def __init__(self, folder: Path, asked: pd.DataFrame, passages: pd.DataFrame, scope: str, device: str):
        self.folder, self.asked, self.passages, self.scope, self.device = folder, asked, passages, scope, device

    def __call__(
        self, name: str, encoder: Path, vectors: VectorStore | None = None, fusion: Fusion = ALONE
    ) -> dict[str, list[str]]:
        path = rankings_path(self.folder, name, encoder, self.asked, self.passages, self.scope, fusion)
        if not path.exists():
            rankings: Rankings = rank_with(
                encoder, self.asked, self.passages, self.scope, self.device, f"{name}: passages", vectors
            )
            if fusion.weight:
                rankings = fuse(rankings, rank_bm25(self.asked, self.passages, self.scope, None), fusion)
            rows = [
                {"system": name, "question_id": key, "passage_ids": ids, "scores": scores, "metrics": [], "answer": ""}
                for key, (ids, scores) in rankings.items()
            ]
            write_table(path, RUNS, rows)
        table = read_table(path, RUNS)
        return dict(zip(table["question_id"], table["passage_ids"], strict=True))
