"""Every count in params.yaml at its smallest legal value, on a corpus that is as small as the smallest counts allow.

The counts are found in the settings' models, so that a new one is tried as soon as it exists.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import annotated_types
import pytest
from pydantic import BaseModel

from uae.io.errors import UaeError
from uae.io.models import fingerprint
from uae.pipeline.chain import CHAIN, STAGES, run_stage
from uae.pipeline.settings import Settings, load_settings
from uae.pipeline.workspace import Workspace

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"
# What some count at 0 turns off is on here, and as small as it can be then.
SWITCHED_ON = {
    "candidates.bm25_top_k": 1,
    "candidates.holding_answer": 1,
    "candidates.random": 1,
    "label.check_questions": 1,
    "train.refresh.rounds": 1,
    "evaluate.llm.questions": 1,
    "evaluate.llm.timed_queries": 1,
}
# Not numbers of something that is worked on, or out of reach here. A budget of one reading leaves nothing to train on yet.
LEFT_OUT = {"seed", "ingest.max_documents", "retrain.budget_readings"}


def smallest_counts(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Dotted key and smallest value of each whole number that has a minimum; those of a served teacher are not reached."""
    for name, field in model.model_fields.items():
        key = prefix + (field.alias or name)
        kinds = [field.annotation, *field.metadata]
        for kind in _parts(kinds):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from smallest_counts(kind, f"{key}.")
        bounds = [part for part in _parts(kinds) if isinstance(part, annotated_types.Ge | annotated_types.Gt)]
        bounds += [part for info in _parts(kinds) for part in getattr(info, "metadata", ())]
        lowest = [bound.ge if isinstance(bound, annotated_types.Ge) else bound.gt + 1 for bound in bounds if _is_low(bound)]
        if int in _parts(kinds) and lowest:
            yield key, int(max(lowest))


def _is_low(bound: Any) -> bool:
    return isinstance(bound, annotated_types.Ge | annotated_types.Gt)


def _parts(kinds: Any) -> list[Any]:
    """A type and what stands in it: the members of unions, the content of tuples, what Annotated adds. No dictionaries."""
    found = []
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        found.append(kind)
        if get_origin(kind) in (Union, UnionType, tuple) or hasattr(kind, "__metadata__"):
            found += _parts(list(get_args(kind)))
    return found


LISTS = ("evaluate.cutoffs", "evaluate.reader_passages", "train.matryoshka.dimensions")  # of counts
COUNTS = dict(smallest_counts())

# split -> title, two passages, question, answer. Both passages are evidence: so each question has two candidates at the least,
# and with one there is nothing to rank, which training says.
TEXTS = {
    "train": (
        "Lamp",
        "Every evening at dusk the keeper climbs the tower with a can and trims the wick by hand.",
        "Pale rape oil burns in the great lamp from then on until the sun stands over the reef.",
        "What burns in the lamp?",
        "rape oil",
    ),
    "validation": (
        "Horn",
        "On foggy Sundays nobody sees the rocks, and ships listen for one long deep tone a minute.",
        "Below the gallery two leather bellows drive that horn, while a clockwork counts out its pauses.",
        "What drives the horn?",
        "two leather bellows",
    ),
    "test": (
        "Boat",
        "Twice each month, weather permitting, a pair of brothers row out with letters, flour and coal.",
        "They land at the old stone slip, because swell breaks too hard against any other shore.",
        "Where do the brothers land?",
        "the old stone slip",
    ),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """One document and one question a split."""
    folder = tmp_path_factory.mktemp("smallest")
    documents, questions = [], []
    for split, (title, *passages, question, answer) in TEXTS.items():
        documents.append({"id": split, "title": title, "text": "\n\n".join(passages)})
        row = {"question": question, "answers": [answer], "document": split, "evidence": passages, "split": split}
        questions.append(row | {"origin": "human"})
    for name, rows in (("documents", documents), ("questions", questions)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def base(corpus, tiny_lm, tiny_encoder) -> dict[str, Any]:
    """Overrides that have nothing to do with counts."""
    return {
        "models.student": f"path:{tiny_encoder}",
        "teachers.main.model": f"path:{tiny_lm}",
        "models.reader": f"path:{tiny_lm}",
        "ingest.path": str(corpus),
        "ingest.format": "jsonl",
        "compute.device": "cpu",
        "promote.min_gain": -1,
        "promote.max_loss": 1,
        "promote.guarded": ["recall@1"],  # of the cut-offs, 1 is left
        "promote.min_cosine": 0,
        "promote.max_serving_loss": 1,
        "promote.max_index_loss": 1,
    }


def settings_of(*overrides: dict[str, Any]) -> Settings:
    merged: dict[str, Any] = {}
    for each in overrides:
        merged |= each
    return load_settings(PARAMS, [f"{key}={json.dumps(value)}" for key, value in merged.items()])


def run(settings: Settings, workspace: Workspace, *stages: str) -> dict[str, dict]:
    return {name: run_stage(STAGES[name], settings, workspace) for name in stages}


def everything_smallest() -> dict[str, Any]:
    return {key: [value] if key in LISTS else value for key, value in COUNTS.items() if key not in LEFT_OUT}


def check_evaluation(workspace: Workspace, answered: int = 1) -> None:
    evaluation = json.loads(workspace.path("evaluation").read_text(), parse_constant=pytest.fail)  # no NaN, no Infinity
    assert set(evaluation["systems"]) >= {"base", "uae"}
    for metrics in evaluation["systems"].values():
        for value in metrics.values():
            assert 0 <= value["low"] <= value["mean"] <= value["high"] <= 1
    assert evaluation["counts"]["answered_questions"] == answered


def test_the_counts_are_found():
    """Examples of each form in which a model may write one; else a search that finds nothing would pass."""
    known = {
        "ingest.max_documents": 1,  # or null
        "ingest.passage_words": 20,
        "validate.min_questions.test": 1,
        "candidates.random": 0,
        "label.batch_tokens": 64,
        "train.reward.folds": 2,
        "evaluate.cutoffs": 1,  # each of a list
        "evaluate.reader_passages": 1,  # each of a list
        "evaluate.reader_questions": 1,
        "evaluate.reader_more_questions": 0,
        "evaluate.llm.window": 2,
        "evaluate.resamples": 100,
    }
    assert known.items() <= COUNTS.items()
    assert SWITCHED_ON.keys() <= {key for key, value in COUNTS.items() if value == 0}


@pytest.fixture(scope="module")
def smallest(tmp_path_factory, base) -> tuple[Workspace, dict[str, dict]]:
    """The chain with every count at its smallest; where that turns something off, at the next."""
    workspace = Workspace(tmp_path_factory.mktemp("run"))
    settings = settings_of(base, everything_smallest(), SWITCHED_ON)
    return workspace, run(settings, workspace, *[stage.name for stage in CHAIN if stage.name != "package"])


def test_the_chain_goes_through_with_all_at_once(smallest):
    workspace, results = smallest
    check_evaluation(workspace)
    assert results["train"]["steps"] >= 1
    assert results["promote"]["promoted"]


def test_the_chain_goes_through_with_all_that_can_be_turned_off(tmp_path, base):
    workspace = Workspace(tmp_path)
    run(settings_of(base, everything_smallest()), workspace, *[stage.name for stage in CHAIN if stage.name != "package"])
    check_evaluation(workspace)


def test_a_reward_model_of_the_smallest_counts(smallest, base):
    workspace, _ = smallest
    changes = SWITCHED_ON | {"train.refresh.rounds": 0, "train.reward.share": 0.5}
    try:
        (result,) = run(settings_of(base, everything_smallest(), changes), workspace, "train").values()
    except UaeError as error:
        assert "reward" in str(error)  # noqa: PT017  (one training document cannot be divided into folds: said so)
    else:
        assert result["steps"] >= 1


@pytest.mark.parametrize("key", ["evaluate.reader_questions", "evaluate.llm.questions", "evaluate.reader_new_tokens"])
def test_one_count_of_the_evaluation_alone(smallest, base, key):
    """Among counts as they usually are."""
    workspace, _ = smallest
    usual = {"evaluate.resamples": 100, "evaluate.llm.questions": 0, "evaluate.llm.timed_queries": 1}
    run(settings_of(base, usual, {key: COUNTS[key] or 1}), workspace, "evaluate")
    check_evaluation(workspace)


def test_one_document_is_refused_with_the_reason(tmp_path, base):
    with pytest.raises(UaeError, match=r"n_train_usable|n_test_usable|n_validation_usable"):
        run(settings_of(base, {"ingest.max_documents": 1}), Workspace(tmp_path), "ingest", "validate")


def test_two_processes_train_what_one_trains(smallest, base):
    """torchrun is started by the stage."""
    workspace, results = smallest
    (result,) = run(settings_of(base, everything_smallest(), SWITCHED_ON, {"train.processes": 2}), workspace, "train").values()
    for name in ("steps", "questions", "pairs", "teacher_temperature"):
        assert result[name] == results["train"][name]
    assert result["validation_ndcg"] == pytest.approx(results["train"]["validation_ndcg"], abs=1e-3)
    assert result["fingerprint"] == fingerprint(workspace.path("student"))
