"""What the teacher's readings are worth: students fitted to parts of a run's labelled pairs, or with another recipe.

A case says which part: ``questions=120`` are so many train questions, ``candidates.top_k=3`` is what the stage candidates finds
with that amount. ``labels=runs/two`` are the pairs and labels of another run of the same questions, such as one with more
templates. Other keys are a recipe's, as ``uae compare`` takes them. Folds of whole documents are held out in turns, as in
``crossval.py``: test questions are not looked at. A held-out question is asked of its own document and of all held-out documents
together, of the student alone and of its sum with BM25. Finished fits are kept in --out. Prints one JSON line last.

python benchmarks/pools.py --run runs/corpus --out runs/pools --case all --case 'half: questions=240' \
    --case 'small: candidates.top_k=3 candidates.bm25_top_k=2' --case 'refreshed: train.refresh.rounds=1'
"""

import json
import sys
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from crossval import compared, held_out_folds

from uae.candidates.mine import mine
from uae.candidates.miner import Amounts
from uae.evaluation.testset import BASE, choose_questions, rank_with
from uae.experiments.compare import contender_of, parse_contender
from uae.experiments.contenders import fit_contender, refreshed_path
from uae.io.errors import ConfigError
from uae.io.tables import CANDIDATES, PASSAGES, QUESTIONS, read_table, write_table
from uae.measures.fusion import SCORES, Fusion, Rankings, fuse
from uae.measures.metrics import retrieval_metrics
from uae.measures.statistics import Resampling
from uae.pipeline.settings import CandidateSettings, Settings, load_settings
from uae.pipeline.stages.train import TrainParameters, more_labels, training_data
from uae.pipeline.student import student_folder
from uae.pipeline.workspace import Workspace
from uae.retrievers.lexical import rank_bm25
from uae.text.passage_template import PassageTemplate
from uae.vectors.store import VectorStore

SCOPES = ("document", "corpus")
QUESTIONS_KEY, LABELS_KEY, POOL_KEY = "questions=", "labels=", "candidates."
Tables = dict[str, pd.DataFrame]  # "SCOPE dense" or "SCOPE with_bm25" -> metrics by question


@dataclass(frozen=True)
class Case:
    name: str
    questions: int | None  # train questions of a fold; None: all
    labels: Path | None  # the run whose labels it is taught; None: --run
    pool: tuple[str, ...]  # overrides of section candidates; empty: all labelled pairs
    recipe: tuple[str, ...]  # other overrides


def parse_case(text: str) -> Case:
    """``NAME`` or ``NAME: KEY=VALUE ...``.

    Raises:
        ConfigError: it is neither, or a key is of no recipe.
    """
    name, _, changes = (part.strip() for part in text.partition(":"))
    keys = changes.split()
    numbers, runs = ([key.removeprefix(of) for key in keys if key.startswith(of)] for of in (QUESTIONS_KEY, LABELS_KEY))
    is_name = name.replace("-", "").replace("_", "").isalnum()
    if not is_name or max(len(numbers), len(runs)) > 1 or not all(map(str.isdecimal, numbers)) or not all(runs):
        raise ConfigError(
            f"--case {text!r}: expected NAME or 'NAME: questions=NUMBER labels=FOLDER candidates.KEY=VALUE KEY=VALUE ...'"
        )
    pool = tuple(key for key in keys if key.startswith(POOL_KEY))
    recipe = [key for key in keys if not key.startswith((QUESTIONS_KEY, LABELS_KEY, POOL_KEY))]
    if recipe:
        parse_contender(f"{name}: {' '.join(recipe)}")  # refuses keys that are no recipe's
    return Case(name, int(numbers[0]) if numbers else None, Path(runs[0]) if runs else None, pool, tuple(recipe))


def first(question_ids: Collection[str], number: int | None) -> frozenset[str]:
    """So many of them (None: all). They are chosen at random, for ids are hashes of content, and fewer are among more.

    Raises:
        ConfigError: there are not so many.
    """
    if number is not None and number > len(question_ids):
        raise ConfigError(f"{QUESTIONS_KEY}{number}: a fold has {len(question_ids)} labelled train questions")
    return frozenset(sorted(question_ids)[:number])


def taught(
    candidates: pd.DataFrame, questions: pd.DataFrame, number: int | None, pool: pd.DataFrame | None, choosing: int
) -> pd.DataFrame:
    """The pairs of so many train questions that are in a pool, and all pairs of the questions that choose the epoch.

    Args:
        candidates: labelled pairs, of the schema CANDIDATES.
        questions: of the schema QUESTIONS; a question that is in none of the splits train and validation has no part in it.
        pool: columns question_id and passage_id; None: all pairs.
        choosing: how many validation questions choose the epoch that is kept: the same ones, by the same pairs, for every case.

    Raises:
        ConfigError: as ``first``.
    """
    labelled = questions[questions["question_id"].isin(candidates["question_id"])]
    train, validation = (labelled.loc[labelled["split"] == split, "question_id"] for split in ("train", "validation"))
    kept = candidates["question_id"].isin(first(train, number))
    if pool is not None:
        pairs = ["question_id", "passage_id"]
        kept &= pd.MultiIndex.from_frame(candidates[pairs]).isin(pd.MultiIndex.from_frame(pool[pairs]))
    kept |= candidates["question_id"].isin(first(validation, min(choosing, len(validation))))
    return candidates[kept].reset_index(drop=True)


def richness(pairs: pd.DataFrame, questions: pd.DataFrame) -> dict[str, float]:
    """What questions are taught from: their number, the pairs', the share of the questions with evidence among theirs, and the
    mean of their highest utilities (nats per token).

    Args:
        pairs: of ``labelled_pairs``: columns question_id, passage_id and utility.
    """
    evidence = questions.set_index("question_id")["evidence"]
    marked = [one in evidence[key] for key, one in zip(pairs["question_id"], pairs["passage_id"], strict=True)]
    by_question = pairs.assign(marked=marked).groupby("question_id")
    return {
        "questions": by_question.ngroups,
        "pairs": len(pairs),
        "with_evidence": round(float(by_question["marked"].any().mean()), 4),
        "best_utility": round(float(by_question["utility"].max().mean()), 4),
    }


def pool_of(case: Case, overrides: list[str], workspace: Workspace, params: Path, folder: Path) -> pd.DataFrame | None:
    """What the stage candidates finds with the amounts of a case. None: the case changes none.

    Raises:
        ConfigError: an amount is above the run's, whose labels are all that there are.
    """
    if not case.pool:
        return None
    settings, labelled = load_settings(params, [*overrides, *case.pool]), load_settings(params, overrides)
    if more := [key for key in CandidateSettings.model_fields if _amount(settings, key) > _amount(labelled, key)]:
        raise ConfigError(f"--case {case.name}: {POOL_KEY}{more[0]} is above the run's, which labelled no more")
    path = folder / f"{case.name}.parquet"
    mine(
        passages_path=workspace.path("passages"),
        questions_path=workspace.path("questions"),
        candidates_path=path,
        encoder_path=student_folder(settings.models, workspace.model_cache),
        scope=settings.scope,
        amounts=Amounts(**settings.candidates.model_dump()),
        device=settings.compute.device,
        seed=settings.seed,
        read_as=PassageTemplate(settings.passages.template),
        vectors=VectorStore(workspace.vectors),
    )
    return read_table(path, CANDIDATES)


def _amount(settings: Settings, key: str) -> int:
    return int(getattr(settings.candidates, key))


class Held:
    """The documents of one fold: their questions, asked of their passages."""

    def __init__(self, questions: pd.DataFrame, passages: pd.DataFrame, settings: Settings, weight: float):
        """
        Args:
            questions: the held-out documents' are of the split validation.
            passages: of all documents, with what models read as their text.
            weight: of BM25 in the sum.
        """
        self._asked = choose_questions(questions, "validation")
        self._passages = passages[passages["doc_id"].isin(self._asked["doc_id"])].reset_index(drop=True)
        self._settings, self._fusion = settings, Fusion(SCORES, weight)
        self._evidence = dict(zip(self._asked["question_id"], self._asked["evidence"], strict=True))
        self._words = {scope: rank_bm25(self._asked, self._passages, scope, None) for scope in SCOPES}

    def measure(self, encoder: Path, progress: str, vectors: VectorStore) -> Tables:
        """An encoder alone and with BM25, in both scopes. Its passages' vectors are kept."""
        tables: Tables = {}
        for scope in SCOPES:
            device = self._settings.compute.device
            dense = rank_with(encoder, self._asked, self._passages, scope, device, progress, vectors)
            tables[f"{scope} dense"] = self._metrics(dense)
            tables[f"{scope} with_bm25"] = self._metrics(fuse(dense, self._words[scope], self._fusion))
        return tables

    def _metrics(self, rankings: Rankings) -> pd.DataFrame:
        ranked = {key: list(ids) for key, (ids, _) in rankings.items()}
        return retrieval_metrics(ranked, self._evidence, self._settings.evaluate.cutoffs)


def main(
    run: Annotated[Path, typer.Option(help="A folder of uae run, or of another benchmark, with its labels.")],
    out: Annotated[Path, typer.Option(help="Where finished fits are kept.")],
    case: Annotated[list[str], typer.Option(help="The others stand against the first.")],
    folds: int = 2,
    only: Annotated[int | None, typer.Option(help="Only so many of the folds are held out.")] = None,
    choosing: Annotated[int, typer.Option(help="Held-out questions whose labels choose the epoch that is kept.")] = 40,
    weight: Annotated[float, typer.Option(help="Of BM25 in the sum.")] = 0.3,
    fit: Annotated[bool, typer.Option(help="--no-fit: only say what the cases are taught from.")] = True,
    overrides: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE")] = (),
) -> None:
    workspace, params = Workspace(run, Path("models"), flat_reports=True), run / "params.yaml"
    settings, cases = load_settings(params, overrides), [parse_case(text) for text in case]
    seed, device = settings.seed, settings.compute.device
    passages = PassageTemplate(settings.passages.template).applied(read_table(workspace.path("passages"), PASSAGES))
    base, table = student_folder(settings.models, workspace.model_cache), read_table(workspace.path("questions"), QUESTIONS)
    pools = {each.name: pool_of(each, list(overrides), workspace, params, out / "pools") for each in cases}
    measured: dict[str, list[Tables]] = {BASE: [], **{each.name: [] for each in cases}}
    facts: dict[str, list[dict[str, Any]]] = {each.name: [] for each in cases}
    for number, questions in enumerate(held_out_folds(table, folds)[:only]):
        folder = out / f"fold-{number}"
        write_table(folder / "questions.parquet", QUESTIONS, questions)
        held, of_base = Held(questions, passages, settings, weight), VectorStore(workspace.vectors)
        if fit:
            measured[BASE].append(held.measure(base, BASE, of_base))
        for each in cases:
            print(f"fold {number}: {each.name}", file=sys.stderr, flush=True)
            its_own = load_settings(params, [*overrides, *each.recipe])
            p = TrainParameters.of(its_own)
            labelled = Workspace(each.labels, Path("models"), flat_reports=True) if each.labels else workspace
            data = training_data(p, labelled, folder / "questions.parquet")
            kept = taught(data.candidates, questions, each.questions, pools[each.name], choosing)
            its_data = replace(data, candidates=kept)
            pairs = its_data.pairs()
            facts[each.name].append(richness(pairs[pairs["split"] == "train"], questions))
            if not fit:
                continue
            fitted = fit_contender(
                contender_of(each.name, its_own), seed, its_data, base, folder,
                more_labels(p, workspace, folder / "refreshed_labels"), device, data.corpus, of_base,
            )  # fmt: skip
            vectors = VectorStore(folder / "vectors") if p.train.towers == "both" else of_base
            measured[each.name].append(held.measure(fitted.student, each.name, vectors))
            facts[each.name][-1] |= {
                "refreshed": _refreshed(folder, fitted.student.name) if p.train.refresh.rounds else 0,
                "reward": fitted.prepared.reward_quality,
                **{name: fitted.summary[name] for name in ("steps", "seconds", "validation_ndcg_before", "validation_ndcg")},
            }
    counts = {"folds": folds, "only": only, "seed": seed, "weight": weight, "cases": facts}
    if not fit:
        print(json.dumps(counts))
        return
    documents = table.set_index("question_id")["doc_id"]
    resampling = Resampling(settings.evaluate.confidence, settings.evaluate.resamples, seed)
    names = [each.name for each in cases]
    found = {}
    for system in (f"{scope} {kind}" for scope in SCOPES for kind in ("dense", "with_bm25")):
        pooled = {name: pd.concat([tables[system] for tables in parts]) for name, parts in measured.items()}
        found[system] = {
            name: value
            for over in (names, [BASE, *names])
            for name, value in compared(pooled, over, documents, resampling).items()
        }
        asked = documents.loc[pooled[BASE].index]
    print(json.dumps({"n_questions": len(asked), "n_documents": int(asked.nunique())} | counts | found))


def _refreshed(folder: Path, name: str) -> int:
    """How many pairs a student had judged while it was in training."""
    return int((read_table(refreshed_path(folder, name), CANDIDATES)["source"] == "refreshed").sum())


if __name__ == "__main__":
    typer.run(main)
