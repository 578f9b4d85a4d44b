"""Comparing recipes: equal terms, the same figures as a lone run, nothing fitted twice."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import uae.experiments.contenders
from uae.evaluation.testset import choose_questions, rank_with
from uae.experiments.compare import parse_contender
from uae.experiments.contenders import Contender, compare
from uae.io.errors import ArtefactError, ConfigError
from uae.io.files import write_json
from uae.io.tables import CANDIDATES, LABELS, PASSAGES, QUESTIONS, read_table, write_table
from uae.measures.fusion import ALONE, SCORES, Fusion, fuse
from uae.measures.metrics import retrieval_metrics
from uae.measures.statistics import Resampling, holm
from uae.pipeline.settings import load_settings
from uae.retrievers.lexical import rank_bm25
from uae.teacher.keys import answer_id, text_key
from uae.teacher.store import LabelStore
from uae.training.data import TrainingData
from uae.training.options import RefreshOptions, RewardOptions
from uae.training.refresh import MoreLabels

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"
OPTIONS = load_settings(PARAMS).train.model_copy(
    update={
        "epochs": 1, "batch_size": 4, "learning_rate": 3e-3, "warmup": 0.0, "weight_decay": 0.0, "patience": 6,
        "near_duplicate": None, "reward": RewardOptions(
            share=0.0, folds=2, epochs=1, batch_size=4, learning_rate=1e-3, warmup=0.0, weight_decay=0.0, dropout=0.0,
            precision="auto",
        ),
    }
)  # fmt: skip
AGGREGATION = {"answers": "mean", "templates": "mean", "teachers": "none"}


def contender(name: str, fusion: Fusion | None = None, **changes) -> Contender:
    return Contender(name, OPTIONS.model_copy(update=changes), 0.5, AGGREGATION, fusion)


UAE, GOLD = contender("uae"), contender("gold", objective="infonce")


@pytest.fixture
def project(tmp_path, by_texts):
    """Sixteen questions, the last six for testing; the passage of the same number is what helps the teacher, and the evidence."""
    questions, passages, pairs, readings = [], [], [], []
    for n in range(16):
        split = "train" if n < 6 else "validation" if n < 10 else "test"
        place = {"doc_id": "d", "title": "", "source": "d", "section": "", "start": 0, "end": 1}
        passages.append(place | {"passage_id": f"p{n:02}", "position": n, "text": f"Machine {n * 7 % 16} has {n} valves."})
        questions.append(
            {"question_id": f"q{n:02}", "text": f"How many valves has machine {n * 7 % 16}?", "answers": [f"{n} valves"]}
            | {"doc_id": "d", "evidence": [f"p{n:02}"], "split": split, "origin": "human", "source": ""}
        )
        if split == "test":
            continue
        common = {"question_id": f"q{n:02}", "answer_id": answer_id(f"{n} valves"), "template": "t", "teacher": "T"}
        for passage, nll in (("", 9.0), (f"p{n:02}", 1.0), (f"p{(n + 3) % 16:02}", 9.0), (f"p{(n + 5) % 16:02}", 10.0)):
            readings.append(common | {"passage_id": passage, "nll_sum": nll, "n_tokens": 3, "truncated": False})
            if passage:
                pairs.append({"question_id": f"q{n:02}", "passage_id": passage, "source": "dense", "rank": 1, "score": 0.5})
    write_table(tmp_path / "questions.parquet", QUESTIONS, questions)
    write_table(tmp_path / "passages.parquet", PASSAGES, passages)
    write_table(tmp_path / "candidates.parquet", CANDIDATES, pairs)
    store = LabelStore(tmp_path / "labels", 1000)
    with store.writing():
        store.append(by_texts(readings, questions, passages), {"backend": "made up"})
    teacher = {"name": "main", "fingerprint": "T", "method": "answer_likelihood", "grades": [], "weight": 1.0}
    teacher |= {"templates": {"t": {}}, "check_templates": {}}
    write_json(tmp_path / "labels.json", {"teachers": [teacher], "answers_per_question": 1})
    return tmp_path


def run(project, base, contenders=(UAE, GOLD), seeds=(1, 2), folder="out", scope="document", split="test", ask=None) -> dict:
    names = ("candidates.parquet", "passages.parquet", "questions.parquet", "labels", "labels.json")
    return compare(
        TrainingData.read(*(project / name for name in names), AGGREGATION),
        base,
        project / folder,
        contenders,
        seeds,
        # compare() keeps refreshed candidates in a place of its own.
        MoreLabels(scope, ask, Path("unused"), project / "out" / "refreshed_labels"),
        split,
        [1, 5],
        Resampling(0.95, 200, seeds[0]),
        "cpu",
    )


def test_figures_are_those_of_the_fitted_students(project, tiny_encoder):
    result = run(project, tiny_encoder)
    asked = choose_questions(read_table(project / "questions.parquet", QUESTIONS))
    passages = read_table(project / "passages.parquet", PASSAGES)
    evidence = dict(zip(asked["question_id"], asked["evidence"], strict=True))
    means = []
    for seed in (1, 2):
        ranked = rank_with(project / "out" / "students" / f"uae-{seed}", asked, passages, "document", "cpu", "")
        means.append(retrieval_metrics({key: ids for key, (ids, _) in ranked.items()}, evidence, [1, 5])["map"].mean())
    assert result["by_seed"]["uae"]["map"] == pytest.approx(means)
    assert result["systems"]["uae"]["map"]["mean"] == pytest.approx(np.mean(means))
    base = result["systems"]["base"]["map"]["mean"]
    assert result["gains"]["uae"]["map"]["absolute"]["mean"] == pytest.approx(np.mean(means) - base)
    assert result["gains_over"]["uae"]["gold"]["map"]["questions"] == result["questions"] == 6
    assert set(result["systems"]) == {"base", "uae", "gold"}


def test_a_contender_is_measured_with_bm25_as_it_says_and_else_as_it_was_trained(project, tiny_encoder):
    weight = Fusion(SCORES, 0.4)
    contenders = [
        contender("alone"),
        contender("served", fusion=weight),
        contender("sum", lexical_weight=0.4),
        contender("bare", fusion=ALONE, lexical_weight=0.4),
    ]
    result = run(project, tiny_encoder, contenders, seeds=(1,))
    asked = choose_questions(read_table(project / "questions.parquet", QUESTIONS))
    passages = read_table(project / "passages.parquet", PASSAGES)
    evidence = dict(zip(asked["question_id"], asked["evidence"], strict=True))
    words = rank_bm25(asked, passages, "document", None)
    for name, fusion in (("alone", ALONE), ("served", weight), ("sum", weight), ("bare", ALONE)):
        dense = rank_with(project / "out" / "students" / f"{name}-1", asked, passages, "document", "cpu", "")
        ranked = fuse(dense, words, fusion) if fusion.weight else dense
        found = retrieval_metrics({key: ids for key, (ids, _) in ranked.items()}, evidence, [1, 5])["map"].mean()
        assert result["systems"][name]["map"]["mean"] == pytest.approx(found)
        assert result["training"][name]["measured_with_bm25"] == fusion._asdict()
    of = {name: one["runs"][0]["fingerprint"] for name, one in result["training"].items()}
    assert of["alone"] == of["served"] != of["sum"] == of["bare"]


def test_gains_are_corrected_for_the_number_of_contenders(project, tiny_encoder):
    third = contender("slow", learning_rate=1e-3)
    many = run(project, tiny_encoder, (UAE, GOLD, third), seeds=(1,))
    alone = run(project, tiny_encoder, (UAE,), seeds=(1,))["gains"]["uae"]["map"]
    among = many["gains"]["uae"]["map"]
    assert {name: alone[name] for name in ("absolute", "p_value")} == {name: among[name] for name in ("absolute", "p_value")}
    assert alone["corrected"]["p_value"] == alone["p_value"]
    assert alone["corrected"]["absolute"] == alone["absolute"]
    wide, narrow = among["corrected"]["absolute"], among["absolute"]
    assert wide["low"] <= narrow["low"] < narrow["high"] <= wide["high"]
    assert wide["high"] - wide["low"] > narrow["high"] - narrow["low"]
    p_values = {name: gains["map"]["p_value"] for name, gains in many["gains"].items()}
    assert {name: gains["map"]["corrected"]["p_value"] for name, gains in many["gains"].items()} == holm(p_values)
    assert list(many["gains_over"]["uae"]) == ["gold", "slow"]
    assert many["intervals"] == {"over": "questions", "documents": 1, "why": many["intervals"]["why"]}


def test_rankings_are_not_taken_from_other_texts(project, tiny_encoder):
    run(project, tiny_encoder, (UAE,), (1,))
    before = sorted((project / "out" / "runs").iterdir())
    passages = read_table(project / "passages.parquet", PASSAGES)
    passages.loc[15, "text"] = "Something else stands under the same id."  # nobody's candidate: a label of 12 would be missing
    write_table(project / "passages.parquet", PASSAGES, passages)
    run(project, tiny_encoder, (UAE,), (1,))
    assert len(sorted((project / "out" / "runs").iterdir())) == 2 * len(before)


def test_a_second_call_fits_nothing_and_a_changed_recipe_only_itself(project, tiny_encoder, monkeypatch):
    fitted = []
    real = uae.experiments.contenders.fit

    def counting(examples, base, student, *arguments, **options):
        fitted.append(student.name)
        return real(examples, base, student, *arguments, **options)

    monkeypatch.setattr(uae.experiments.contenders, "fit", counting)
    first = run(project, tiny_encoder)
    assert fitted == ["uae-1", "uae-2", "gold-1", "gold-2"]
    assert run(project, tiny_encoder) == first
    assert len(fitted) == 4
    shutil.rmtree(project / "out" / "students" / "gold-2")
    run(project, tiny_encoder, (contender("uae", learning_rate=1e-3), GOLD))
    assert fitted[4:] == ["uae-1", "uae-2", "gold-2"]


def test_a_contender_without_anything_to_learn_is_named_before_it_trains(project, tiny_encoder):
    questions = read_table(project / "questions.parquet", QUESTIONS)
    questions["evidence"] = [row.evidence if row.split == "test" else [] for row in questions.itertuples()]
    write_table(project / "questions.parquet", QUESTIONS, questions)
    with pytest.raises(ArtefactError, match="train split"):
        run(project, tiny_encoder, (GOLD,))


def test_recipes_are_compared_on_validation_questions_as_well(project, tiny_encoder):
    result = run(project, tiny_encoder, (UAE,), (1,), split="validation")
    assert (result["split"], result["questions"]) == ("validation", 4)
    on_test = run(project, tiny_encoder, (UAE,), (1,))
    assert (on_test["split"], on_test["questions"]) == ("test", 6)
    assert on_test["training"] == result["training"]  # fitted once


def test_calibration_and_reward_model_are_part_of_the_comparison(project, tiny_encoder):
    """Each document of this project is a fold: the questions get one each."""
    questions = read_table(project / "questions.parquet", QUESTIONS)
    write_table(project / "questions.parquet", QUESTIONS, questions.assign(doc_id=""))
    contenders = (
        UAE,
        contender("calibrated", calibrate_temperature=True),
        contender("smoothed", reward=OPTIONS.reward.model_copy(update={"share": 1.0})),
    )
    result = run(project, tiny_encoder, contenders, seeds=(1,), scope="corpus")["training"]
    assert result["calibrated"]["recipe"]["teacher_temperature"] != 0.5
    assert (project / "out" / "reward_models" / "smoothed-1" / "reward.json").exists()
    assert len({result[name]["runs"][0]["fingerprint"] for name in result}) == 3


def test_what_a_contender_asks_the_teacher_for_is_kept_in_the_comparison(project, tiny_encoder):
    asked = []

    def ask(path):
        table = read_table(path, CANDIDATES)
        fresh = table[table["source"] == "refreshed"]
        asked.append(path)
        store = LabelStore(project / "out" / "refreshed_labels", 1000)
        with store.writing():
            common = {"template": "t", "teacher": "T", "n_tokens": 3, "truncated": False}
            tables = [
                read_table(project / f"{name}.parquet", schema)
                for name, schema in (("questions", QUESTIONS), ("passages", PASSAGES))
            ]
            keys = {row.iloc[0]: text_key(row["text"]) for table in tables for _, row in table.iterrows()}
            rows = [
                common
                | {"question": keys[row.question_id], "passage": keys[row.passage_id], "nll_sum": 8.0}
                | {"answer_id": answer_id(f"{int(row.question_id[1:])} valves")}
                for row in fresh.itertuples()
            ]
            store.append([{name: row[name] for name in LABELS.names} for row in rows], {"backend": "made up"})
            store.seal()

    contenders = (contender("still", epochs=2), contender("fresh", epochs=2, refresh=RefreshOptions(rounds=1, top_k=8)))
    first = run(project, tiny_encoder, contenders, seeds=(1,), ask=ask)
    assert asked == [project / "out" / "refreshed_candidates" / "fresh-1.parquet"]
    still, fresh = ((project / "out" / "students" / f"{name}-1.csv").read_text().splitlines() for name in ("still", "fresh"))
    assert still[1] == fresh[1]
    assert still[-1] != fresh[-1]  # another loss, now that there are more passages
    assert run(project, tiny_encoder, contenders, seeds=(1,), ask=ask) == first
    assert len(asked) == 1
    fewer = contender("fresh", epochs=2, refresh=RefreshOptions(rounds=1, top_k=1))
    run(project, tiny_encoder, (fewer,), seeds=(1,), ask=ask)
    assert len(asked) == 2


def test_contenders_are_objectives_or_named_changes():
    assert parse_contender("kl") == ("kl", ["train.objective=kl"])
    assert parse_contender("wide: train.batch_size=32 utility.temperature=1.0") == (
        "wide", ["train.batch_size=32", "utility.temperature=1.0"]
    )  # fmt: skip


@pytest.mark.parametrize("text", ["nonsense", "name:", ": train.epochs=1", "a/b: train.epochs=1", "late: label.compile=true"])
def test_what_is_no_contender_is_refused(text):
    with pytest.raises(ConfigError):
        parse_contender(text)
