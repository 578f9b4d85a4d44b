import importlib
import json
import shutil
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import ClassVar

import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

import uae.registry.promote
from uae.evaluation.answers import Context
from uae.evaluation.testset import choose_questions, rank_with
from uae.evaluation.testset import test_set_hash as set_hash
from uae.io.errors import ArtefactError, ConfigError
from uae.io.files import sha256_file, write_json
from uae.io.tables import DOCUMENTS, PASSAGES, QUESTIONS, RUNS, read_table, write_table
from uae.measures.metrics import retrieval_metrics
from uae.registry.decided import Place
from uae.registry.gate import Bounds, Decision, decide_better, decide_second_stage, decide_serving
from uae.registry.history import Event, History
from uae.registry.promote import Asked, Judged, promote
from uae.registry.register import register
from uae.registry.tracking import connect
from uae.release.build import IndexRecipe, build_release
from uae.release.manifest import read_manifest, seal
from uae.release.parity import Parity
from uae.retrievers.dense import load_encoder
from uae.retrievers.onnx_export import export_encoder
from uae.validation.trained_on import write_trained_on

sys.path.append(str(Path(__file__).resolve().parents[1] / "release"))

from old_formats import write_format_2

BOUNDS = Bounds(
    metric="map", min_gain=0.125, guarded=("recall@1",), max_loss=0.02, great_loss=1, max_answer_loss=0.1, max_slowdown=None,
    confidence=0.95, error_budget=0.05, recent_documents=2, min_cosine=0.95, max_serving_loss=0.02, max_index_loss=0.05,
)  # fmt: skip


@pytest.mark.parametrize(
    ("candidate", "passed", "failed_rule"),
    [
        ({"map": 0.63, "recall@1": 0.40}, True, None),
        ({"map": 0.625, "recall@1": 0.50}, False, "map"),  # exactly min_gain is not more than it
        ({"map": 0.55, "recall@1": 0.50}, False, "map"),
        ({"map": 0.70, "recall@1": 0.375}, False, "recall@1"),
        ({"map": 0.70, "recall@1": 0.385}, True, None),
    ],
)
def test_decide_better(candidate, passed, failed_rule):
    decision = decide_better(candidate, {"map": 0.5, "recall@1": 0.40}, "version 3", BOUNDS)
    assert decision.passed is passed
    failing = [reason.split()[0] for reason in decision.reasons if reason.endswith("FAILED")]
    assert failing == ([failed_rule] if failed_rule else [])
    assert all("version 3" in reason for reason in decision.reasons)


@pytest.mark.parametrize(("recall", "passed"), [(0.38, True), (0.375, False), (0.6, True)])
def test_a_second_stage_may_take_away_no_more_than_a_guarded_metric_may_lose(recall, passed):
    decision = decide_second_stage({"map": 0.6, "recall@1": recall}, {"map": 0.5, "recall@1": 0.40}, BOUNDS)
    assert decision.passed is passed
    assert [reason.split()[0] for reason in decision.reasons] == ["map", "recall@1"]
    assert decision.reasons[1].endswith("passed" if passed else "FAILED")


def test_exactly_what_may_be_lost_may_be_lost_in_binary_fractions_too():
    for before, after, limit in ((0.40, 0.38, 0.02), (0.95, 0.90, 0.05), (0.3, 0.2, 0.1), (0.57, 0.55, 0.02)):
        for most, passed in ((limit, True), (limit - 1e-6, False)):
            bounds = replace(BOUNDS, max_loss=most)
            decision = decide_better({"map": 0.9, "recall@1": after}, {"map": 0.1, "recall@1": before}, "base", bounds)
            assert decision.passed is passed, (before, after, most)
    for before, after in ((0.7, 0.8), (0.2, 0.3)):  # exactly min_gain, or a hair more or less
        for least, passed in ((0.1, False), (0.0999, True)):
            bounds = replace(BOUNDS, min_gain=least, guarded=())
            assert decide_better({"map": after}, {"map": before}, "base", bounds).passed is passed


@pytest.mark.parametrize(
    ("served", "recall", "failed"),
    [
        (0.38, 0.95, None),  # 0.40 - 0.38 and 1 - 0.95 are a hair more than 0.02 and 0.05
        (0.3799, 0.95, "recall@1"),
        (0.38, 0.9499, "recall@10"),
        (float("nan"), 0.95, "recall@1"),
    ],
)
def test_a_release_may_lose_exactly_what_is_allowed(served, recall, failed):
    decision = decide_serving(Parity(0.95, 0.99, 0.40, served, 200), recall, BOUNDS)
    assert [reason.split()[0] for reason in decision.reasons if reason.endswith("FAILED")] == ([failed] if failed else [])


def test_unknown_metric_is_an_error_that_lists_the_known():
    with pytest.raises(ConfigError, match=r"no metric 'mapp'.*map, recall@1"):
        decide_better({"map": 1, "recall@1": 1}, {"map": 0, "recall@1": 0}, "base", replace(BOUNDS, metric="mapp"))


PARTS = ("seal", "fan", "rotor")
TEXTS = [f"Pump {n} has {n % 7} valves, and its {part} is checked on day {n}." for n in range(100) for part in PARTS]


@pytest.fixture(scope="module")
def project(tmp_path_factory, tiny_encoder) -> Path:
    """A good release with inverted lists, over passages whose questions are their beginnings."""
    root = tmp_path_factory.mktemp("gate")
    document = {"doc_id": "d", "source": "d", "title": "T", "version": "", "text": "", "sections": [], "metadata": "{}"}
    passages = [
        {"passage_id": f"p{n:03}", "doc_id": "d", "title": "T", "source": "d", "position": n, "section": ""}
        | {"start": 0, "end": len(text), "text": text}
        for n, text in enumerate(TEXTS)
    ]
    questions = [
        {"question_id": f"q{n:03}", "text": TEXTS[n][:30], "answers": [], "doc_id": "d", "evidence": [f"p{n:03}"]}
        | {"split": "test" if n % 2 else "train", "origin": "human", "source": f"q{n}"}
        for n in range(0, 60, 3)
    ]
    write_table(root / "documents.parquet", DOCUMENTS, [document])
    write_table(root / "passages.parquet", PASSAGES, passages)
    write_table(root / "questions.parquet", QUESTIONS, questions)
    names = {f"{name}_path": root / f"{name}.parquet" for name in ("documents", "passages", "questions")}
    recipe = IndexRecipe(factory="IVF7,Flat", recall_target=1.0, serving="onnx", max_recall_loss=0.0, min_cosine=0.999)
    build_release(
        **names, encoder_path=tiny_encoder, base_path=None, release_path=root / "release", recipe=recipe, scope="corpus",
        passage_words=140, device="cpu",
    )  # fmt: skip
    return root


def changed(project: Path, target: Path, change) -> Path:
    """The release with something else in it, and every hash made anew."""
    shutil.copytree(project / "release", target)
    manifest = json.loads((target / "manifest.json").read_text())
    change(target, manifest)
    manifest["files"] = {name: sha256_file(target / name) for name in manifest["files"]}
    (target / "manifest.json").write_text(json.dumps(manifest | {"fingerprint": seal(manifest)}))
    return target


def another_models_graph(folder: Path, manifest: dict) -> None:
    model = load_encoder(folder / "legs" / "dense" / "encoder", "cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    shutil.rmtree(folder / "legs" / "dense" / "serving")
    export_encoder(model, folder / "legs" / "dense" / "serving")


def one_list(folder: Path, manifest: dict) -> None:
    index = manifest["legs"]["dense"]["index"]
    assert index["parameters"] != "nprobe=1"
    index["parameters"] = "nprobe=1"


class Registry:
    """MLflow's client, of which only the alias is looked at."""

    def __init__(self):
        self.moved = []

    def get_model_version_by_alias(self, model, alias):
        raise MlflowException("there is none", RESOURCE_DOES_NOT_EXIST)

    def search_model_versions(self, wanted):
        return []

    def set_registered_model_alias(self, model, alias, version):
        self.moved.append((model, alias, version))


class Remembered(History):
    """A history that is kept in a list."""

    kept: ClassVar[list[Event]] = []

    def events(self):
        return list(self.kept)

    def record(self, kind, version, before, release, why, who=None, passed=None, units=None, numbers=None, files=None):
        self.kept.append(Event(datetime.now(UTC), kind, version, before, release, who or "me", why, passed, units, "run"))
        return "run"


@pytest.fixture(autouse=True)
def history(monkeypatch):
    monkeypatch.setattr(Remembered, "kept", [])
    monkeypatch.setattr(uae.registry.promote, "History", Remembered)
    return Remembered


def gate(
    project: Path, release: Path, monkeypatch, change=None, written=MappingProxyType({}), test=None, curve: float = 0.0, **bounds
) -> tuple[dict, list]:
    """Promote after an evaluation on the project's tables, which ``change`` then changes.

    ``written``: other values in the evaluation; ``test``: so many test questions instead of all; ``curve``: its recall@1.
    """
    registry, root = Registry(), release.parent
    monkeypatch.setattr(uae.registry.promote, "connect", lambda *arguments: registry)
    monkeypatch.setattr(uae.registry.promote, "run_of", lambda *arguments: "run")
    registered = SimpleNamespace(version="8", run_id="run", tags={})
    monkeypatch.setattr(uae.registry.promote, "register", lambda *arguments: registered)
    passages, questions = read_table(project / "passages.parquet", PASSAGES), read_table(project / "questions.parquet", QUESTIONS)
    if test is not None:
        questions.loc[questions.index[questions["split"] == "test"][test:], "split"] = "validation"
    asked = choose_questions(questions)
    rows = [
        {"system": system, "question_id": question, "passage_ids": evidence, "scores": [1.0], "answer": ""}
        | {"metrics": [("map", value), ("token_f1", value)]}
        for system, value in (("base", 0.1), ("uae", 0.9))
        for question, evidence in zip(asked["question_id"], asked["evidence"], strict=True)
    ]
    write_table(root / "runs.parquet", RUNS, rows)
    dataset = set_hash(asked, passages, "corpus")
    systems = {"base": {"map": {"mean": 0.1}}, "uae": {"map": {"mean": 0.9}}}
    evaluation = {"release": read_manifest(release).fingerprint, "dataset": dataset, "scope": "corpus", "systems": systems}
    evaluation |= {"recall_curve": {"uae": [curve]}, "runs": sha256_file(root / "runs.parquet")}
    write_json(root / "evaluation.json", evaluation | written)
    if change:
        change(questions, passages)
    write_table(root / "passages.parquet", PASSAGES, passages)
    write_table(root / "questions.parquet", QUESTIONS, questions)
    paths = [root / name for name in ("evaluation.json", "runs.parquet", "passages.parquet", "questions.parquet")]
    result = promote(
        Judged(*paths, release, {}),
        Place(root, "", "", "m", "champion"),
        promotion_path=root / "promotion.json", page_path=root / "promotion.html",
        bounds=replace(BOUNDS, **{"min_gain": 0.0, "guarded": ()} | bounds),
        asked=Asked("corpus", "cpu", lambda: pytest.fail("no answer had to be read"), Context(1, "best_first")),
    )  # fmt: skip
    return result, registry.moved


def crown(monkeypatch, folder: Path, fingerprint: str = "") -> None:
    """Version 7 is the champion, and its release lies in ``folder``."""
    champion = SimpleNamespace(name="m", version="7", run_id="run", tags={"uae.release": fingerprint})
    monkeypatch.setattr(uae.registry.promote, "version_of", lambda *arguments: champion)
    monkeypatch.setattr(uae.registry.promote, "release_of", lambda version: folder)


def other_evidence(questions, passages):
    questions.at[questions.index[questions["split"] == "test"][0], "evidence"] = ["p099"]


def other_answers(questions, passages):
    questions.at[questions.index[questions["split"] == "test"][0], "answers"] = ["another"]


def other_text(questions, passages):
    passages.at[7, "text"] = "This passage says something else now."


@pytest.mark.parametrize(
    ("change", "written", "said"),
    [
        (other_evidence, {}, "was measured on another test set"),
        (other_answers, {}, "was measured on another test set"),
        (other_text, {}, "was measured on another test set"),
        (None, {"scope": "document"}, "was measured with scope document, but scope is corpus now"),
        (None, {"release": "0123456789abcdef"}, "is of release 0123456789ab, but the release at hand is"),
        (None, {"runs": "0" * 64}, None),
    ],
)
def test_figures_of_another_test_set_are_not_compared(project, tmp_path, monkeypatch, change, written, said):
    release = changed(project, tmp_path / "release", lambda folder, manifest: None)
    what = rf"evaluation\.json {said}" if said else r"runs\.parquet is not of the evaluation at hand"
    with pytest.raises(ArtefactError, match=rf"{what}.*Run the evaluate stage again") as caught:
        gate(project, release, monkeypatch, change, written)
    assert not caught.value.transient
    assert not (tmp_path / "promotion.json").exists()


def test_one_test_question_is_enough_to_decide(project, tmp_path, monkeypatch):
    result, _ = gate(project, changed(project, tmp_path / "release", lambda folder, manifest: None), monkeypatch, test=1)
    assert result["promoted"]
    assert "1 questions' served vectors" in result["reasons"][1]
    json.loads((tmp_path / "promotion.json").read_text(), parse_constant=pytest.fail)


def test_training_questions_may_change_after_an_evaluation(project, tmp_path, monkeypatch):
    def change(questions, passages):
        questions.loc[questions["split"] == "train", "text"] = "Another question?"

    release = changed(project, tmp_path / "release", lambda folder, manifest: None)
    result, _ = gate(project, release, monkeypatch, change)
    assert result["promoted"]


def test_a_release_that_serves_what_was_trained_is_promoted(project, tmp_path, monkeypatch):
    result, moved = gate(project, changed(project, tmp_path / "release", lambda folder, manifest: None), monkeypatch)
    assert result["promoted"]
    assert len(result["reasons"]) == 5
    assert moved == [("m", "champion", "8")]
    assert [(event.kind, event.version, event.before) for event in Remembered.kept] == [
        ("decided", 8, None),
        ("promoted", 8, None),
    ]
    assert "Promoted: version 8 is the champion" in (tmp_path / "promotion.html").read_text()


def test_a_whole_that_serves_less_than_was_evaluated_is_refused(project, tmp_path, monkeypatch):
    """Each leg may be in order, and what they make together not."""
    release = changed(project, tmp_path / "release", lambda folder, manifest: None)
    result, moved = gate(project, release, monkeypatch, curve=1.5)
    assert (result["promoted"], moved) == (False, [])
    assert [reason.startswith("recall@1 ") and "as it was evaluated" in reason for reason in result["reasons"]][-1]
    assert [reason.endswith("FAILED") for reason in result["reasons"]] == [False] * 4 + [True]


@pytest.mark.parametrize(
    ("change", "failing"), [(another_models_graph, "cosine "), (one_list, "recall@10 ")], ids=["serving", "index"]
)
def test_a_release_that_does_not_is_refused_however_good_its_evaluation(project, tmp_path, monkeypatch, change, failing):
    result, moved = gate(project, changed(project, tmp_path / "release", change), monkeypatch)
    assert (result["promoted"], moved) == (False, [])
    failed = [reason for reason in result["reasons"] if reason.endswith("FAILED")]
    assert failed[0].startswith(failing)
    assert result["reasons"][0].endswith("passed")  # the gain itself


def test_a_champion_of_an_older_format_is_measured_and_replaced(project, tmp_path, monkeypatch):
    """The alias is not moved by hand when the format of releases changes. The encoder is the same: nothing has to be gained."""
    crown(monkeypatch, write_format_2(project / "release", tmp_path / "old"))
    release = changed(project, tmp_path / "release", lambda folder, manifest: None)
    result, moved = gate(project, release, monkeypatch)
    assert result["lane"] == "refresh"
    assert result["reasons"][0].endswith("may fall by at most 0.02): passed")
    assert "of version 7 (champion) on the questions that both can answer (all 10 differences are 0; " in result["reasons"][0]
    assert (result["replaced"], moved) == (7, [("m", "champion", "8")])


@pytest.fixture(scope="module")
def retrained(project, tmp_path_factory, tiny_encoder) -> Path:
    """A release of another encoder over the same passages; it says which documents it knew."""
    root = tmp_path_factory.mktemp("retrained")
    model = load_encoder(tiny_encoder, "cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(6)))
    model.save(str(root / "encoder"), create_model_card=False)
    tables = {f"{name}_path": project / f"{name}.parquet" for name in ("documents", "passages", "questions")}
    questions, passages = read_table(tables["questions_path"], QUESTIONS), read_table(tables["passages_path"], PASSAGES)
    write_trained_on(root / "trained_on.parquet", questions.assign(split="test"), passages)
    build_release(
        **tables, encoder_path=root / "encoder", base_path=None, release_path=root / "release",
        trained_on_path=root / "trained_on.parquet",
        recipe=IndexRecipe(factory="Flat", recall_target=1.0, serving="onnx", max_recall_loss=0.0, min_cosine=0.999),
        scope="corpus", passage_words=140, device="cpu",
    )  # fmt: skip
    return root / "release"


def test_a_champion_is_measured_question_by_question_on_the_present_test_set(project, retrained, tmp_path, monkeypatch):
    crown(monkeypatch, retrained)
    release = changed(project, tmp_path / "release", lambda folder, manifest: None)
    result, moved = gate(project, release, monkeypatch, max_slowdown=1e9)
    questions = choose_questions(read_table(project / "questions.parquet", QUESTIONS))
    passages = read_table(project / "passages.parquet", PASSAGES)
    encoder = read_manifest(retrained).dense().encoder_folder(retrained)
    ranked = {q: ids for q, (ids, _) in rank_with(encoder, questions, passages, "corpus", "cpu", "").items()}
    evidence = dict(zip(questions["question_id"], questions["evidence"], strict=True))
    measured = retrieval_metrics(ranked, evidence, [1])["map"].mean()
    assert result["reasons"][0].startswith(f"map 0.9000 against {measured:.4f} of version 7 (champion) on the frozen test set")
    assert (result["lane"], result["look"]["number"], result["look"]["units"]) == ("retrain", 1, 10)
    assert any(reason.startswith("a query takes ") for reason in result["reasons"])
    assert result["promoted"] == bool(moved)
    json.loads((tmp_path / "promotion.json").read_text(), parse_constant=pytest.fail)


def test_documents_that_came_since_are_a_set_of_their_own(project, retrained, tmp_path, monkeypatch):
    """The champion knew document d alone; half of the test questions are asked about one that came since."""
    crown(monkeypatch, retrained)
    monkeypatch.setattr(
        uae.registry.promote, "came_since", lambda folder, questions, passages: set(questions["question_id"][1::2])
    )
    release = changed(project, tmp_path / "release", lambda folder, manifest: None)
    result, _ = gate(project, release, monkeypatch)
    assert [(finding["on"], finding["questions"]) for finding in result["findings"]] == [
        ("frozen test set", 5),
        ("recent test set", 5),
    ]
    few, _ = gate(project, release, monkeypatch, recent_documents=6)
    assert [finding["on"] for finding in few["findings"]] == ["frozen test set"]
    assert "5 test documents came since version 7 (champion): a recent test set counts from 6 on" in few["reasons"]


def test_a_first_release_without_answers_is_judged_by_retrieval(project, tmp_path, monkeypatch):
    """Questions need no gold answers. A guarded metric that nobody measured is told, and refuses nothing."""
    release = changed(project, tmp_path / "release", lambda folder, manifest: None)
    result, _ = gate(project, release, monkeypatch, guarded=("token_f1",))
    assert result["promoted"]
    assert "token_f1 was measured on no question: it is not guarded" in result["reasons"]
    with pytest.raises(ConfigError, match="no metric 'recall@7'"):
        gate(project, release, monkeypatch, guarded=("recall@7",))


@pytest.mark.parametrize("passed", [True, False])
def test_second_stages_are_compared_in_both_lanes(project, retrained, tmp_path, monkeypatch, passed):
    """A retrained encoder may be better, and what its second stage makes of it worse than what is served."""
    asked = []

    def decide(candidate, champion, name, held_out, bounds):
        asked.append((candidate, champion, name, len(held_out.questions)))
        return [Decision(passed, [f"the second stage of {name}"])]

    monkeypatch.setattr(uae.registry.promote, "decide_second_stages", decide)
    crown(monkeypatch, project / "release")
    result, moved = gate(project, retrained, monkeypatch, min_gain=-1.0, max_loss=1.0, great_loss=1.0)
    assert (result["lane"], asked[0][:3]) == ("retrain", (retrained, project / "release", "version 7 (champion)"))
    assert result["promoted"] is passed, result["reasons"]
    assert "the second stage of version 7 (champion)" in result["reasons"]
    assert bool(moved) is passed


def test_answers_are_guarded_against_the_untrained_sum_too(project, tmp_path, monkeypatch):
    """The first release may not answer worse than the base encoder with BM25."""
    release = changed(project, tmp_path / "release", lambda folder, manifest: None)
    systems = {name: {"map": {"mean": value}} for name, value in (("base", 0.1), ("convex_base", 0.2), ("uae", 0.9))}
    for name, value in (("base", 0.1), ("convex_base", 0.5), ("uae", 0.3)):
        systems[name]["token_f1"] = {"mean": value}
    result, _ = gate(project, release, monkeypatch, written={"systems": systems}, guarded=("token_f1",), max_answer_loss=0.1)
    assert not result["promoted"]
    assert [reason for reason in result["reasons"] if reason.endswith("FAILED")] == [
        "token_f1 0.3000 against 0.5000 of the base encoder with BM25 (there is no champion yet) (-0.2000; may fall by at most "
        "0.1): FAILED"
    ]


def test_each_release_is_one_look_at_the_test_set(project, retrained, tmp_path, monkeypatch, history):
    crown(monkeypatch, retrained)
    for name, kind, units in (("a", "decided", 10), ("b", "decided", 4), ("c", "promoted", None), ("a", "decided", 10)):
        history.kept.append(Event(datetime.now(UTC), kind, 7, None, name, "me", "", None, units, ""))
    release = changed(project, tmp_path / "release", lambda folder, manifest: None)
    assert gate(project, release, monkeypatch)[0]["look"]["number"] == 2  # b's set was less than half of today's
    assert gate(project, release, monkeypatch)[0]["look"]["number"] == 2  # the same release once more


def test_what_a_person_rolled_back_is_not_promoted_again(project, tmp_path, monkeypatch, history):
    release = changed(project, tmp_path / "release", lambda folder, manifest: None)
    fingerprint = read_manifest(release).fingerprint
    crown(monkeypatch, project / "release")
    history.kept.append(Event(datetime.now(UTC), "promoted", 8, 7, fingerprint, "me", "", None, None, ""))
    history.kept.append(Event(datetime.now(UTC), "rolled back", 7, 8, "", "Ann", "answers in French", None, None, ""))
    result, moved = gate(project, release, monkeypatch)
    assert (result["promoted"], result["lane"], moved) == (False, "withdrawn", [])
    assert result["reasons"][0].startswith("version 8 has this release: Ann rolled it back on ")
    assert "answers in French" in result["reasons"][0]


def test_a_champion_that_was_crowned_by_other_means_is_noted(project, retrained, tmp_path, monkeypatch, history):
    crown(monkeypatch, retrained, "abc")
    gate(project, changed(project, tmp_path / "release", lambda folder, manifest: None), monkeypatch)
    assert (history.kept[0].kind, history.kept[0].version, history.kept[0].who) == ("moved by other means", 7, "unknown")


def test_an_interrupted_promotion_is_noted_as_what_it_was(project, tmp_path, monkeypatch, history):
    """Killed between the alias and its event: the decision is there."""
    release = changed(project, tmp_path / "release", lambda folder, manifest: None)
    fingerprint = read_manifest(release).fingerprint
    history.kept.append(Event(datetime.now(UTC), "decided", 7, None, fingerprint, "Ann", "", True, None, ""))
    crown(monkeypatch, release, fingerprint)
    monkeypatch.setattr(uae.registry.promote, "has_artefacts", lambda version: True)
    result, moved = gate(project, release, monkeypatch)
    assert (result["lane"], result["promoted"], moved) == ("same", True, [])
    assert [(event.kind, event.version, event.who) for event in history.kept[1:]] == [("promoted", 7, "Ann")]


def test_a_champion_is_not_measured_on_what_it_was_trained_on(project, tmp_path, monkeypatch):
    """Here its splits were others: what are test questions today were training questions then."""
    passages, questions = (read_table(project / f"{n}.parquet", s) for n, s in (("passages", PASSAGES), ("questions", QUESTIONS)))
    questions["split"] = questions["split"].map({"train": "test", "test": "train"})

    def trained_on(folder, manifest):
        write_trained_on(folder / "trained_on.parquet", questions, passages)
        manifest["files"]["trained_on.parquet"] = ""

    changed(project, tmp_path / "champion", trained_on)
    crown(monkeypatch, tmp_path / "champion")
    release = changed(project, tmp_path / "release", lambda folder, manifest: None)
    with pytest.raises(ArtefactError, match=r"version 7 of m was trained on .*1 documents: d; 10 questions: 'Pump 1 has"):
        gate(project, release, monkeypatch)
    with pytest.raises(ArtefactError, match=r"release [0-9a-f]{12} was trained on"):
        gate(project, tmp_path / "champion", monkeypatch)
    assert not (tmp_path / "promotion.json").exists()


def test_a_champion_of_an_unknown_format_says_what_to_do(project, tmp_path, monkeypatch):
    crown(monkeypatch, changed(project, tmp_path / "newer", lambda folder, manifest: manifest.update(format=99)))
    release = changed(project, tmp_path / "release", lambda folder, manifest: None)
    with pytest.raises(ArtefactError, match=r"release format 99 is newer than this version of uae.*Update uae here"):
        gate(project, release, monkeypatch)


def test_a_version_registered_in_between_is_not_taken_for_ours(project, tmp_path, monkeypatch):
    client = connect("sqlite:///mlflow.db", "e", tmp_path)
    client.create_registered_model("m")
    run = client.create_run(client.get_experiment_by_name("e").experiment_id).info.run_id

    def log_model(**arguments):
        ours, _ = (client.create_model_version("m", tmp_path.as_uri(), run) for _ in range(2))
        return SimpleNamespace(registered_model_version=int(ours.version))

    monkeypatch.setattr(importlib.import_module("mlflow.pyfunc"), "log_model", log_model)  # mlflow loads it lazily
    manifest = read_manifest(project / "release")
    version = register(client, "m", run, tmp_path, manifest, {}, {}, {}, True)
    assert (int(version.version), version.tags["uae.release"]) == (1, manifest.fingerprint)
    assert "uae.release" not in client.get_model_version("m", "2").tags


def test_a_release_of_other_passages_is_not_promoted_for_figures_on_todays(project, tmp_path, monkeypatch):
    """Ingest ran again and evaluate did; index did not: what is served would not be what was measured."""
    passages = read_table(project / "passages.parquet", PASSAGES)
    passages.at[7, "text"] = "This passage says something else now."
    dataset = set_hash(choose_questions(read_table(project / "questions.parquet", QUESTIONS)), passages, "corpus")
    release = changed(project, tmp_path / "release", lambda folder, manifest: None)
    with pytest.raises(ArtefactError, match=r"holds other passages \(300\) than the corpus has now \(300\): run the stage index"):
        gate(project, release, monkeypatch, other_text, {"dataset": dataset})
    assert not (tmp_path / "promotion.json").exists()


def test_two_releases_in_a_real_registry(project, retrained, tmp_path, monkeypatch):
    """Nothing is stood in for: the first is promoted by its means, the second is judged, recorded and refused."""
    monkeypatch.setattr(uae.registry.promote, "History", History)

    def judge(release):
        asked = choose_questions(read_table(project / "questions.parquet", QUESTIONS))
        passages = read_table(project / "passages.parquet", PASSAGES)
        encoder = read_manifest(release).dense().encoder_folder(release)
        ranked = {q: ids for q, (ids, _) in rank_with(encoder, asked, passages, "corpus", "cpu", "").items()}
        found = retrieval_metrics(ranked, dict(zip(asked["question_id"], asked["evidence"], strict=True)), [1])
        rows = [
            {"system": "uae", "question_id": question, "passage_ids": ranked[question][:5], "scores": [0.0] * 5, "answer": ""}
            | {"metrics": list(found.loc[question].items())}
            for question in asked["question_id"]
        ]
        write_table(tmp_path / "runs.parquet", RUNS, rows)
        evaluation = {
            "release": read_manifest(release).fingerprint,
            "dataset": set_hash(asked, passages, "corpus"),
            "scope": "corpus",
            "systems": {
                "base": {name: {"mean": 0.0} for name in found},
                "uae": {name: {"mean": float(v)} for name, v in found.mean().items()},
            },
            "recall_curve": {"uae": [float(found["recall@1"].mean())]},
            "runs": sha256_file(tmp_path / "runs.parquet"),
        }
        write_json(tmp_path / "evaluation.json", evaluation)
        paths = [
            tmp_path / "evaluation.json",
            tmp_path / "runs.parquet",
            project / "passages.parquet",
            project / "questions.parquet",
        ]
        return promote(
            Judged(*paths, release, {}),
            Place(tmp_path, "sqlite:///mlflow.db", "e", "m", "champion"),
            promotion_path=tmp_path / "promotion.json",
            page_path=tmp_path / "promotion.html",
            bounds=replace(BOUNDS, min_gain=0.0, max_slowdown=1e9, max_serving_loss=1.0, max_index_loss=1.0),
            asked=Asked("corpus", "cpu", lambda: pytest.fail("no metric of answers is guarded"), Context(1, "best_first")),
        )

    first = judge(changed(project, tmp_path / "first" / "release", lambda folder, manifest: None))
    assert (first["promoted"], first["version"], first["lane"]) == (True, 1, "first")
    second = judge(retrained)
    assert (second["version"], second["lane"], second["look"]["number"]) == (2, "retrain", 1)
    again = judge(tmp_path / "first" / "release")
    assert (again["lane"], again["version"]) == ("same", 1), second["reasons"]
    client = connect("sqlite:///mlflow.db", "e", tmp_path)
    events = History(client, "e", "m", "champion").events()
    assert [(event.kind, event.version) for event in events][:3] == [("decided", 1), ("promoted", 1), ("decided", 2)]
    run = client.get_run(events[2].run_id)
    assert events[2].units == 10
    assert {"gate/frozen_test_set/map/low", "gate/frozen_test_set/recall_at_1/difference"} <= set(run.data.metrics)
    assert "gate.html" in {artefact.path for artefact in client.list_artifacts(events[2].run_id)}
