"""What a user could deploy, beside the promoted whole: the rows of ``benchmarks/covidqa.py`` that a release is chosen by.

The whole of each seed is its student joined with BM25, in the form and with the weight that the stage fuse chooses. It chooses on
validation questions, and on train questions asked of students that did not see them. Choices and fits are kept in the bench's
folder.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from uae.evaluation.fused import as_released, choosing_questions, only, strongest_untrained
from uae.evaluation.testset import BASE, choose_questions, rank_with
from uae.io.files import read_json, sha256_bytes
from uae.io.models import fingerprint, resolve
from uae.io.tables import QUESTIONS, read_table
from uae.measures.first_weight import best_first_weight
from uae.measures.fusion import Fusion, reciprocal_rank_fusion
from uae.measures.reranking import second_stage_ranking
from uae.pipeline.stages.train import TrainParameters, training_data
from uae.retrievers.cross_encoder import TRAINED, TorchCrossEncoder, load_cross_encoder
from uae.retrievers.lexical import rank_bm25
from uae.retrievers.second_stage import pair_scores
from uae.training import second_stage
from uae.training.fusion import FusionTerms, choose_fusion

if TYPE_CHECKING:
    from covidqa import Bench, Rankings

METRICS = ("recall@1", "map")
RELEASE, DENSE, BM25, HYBRID, CONVEX, SECOND = "release", "dense", "bm25", "hybrid_base", "convex_base", "second_stage"


def deployed(
    bench: "Bench", ranked: "Mapping[str, Rankings]", student: str, folds: int, fuse_seeds: int | None, second: str | None
) -> tuple[dict[str, Any], "Rankings"]:
    """Means by system, gains of the whole over each, what chose the fusions; and the first seed's whole.

    Args:
        ranked: BASE, and ``STUDENT-SEED`` of each seed, on the test questions.
        student: the name of UAE's students.
        folds: of the stage fuse.
        fuse_seeds: so many seeds choose a fusion of their own, the others take the first's; None: all choose.
        second: a reference of the model that a second stage is fitted from; None: there is none, and its row is null.
    """
    everything = read_table(bench.workspace.path("questions"), QUESTIONS)
    choosing, tested = choosing_questions(everything), list(bench.questions["question_id"])
    words = rank_bm25(pd.concat([bench.questions, choosing]), bench.read, bench.settings.scope, None)
    base = dict(ranked[BASE]) | _of_encoder(bench, bench.student_path(), choosing)
    convex, facts = strongest_untrained(base, words, choosing, tested)
    bm25 = only(words, tested)
    tables = {
        BASE: bench.metrics(ranked[BASE]),
        BM25: bench.metrics(bm25),
        HYBRID: bench.metrics(reciprocal_rank_fusion([bm25, ranked[BASE]])),
        CONVEX: bench.metrics(convex),
    }
    chosen: dict[str, Any] = {CONVEX: facts}
    of_seeds: dict[str, list[pd.DataFrame]] = {RELEASE: [], DENSE: []} | ({SECOND: []} if second else {})
    wholes = []
    for number, seed in enumerate(bench.seeds):
        name = f"{student}-{seed}"
        if fuse_seeds is None or number < fuse_seeds:
            chosen[name] = _fusion(bench, name, folds, seed)
        fusion = chosen.get(name, chosen[f"{student}-{bench.seeds[0]}"])
        how = Fusion(fusion["form"], fusion["weight"])
        whole = as_released(ranked[name], bm25, how)
        wholes.append(whole)
        of_seeds[DENSE].append(bench.metrics(ranked[name]))
        of_seeds[RELEASE].append(bench.metrics(whole))
        if second:
            reranked, weight = _second_stage(bench, name, seed, how, whole, words, everything, second)
            of_seeds[SECOND].append(bench.metrics(reranked))
            chosen[f"{SECOND}-{seed}"] = weight
    tables |= {name: sum(each[1:], each[0]) / len(each) for name, each in of_seeds.items()}
    figures = {
        **{name: {metric: round(float(table[metric].mean()), 4) for metric in METRICS} for name, table in tables.items()},
        **({} if second else {SECOND: None}),
        "release_over": {name: bench.gains(table, tables[RELEASE]) for name, table in tables.items() if name != RELEASE},
        "fusion": chosen,
    }
    return figures, wholes[0]


def _of_encoder(bench: "Bench", encoder: Any, questions: pd.DataFrame) -> "Rankings":
    settings = bench.settings
    return rank_with(encoder, questions, bench.read, settings.scope, settings.compute.device, f"{encoder.name}: passages")


def _fusion(bench: "Bench", name: str, folds: int, seed: int) -> dict[str, Any]:
    """What the stage fuse chooses for one student, kept on the disk."""
    student, settings = bench.folder / "students" / name, bench.trained_for
    path = bench.out / "fusion" / f"{name}-{folds}-{fingerprint(student)[:12]}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        choose_fusion(
            training_data(TrainParameters.of(settings), bench.workspace, bench.workspace.path("questions")),
            base_path=bench.student_path(), student_path=student, fusion_path=path, terms=FusionTerms("auto", None, folds),
            options=settings.train, teacher_temperature=settings.utility.temperature, scope=settings.scope,
            device=settings.compute.device, seed=seed,
        )  # fmt: skip
    found: dict[str, Any] = read_json(path)
    return found


def _second_stage(
    bench: "Bench",
    name: str,
    seed: int,
    how: Fusion,
    whole: "Rankings",
    words: "Rankings",
    everything: pd.DataFrame,
    reference: str,
) -> tuple["Rankings", dict[str, Any]]:
    """The whole's first passages in the order of a cross-encoder fitted to utilities, and the weight of the first stage."""
    settings = bench.settings
    data = training_data(TrainParameters.of(settings), bench.workspace, bench.workspace.path("questions"))
    options, device = settings.train.of_utilities(), settings.compute.device
    examples, model = data.by_split(data.pairs(), options), resolve(reference, bench.workspace.model_cache)
    folder = bench.out / "second" / sha256_bytes(fingerprint(model), str(seed))[:12]
    second_stage.fit(examples, model, folder, options.second_stage, settings.utility.temperature, device, seed)
    scorer = TorchCrossEncoder(load_cross_encoder(folder / TRAINED, device, head_may_be_new=False))
    validation, depth = choose_questions(everything, "validation"), settings.second_stage.depth
    asked = list(validation["question_id"])
    dense = _of_encoder(bench, bench.folder / "students" / name, validation)
    first = dict(whole) | dict(as_released(dense, only(words, asked), how))
    scores = pair_scores(first, pd.concat([bench.questions, validation]), bench.read, scorer, depth, "pairs")
    evidence = dict(zip(asked, validation["evidence"], strict=True))
    found = best_first_weight(only(first, asked), scores, depth, evidence)
    if found is None:
        raise SystemExit("no validation question has evidence among its first passages: nothing can choose the weight")
    return second_stage_ranking(whole, scores, depth, found.weight), found._asdict()
