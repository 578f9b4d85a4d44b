"""Which labelled pairs a case of ``benchmarks/pools.py`` is taught from."""

import sys
from pathlib import Path

import pandas as pd
import pytest

from uae.io.errors import ConfigError

# Benchmarks import each other by name. Their folder leaves the path at once: it has files named as helpers of other tests.
BENCHMARKS = str(Path(__file__).resolve().parents[2] / "benchmarks")
sys.path.insert(0, BENCHMARKS)
from pools import Case, first, parse_case, richness, taught  # noqa: E402

sys.path.remove(BENCHMARKS)


@pytest.fixture
def questions() -> pd.DataFrame:
    splits = ["train"] * 4 + ["validation"] * 3 + ["test"]
    return pd.DataFrame({"question_id": [f"q{n}" for n in range(8)], "split": splits})


@pytest.fixture
def candidates() -> pd.DataFrame:
    """Three pairs of each question but q3, which nobody labelled, and the test question."""
    return pd.DataFrame(
        [{"question_id": f"q{n}", "passage_id": f"p{m}"} for n in (0, 1, 2, 4, 5, 6) for m in range(3)], index=range(100, 118)
    )


def pairs(table: pd.DataFrame) -> list[tuple[str, str]]:
    assert list(table.index) == list(range(len(table)))
    return list(zip(table["question_id"], table["passage_id"], strict=True))


def test_all_train_pairs_and_those_of_the_questions_that_choose(candidates, questions):
    assert pairs(taught(candidates, questions, None, None, 1)) == [
        (f"q{n}", f"p{m}") for n in (0, 1, 2, 4) for m in range(3)
    ]  # fmt: skip


def test_fewer_questions_are_among_more_and_the_same_ones_choose(candidates, questions):
    found = [pairs(taught(candidates, questions, number, None, 2)) for number in (1, 2, 3)]
    assert {key for key, _ in found[0]} == {"q0", "q4", "q5"}
    assert set(found[0]) < set(found[1]) < set(found[2])


def test_a_pool_takes_train_pairs_away_and_none_of_those_that_choose(candidates, questions):
    pool = pd.DataFrame({"question_id": ["q0", "q1", "q4", "q3"], "passage_id": ["p1", "p2", "p0", "p0"], "rank": 1})
    assert pairs(taught(candidates, questions, None, pool, 1)) == [
        ("q0", "p1"), ("q1", "p2"), ("q4", "p0"), ("q4", "p1"), ("q4", "p2"),
    ]  # fmt: skip


def test_questions_that_nobody_labelled_do_not_count(candidates, questions):
    with pytest.raises(ConfigError, match="questions=4: a fold has 3 labelled"):
        taught(candidates, questions, 4, None, 1)


def test_all_validation_questions_choose_where_there_are_no_more(candidates, questions):
    assert {key for key, _ in pairs(taught(candidates, questions, 1, None, 40))} == {"q0", "q4", "q5", "q6"}


def test_the_first_by_id_whatever_their_order():
    assert first(["c", "a", "b"], 2) == first(["b", "c", "a"], 2) == {"a", "b"}
    assert first(["c", "a"], None) == {"a", "c"}


def test_what_questions_are_taught_from():
    pairs = pd.DataFrame({"question_id": list("aabb"), "passage_id": list("wxyz"), "utility": [0.5, 2.0, -1.0, 1.0]})
    questions = pd.DataFrame({"question_id": list("abc"), "evidence": [["v", "w"], ["v"], ["x"]]})
    assert richness(pairs, questions) == {"questions": 2, "pairs": 4, "with_evidence": 0.5, "best_utility": 1.5}


def test_a_case_is_a_name_with_a_part_and_a_recipe():
    assert parse_case("all") == Case("all", None, None, (), ())
    assert parse_case("two: labels=runs/two") == Case("two", None, Path("runs/two"), (), ())
    assert parse_case("few: questions=120 candidates.top_k=3 train.epochs=4") == Case(
        "few", 120, None, ("candidates.top_k=3",), ("train.epochs=4",)
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a/b",
        "few: questions=some",
        "few: questions=-1",
        "few: questions=1 questions=2",
        "two: labels=",
        "late: label.compile=true",
    ],
)
def test_what_is_no_case_is_refused(text):
    with pytest.raises(ConfigError):
        parse_case(text)
