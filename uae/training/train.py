"""The train stage: distil the teacher's utilities into the student."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from uae.io.compute import pick_device
from uae.io.files import atomic_path, write_json, write_text
from uae.io.models import fingerprint
from uae.io.tables import CANDIDATES, read_table, write_table
from uae.retrievers.dense import load_encoder
from uae.training.agreement import METRIC, Agreement
from uae.training.examples import Example, build_examples, evidence_texts, labelled_pairs, read_tables, require_questions
from uae.training.false_negatives import known_false_negatives
from uae.training.fit import Fitted, Log, Recipe, checkpoints_beside, fit
from uae.training.refresh import Refresher
from uae.training.reward import RewardRecipe, denoised_utilities
from uae.training.temperature import calibrated_temperature

_SHOWN_QUESTIONS = 10


@dataclass(frozen=True)
class Selection:
    """What of the labels training reads."""

    aggregation: Mapping[str, str]  # the last arguments of ``uae.teacher.utility.utilities``
    harmful_are_negatives: bool
    least_best_utility: float | None  # nats per token
    near_duplicate: float | None  # Jaccard similarity from which a passage is a known false negative; None: none is


@dataclass(frozen=True)
class Refreshing:
    """See ``refresh.Refresher``."""

    rounds: int
    top_k: int
    scope: str
    candidates_path: Path  # all pairs at the end
    store_path: Path
    ask: Callable[[Path], None]  # has the teacher judge a table of candidates into that store


@dataclass(frozen=True)
class Rewarding:
    """See ``reward.denoised_utilities``. With a share of 0 no reward model is fitted."""

    share: float
    recipe: RewardRecipe
    path: Path


@dataclass(frozen=True)
class Plan:
    """All that decides what a student is fitted to, and how."""

    recipe: Recipe
    selection: Selection
    calibrate: bool  # take the teacher's temperature from the validation questions' evidence instead of the recipe's
    rewarding: Rewarding
    refreshing: Refreshing


@dataclass(frozen=True)
class Prepared:
    """A plan with the labels read: what ``fit.fit`` takes."""

    recipe: Recipe  # with the calibrated temperature
    pairs: pd.DataFrame  # of ``labelled_pairs``, smoothed where the plan says so
    examples: dict[str, dict[str, Example]]  # by split, by question_id
    refresher: Refresher | None
    reward_quality: dict  # of the reward model; empty: there is none


def prepare(
    tables: "Tables", store_path: Path, manifest_path: Path, base_path: Path, plan: Plan, device: str, seed: int
) -> Prepared:
    """Read the labels as the plan wants them, fitting the reward model and calibrating the temperature where it asks for that.

    Evidence labels are read only where the recipe or ``calibrate`` asks for them.

    Raises:
        ArtefactError: labels are missing, or one of the splits is empty.
    """
    recipe, rewarding, quality = plan.recipe, plan.rewarding, {}
    pairs = tables.pairs([store_path], manifest_path, plan.selection)
    if rewarding.share:
        rewarding.path.mkdir(parents=True, exist_ok=True)
        pairs, quality = denoised_utilities(pairs, base_path, rewarding.path, rewarding.recipe, rewarding.share, device, seed)
    if plan.calibrate:
        known = evidence_texts(tables.questions, tables.passages)
        temperature = calibrated_temperature(pairs[pairs["split"] == "validation"], known)
        recipe = replace(recipe, teacher_temperature=temperature)
    examples = tables.examples(pairs, recipe, plan.selection)
    refresher = None
    if plan.refreshing.rounds:
        refresher = _refresher(plan.refreshing, tables, [store_path], manifest_path, examples["train"], recipe, plan.selection)
    return Prepared(recipe, pairs, examples, refresher, quality)


def train(
    candidates_path: Path,
    passages_path: Path,
    questions_path: Path,
    store_path: Path,
    manifest_path: Path,
    base_path: Path,
    student_path: Path,
    curve_path: Path,
    plan: Plan,
    rivals: Sequence[str],
    rivals_path: Path,
    device: str,
    seed: int,
    log_metrics: Log = lambda metrics, step: None,
    log_examples: Callable[[list[dict]], None] = lambda rows: None,
) -> dict:
    """Fit the student (``fit.fit``) to what the label stores hold, and write its learning curve. Returns a summary.

    The label manifest says which readings of the store count. Checkpoints lie beside the student until all is done: a call after
    a kill goes on with whichever student was being fitted.

    Args:
        rivals: objectives that are fitted to the same pairs as well, each into its folder in ``rivals_path``. What a refreshing
            student asked the teacher for, they have from their first epoch on.

    Raises:
        ArtefactError: labels are missing, or one of the splits is empty.
    """
    tables = Tables(*read_tables(candidates_path, passages_path, questions_path))
    # The stage's artefacts are there even where nothing is refreshed and no reward model fitted.
    write_table(plan.refreshing.candidates_path, CANDIDATES, tables.candidates)
    for path in (plan.refreshing.store_path, plan.rewarding.path):
        path.mkdir(parents=True, exist_ok=True)
    prepared = prepare(tables, store_path, manifest_path, base_path, plan, device, seed)
    recipe, examples = prepared.recipe, prepared.examples
    checkpoints = checkpoints_beside(student_path)
    fitted = fit(
        examples, base_path, student_path, checkpoints / "student", recipe, device, seed, log_metrics, prepared.refresher
    )
    pairs = prepared.pairs
    if prepared.refresher is not None:
        asked = replace(tables, candidates=read_table(plan.refreshing.candidates_path, CANDIDATES))
        pairs = asked.pairs([store_path, plan.refreshing.store_path], manifest_path, plan.selection)
    with atomic_path(rivals_path) as partial:
        partial.mkdir()
        scores = {}
        for name in rivals:  # to the same pairs, for as many epochs and from the same seed
            rival = replace(recipe, objective=name, evidence_share=0.0)
            its_examples = tables.examples(pairs, rival, plan.selection)
            its_own = fit(its_examples, base_path, partial / name, checkpoints / name, rival, device, seed)
            scores[name] = {
                "steps": its_own.steps, "validation_ndcg_before": its_own.before, "validation_ndcg": its_own.after,
            }  # fmt: skip
        write_json(partial / "rivals.json", scores)
    write_text(curve_path, curve(fitted))
    log_examples(shown(examples["validation"], base_path, student_path, recipe, device))
    shutil.rmtree(checkpoints)
    return {
        "questions": {split: len(part) for split, part in examples.items()},
        "pairs": {split: sum(len(example.passages) for example in part.values()) for split, part in examples.items()},
        "teacher_temperature": round(recipe.teacher_temperature, 4),
        "questions_per_batch": recipe.for_questions(len(examples["train"])).batch_size,
        "steps": fitted.steps,
        "seconds_per_step": round(fitted.seconds_per_step, 4),
        "peak_memory_mb": fitted.peak_memory_mb,
        "validation_ndcg_before": round(fitted.before, 4),
        "validation_ndcg": round(fitted.after, 4),
        **({"reward_model": prepared.reward_quality} if prepared.reward_quality else {}),
        "fingerprint": fingerprint(student_path),
    }


def _refresher(
    refreshing: Refreshing,
    tables: "Tables",
    stores: Sequence[Path],
    manifest_path: Path,
    train_examples: Mapping[str, Example],
    recipe: Recipe,
    selection: Selection,
) -> Refresher:
    """What asks the teacher about the student's own finds."""
    refreshing.store_path.mkdir(parents=True, exist_ok=True)

    def build(candidates: pd.DataFrame) -> Mapping[str, Example]:
        asked = replace(tables, candidates=candidates[candidates["question_id"].isin(train_examples)])
        pairs = asked.pairs([*stores, refreshing.store_path], manifest_path, selection)
        return select(pairs, tables.questions, tables.passages, recipe, selection)

    def ask(candidates: pd.DataFrame) -> None:
        write_table(refreshing.candidates_path, CANDIDATES, candidates)
        refreshing.ask(refreshing.candidates_path)

    return Refresher(
        candidates=tables.candidates,
        questions=tables.questions[tables.questions["question_id"].isin(train_examples)].reset_index(drop=True),
        passages=tables.passages,
        scope=refreshing.scope,
        top_k=refreshing.top_k,
        rounds=refreshing.rounds,
        ask=ask,
        build=build,
    )


@dataclass(frozen=True)
class Tables:
    """What is trained on, of the schemas of these names."""

    candidates: pd.DataFrame
    passages: pd.DataFrame
    questions: pd.DataFrame

    def pairs(self, stores: Sequence[Path], manifest_path: Path, selection: Selection) -> pd.DataFrame:
        """``labelled_pairs`` of the candidates."""
        return labelled_pairs(self.candidates, self.passages, self.questions, stores, manifest_path, selection.aggregation)

    def examples(self, pairs: pd.DataFrame, recipe: Recipe, selection: Selection) -> dict[str, dict[str, Example]]:
        """Of the splits train and validation.

        Raises:
            ArtefactError: one of them is empty.
        """
        examples = {}
        for split in ("train", "validation"):
            part = pairs[pairs["split"] == split]
            examples[split] = select(part, self.questions, self.passages, recipe, selection)
            require_questions(examples[split], split)
        return examples


def select(
    pairs: pd.DataFrame, questions: pd.DataFrame, passages: pd.DataFrame, recipe: Recipe, selection: Selection
) -> dict[str, Example]:
    """Examples of labelled pairs. A rival that needs evidence gets the questions that have some."""
    evidence = evidence_texts(questions, passages) if recipe.reads_evidence else {}
    if recipe.objective_needs_evidence:
        pairs = pairs[pairs["question_id"].isin(evidence)]
    ignored = {}
    if selection.near_duplicate is not None and not pairs.empty:
        ignored = known_false_negatives(pairs, questions, passages, selection.near_duplicate, recipe.reads_evidence)
    return build_examples(pairs, evidence, ignored, selection.harmful_are_negatives, selection.least_best_utility)


def curve(fitted: Fitted) -> str:
    """The learning curve as CSV: a line a step, validation scores where they were taken."""
    rows = [f"0,,,{fitted.before:.6f}"]
    for record in fitted.history:
        values = [record.get(name) for name in ("loss", "grad_norm", f"eval_{METRIC}")]
        if values[0] is not None or values[2] is not None:
            rows.append(",".join([str(int(record["step"])), *("" if value is None else f"{value:.6f}" for value in values)]))
    return "\n".join([f"step,train_loss,gradient_norm,{METRIC}", *rows]) + "\n"


def shown(examples: Mapping[str, Example], base_path: Path, student_path: Path, recipe: Recipe, device: str) -> list[dict]:
    """The validation questions that changed most, for whoever looks at the run: what stood first before and after."""
    evaluator = Agreement(examples, recipe.teacher_temperature, recipe.judged_by_evidence)
    encoders = [load_encoder(path, pick_device(device)) for path in (base_path, student_path)]
    (before, after), (old, new) = zip(*((evaluator.by_question(e), evaluator.scores(e)) for e in encoders), strict=True)
    changed = sorted(before, key=lambda key: (after[key] - before[key], key))
    half = _SHOWN_QUESTIONS // 2
    return [
        {
            "question": examples[key].question,
            "ndcg_before": round(before[key], 4),
            "ndcg_after": round(after[key], 4),
            "first_before": examples[key].passages[int(np.argmax(old[key]))],
            "first_after": examples[key].passages[int(np.argmax(new[key]))],
        }
        for key in dict.fromkeys(changed[:half] + changed[-half:])
    ]
