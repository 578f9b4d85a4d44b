"""Other collections: what training took from them, and the gate that guards them."""

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from uae.evaluation.elsewhere import Collection, by_evidence, measure_elsewhere, scored
from uae.evaluation.testset import choose_questions, rank_with
from uae.io.errors import ArtefactError
from uae.io.files import read_json
from uae.io.tables import PASSAGES, QUESTIONS, read_table, write_table
from uae.measures.statistics import Resampling
from uae.pipeline.run import run_chain
from uae.pipeline.settings import load_settings
from uae.pipeline.workspace import Workspace
from uae.registry.elsewhere_gate import decide_elsewhere
from uae.registry.gate import Bounds

RESAMPLING = Resampling(0.95, 200, 0)
BOUNDS = Bounds(
    metric="map", min_gain=0.0, guarded=(), max_loss=0.02, great_loss=0.05, max_answer_loss=0.1, max_slowdown=None,
    confidence=0.95, error_budget=0.05, recent_documents=2, min_cosine=0.9, max_serving_loss=0.02,
    max_index_loss=0.05, max_loss_elsewhere=0.01,
)  # fmt: skip


def asked(*evidence: list[str]) -> pd.DataFrame:
    rows = [{"question_id": f"q{n}", "doc_id": f"d{n // 2}", "evidence": ids} for n, ids in enumerate(evidence)]
    return pd.DataFrame(rows)


def test_questions_with_one_evidence_passage_and_with_several_stand_apart():
    questions = asked(["a"], ["a", "b"], ["b"], ["b", "c"])
    before = scored({f"q{n}": (["a", "b", "c"], [3.0, 2.0, 1.0]) for n in range(4)}, questions)
    after = scored({f"q{n}": (["b", "c", "a"], [3.0, 2.0, 1.0]) for n in range(4)}, questions)
    kinds = by_evidence({"base": before, "dense": after}, questions, RESAMPLING)
    assert {kind: part["questions"] for kind, part in kinds.items()} == {"all": 4, "one": 2, "several": 2}
    # recall@1 of a question with two evidence passages is at most a half
    means = {kind: {name: table["recall@1"]["mean"] for name, table in part["systems"].items()} for kind, part in kinds.items()}
    assert means == {
        "all": {"base": 0.375, "dense": 0.5}, "one": {"base": 0.5, "dense": 0.5}, "several": {"base": 0.25, "dense": 0.5},
    }  # fmt: skip
    assert kinds["several"]["gains"]["dense"]["recall@1"]["absolute"]["mean"] == 0.25


def test_a_kind_without_questions_is_left_out():
    questions = asked(["a"], ["b"])
    table = scored({f"q{n}": (["a", "b"], [1.0, 0.5]) for n in range(2)}, questions)
    assert set(by_evidence({"base": table}, questions, RESAMPLING)) == {"all", "one"}


def measured(base: float, dense: float, questions: int = 100, kind: str = "several") -> dict[str, Any]:
    systems = {
        name: {metric: {"mean": value} for metric in ("recall@1", "map")} for name, value in (("base", base), ("dense", dense))
    }
    return {"papers": {"scope": "document", "kinds": {kind: {"questions": questions, "systems": systems, "gains": {}}}}}


@pytest.mark.parametrize(("dense", "passed"), [(0.5, True), (0.495, True), (0.49, False), (0.7, True)])
def test_the_gate_refuses_a_loss_elsewhere(dense, passed):
    decision = decide_elsewhere(measured(0.5, dense), BOUNDS)
    assert decision.passed is passed
    assert len(decision.reasons) == 2
    assert all("papers" in reason and reason.endswith("passed" if passed else "FAILED") for reason in decision.reasons)


def test_few_questions_decide_nothing_and_null_guards_nothing():
    passed, (reason,), _ = decide_elsewhere(measured(0.5, 0.1, questions=29), BOUNDS)
    assert passed
    assert reason == "papers (evidence passages: several) is not guarded: it has 29 questions, and 30 are the fewest"
    assert decide_elsewhere(measured(0.5, 0.1), replace(BOUNDS, max_loss_elsewhere=None)) == (True, [], ())
    assert decide_elsewhere({}, BOUNDS) == (True, [], ())


@pytest.fixture(scope="module")
def chain(tmp_path_factory, small_chain) -> tuple[Workspace, list[str]]:
    """A run up to its release, and a copy of half of its tables that it was not trained on."""
    root = tmp_path_factory.mktemp("elsewhere")
    run_chain(load_settings("params.yaml", small_chain), root, root / "models", lambda text: None, until="index")
    return Workspace(root, root / "models", flat_reports=True), small_chain


def other(workspace: Workspace, name: str, split: str) -> Collection:
    """The questions of one split and all passages, in a folder of their own."""
    folder = workspace.root / name
    questions = read_table(workspace.path("questions"), QUESTIONS)
    write_table(folder / "questions.parquet", QUESTIONS, questions[questions["split"] == split])
    write_table(folder / "passages.parquet", PASSAGES, read_table(workspace.path("passages"), PASSAGES))
    return Collection(name, folder, "document")


def test_the_release_is_asked_of_another_collection(chain, tiny_encoder):
    workspace, _ = chain
    collection = other(workspace, "held-out", "test")
    found = measure_elsewhere([collection], workspace.path("release"), tiny_encoder, "cpu", RESAMPLING)["held-out"]
    passages = read_table(workspace.path("passages"), PASSAGES)
    questions = choose_questions(read_table(workspace.path("questions"), QUESTIONS))
    base = scored(rank_with(tiny_encoder, questions, read_as(workspace, passages), "document", "cpu", ""), questions)
    assert found["passages"] == len(passages)
    part = found["kinds"]["all"]
    assert part["questions"] == len(questions)
    assert set(part["systems"]) == {"base", "dense", "uae"}
    assert part["systems"]["base"]["map"]["mean"] == pytest.approx(base["map"].mean())


def read_as(workspace: Workspace, passages: pd.DataFrame) -> pd.DataFrame:
    from uae.release.manifest import read_manifest
    from uae.text.passage_template import PassageTemplate

    return PassageTemplate(read_manifest(workspace.path("release")).dense().passage_template).applied(passages)


def test_what_it_was_trained_on_is_refused_by_name(chain, tiny_encoder):
    workspace, _ = chain
    with pytest.raises(ArtefactError, match=r"asked of ours \(evaluate.also\)"):
        measure_elsewhere([other(workspace, "ours", "train")], workspace.path("release"), tiny_encoder, "cpu", RESAMPLING)


def test_a_folder_without_tables_or_evidence_is_refused_by_name(chain, tiny_encoder):
    workspace, _ = chain
    empty = Collection("papers", workspace.root / "nowhere", "document")
    with pytest.raises(ArtefactError, match=r"nowhere.passages.parquet does not exist.*of papers"):
        measure_elsewhere([empty], workspace.path("release"), tiny_encoder, "cpu", RESAMPLING)
    bare = other(workspace, "bare", "test")
    table = read_table(bare.folder / "questions.parquet", QUESTIONS)
    write_table(bare.folder / "questions.parquet", QUESTIONS, table.assign(evidence=[[] for _ in range(len(table))]))
    with pytest.raises(ArtefactError, match="bare measures nothing"):
        measure_elsewhere([bare], workspace.path("release"), tiny_encoder, "cpu", RESAMPLING)


def test_the_evaluation_its_page_and_the_gate_tell_of_it(chain):
    workspace, overrides = chain
    collection = other(workspace, "held-out", "test")
    also = f"evaluate.also=[{{name: held-out, data: {collection.folder}, scope: document}}]"
    settings = load_settings("params.yaml", [*overrides, also, "promote.max_loss_elsewhere=1"])
    run_chain(settings, workspace.root, workspace.root / "models", lambda text: None, until="promote")
    assert read_json(workspace.path("evaluation"))["also"]["held-out"]["kinds"]["all"]["questions"] > 0
    page = workspace.path("evaluation_page").read_text()
    assert "Has it unlearnt other collections?" in page
    assert "held-out" in page
    told = [reason for reason in read_json(workspace.path("promotion"))["reasons"] if "in held-out against" in reason]
    questions = read_json(workspace.path("evaluation"))["also"]["held-out"]["kinds"]["all"]["questions"]
    assert bool(told) == (questions >= 30)
