"""What a second stage adds to a student and BM25: fitted to the labels of a run, its weight chosen on validation questions.

Measures the first stage, the cross-encoder alone and their sum on the test questions, in the run's scope. Figures of several
students are means over them: one student a seed, as ``uae compare`` keeps them. The fitted cross-encoders are kept in --out, and
the same command goes on from them. Prints one JSON line last.

python benchmarks/second_stage.py --run runs/covidqa --student runs/covidqa/compare/students/uae-13 --base MODEL --out runs/second
"""

import json
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from uae.evaluation.comparison import gains_over
from uae.evaluation.testset import choose_questions, rank_with
from uae.io.files import sha256_bytes
from uae.io.models import fingerprint, resolve
from uae.io.tables import PASSAGES, QUESTIONS, read_table
from uae.measures.best_fusion import average_precision, best_fusion
from uae.measures.first_weight import best_first_weight
from uae.measures.fusion import aligned, fuse
from uae.measures.metrics import retrieval_metrics
from uae.measures.reranking import second_stage_ranking
from uae.measures.statistics import Resampling
from uae.pipeline.settings import load_settings
from uae.pipeline.stages.train import TrainParameters, training_data
from uae.pipeline.workspace import Workspace
from uae.retrievers.cross_encoder import TRAINED, TorchCrossEncoder, load_cross_encoder
from uae.retrievers.lexical import rank_bm25
from uae.retrievers.second_stage import pair_scores
from uae.text.passage_template import PassageTemplate
from uae.training import second_stage

METRICS = ("recall@1", "map")
SYSTEMS = ("first", "alone", "sum")


def main(
    run: Annotated[Path, typer.Option(help="A folder of uae run, with labels.")],
    student: Annotated[list[Path], typer.Option(help="An encoder trained on its train questions; several: one a seed.")],
    base: Annotated[str, typer.Option(help="A model reference: what the second stage is fitted from.")],
    out: Annotated[Path, typer.Option(help="Where fitted cross-encoders are kept.")],
    scope: Annotated[str | None, typer.Option(help="document or corpus; default: the run's.")] = None,
    depth: Annotated[int | None, typer.Option(help="Passages that are re-ranked; default: second_stage.depth.")] = None,
    overrides: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE")] = (),
) -> None:
    settings = load_settings(run / "params.yaml", overrides)
    workspace = Workspace(run, Path("models"), flat_reports=True)
    scope, depth = scope or settings.scope, depth or settings.second_stage.depth
    device, options = settings.compute.device, settings.train.of_utilities()
    everything = read_table(workspace.path("questions"), QUESTIONS)
    tested, choosing = choose_questions(everything), choose_questions(everything, "validation")
    asked = pd.concat([tested, choosing])
    passages = PassageTemplate(settings.passages.template).applied(read_table(workspace.path("passages"), PASSAGES))
    data = training_data(TrainParameters.of(settings), workspace, workspace.path("questions"))
    examples = data.by_split(data.pairs(), options)
    words = rank_bm25(asked, passages, scope, None)
    tables: dict[str, list[pd.DataFrame]] = {name: [] for name in SYSTEMS}
    chosen: list[dict[str, Any]] = []
    for number, path in enumerate(student):
        dense = rank_with(path, asked, passages, scope, device, f"{path.name}: passages")
        fusion = best_fusion(aligned(part(dense, choosing), part(words, choosing)), average_precision(evidence(choosing))).fusion
        first = fuse(dense, words, fusion)
        seed = settings.seed + number
        name = sha256_bytes(fingerprint(resolve(base, workspace.model_cache)), str(seed))[:12]
        fitted = second_stage.fit(
            examples, resolve(base, workspace.model_cache), out / name, options.second_stage, settings.utility.temperature,
            device, seed,
        )  # fmt: skip
        scorer = TorchCrossEncoder(load_cross_encoder(out / name / TRAINED, device, head_may_be_new=False))
        scores = pair_scores(first, asked, passages, scorer, depth, "pairs")
        found = best_first_weight(part(first, choosing), scores, depth, evidence(choosing))
        if found is None:
            raise SystemExit("no validation question has evidence among its first passages: nothing can choose the weight")
        ranked = {
            "first": first,
            "alone": second_stage_ranking(first, scores, depth, 0.0),
            "sum": second_stage_ranking(first, scores, depth, found.weight),
        }
        for system, rankings in ranked.items():
            ids = {question_id: found_ids for question_id, (found_ids, _) in part(rankings, tested).items()}
            tables[system].append(retrieval_metrics(ids, evidence(tested), settings.evaluate.cutoffs))
        chosen.append({"student": path.name, "fusion": fusion._asdict(), **found._asdict(), "ndcg": fitted["validation_ndcg"]})
    means = {system: sum(of_seeds[1:], of_seeds[0]) / len(of_seeds) for system, of_seeds in tables.items()}
    resampling = Resampling(settings.evaluate.confidence, settings.evaluate.resamples, settings.seed)
    gain = gains_over(means["first"], means["sum"], tested.set_index("question_id")["doc_id"], resampling)
    line = {
        "scope": scope,
        "depth": depth,
        "n_questions": len(tested),
        **{system: {metric: round(float(table[metric].mean()), 4) for metric in METRICS} for system, table in means.items()},
        "sum_over_first": {metric: gain[metric] for metric in METRICS},
        "chosen": chosen,
    }
    print(json.dumps(line))


def part(rankings: dict, questions: pd.DataFrame) -> dict:
    return {question_id: rankings[question_id] for question_id in questions["question_id"]}


def evidence(questions: pd.DataFrame) -> dict:
    return dict(zip(questions["question_id"], questions["evidence"], strict=True))


if __name__ == "__main__":
    typer.run(main)
