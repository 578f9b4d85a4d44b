"""Knowing when nothing helps: what a release says of its first passage, against what the teacher and a reader make of it.

Test questions are asked where they belong and where they do not: in another document, or in scope corpus among all documents but
their own. Tells how well the release's probability tells the two apart, and the first passages that the teacher finds useful from
those that it does not. Then a reader answers all of them: with passages always, only where the release calls them useful, and
never. Prints one JSON line last.

python benchmarks/useful.py --run runs/mine --out runs/useful
"""

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from sklearn.metrics import roc_auc_score

from uae.evaluation.answers import Reader
from uae.evaluation.testset import choose_questions
from uae.io.models import resolve
from uae.io.tables import CANDIDATES, PASSAGES, QUESTIONS, read_table, write_table
from uae.measures.answers import answer_metrics
from uae.pipeline.settings import Settings, load_settings
from uae.pipeline.stages.train import TrainParameters, training_data
from uae.pipeline.teachers import asked_teachers
from uae.pipeline.workspace import Workspace
from uae.release.legs.protocol import Queries
from uae.release.open import Answer, Release
from uae.teacher.label import ask
from uae.training.usefulness import foreign_documents

PLACES = ("own", "foreign")
_DRAWS = 2000  # of questions, for an interval
_LEAST = (0.1, 0.2, 0.3, 0.4, 0.5)  # probabilities from which passages are handed on


def main(
    run: Annotated[Path, typer.Option(help="A folder of uae run, with labels and a release.")],
    out: Annotated[Path, typer.Option(help="Where the teacher's readings are kept.")],
    questions: Annotated[int, typer.Option(help="Test questions that are asked, drawn by chance.")] = 100,
    given: Annotated[int, typer.Option(help="Passages that a reader gets.")] = 3,
    overrides: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE")] = (),
) -> None:
    settings = load_settings(run / "params.yaml", overrides)
    workspace = Workspace(run, Path("models"), flat_reports=True)
    release = Release(workspace.path("release"), settings.compute.device)
    if release.manifest.useful is None:
        raise SystemExit(f"{release.folder} does not say when nothing helps: see useful.least_utility in params.yaml")
    passages = read_table(workspace.path("passages"), PASSAGES)
    tested = choose_questions(read_table(workspace.path("questions"), QUESTIONS))
    tested = tested.sample(min(questions, len(tested)), random_state=settings.seed).reset_index(drop=True)
    answers = {
        "own": [asked_in(release, row.text, row.doc_id, settings.scope, own=True) for row in tested.itertuples()],
        "foreign": [
            asked_in(release, row.text, elsewhere, settings.scope, own=False)
            for row, elsewhere in zip(tested.itertuples(), away(tested, passages, settings.scope), strict=True)
        ],
    }
    line: dict[str, Any] = {"scope": settings.scope, "n_questions": len(tested), "fingerprint": release.fingerprint}
    line |= {"useful": release.manifest.useful.model_dump(mode="json"), "score_is": release.score()}
    line |= told_apart(answers, tested["doc_id"])
    line |= by_teacher(settings, workspace, out, tested, answers, release.manifest.useful.chosen)
    line |= by_reader(settings, workspace, tested, answers, given)
    release.close()
    print(json.dumps(line))


def away(tested: pd.DataFrame, passages: pd.DataFrame, scope: str) -> list[str]:
    """By question: another document to ask it of; in scope corpus its own, which is then left out."""
    return (tested["doc_id"] if scope == "corpus" else foreign_documents(tested, passages)).tolist()


def asked_in(release: Release, text: str, doc_id: str, scope: str, own: bool) -> Answer:
    rows = release.rows({"doc_id": doc_id})
    if scope == "corpus":
        rows = None if own else np.setdiff1d(np.arange(release.passage_count), rows)
    (answer,) = release.answer(Queries([text], release.encode([text], "query")), 10, rows)
    return answer


def told_apart(answers: dict[str, list[Answer]], documents: pd.Series) -> dict[str, Any]:
    """AUROC of own against foreign documents, by the probability and by the score that is served."""
    truth = np.repeat([True, False], len(answers["own"]))
    likely, served = both(answers, lambda answer: answer.useful_probability), both(answers, lambda answer: answer.hits[0].score)
    called = both(answers, lambda answer: float(answer.useful or False))
    return {
        "auroc": round(float(roc_auc_score(truth, likely)), 4),
        "auroc_ci95": interval(lambda some: roc_auc_score(truth[some], likely[some]), documents),
        "auroc_of_the_score": round(float(roc_auc_score(truth, served)), 4),
        "called_useful": {"own": round(called[truth].mean(), 4), "foreign": round(called[~truth].mean(), 4)},
    }


def by_teacher(
    settings: Settings, workspace: Workspace, out: Path, tested: pd.DataFrame, answers: dict[str, list[Answer]], chosen: dict
) -> dict[str, Any]:
    """The teacher is asked about every first passage. Test questions taught nobody."""
    first = [
        {"question_id": question_id, "passage_id": answer.hits[0].passage_id, "source": place, "rank": 1, "score": 0.0}
        for place in PLACES
        for question_id, answer in zip(tested["question_id"], answers[place], strict=True)
    ]
    write_table(out / "candidates.parquet", CANDIDATES, first)
    p = TrainParameters.of(settings)
    ask(
        out / "candidates.parquet", workspace.path("passages"), workspace.path("questions"), out / "labels",
        asked_teachers(p.teachers, p.passages, p.label, p.compute, workspace), p.label.answers_per_question, 0,
        p.label.readings_per_part, others=[workspace.path("labels")],
    )  # fmt: skip
    data = training_data(p, workspace, workspace.path("questions"))
    pairs = data.with_more(read_table(out / "candidates.parquet", CANDIDATES), out / "labels").pairs()
    utilities = pairs["utility"].to_numpy()
    useful, likely = utilities > chosen["least_utility"], both(answers, lambda answer: answer.useful_probability)
    half = len(useful) // 2
    return {
        "least_utility": chosen["least_utility"],
        "utility": {"own": round(float(utilities[:half].mean()), 4), "foreign": round(float(utilities[half:].mean()), 4)},
        "truly_useful": {"own": round(float(useful[:half].mean()), 4), "foreign": round(float(useful[half:].mean()), 4)},
        "auroc_by_teacher": round(float(roc_auc_score(useful, likely)), 4),
        "auroc_by_teacher_ci95": interval(lambda some: roc_auc_score(useful[some], likely[some]), tested["doc_id"]),
        "auroc_by_teacher_of_the_score": round(
            float(roc_auc_score(useful, both(answers, lambda answer: answer.hits[0].score))), 4
        ),
        "said": round(float(likely.mean()), 4),
        "came_true": round(float(useful.mean()), 4),
    }


def by_reader(
    settings: Settings, workspace: Workspace, tested: pd.DataFrame, answers: dict[str, list[Answer]], given: int
) -> dict[str, Any]:
    """Token F1 and tokens of the prompts, half of the questions being asked where they do not belong.

    Every question is answered with passages and without. From whatever probability passages are handed on, the answer is one of
    the two. So several such probabilities are told, and the release's own.
    """
    e = settings.evaluate
    folder = resolve(settings.models.reader, workspace.model_cache)
    reader = Reader(
        folder, settings.compute.device, settings.compute.dtype, e.reader_new_tokens, e.reader_batch_size, e.reader_chat
    )
    texts, gold = tested["text"].tolist() * 2, tested["answers"].tolist() * 2
    found = answers["own"] + answers["foreign"]
    f1, tokens = {}, {}
    for way, contexts in {"always": [[hit.text for hit in a.hits[:given]] for a in found], "never": [[] for _ in found]}.items():
        asked = [(text, reader.fitting(text, context, "best_first")) for text, context in zip(texts, contexts, strict=True)]
        rows = zip(reader.answer(asked), gold, asked, strict=True)
        f1[way] = np.array([answer_metrics(reply, own, read)["token_f1"] for reply, own, (_, read) in rows])
        tokens[way] = np.array([len(reader.tokenizer(reader.prompt(*one), verbose=False)["input_ids"]) for one in asked])
    half = len(texts) // 2
    likely = both(answers, lambda answer: answer.useful_probability)

    def handed_on(useful: np.ndarray) -> dict[str, Any]:
        mixed = np.where(useful, f1["always"], f1["never"])
        read = np.where(useful, tokens["always"], tokens["never"])
        lost = mixed - f1["always"]
        return {
            "handed_on": {"own": round(float(useful[:half].mean()), 4), "foreign": round(float(useful[half:].mean()), 4)},
            "token_f1": round(float(mixed.mean()), 4),
            "token_f1_own": round(float(mixed[:half].mean()), 4),
            "token_f1_gain": {
                "mean": round(float(lost.mean()), 4),
                "ci95": interval(lambda some: lost[some].mean(), tested["doc_id"]),
            },
            "tokens_saved": round(1 - float(read.sum() / tokens["always"].sum()), 4),
        }

    return {
        "reader": {
            way: {"token_f1": round(float(f1[way].mean()), 4), "token_f1_own": round(float(f1[way][:half].mean()), 4)}
            | {"tokens": round(float(tokens[way].mean()), 1)}
            for way in f1
        },
        "where_useful": handed_on(both(answers, lambda answer: float(answer.useful or False)) > 0),
        "from_probability": {str(least): handed_on(likely >= least) for least in _LEAST},
    }


def both(answers: dict[str, list[Answer]], of: Any) -> np.ndarray:
    return np.array([of(answer) for place in PLACES for answer in answers[place]], dtype=float)


def interval(of: Any, documents: pd.Series) -> list[float]:
    """By bootstrap over documents: a question's two places are drawn together. A draw of one kind alone tells nothing.

    Args:
        documents: of each question, its own one.
    """
    random, half = np.random.default_rng(0), len(documents)
    groups = list(documents.reset_index(drop=True).groupby(documents.to_numpy()).indices.values())
    drawn = (np.concatenate([groups[n] for n in random.integers(len(groups), size=len(groups))]) for _ in range(_DRAWS))
    values = [of(np.concatenate([some, some + half])) for some in drawn]
    return [round(float(value), 4) for value in np.nanquantile(values, [0.025, 0.975])]


if __name__ == "__main__":
    typer.run(main)
