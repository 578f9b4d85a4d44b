"""Building the second stage of a release: the fastest form that scores as the trained model does, and its weight."""

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from uae.io.errors import ConfigError, ModelError
from uae.io.models import fingerprint
from uae.measures.first_weight import best_first_weight
from uae.measures.reranking import PairScores
from uae.release.choose_form import FORMS, copy_encoder
from uae.release.legs.protocol import probe_rows
from uae.release.manifest import UAE, RerankEntry
from uae.release.material import Material
from uae.release.open import Release
from uae.release.pair_parity import measure_pairs, spread
from uae.release.parity import is_within
from uae.release.second_stage import FOLDER, PairParity, SecondStageEntry, SecondStageServing, probe
from uae.retrievers.cross_encoder import TRAINED, TorchCrossEncoder, load_cross_encoder
from uae.retrievers.onnx_cross_export import export_cross_encoder
from uae.retrievers.onnx_export import quantise
from uae.retrievers.onnx_graph import max_tokens
from uae.retrievers.second_stage import SERVED, PairScorer, open_scorer, pair_scores

if TYPE_CHECKING:
    from uae.measures.fusion import Rankings

log = logging.getLogger(__name__)

_COMPARED = 60  # questions that forms are compared on: a trained cross-encoder scores some dozens of pairs a second on a CPU
_CHOOSING = 300  # questions that choose the weight, at most


class SecondStageRecipe(NamedTuple):
    """Section ``second_stage`` of params.yaml, and what of others is needed."""

    trained: Path  # the cross-encoder as it was trained
    depth: int  # passages of the first stage that are re-ranked
    weight: float | None  # of the first stage's scores; None: it is chosen
    serving: str  # auto, or the one form that is allowed
    min_correlation: float
    max_recall_loss: float  # a share of the trained scores' Recall@1
    chosen: dict[str, Any] | None = None  # what an earlier release chose the weight on


class BuiltSecondStage(NamedTuple):
    entry: SecondStageEntry
    rerank: RerankEntry


def build_second_stage(release: Path, recipe: SecondStageRecipe, material: Material, device: str) -> BuiltSecondStage:
    """Write its files into ``release``, which is whole but for it and can be opened.

    The forms are compared, and the weight is chosen, on what the promoted system finds first. Only validation questions choose
    the weight: both stages were trained on the others.

    Raises:
        ConfigError: the one form that is allowed does not score as the trained model does.
        ModelError: the trained model cannot be loaded, or gives scores that are not finite.
    """
    questions = _asked(material.questions)
    rankings = _first_passages(release, questions, material.scope, recipe.depth, device)
    folder = release / FOLDER
    copy_encoder(recipe.trained, folder / TRAINED)
    model = load_cross_encoder(folder / TRAINED, device, head_may_be_new=False)
    first = {passage_id for ids, _ in rankings.values() for passage_id in ids}
    read = material.read_as.applied(material.passages.rows(first, material.read_as))
    trial = _Trial(questions, read, rankings, recipe.depth)
    trained = trial.scores(TorchCrossEncoder(model))
    serving = _choose_form(folder, recipe, trial, trained, device)
    served = open_scorer(folder, serving.backend, device, None)
    try:
        probed = probe(served, material.texts.at(probe_rows(len(material.passages))))
    finally:
        served.close()
    entry = SecondStageEntry(
        folder=FOLDER,
        model=fingerprint(folder / TRAINED),
        passage_template=material.read_as.template,
        max_tokens=max_tokens(model[0]),  # type: ignore[arg-type]  # a model's first module reads texts
        serving=serving,
        spread=round(spread(trained), 4),
        probe=probed,
    )
    return BuiltSecondStage(entry, _weighed(recipe, trial, trained))


class _Trial(NamedTuple):
    """What is scored by the trained model and by each form."""

    questions: pd.DataFrame
    passages: pd.DataFrame  # with what models read as their text
    rankings: "Rankings"
    depth: int

    def scores(self, scorer: PairScorer, most: int | None = None) -> dict[tuple[str, str], float]:
        """Of the first ``most`` questions (None: all)."""
        some = {question_id: self.rankings[question_id] for question_id in list(self.rankings)[:most]}
        return pair_scores(some, self.questions, self.passages, scorer, self.depth)

    @property
    def evidence(self) -> dict[str, list[str]]:
        return dict(zip(self.questions["question_id"], self.questions["evidence"], strict=True))


def _asked(questions: pd.DataFrame) -> pd.DataFrame:
    """Validation questions, and others where those are few. Passages that stand in for questions have no ids and no split."""
    validation = int((questions["split"] == "validation").sum()) if "split" in questions else 0
    asked = questions.head(max(_COMPARED, min(validation, _CHOOSING)))
    if "question_id" in asked:
        return asked
    return asked.assign(question_id=[str(number) for number in range(len(asked))], split="")


def _first_passages(release: Path, questions: pd.DataFrame, scope: str, depth: int, device: str) -> "Rankings":
    """What the promoted system finds first for each question; a question that finds nothing is left out."""
    opened = Release(release, device, mapped=True)
    try:
        found = {}
        for question_id, text, doc_id in zip(questions["question_id"], questions["text"], questions["doc_id"], strict=True):
            (hits,) = opened.search([text], depth, doc_id if scope == "document" else None, UAE)
            if hits:
                found[question_id] = [hit.passage_id for hit in hits], [hit.score for hit in hits]
            opened.drop_pages()
        return found
    finally:
        opened.close()


def _weighed(recipe: SecondStageRecipe, trial: _Trial, trained: PairScores) -> RerankEntry:
    if recipe.weight is not None:
        return RerankEntry(depth=recipe.depth, weight=recipe.weight, chosen=recipe.chosen)
    validation = set(trial.questions.loc[trial.questions["split"] == "validation", "question_id"])
    some = {question_id: ranking for question_id, ranking in trial.rankings.items() if question_id in validation}
    found = best_first_weight(some, trained, recipe.depth, trial.evidence)
    if found is None:
        return RerankEntry(depth=recipe.depth, weight=_equal_say(trial.rankings, trained), chosen=None)
    if found.at_bound:
        log.warning(
            "second stage: it has no say, and costs its time. On %d validation questions the likeliest weight of the first stage "
            "is %g, at the bound of the search (MAP %.4f with the second stage, %.4f without it). Train it on more, or leave it "
            "out (models.second_stage: null)",
            found.questions, found.weight, found.map, found.first_map,
        )  # fmt: skip
    # Told only where it is so: other releases keep the fingerprint that they had before this was known.
    untold = {"weight"} if found.at_bound else {"weight", "at_bound"}
    chosen = {name: value for name, value in found._asdict().items() if name not in untold}
    return RerankEntry(depth=recipe.depth, weight=found.weight, chosen=chosen)


def _equal_say(rankings: "Rankings", trained: PairScores) -> float:
    """The weight under which both stages' scores differ by as much within a question, for where nothing can choose it."""
    first = {(q, p): score for q, (ids, scores) in rankings.items() for p, score in zip(ids, scores, strict=True)}
    narrow = spread(first)
    return round(spread(trained) / narrow, 3) if narrow > 0 else 0.0


def _choose_form(folder: Path, recipe: SecondStageRecipe, trial: _Trial, trained: PairScores, device: str) -> SecondStageServing:
    refused: dict[str, str] = {}
    for backend in FORMS if recipe.serving == "auto" else (recipe.serving,):
        if backend == "torch":
            return SecondStageServing(backend="torch", parity=None, refused=refused)
        try:
            _make(backend, folder)
            parity = _parity(backend, folder, trial, trained, device)
            reason = _failure(parity, recipe)
        except ModelError as error:
            reason = str(error)
        if reason is None:
            return SecondStageServing.model_validate({"backend": backend, "parity": parity, "refused": refused})
        refused[backend] = reason
        shutil.rmtree(folder / SERVED, ignore_errors=True)
    raise ConfigError(
        f"second_stage.serving: {recipe.serving} is not good enough for this model: {refused[recipe.serving]}. Use auto"
    )


def _make(backend: str, folder: Path) -> None:
    full = folder / (SERVED if backend == "onnx" else ".float32")
    try:
        # Loaded anew: on the CPU, in float32.
        export_cross_encoder(load_cross_encoder(folder / TRAINED, "cpu", head_may_be_new=False).float(), full)
        if backend != "onnx":
            quantise(full, folder / SERVED, mixed=backend == "onnx_int8_mixed")
    finally:
        if backend != "onnx":
            shutil.rmtree(full, ignore_errors=True)


def _parity(backend: str, folder: Path, trial: _Trial, trained: PairScores, device: str) -> PairParity:
    served = open_scorer(folder, backend, device, None)
    try:
        found = trial.scores(served, _COMPARED)
    finally:
        served.close()
    return measure_pairs({pair: trained[pair] for pair in found}, found, trial.evidence)


def _failure(parity: PairParity, recipe: SecondStageRecipe) -> str | None:
    if not parity.correlation >= recipe.min_correlation:
        return (
            f"its scores have a correlation of {parity.correlation:.4f} with the trained model's; "
            f"second_stage.min_correlation is {recipe.min_correlation:g}"
        )
    if not is_within(parity.recall_loss, recipe.max_recall_loss):
        return (
            f"Recall@1 is {parity.served_recall:.4f} against {parity.trained_recall:.4f} of the trained model; "
            f"index.max_recall_loss is {recipe.max_recall_loss:g} of it"
        )
    return None
