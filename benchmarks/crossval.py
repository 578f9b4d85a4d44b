"""Recipes compared by cross-validation over the papers that training may see: the test questions are not looked at.

Each fold of whole documents is held out once. Contenders are fitted to the other folds, as ``uae compare`` does, and measured
on the one held out. So every labelled question counts, and not only the few of the validation split. Finished fits are kept in
--out. Prints one JSON line last.

python benchmarks/crossval.py --run runs/covidqa --out runs/crossval --contender 'with: train.passage_queries=0.3' \
    --contender 'without: train.passage_queries=0.0'
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from covidqa import brief
from sklearn.model_selection import GroupKFold

from uae.evaluation.comparison import gains_over
from uae.evaluation.testset import BASE, choose_questions
from uae.experiments.compare import compare_recipes, parse_contender
from uae.experiments.contenders import rankings_path
from uae.io.tables import PASSAGES, QUESTIONS, RUNS, read_table, write_table
from uae.measures.fusion import ALONE, Fusion
from uae.measures.metrics import retrieval_metrics
from uae.measures.statistics import Resampling
from uae.pipeline.settings import load_settings
from uae.pipeline.student import student_folder
from uae.pipeline.workspace import Workspace
from uae.text.passage_template import PassageTemplate

TOLD = ("recall@1", "recall@5", "map")


def held_out_folds(questions: pd.DataFrame, folds: int) -> list[pd.DataFrame]:
    """The labelled questions, once a fold, with that fold's documents as the validation split and the others as train."""
    labelled = questions[questions["split"].isin(["train", "validation"])].reset_index(drop=True)
    splitter = GroupKFold(folds, shuffle=True, random_state=0)
    tables = []
    for _, held in splitter.split(labelled, groups=labelled["doc_id"]):
        table = labelled.assign(split="train")
        table.loc[held, "split"] = "validation"
        tables.append(table)
    return tables


def compared(
    tables: Mapping[str, pd.DataFrame], names: Sequence[str], documents: pd.Series, resampling: Resampling
) -> dict[str, Any]:
    """Means of every system, and what the others of ``names`` have over the first.

    Args:
        tables: system -> its metrics by question.
        documents: question_id -> doc_id.
    """
    first, *others = names
    gains = {name: gains_over(tables[first], tables[name], documents, resampling) for name in others}
    return {
        "systems": {name: {m: round(float(v), 4) for m, v in table.mean().items()} for name, table in tables.items()},
        f"over_{first}": {name: {metric: brief(gain[metric]) for metric in TOLD} for name, gain in gains.items()},
    }


def main(
    run: Annotated[Path, typer.Option(help="A folder of uae run, or of another benchmark, with its labels.")],
    out: Annotated[Path, typer.Option(help="Where finished fits are kept.")],
    contender: Annotated[list[str], typer.Option(help="As uae compare takes them; the others stand against the first.")],
    folds: int = 2,
    seeds: int = 1,
    overrides: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE")] = (),
) -> None:
    workspace, params = Workspace(run, Path("models"), flat_reports=True), run / "params.yaml"
    settings = load_settings(params, overrides)
    passages = PassageTemplate(settings.passages.template).applied(read_table(workspace.path("passages"), PASSAGES))
    base = student_folder(settings.models, workspace.model_cache)
    names = [parse_contender(text)[0] for text in contender]
    tables: dict[str, list[pd.DataFrame]] = {name: [] for name in (BASE, *names)}
    for number, questions in enumerate(held_out_folds(read_table(workspace.path("questions"), QUESTIONS), folds)):
        folder = out / f"fold-{number}"
        write_table(folder / "questions.parquet", QUESTIONS, questions)

        def say(text: str, number: int = number) -> None:
            print(f"fold {number}: {text}", file=sys.stderr, flush=True)

        found = compare_recipes(
            params, overrides, contender, seeds, workspace, folder, say, folder / "questions.parquet", split="validation"
        )
        asked = choose_questions(questions, "validation")
        evidence = dict(zip(asked["question_id"], asked["evidence"], strict=True))
        for name, parts in tables.items():
            students = [(f"{name}-{seed}", folder / "students" / f"{name}-{seed}") for seed in found["seeds"]]
            each = []
            for label, encoder in [(BASE, base)] if name == BASE else students:
                fusion = ALONE if name == BASE else Fusion(**found["training"][name]["measured_with_bm25"])
                path = rankings_path(folder, label, encoder, asked, passages, settings.scope, fusion)
                rows = read_table(path, RUNS)
                ranked = dict(zip(rows["question_id"], rows["passage_ids"], strict=True))
                each.append(retrieval_metrics(ranked, evidence, settings.evaluate.cutoffs))
            parts.append(sum(each) / len(each))
    pooled = {name: pd.concat(parts) for name, parts in tables.items()}
    documents = read_table(workspace.path("questions"), QUESTIONS).set_index("question_id")["doc_id"]
    resampling = Resampling(settings.evaluate.confidence, settings.evaluate.resamples, settings.seed)
    line = {"n_questions": len(pooled[BASE]), "folds": folds, "seeds": seeds}
    print(json.dumps(line | compared(pooled, names, documents, resampling)))


if __name__ == "__main__":
    typer.run(main)
