"""The second stage of a release: it re-ranks as evaluated, under a name of its own, and is refused where it does not belong."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from uae.evaluation.second_stage import with_second_stage
from uae.io.errors import ArtefactError, ConfigError
from uae.io.files import sha256_file, write_json
from uae.io.models import fingerprint
from uae.io.tables import DOCUMENTS, PASSAGES, QUESTIONS, read_table, write_table
from uae.measures.first_weight import FirstWeight, best_first_weight
from uae.release import build_second_stage
from uae.release.build import BuiltRelease, IndexRecipe, SecondStageRecipe, build_release
from uae.release.manifest import read_manifest, seal, system_names
from uae.release.open import Release
from uae.release.pair_parity import measure_pairs
from uae.release.rebuild import Corpus, HowBuilt, rebuild_release
from uae.retrievers.cross_encoder import load_cross_encoder
from uae.vectors.store import VectorStore

RECIPE = IndexRecipe(factory="Flat", recall_target=0.95, serving="torch", max_recall_loss=0.5, min_cosine=0.5)
NAMES = ["seal", "fan", "key", "lamp", "door", "coil", "pump", "hose", "rack", "tray", "lock", "vent"]
TEXTS = [f"The {name} stands on shelf {number}, beside the {NAMES[number - 5]}." for number, name in enumerate(NAMES)]
GRAPH = "second_stage/serving/scorer.onnx"


@pytest.fixture(scope="module")
def trained(tiny_cross_encoder) -> Path:
    return tiny_cross_encoder


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Tables: two documents of six passages, and validation, train and test questions."""
    root = tmp_path_factory.mktemp("tables")
    blank = {"version": "", "text": "", "sections": [], "metadata": "{}"}
    write_table(root / "documents.parquet", DOCUMENTS, [{"doc_id": d, "source": d, "title": d} | blank for d in ("d0", "d1")])
    passages, questions = [], []
    for number, (name, text) in enumerate(zip(NAMES, TEXTS, strict=True)):
        place = {"doc_id": f"d{number % 2}", "title": "", "source": f"d{number % 2}", "section": f"Shelf {number}"}
        passages.append(place | {"passage_id": f"p{number:02}", "position": number, "start": 0, "end": len(text), "text": text})
        questions.append(
            {"question_id": f"q{number:02}", "text": f"Where is the {name}?", "answers": ["shelf"], "doc_id": f"d{number % 2}"}
            | {"evidence": [f"p{number:02}"], "split": ("validation", "train", "test")[number % 3], "origin": "human"}
            | {"source": "s"}
        )
    write_table(root / "passages.parquet", PASSAGES, passages)
    write_table(root / "questions.parquet", QUESTIONS, questions)
    return root


def build(root: Path, encoder: Path, target: Path, second: SecondStageRecipe | None, scope="corpus", **more) -> BuiltRelease:
    return build_release(
        documents_path=root / "documents.parquet", passages_path=root / "passages.parquet",
        questions_path=root / "questions.parquet", encoder_path=encoder, base_path=None, release_path=target, recipe=RECIPE,
        scope=scope, passage_words=140, device="cpu", second_stage=second, **more,
    )  # fmt: skip


def recipe(trained: Path, **changes) -> SecondStageRecipe:
    plain = SecondStageRecipe(trained, depth=5, weight=3.0, serving="onnx", min_correlation=0.9, max_recall_loss=1.0)
    return plain._replace(**changes)


@pytest.fixture(scope="module")
def release(root, tiny_encoder, trained) -> Path:
    build(root, tiny_encoder, root / "release", recipe(trained))
    return root / "release"


def questions_of(root: Path, split: str):
    table = read_table(root / "questions.parquet", QUESTIONS)
    return table[table["split"] == split].reset_index(drop=True)


@pytest.mark.parametrize("k", [1, 3, 5, 9])
def test_what_is_served_is_what_is_evaluated(release, root, k):
    """The first five by both scores together, the others where they were."""
    opened, manifest = Release(release, "cpu"), read_manifest(release)
    asked, passages = questions_of(root, "test"), read_table(root / "passages.parquet", PASSAGES)
    first = {}
    for question_id, text in zip(asked["question_id"], asked["text"], strict=True):
        hits = opened.search([text], 12)[0]
        first[question_id] = [hit.passage_id for hit in hits], [hit.score for hit in hits]
    ranked, facts = with_second_stage(release, manifest, first, asked, passages, "cpu")
    assert facts["second_stage"]["depth"] == 5
    served = opened.search(asked["text"].tolist(), k, system="uae_reranked")  # several at once
    for question_id, hits in zip(asked["question_id"], served, strict=True):
        ids, scores = ranked["second_stage"][question_id]
        assert [hit.passage_id for hit in hits] == ids[:k]
        np.testing.assert_allclose([hit.score for hit in hits], scores[:k], atol=1e-3)
        assert set(ids[:5]) == set(first[question_id][0][:5])
        assert ids[5:] == first[question_id][0][5:]
    assert any(ranked["second_stage"][q][0] != first[q][0] for q in first)


def test_it_has_a_name_of_its_own_and_uae_stays_as_it_is(release, root, tiny_encoder):
    opened = Release(release, "cpu")
    assert opened.systems == system_names(release) == ("uae", "dense", "bm25", "uae_reranked")
    assert opened.score("uae_reranked") == "second stage + 3 * (cosine)"
    assert (opened.rerank_depth("uae_reranked"), opened.rerank_depth()) == (5, 0)
    assert opened.has_vectors("uae_reranked")
    assert opened.dimension("uae_reranked") == 32
    without = build(root, tiny_encoder, root / "without", None)
    assert without.manifest.second_stage is None
    plain = Release(root / "without", "cpu")
    assert plain.search(["fan"], 5) == opened.search(["fan"], 5)
    assert "uae_reranked" not in plain.systems
    assert plain.fingerprint != opened.fingerprint


def test_no_query_gets_no_answer(release):
    opened = Release(release, "cpu")
    assert [opened.search([], 5, system=name) for name in opened.systems] == [[]] * len(opened.systems)
    opened.close()


def test_filters_and_thresholds_hold(release):
    opened = Release(release, "cpu")
    (hits,) = opened.search(["Where is the fan?"], 12, "d1", "uae_reranked")
    assert {hit.doc_id for hit in hits} == {"d1"}
    assert len(hits) == 6
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_it_joins_a_fused_system(root, tiny_encoder, trained, tmp_path):
    fusion = {"form": "scores", "weight": 0.5, "student": fingerprint(tiny_encoder), "chosen": None}
    write_json(tmp_path / "fusion.json", fusion)
    build(root, tiny_encoder, tmp_path / "release", recipe(trained), fusion_path=tmp_path / "fusion.json")
    opened = Release(tmp_path / "release", "cpu")
    assert opened.score("uae_reranked") == "second stage + 3 * (cosine + 0.5 * bm25 / highest bm25)"
    first, second = (opened.search(["Where is the fan?"], 12, system=name)[0] for name in ("uae", "uae_reranked"))
    assert {hit.passage_id for hit in first[:5]} == {hit.passage_id for hit in second[:5]}


def test_same_inputs_give_the_same_fingerprint_and_another_model_another(release, root, tiny_encoder, trained, tmp_path):
    again = build(root, tiny_encoder, tmp_path / "again", recipe(trained)).manifest.fingerprint
    assert again == read_manifest(release).fingerprint
    model = load_cross_encoder(trained, "cpu", head_may_be_new=False)
    with torch.no_grad():
        next(model.parameters()).add_(0.01)
    model.save(str(tmp_path / "other"), create_model_card=False)
    other = build(root, tiny_encoder, tmp_path / "b", recipe(tmp_path / "other")).manifest
    assert other.fingerprint != again
    assert other.second_stage.model != read_manifest(release).second_stage.model


@pytest.mark.parametrize("scope", ["corpus", "document"])
def test_the_weight_is_chosen_on_validation_questions_alone(root, tiny_encoder, trained, tmp_path, monkeypatch, scope):
    seen = []

    def remember(rankings, scores, depth, evidence):
        seen.append((set(rankings), depth))
        return best_first_weight(rankings, scores, depth, evidence)

    monkeypatch.setattr(build_second_stage, "best_first_weight", remember)
    built = build(root, tiny_encoder, tmp_path / "release", recipe(trained, weight=None), scope).manifest
    assert seen == [({"q00", "q03", "q06", "q09"}, 5)]
    rerank = built.systems["uae_reranked"].rerank
    assert rerank.weight > 0
    # Within a document the first stage is never wrong here, so the second has no say.
    assert set(rerank.chosen) == {"map", "first_map", "questions"} | ({"at_bound"} if scope == "document" else set())


@pytest.mark.parametrize("at_bound", [True, False])
def test_a_second_stage_without_a_say_is_warned_of(root, tiny_encoder, trained, tmp_path, monkeypatch, caplog, at_bound):
    found = FirstWeight(749.07, 0.5, 0.5, 4, at_bound)
    monkeypatch.setattr(build_second_stage, "best_first_weight", lambda *given: found)
    built = build(root, tiny_encoder, tmp_path / "release", recipe(trained, weight=None)).manifest
    chosen = read_manifest(tmp_path / "release").systems["uae_reranked"].rerank.chosen
    assert chosen == {"map": 0.5, "first_map": 0.5, "questions": 4} | ({"at_bound": True} if at_bound else {})
    assert built.systems["uae_reranked"].rerank.weight == 749.07
    assert ("it has no say, and costs its time. On 4 validation questions" in caplog.text) is at_bound


def test_a_refresh_of_an_unchanged_corpus_is_the_same_release(root, tiny_encoder, trained, tmp_path):
    """What chose the weight is told on, too: else the gate would take it for a new release."""
    build(root, tiny_encoder, tmp_path / "release", recipe(trained, weight=None))
    tables = Corpus(*(root / f"{name}.parquet" for name in ("documents", "passages", "questions")))
    how = HowBuilt(RECIPE, "onnx", 0.9, "corpus", "cpu")
    rebuild_release(tmp_path / "release", tables, tmp_path / "again", how, None, VectorStore(tmp_path / "vectors"))
    before, after = read_manifest(tmp_path / "release"), read_manifest(tmp_path / "again")
    assert after.systems == before.systems
    assert after.systems["uae_reranked"].rerank.chosen["questions"] > 0
    assert after.fingerprint == before.fingerprint


def test_without_evidence_both_stages_have_an_equal_say(root, tiny_encoder, trained, tmp_path):
    shutil.copytree(root, tmp_path / "tables", ignore=shutil.ignore_patterns("release", "without"))
    table = read_table(root / "questions.parquet", QUESTIONS)
    table["evidence"] = [[] for _ in range(len(table))]
    write_table(tmp_path / "tables" / "questions.parquet", QUESTIONS, table)
    built = build(tmp_path / "tables", tiny_encoder, tmp_path / "release", recipe(trained, weight=None)).manifest
    rerank, opened = built.systems["uae_reranked"].rerank, Release(tmp_path / "release", "cpu")
    asked = table[table["split"] == "validation"]["text"].tolist() + table[table["split"] == "train"]["text"].tolist()
    first = np.array([[hit.score for hit in hits] for hits in opened.search(asked, 5)])
    assert rerank.weight == pytest.approx(built.second_stage.spread / (first - first.mean(1, keepdims=True)).std(), rel=1e-3)
    assert rerank.chosen is None
    assert built.second_stage.serving.parity.trained_recall is None


def test_the_form_is_the_fastest_that_scores_as_the_trained_model(root, tiny_encoder, trained, tmp_path):
    built = build(root, tiny_encoder, tmp_path / "auto", recipe(trained, serving="auto")).manifest.second_stage
    assert built.serving.backend == "onnx_int8"
    assert 0.9 <= built.serving.parity.correlation <= 1
    assert built.serving.parity.pairs == 8 * 5  # validation and train questions, never test ones
    strict = build(root, tiny_encoder, tmp_path / "strict", recipe(trained, serving="auto", min_correlation=0.99999)).manifest
    assert strict.second_stage.serving.backend == "onnx"
    assert "second_stage.min_correlation is 0.99999" in strict.second_stage.serving.refused["onnx_int8"]
    with pytest.raises(ConfigError, match=r"second_stage\.serving: onnx_int8 is not good enough"):
        build(root, tiny_encoder, tmp_path / "no", recipe(trained, serving="onnx_int8", min_correlation=1.0))
    by_torch = build(root, tiny_encoder, tmp_path / "torch", recipe(trained, serving="torch")).manifest
    assert by_torch.needs_torch()
    assert not (tmp_path / "torch" / "second_stage" / "serving").exists()
    assert Release(tmp_path / "torch", "cpu").search(["fan"], 2, system="uae_reranked")[0]


def damaged(release: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(release, tmp_path / "damaged"))


def resealed(folder: Path, change: Callable[[dict], object] = lambda manifest: None) -> Path:
    """The manifest as a well-meaning person would mend it."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = {name: sha256_file(folder / name) for name in manifest["files"] if (folder / name).exists()}
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest | {"fingerprint": seal(manifest)}))
    return folder


def test_a_second_stage_that_is_gone_or_damaged_is_named(release, tmp_path):
    folder = damaged(release, tmp_path)
    ours = read_manifest(release)
    with open(folder / GRAPH, "ab") as graph:
        graph.write(b"x")
    said = f"the second stage of release {ours.fingerprint[:12]} was built with {ours.files[GRAPH][:12]}"
    with pytest.raises(ArtefactError, match=rf"scorer\.onnx is [0-9a-f]{{12}}, but {said}"):
        Release(folder, "cpu")
    shutil.rmtree(folder / "second_stage")
    with pytest.raises(ArtefactError, match="second_stage is missing: the release has no second stage without it"):
        Release(folder, "cpu")


def test_a_second_stage_of_another_release_is_refused_by_name(release, root, tiny_encoder, trained, tmp_path):
    model = load_cross_encoder(trained, "cpu", head_may_be_new=False)
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(1.5)
    model.save(str(tmp_path / "other"), create_model_card=False)
    build(root, tiny_encoder, tmp_path / "theirs", recipe(tmp_path / "other"))
    theirs, ours = read_manifest(tmp_path / "theirs").second_stage.model, read_manifest(release).second_stage.model
    folder = damaged(release, tmp_path)
    shutil.rmtree(folder / "second_stage")
    shutil.copytree(tmp_path / "theirs" / "second_stage", folder / "second_stage")
    with pytest.raises(ArtefactError, match=f"is second stage {theirs[:12]}, but the release was built with {ours[:12]}"):
        Release(folder, "cpu")
    # though every hash were made right, what serves must give the scores that the trained model's form gave
    mended = resealed(folder, lambda manifest: manifest["second_stage"].update(model=theirs))
    with pytest.raises(ArtefactError, match="does not give the scores of second stage"):
        Release(mended, "cpu")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.update(second_stage=None), "system 'uae_reranked' re-ranks, and there is no second_stage"),
        (lambda m: m["systems"]["uae_reranked"]["rerank"].update(depth=0), "greater than or equal to 1"),
        (lambda m: m["systems"]["uae_reranked"]["rerank"].update(weight=-1.0), "greater than or equal to 0"),
        (lambda m: m["second_stage"].update(folder="../x"), "Input should be 'second_stage'"),
        (lambda m: m["second_stage"]["serving"].update(backend="onnx_int4"), "second_stage.serving.backend"),
    ],
)
def test_a_manifest_that_does_not_hold_together_is_refused(release, tmp_path, change, said):
    with pytest.raises(ArtefactError, match=said):
        Release(resealed(damaged(release, tmp_path), change), "cpu")


def test_opening_and_asking_needs_no_torch_where_onnx_serves(root, tiny_encoder, trained, tmp_path):
    build_release(
        documents_path=root / "documents.parquet", passages_path=root / "passages.parquet", questions_path=None,
        encoder_path=tiny_encoder, base_path=None, release_path=tmp_path / "release", recipe=RECIPE._replace(serving="onnx"),
        scope="corpus", passage_words=140, device="cpu", second_stage=recipe(trained),
    )  # fmt: skip
    code = (
        "import sys; from pathlib import Path; from uae.release.open import Release; "
        "print(len(Release(Path(sys.argv[1])).search(['fan'], 3, system='uae_reranked')[0])); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "release")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "3"


def test_parity_worked_out_by_hand():
    trained = {("q", "a"): 2.0, ("q", "b"): 0.0, ("r", "a"): 5.0, ("r", "c"): 4.0}
    served = {("q", "a"): 0.0, ("q", "b"): 2.0, ("r", "a"): 3.0, ("r", "c"): 1.0}
    found = measure_pairs(trained, served, {"q": ["a"], "r": ["c", "z"]})
    # centred: 1, -1, 0.5, -0.5 against -1, 1, 1, -1
    assert found.correlation == pytest.approx(-1 / (2.5 * 4) ** 0.5, abs=1e-4)
    assert (found.same_first, found.trained_recall, found.served_recall) == (0.5, 0.5, 0.0)
    assert found.recall_loss == 1.0
    assert measure_pairs(trained, trained, {}).correlation == 1.0
    level = dict.fromkeys(trained, 1.0)
    assert measure_pairs(level, level, {}).correlation == 1.0
    assert measure_pairs(trained, level, {}).correlation == 0.0
