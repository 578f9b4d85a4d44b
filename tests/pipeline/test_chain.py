"""The whole chain through the real command line, with tiny models, in a folder of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from uae.io.tables import CANDIDATES, PASSAGES, read_table
from uae.pipeline.chain import CHAIN
from uae.pipeline.settings import load_settings
from uae.release.store import read_origin
from uae.teacher.keys import text_key
from uae.teacher.store import LabelStore
from uae.text.passage_template import PassageTemplate

RERANKED = ("rerank_query_likelihood", "rerank_list", "uae_llm_rerank", "ceiling")
SYSTEMS = ("bm25", "base", "dense", "hybrid", "uae", "convex_base")
# Where a run is about something else.
QUICKLY = ("fusion.folds=0", "evaluate.reader_questions=2", "evaluate.reader_more_questions=0")
ASKING = "evaluate.llm.questions=3"  # LLMs are asked in two of the runs only: it takes its time
ROOT = Path(__file__).resolve().parents[2]


def uae(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "uae.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, timeout=600)


def run(out: Path, overrides: list[str], *more: str) -> subprocess.CompletedProcess:
    return uae("run", "--out", str(out), *[word for o in (*overrides, *more) for word in ("--set", o)])


@pytest.fixture(scope="module")
def finished(tmp_path_factory, small_chain) -> Path:
    out = tmp_path_factory.mktemp("run")
    done = run(out, small_chain, ASKING)
    assert done.returncode == 0, done.stderr
    return out


def test_evaluation_is_complete(finished):
    evaluation = json.loads((finished / "evaluation.json").read_text())
    metrics = {"recall@1", "recall@5", "map", "mrr", "ndcg@10", "token_f1", "exact_match", "answer_recall", "k_precision"}
    for system in ("base", "uae"):
        assert set(evaluation["systems"][system]) == metrics
        for value in evaluation["systems"][system].values():
            assert 0 <= value["low"] <= value["mean"] <= value["high"] <= 1
    assert set(evaluation["gains"]["uae"]) == metrics
    assert set(evaluation["gains_over"]["convex_base"]["uae"]) == metrics  # of answers, too
    assert list(evaluation["readers"]["reader"]) == ["base", "convex_base", "uae"]
    assert evaluation["seeds"] == [13]
    assert evaluation["counts"]["test_questions"] > 0
    assert evaluation["counts"]["answered_questions"] == 8


def test_readers_get_several_numbers_of_passages_in_two_orders(finished):
    evaluation = json.loads((finished / "evaluation.json").read_text())
    contexts = {(found["passages"], found["order"]): found for found in evaluation["reader_contexts"]}
    assert list(contexts) == [(1, "best_first"), (3, "best_first"), (5, "best_first"), (5, "best_at_both_ends")]
    assert [found["questions"] for found in contexts.values()] == [8, 5, 5, 5]
    assert {found["reader"] for found in contexts.values()} == {"reader"}
    first = contexts[1, "best_first"]
    assert first["systems"] == evaluation["readers"]["reader"]
    assert first["systems"]["uae"]["token_f1"] == evaluation["systems"]["uae"]["token_f1"]
    assert first["gains"] == {name: evaluation["gains"]["uae"][name] for name in first["gains"]}
    for found in contexts.values():
        for gains in (found["gains"], *found["over_first"].values(), *found["over_best_first"].values()):
            assert list(gains) == ["token_f1", "exact_match", "answer_recall", "k_precision"]
            assert {gain["questions"] for gain in gains.values()} == {found["questions"]}
    assert [bool(found["over_first"]) for found in contexts.values()] == [False, True, True, True]
    assert [bool(found["over_best_first"]) for found in contexts.values()] == [False, False, False, True]
    assert "best at both ends" in (finished / "evaluation.html").read_text()


def test_mlflow_has_the_answers_of_every_context(finished):
    client = MlflowClient(f"sqlite:///{finished / 'mlflow.db'}")
    version = client.get_model_version_by_alias("uae-retriever", "champion")
    logged = client.get_run(version.run_id).data.metrics
    evaluation = json.loads((finished / "evaluation.json").read_text())
    assert logged["test/uae/answer_recall"] == evaluation["systems"]["uae"]["answer_recall"]["mean"]
    for found in evaluation["reader_contexts"]:
        name = f"test/base/reader_{found['passages']}_{found['order']}/k_precision"
        assert logged[name] == found["systems"]["base"]["k_precision"]["mean"]


def test_all_systems_stand_in_one_report(finished):
    """Words, both encoders and their fusion on all questions; what asks an LLM on the first few."""
    evaluation = json.loads((finished / "evaluation.json").read_text())
    asked = {name: metrics["map"]["questions"] for name, metrics in evaluation["systems"].items()}
    everything = evaluation["counts"]["test_questions"]
    assert asked == dict.fromkeys(SYSTEMS, everything) | dict.fromkeys(RERANKED, 3)
    assert set(evaluation["gains"]) == set(asked) - {"base"}
    costs = json.loads((finished / "query_cost.json").read_text())
    assert set(costs) == {"bm25", "uae", "rerank_query_likelihood", "rerank_list", "uae_llm_rerank"}
    assert all(cost["queries"] == 2 for cost in costs.values())
    (teacher,) = evaluation["held_out"]["teachers"]
    assert set(teacher["top_passage_utility"]) == {"bm25", "base", "dense", "hybrid", "uae", "convex_base"}
    page = (finished / "evaluation.html").read_text()
    for label in ("BM25", "base encoder", "LLM re-ranking, list-wise"):
        assert label in page


def test_the_options_of_training_and_evaluation_work_together(tmp_path, small_chain, tiny_lm, tiny_encoder):
    """New candidates while training, a rival, a frozen document side, a second stage, and a held-out LLM that is the teacher."""
    options = [f"models.second_stage=path:{tiny_encoder}", "train.second_stage.epochs=1", "second_stage.min_correlation=0"]
    options += ["train.epochs=2", "train.refresh={rounds: 1, top_k: 8}", "train.rivals=[infonce]", "train.towers=query", ASKING]
    done = run(tmp_path, small_chain, *options, f"models.held_out=path:{tiny_lm}", "evaluate.llm.timed_queries=1")
    assert done.returncode == 0, done.stderr
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())
    teacher, held_out = evaluation["held_out"]["teachers"]
    assert held_out["gain"] == teacher["gain"]
    assert evaluation["held_out"]["agreement"]["spearman"]["mean"] == pytest.approx(1)
    assert list(evaluation["gains_over"]) == ["bm25", "hybrid", "infonce", "convex_base", "uae"]
    assert set(evaluation["gains_over"]["convex_base"]) == {"uae", "dense"}
    assert evaluation["gains_over"]["infonce"]["uae"]["map"]["by_document"]["documents"] > 1
    assert evaluation["readers"]["held out"] == evaluation["readers"]["reader"]
    assert {"uae", "second_stage", "uae_llm_rerank"} <= set(json.loads((tmp_path / "query_cost.json").read_text()))
    assert evaluation["second_stage"]["depth"] == 10
    assert set(evaluation["gains_over"]["uae"]) == {"second_stage"}
    assert evaluation["systems"]["second_stage"]["map"]["questions"] == evaluation["counts"]["test_questions"]
    assert "UAE, then its second stage" in (tmp_path / "evaluation.html").read_text()
    reasons = json.loads((tmp_path / "promotion.json").read_text())["reasons"]
    assert any("with the second stage against" in reason for reason in reasons)
    assert any("of the second stage as it is served against" in reason for reason in reasons)
    asked = {
        name: read_table(tmp_path / "data" / f"{name}.parquet", CANDIDATES) for name in ("candidates", "refreshed_candidates")
    }
    fresh = asked["refreshed_candidates"][asked["refreshed_candidates"]["source"] == "refreshed"]
    assert len(asked["refreshed_candidates"]) == len(asked["candidates"]) + len(fresh)
    assert not fresh.empty
    refreshed = LabelStore(tmp_path / "data" / "refreshed_labels").read()
    passages = read_table(tmp_path / "data" / "passages.parquet", PASSAGES).set_index("passage_id")
    read = PassageTemplate(load_settings(tmp_path / "params.yaml").passages.template).texts(passages.loc[fresh["passage_id"]])
    assert set(refreshed["passage"]) == set(map(text_key, read))  # the readings without a passage were there already
    assert not LabelStore(tmp_path / "data" / "labels").keys() & LabelStore(tmp_path / "data" / "refreshed_labels").keys()


def test_compare_takes_the_labels_of_a_run(finished, small_chain):
    overrides = [word for override in small_chain for word in ("--set", override)]
    fresh = "fresh: train.epochs=2 train.refresh.rounds=1 train.refresh.top_k=8"
    words = [word for text in ("utility_infonce", "side: train.towers=adapter", fresh) for word in ("--contender", text)]
    before = sorted((finished / "data").rglob("*"))
    words += ["--seeds", "2"]
    done = uae("compare", "--run", str(finished), "--out", str(finished / "compare"), *words, *overrides)
    assert done.returncode == 0, done.stderr
    assert "2 seeds" in done.stdout
    result = json.loads((finished / "compare" / "compare.json").read_text())
    assert list(result["systems"]) == ["base", "utility_infonce", "side", "fresh"]
    assert LabelStore(finished / "compare" / "refreshed_labels").keys()  # the teacher was asked, and the run's data left alone
    assert sorted((finished / "data").rglob("*")) == before
    refused = uae("compare", "--run", str(finished), "--contender", "nonsense")
    assert refused.returncode == 1
    assert "expected 'NAME: KEY=VALUE ...'" in refused.stderr


def test_labels_are_judged_and_the_summary_says_so(finished):
    verdict = json.loads((finished / "labels.json").read_text())["verdict"]
    assert (finished / "labels.html").exists()
    done = uae("summary", "--out", str(finished))
    assert done.returncode == 0, done.stderr
    assert f"Are the labels worth training on? {verdict.capitalize()}." in done.stdout


def test_student_is_a_sentence_transformer_of_safetensors_only(finished):
    from sentence_transformers import SentenceTransformer

    student = finished / "models" / "student"
    assert not [p for p in student.rglob("*") if p.suffix in {".bin", ".pt", ".pkl", ".pickle"}]
    assert SentenceTransformer(str(student), device="cpu").encode(["How cold is it?"]).shape == (1, 32)


def test_release_is_registered_and_traced(finished):
    promotion = json.loads((finished / "promotion.json").read_text())
    assert (promotion["promoted"], promotion["version"], promotion["alias"]) == (True, 1, "champion")
    done = uae("lineage", "1", "--root", str(finished))
    assert done.returncode == 0, done.stderr
    for word in ("labels", "commit", "fingerprint", promotion["release"]):
        assert word in done.stdout
    missing = uae("lineage", "9", "--root", str(finished))
    assert missing.returncode == 1
    assert "has no version '9': it has 1" in missing.stderr


def test_second_run_repeats_no_stage(finished, small_chain):
    done = run(finished, small_chain, ASKING)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("unchanged, skipped") == len(CHAIN)


def test_changed_parameter_repeats_its_stage_and_what_follows(finished, small_chain):
    done = run(finished, small_chain, "evaluate.reader_questions=6")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("unchanged, skipped") >= 7
    assert "evaluate: unchanged" not in done.stderr
    assert json.loads((finished / "evaluation.json").read_text())["counts"]["answered_questions"] == 6
    # The same release is the champion still; it is not registered a second time.
    assert json.loads((finished / "promotion.json").read_text())["version"] == 1


def test_gate_refuses_and_says_why(tmp_path, small_chain):
    done = run(tmp_path, small_chain, *QUICKLY, "promote.min_gain=1")
    assert done.returncode == 0, done.stderr
    promotion = json.loads((tmp_path / "promotion.json").read_text())
    assert (promotion["promoted"], promotion["champion"]) == (False, None)
    assert "FAILED" in promotion["reasons"][0]
    assert "NOT promoted" in done.stdout
    assert "nothing has passed the gate yet" in done.stdout
    assert not (tmp_path / "models" / "bento" / "bento").exists()


def test_champion_is_replaced_only_by_a_better_one(tmp_path, small_chain):
    """Two trainings against one registry: the second is compared with the first's release, measured anew."""
    assert run(tmp_path, small_chain, *QUICKLY).returncode == 0
    refused = run(tmp_path, small_chain, *QUICKLY, "seed=14", "promote.min_gain=1")
    assert refused.returncode == 0, refused.stderr
    promotion = json.loads((tmp_path / "promotion.json").read_text())
    assert (promotion["promoted"], promotion["version"], promotion["champion"]) == (False, 2, 1)
    assert "version 1 (champion)" in promotion["reasons"][0]
    package = json.loads((tmp_path / "models" / "bento" / "package.json").read_text())
    assert package["version"] == 1  # what is served stays the champion
    origin = read_origin(tmp_path / "models" / "bento" / "bento" / "src" / "release")
    assert (origin["model"], origin["version"]) == ("uae-retriever", 1)
    assert 0 <= origin["metrics"]["map"] <= 1
    accepted = run(tmp_path, small_chain, *QUICKLY, "seed=14")
    assert accepted.returncode == 0, accepted.stderr
    promotion = json.loads((tmp_path / "promotion.json").read_text())
    assert (promotion["promoted"], promotion["champion"], promotion["replaced"]) == (True, 2, 1)


STOPPING = """
import sys, time
from pathlib import Path
import uae.io.files
move, last = uae.io.files._move, Path(sys.argv.pop(1))
def stop(partial, path):
    if path == last:
        print("stopped", flush=True)
        time.sleep(600)
    move(partial, path)
uae.io.files._move = stop
from uae.cli.main import main
main()
"""
OUTPUTS = [("label", "data/labels.json", "train"), ("train", "models/student", "fuse"), ("index", "models/release", "package")]


@pytest.mark.parametrize(("stage", "output", "until"), OUTPUTS)
def test_killed_stage_leaves_nothing_half_written_and_a_re_run_goes_on(tmp_path, small_chain, stage, output, until):
    """Killed when its output is complete and not yet in its place: the last moment at which it is unfinished."""
    words = [word for override in (*small_chain, *QUICKLY) for word in ("--set", override)]
    command = [sys.executable, "-c", STOPPING, str(tmp_path / output), "run", "--out", str(tmp_path), *words]
    with open(tmp_path / "log", "w") as log:
        worker = subprocess.Popen(command, stderr=log, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        stopped = "stopped\n" in iter(worker.stdout.readline, "")
        worker.kill()
        worker.communicate()
    assert stopped, (tmp_path / "log").read_text()
    assert not (tmp_path / ".stages" / f"{stage}.json").exists()
    assert not (tmp_path / output).exists()
    done = uae("run", "--out", str(tmp_path), "--until", until, *words)
    assert done.returncode == 0, done.stderr
    assert "ingest: unchanged, skipped" in done.stderr
    assert (tmp_path / ".stages" / f"{until}.json").exists()
    assert not list(tmp_path.rglob("*.partial-*"))


def test_unreachable_model_is_one_clear_message(tmp_path, small_chain):
    done = run(tmp_path, small_chain, "models.student=path:/nowhere/at/all")
    assert done.returncode == 1
    assert "/nowhere/at/all is not a folder" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data" / "candidates.parquet").exists()


def test_failing_data_stop_the_chain_with_the_rows(tmp_path, small_chain):
    done = run(tmp_path, small_chain, "validate.min_questions.test=10000")
    assert done.returncode == 1
    assert "questions.n_test_usable" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data" / "candidates.parquet").exists()
