"""How BM25 joins the student, chosen on questions that the student in question was not trained on.

The train questions are asked of students that did not see their documents: these are divided into folds, and each fold is asked
of a student fitted to the others. The validation questions are asked of the student itself. Test questions are never looked at.
"""

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.metrics import ndcg_score
from sklearn.model_selection import GroupKFold

from uae.io.files import write_json
from uae.io.models import fingerprint
from uae.measures.best_fusion import FUSIONS, Quality, average_precision, best_fusion
from uae.measures.fusion import ALONE, Aligned, Fusion
from uae.retrievers.kinds import open_dense
from uae.training.asking_students import Asking
from uae.training.checkpoints import identity
from uae.training.data import TrainingData
from uae.training.examples import Example
from uae.training.fit import fit
from uae.training.lexical import LexicalPart, lexical_part
from uae.training.options import TrainOptions
from uae.training.processes import leave, of_leader
from uae.training.usefulness import UsefulTerms, beyond_chance, calibrate, first_passage
from uae.vectors.store import VectorStore

log = logging.getLogger(__name__)


class FusionTerms(NamedTuple):
    """Section ``fusion`` of params.yaml."""

    form: str  # auto, none, or a form of ``measures.fusion``
    weight: float | None  # None: it is chosen
    folds: int  # 0: the validation questions alone choose
    dimension: int | None = None  # of a student's vectors, as the release will serve them; None: all
    useful: UsefulTerms | None = None  # None: the release does not say whether anything helps


def choose_fusion(
    data: TrainingData,
    base_path: Path,
    student_path: Path,
    fusion_path: Path,
    terms: FusionTerms,
    options: TrainOptions,
    teacher_temperature: float,
    scope: str,
    device: str,
    seed: int,
    announce: Callable[[str], None] = lambda text: None,
    vectors: VectorStore | None = None,
) -> dict[str, Any]:
    """Write how BM25 joins the student, and what that was chosen on.

    The measure is average precision where questions have evidence. Where none has any it is nDCG of the judged passages, with
    their utilities, less what is below zero, as gains. Where no labelled question could choose, the student stays alone.

    Students of folds learn from the utilities as they were read: no reward model smooths them, the temperature is not
    calibrated, and no candidates are refreshed.

    The same questions, and the same asked of documents that they are not about, tell from which scores on a first passage is
    useful (``uae.training.usefulness``). Where form or weight are given, validation questions alone tell that.

    Args:
        vectors: where the student's vectors of passages are kept.

    Returns:
        ``{"form", "weight", "student", "chosen": null or {"measure", "value", "questions", "folds", "tried"}, "useful"}``. The
        last is what ``calibrate`` says, or null. It is also written to ``fusion_path``.

    Raises:
        ArtefactError: labels are missing, or one of the splits is empty.
    """
    given = None
    if terms.form == "none" or terms.weight is not None:
        given = ALONE if terms.form == "none" else Fusion(terms.form, terms.weight or 0.0)
        if terms.useful is None:
            return _written(fusion_path, given, student_path, None, None)
        terms = terms._replace(folds=0)
    asked = _asked(data, base_path, student_path, terms, options, teacher_temperature, scope, device, seed, announce, vectors)
    if given is not None:
        return _written(fusion_path, given, student_path, None, asked.useful(given, terms.useful))
    if not asked.rankings:
        log.warning("no labelled question could choose how BM25 joins the student: it stays alone. Give fusion.form and weight")
        return _written(fusion_path, ALONE, student_path, None, asked.useful(ALONE, terms.useful))
    fusions = [fusion for fusion in FUSIONS if terms.form in ("auto", fusion.form)]
    judged = None if asked.measure == "map" else asked.utilities
    chosen = best_fusion(asked.rankings, asked.quality, fusions, judged)
    found = {
        "measure": asked.measure,
        "value": round(chosen.quality, 4),
        "questions": chosen.questions,
        "folds": asked.folds,
        "tried": [fusion._asdict() | {"value": round(value, 4)} for fusion, value in chosen.tried],
    }
    return _written(fusion_path, chosen.fusion, student_path, found, asked.useful(chosen.fusion, terms.useful))


def follow_fusion(
    data: TrainingData,
    base_path: Path,
    student_path: Path,
    terms: FusionTerms,
    options: TrainOptions,
    teacher_temperature: float,
    scope: str,
    device: str,
    seed: int,
) -> None:
    """What every process but the leading one does while that one calls ``choose_fusion``: take part in each fit."""
    if terms.form != "none" and terms.weight is None:
        examples = data.by_split(data.pairs(), options)
        added = lexical_part(data.corpus, scope, options.lexical_weight)
        for seen, _ in folds(examples["train"], terms.folds):
            fitted_to = {"train": seen, "validation": examples["validation"]}
            _student_of_fold(
                _folder(student_path), fitted_to, base_path, options, teacher_temperature, device, seed, added
            )  # fmt: skip
    leave()


def _folder(student_path: Path) -> Path:
    """Of the folds' students, until all are done: a call after a kill goes on."""
    return student_path.with_name(".fusion.folds")


def _student_of_fold(
    folder: Path,
    fitted_to: Mapping[str, Mapping[str, Example]],
    base_path: Path,
    options: TrainOptions,
    teacher_temperature: float,
    device: str,
    seed: int,
    added: LexicalPart | None,
) -> Path:
    """The student fitted to some examples; an earlier call may have fitted it."""
    student = folder / identity(fitted_to, base_path, options, teacher_temperature, seed, added=added)
    if not of_leader(student.exists(), device):
        checkpoints = folder / f"{student.name}.checkpoints"
        fit(fitted_to, base_path, student, checkpoints, options, teacher_temperature, device, seed, added=added)
    return student


def _written(
    path: Path, fusion: Fusion, student_path: Path, chosen: dict[str, Any] | None, useful: dict[str, Any] | None
) -> dict[str, Any]:
    found = fusion._asdict() | {"student": fingerprint(student_path), "chosen": chosen, "useful": useful}
    write_json(path, found)
    return found


class _Asked(NamedTuple):
    """What chooses: rankings of questions that the student asked was not trained on. Rows of the passages stand for their ids."""

    rankings: Mapping[str, Aligned]
    measure: str
    quality: Quality
    folds: int  # that were asked of students of their own
    everywhere: Mapping[str, Aligned]  # question_id -> passages of its scope
    foreign: Mapping[str, Aligned]  # the same questions' passages where they do not belong
    utilities: Mapping[str, Mapping[int, float]]  # question_id -> row -> nats per token
    by_chance: float | None  # ``usefulness.beyond_chance``; None where it is not asked for, or unknown

    def useful(self, fusion: Fusion, terms: UsefulTerms | None) -> dict[str, Any] | None:
        """What ``usefulness.calibrate`` says of the questions' first passages."""
        least = self.by_chance if terms is None or terms.least_utility is None else terms.least_utility
        if terms is None or least is None:
            return None
        own = [first_passage(ranked, fusion, self.utilities[key], True) for key, ranked in self.everywhere.items()]
        foreign = [first_passage(ranked, fusion, self.utilities[key], False) for key, ranked in self.foreign.items()]
        return calibrate(
            [first for first in own if first is not None],
            [first for first in foreign if first is not None],
            least,
            terms.least_probability,
        )


def _asked(
    data: TrainingData,
    base_path: Path,
    student_path: Path,
    terms: FusionTerms,
    options: TrainOptions,
    teacher_temperature: float,
    scope: str,
    device: str,
    seed: int,
    announce: Callable[[str], None],
    vectors: VectorStore | None,
) -> _Asked:
    pairs = data.pairs()
    labelled = data.questions[data.questions["question_id"].isin(pairs["question_id"])]
    known = labelled[labelled["evidence"].str.len() > 0]
    asked = known if len(known) else labelled
    examples = data.by_split(pairs, options)
    folder, added = _folder(student_path), lexical_part(data.corpus, scope, options.lexical_weight)
    parts = list(folds(examples["train"], terms.folds))
    in_folds = {key for _, held in parts for key in held}
    chosen = asked[(asked["split"] == "validation") | asked["question_id"].isin(in_folds)]
    asking = Asking(chosen, data.stored, data.read_as, scope, terms.useful is not None) if len(chosen) else None

    def ask(student: Path, questions: pd.DataFrame, kept: VectorStore | None) -> None:
        if asking is not None and len(questions):
            asking.ask(open_dense(student, device, kept, terms.dimension), questions)

    ask(student_path, chosen[chosen["split"] == "validation"], vectors)
    for number, (seen, held) in enumerate(parts):
        announce(f"fold {number + 1} of {len(parts)}")
        fitted_to = {"train": seen, "validation": examples["validation"]}
        student = _student_of_fold(folder, fitted_to, base_path, options, teacher_temperature, device, seed, added)
        # Nobody asks a fold's student again: what it encodes is counted, and goes with the folder.
        of_fold = VectorStore(folder / "vectors", vectors.counted) if vectors else None
        ask(student, chosen[chosen["question_id"].isin(held)], of_fold)
    leave()
    shutil.rmtree(folder, ignore_errors=True)
    by_chance = None
    if terms.useful is not None and terms.useful.least_utility is None:
        by_chance = beyond_chance(pairs, data.candidates)
    measure = "map" if len(known) else "utility_ndcg"
    judged = {str(key): rows for key, rows in pairs.groupby("question_id")}
    quality = average_precision(_evidence(asked)) if len(known) else utility_ndcg(judged)
    if asking is None:
        return _Asked({}, measure, quality, len(parts), {}, {}, {}, by_chance)
    rows = asking.rows(set(pairs["passage_id"]))
    row_of = dict(zip(asking.ids(rows), rows.tolist(), strict=True))
    utilities = {
        key: {row_of[one]: utility for one, utility in zip(of["passage_id"], of["utility"], strict=True) if one in row_of}
        for key, of in judged.items()
    }
    some = asking.found if len(known) else {key: of for key, of in asking.found.items() if _tells(judged[key])}
    by_id: Quality = lambda ranked: quality({key: asking.ids(rows) for key, rows in ranked.items()})  # noqa: E731
    return _Asked(some, measure, by_id, len(parts), asking.found, asking.foreign, utilities, by_chance)


def folds(train: Mapping[str, Example], number: int) -> Iterator[tuple[dict[str, Example], set[str]]]:
    """(examples to fit to, question_ids to ask) of each fold of whole documents; a question of no document is one by itself.

    There are no more folds than documents, and none where there is but one document.
    """
    keys = list(train)
    groups = [train[key].document or key for key in keys]
    number = min(number, len(set(groups)))
    if number < 2:
        return
    for seen, held in GroupKFold(number).split(keys, groups=groups):
        yield {keys[place]: train[keys[place]] for place in seen}, {keys[place] for place in held}


def utility_ndcg(judged: Mapping[str, pd.DataFrame]) -> Quality:
    """nDCG of each question's judged passages, with their utilities, less what is below zero, as gains.

    Args:
        judged: question_id -> columns passage_id and utility.
    """

    def of(ranked: Mapping[str, Sequence[str]]) -> "pd.Series[float]":
        values = {}
        for question_id, ids in ranked.items():
            rows = judged[question_id]
            gains = rows["utility"].clip(lower=0).to_numpy(np.float64)
            places = {passage_id: place for place, passage_id in enumerate(ids)}
            order = np.array([-float(places.get(passage_id, len(ids))) for passage_id in rows["passage_id"]])
            if _tells(rows):
                values[question_id] = float(ndcg_score([gains], [order]))
        return pd.Series(values, dtype=float)

    return of


def _tells(judged: pd.DataFrame) -> bool:
    """Whether one order of a question's judged passages can be better than another."""
    return len(judged) > 1 and bool((judged["utility"] > 0).any())


def _evidence(questions: pd.DataFrame) -> dict[str, Sequence[str]]:
    return dict(zip(questions["question_id"], questions["evidence"], strict=True))
