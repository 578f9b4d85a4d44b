"""The train stage: distil the teacher's utilities into the student."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from uae.io.files import atomic_path, write_json, write_text
from uae.io.models import fingerprint
from uae.io.tables import CANDIDATES, write_table
from uae.training import second_stage
from uae.training.callbacks import Log
from uae.training.checkpoints import checkpoints_beside
from uae.training.curve import changed_most, learning_curve
from uae.training.data import TrainingData
from uae.training.examples import Example
from uae.training.fit import Fitted, fit
from uae.training.lexical import lexical_part
from uae.training.options import TrainOptions
from uae.training.processes import leader_first, leave
from uae.training.refresh import MoreLabels, Refresher
from uae.training.reward import denoised_utilities
from uae.training.temperature import calibrated_temperature
from uae.vectors.store import VectorStore


@dataclass(frozen=True)
class Prepared:
    """What a student is fitted to, and what follows from the labels."""

    teacher_temperature: float  # nats per token; the calibrated one where the options ask for that
    pairs: pd.DataFrame  # of ``labelled_pairs``, smoothed where the options ask for that
    examples: dict[str, dict[str, Example]]  # by split, by question_id
    refresher: Refresher | None
    reward_quality: dict[str, float | None]  # of the reward model; empty: there is none


class SecondStage(NamedTuple):
    """What the second stage is fitted from, and where it goes."""

    base: Path | None  # a cross-encoder or an encoder; None: none is fitted, and the folder is left empty
    folder: Path


def prepare(
    data: TrainingData,
    base_path: Path,
    options: TrainOptions,
    teacher_temperature: float,
    reward_path: Path,
    more: MoreLabels,
    device: str,
    seed: int,
) -> Prepared:
    """Read the labels as the options say. Fit the reward model and calibrate the temperature where they ask for that.

    Evidence labels are read only where the objective or ``calibrate_temperature`` asks for them.

    Raises:
        ArtefactError: labels are missing, or one of the splits is empty.
    """
    pairs = data.pairs()
    quality: dict[str, float | None] = {}
    if options.reward.share:
        reward_path.mkdir(parents=True, exist_ok=True)
        with leader_first():  # the others read what it has fitted
            pairs, quality = denoised_utilities(pairs, base_path, reward_path, options.reward, device, seed)
    if options.calibrate_temperature:
        teacher_temperature = calibrated_temperature(pairs[pairs["split"] == "validation"], data.evidence())
    examples = data.by_split(pairs, options)
    refresher = None
    if options.refresh.rounds:
        more.store_path.mkdir(parents=True, exist_ok=True)
        refresher = Refresher(data, frozenset(examples["train"]), options, more)
    return Prepared(teacher_temperature, pairs, examples, refresher, quality)


def _show_nothing(rows: list[dict[str, Any]]) -> None:
    pass


def _log_nothing(metrics: dict[str, float], step: int) -> None:
    pass


def train(
    data: TrainingData,
    base_path: Path,
    student_path: Path,
    rivals_path: Path,
    curve_path: Path,
    reward_path: Path,
    more: MoreLabels,
    options: TrainOptions,
    teacher_temperature: float,
    device: str,
    seed: int,
    second: SecondStage,
    log_metrics: Log = _log_nothing,
    log_examples: Callable[[list[dict[str, Any]]], None] = _show_nothing,
    vectors: VectorStore | None = None,
) -> dict[str, Any]:
    """Fit the student (``fit.fit``) and its rivals to what the label stores hold, and write the learning curve.

    Checkpoints lie beside the student until all is done: a call after a kill goes on with whichever student was being fitted.
    Each rival is fitted to the same pairs, into a folder of its name in ``rivals_path``. What a refreshing student asked the
    teacher for, the rivals have from their first epoch on. So has the second stage, which is fitted to utilities alone.

    Args:
        vectors: as ``fit.fit`` takes it.

    Returns:
        a summary: counts of questions and pairs, time, memory, validation scores, the student's fingerprint.

    Raises:
        ArtefactError: labels are missing, one of the splits is empty, or see ``fit.fit``.
    """
    # The stage's artefacts are there even where nothing is refreshed and no reward model fitted.
    write_table(more.candidates_path, CANDIDATES, data.candidates)
    for path in (more.store_path, reward_path):
        path.mkdir(parents=True, exist_ok=True)
    prepared = prepare(data, base_path, options, teacher_temperature, reward_path, more, device, seed)
    teacher_temperature, examples = prepared.teacher_temperature, prepared.examples
    checkpoints = checkpoints_beside(student_path)
    added = lexical_part(data.corpus, more.scope, options.lexical_weight)
    fitted = fit(
        examples, base_path, student_path, checkpoints / "student", options, teacher_temperature, device, seed, log_metrics,
        prepared.refresher, vectors, added,
    )  # fmt: skip
    pairs = prepared.pairs if prepared.refresher is None else prepared.refresher.all_pairs()
    with atomic_path(rivals_path) as partial:
        partial.mkdir()
        scores = {}
        for name in options.rivals:  # to the same pairs, for as many epochs and from the same seed
            rival = options.rival(name)
            its_own = fit(
                data.by_split(pairs, rival), base_path, partial / name, checkpoints / name, rival, teacher_temperature, device,
                seed, vectors=vectors, added=added,
            )  # fmt: skip
            scores[name] = {
                "steps": its_own.steps, "validation_ndcg_before": its_own.before, "validation_ndcg": its_own.after,
            }  # fmt: skip
        write_json(partial / "rivals.json", scores)
    leave()
    re_ranker = _fit_second_stage(second, data, pairs, options, teacher_temperature, device, seed)
    write_text(curve_path, learning_curve(fitted.before, fitted.history))
    share = options.chosen_objective().evidence_in_target
    log_examples(changed_most(examples["validation"], base_path, student_path, teacher_temperature, share, device, added))
    shutil.rmtree(checkpoints)
    return _summary(fitted, prepared, options) | re_ranker | {"fingerprint": fingerprint(student_path)}


def follow(
    data: TrainingData,
    base_path: Path,
    student_path: Path,
    reward_path: Path,
    more: MoreLabels,
    options: TrainOptions,
    teacher_temperature: float,
    device: str,
    seed: int,
) -> None:
    """What every process but the leading one does while that one calls ``train`` with the same arguments: take part in each fit.

    The reward model and the second stage are fitted by the leading process alone. It alone asks the teacher. Nothing is written.
    """
    prepared = prepare(data, base_path, options, teacher_temperature, reward_path, more, device, seed)
    checkpoints, temperature = checkpoints_beside(student_path), prepared.teacher_temperature
    added = lexical_part(data.corpus, more.scope, options.lexical_weight)

    def take_part(examples: dict[str, dict[str, Example]], name: str, own: TrainOptions, refresher: Refresher | None) -> None:
        place = student_path  # which only the leading process writes
        fit(
            examples, base_path, place, checkpoints / name, own, temperature, device, seed, refresher=refresher, added=added
        )  # fmt: skip

    take_part(prepared.examples, "student", options, prepared.refresher)
    pairs = prepared.pairs if prepared.refresher is None else prepared.refresher.all_pairs()
    for name in options.rivals:
        take_part(data.by_split(pairs, options.rival(name)), name, options.rival(name), None)
    leave()


def _fit_second_stage(
    second: SecondStage,
    data: TrainingData,
    pairs: pd.DataFrame,
    options: TrainOptions,
    teacher_temperature: float,
    device: str,
    seed: int,
) -> dict[str, Any]:
    """``{"second_stage": what there is to say of it}``, or nothing where there is none."""
    if second.base is None:
        shutil.rmtree(second.folder, ignore_errors=True)
        second.folder.mkdir(parents=True)
        return {}
    examples = data.by_split(pairs, options.of_utilities())
    found = second_stage.fit(examples, second.base, second.folder, options.second_stage, teacher_temperature, device, seed)
    return {"second_stage": {name: value for name, value in found.items() if name != "identity"}}


def _summary(fitted: Fitted, prepared: Prepared, options: TrainOptions) -> dict[str, Any]:
    examples = prepared.examples
    return {
        "questions": {split: len(part) for split, part in examples.items()},
        "pairs": {split: sum(len(example.passages) for example in part.values()) for split, part in examples.items()},
        "teacher_temperature": round(prepared.teacher_temperature, 4),
        "questions_per_batch": options.for_questions(len(examples["train"])).batch_size,
        "steps": fitted.steps,
        "seconds_per_step": round(fitted.seconds_per_step, 4),
        "peak_memory_mb": fitted.peak_memory_mb,
        "validation_ndcg_before": round(fitted.before, 4),
        "validation_ndcg": round(fitted.after, 4),
        **{f"validation_ndcg_at_{dimension}": round(value, 4) for dimension, value in fitted.by_dimension.items()},
        **({"reward_model": prepared.reward_quality} if prepared.reward_quality else {}),
    }
