"""Every utility is worked out by hand, in a comment or in the expected value itself."""

import math

import numpy as np
import pandas as pd
import pytest

from uae.io.errors import ArtefactError
from uae.teacher.keys import answer_id
from uae.teacher.utility import Source, template_utilities, utilities

SOURCE = Source("main", "T", "answer_likelihood", (), 1.0, ("t",), ())
YES_NO = Source("judge", "J", "judgement", (" No", " Yes"), 1.0, ("t",), ())
QUESTIONS = pd.DataFrame({"question_id": ["q"], "text": ["How long?"], "answers": [["four", "4 years"]]})


def candidates(*pairs: tuple[str, str]) -> pd.DataFrame:
    return pd.DataFrame(pairs, columns=["question_id", "passage_id"])


CANDIDATES = candidates(("q", "p1"), ("q", "p2"))


def reading(
    passage: str, text: str, nll: float, tokens: int = 2, question: str = "q", template: str = "t", teacher: str = "T"
) -> dict:
    return {
        "question_id": question, "passage_id": passage, "answer_id": answer_id(text), "template": template,
        "teacher": teacher, "nll_sum": nll, "n_tokens": tokens, "truncated": False,
    }  # fmt: skip


# NLL per token: "four" 3 alone, 1 with p1, 4 with p2; "4 years" 3 alone, 2 with p1, 3 with p2
LABELS = pd.DataFrame([
    reading("", "four", 6.0), reading("p1", "four", 2.0), reading("p2", "four", 8.0),
    reading("", "4 years", 9.0, 3), reading("p1", "4 years", 6.0, 3), reading("p2", "4 years", 9.0, 3),
])  # fmt: skip


def derive(labels=LABELS, *sources, pairs=CANDIDATES, questions=QUESTIONS, number=1, answers="mean", templates="mean",
           teachers="none") -> list[float]:  # fmt: skip
    table = utilities(labels, pairs, questions, sources or [SOURCE], number, answers, templates, teachers)
    pd.testing.assert_frame_equal(table[["question_id", "passage_id"]], pairs.reset_index(drop=True))
    return table["utility"].tolist()


def told(values: dict[tuple[str, str], float], teacher: str = "T", template: str = "t") -> pd.DataFrame:
    """Readings of "four" that give these utilities: 50 alone, so much less with the passage; one token."""
    rows = [
        reading(passage, "four", 50.0 - value, 1, question, template, teacher) for (question, passage), value in values.items()
    ]
    alone = [reading("", "four", 50.0, 1, question, template, teacher) for question in dict.fromkeys(q for q, _ in values)]
    return pd.DataFrame(rows + alone)


def test_utility_is_nll_without_minus_nll_with_per_token():
    assert derive() == [3.0 - 1.0, 3.0 - 4.0]


@pytest.mark.parametrize(("answers", "expected"), [("mean", [(2 + 1) / 2, (-1 + 0) / 2]), ("best", [2.0, 0.0])])
def test_several_answers_become_their_mean_or_the_best(answers, expected):
    assert derive(number=2, answers=answers) == expected


def test_an_answer_given_twice_counts_once():
    questions = QUESTIONS.assign(answers=[["four", "four", "4 years"]])
    assert derive(questions=questions, number=3) == derive(number=2)
    assert derive(questions=questions, number=2) == derive(number=1)


@pytest.mark.parametrize(("templates", "expected"), [("mean", 6.0), ("median", 5.0)])
def test_several_templates_become_their_mean_or_median(templates, expected):
    labels = pd.concat([told({("q", "p1"): value}, template=t) for t, value in (("t", 2.0), ("u", 5.0), ("v", 11.0))])
    source = Source("main", "T", "answer_likelihood", (), 1.0, ("t", "u", "v"), ("w",))
    assert derive(labels, source, pairs=CANDIDATES[:1], templates=templates) == pytest.approx([expected])


def test_check_templates_do_not_count():
    labels = pd.concat([LABELS, told({("q", "p1"): 40.0, ("q", "p2"): 40.0}, template="w")])
    assert derive(labels, Source("main", "T", "answer_likelihood", (), 1.0, ("t",), ("w",))) == derive()


@pytest.mark.parametrize(
    ("teachers", "expected"),
    [
        # q: (0 + 3*10)/4, (1 + 3*10)/4, (2 + 3*40)/4; r: (7 + 3*9)/4 each
        ("none", [7.5, 7.75, 30.5, 8.5, 8.5]),
        # A: mean 1, deviation sqrt(2/3); B: mean 20, deviation sqrt(200)
        (
            "zscore",
            [
                (-1 / math.sqrt(2 / 3) + 3 * -10 / math.sqrt(200)) / 4,
                (0 + 3 * -10 / math.sqrt(200)) / 4,
                (1 / math.sqrt(2 / 3) + 3 * 20 / math.sqrt(200)) / 4,
                0.0,
                0.0,
            ],
        ),
        # A: 0, 1/2, 1; B: 0, 0, 1
        ("minmax", [0.0, 0.5 / 4, 1.0, 0.0, 0.0]),
    ],
)
def test_two_teachers_become_their_weighted_mean(teachers, expected):
    """A has weight 1 and says 0, 1, 2; B has weight 3 and says 10, 10, 40. To a second question both say all the same."""
    pairs = candidates(("q", "p1"), ("q", "p2"), ("q", "p3"), ("r", "p1"), ("r", "p2"))
    questions = pd.DataFrame({"question_id": ["q", "r"], "text": ["Q?", "R?"], "answers": [["four"], ["four"]]})
    keys = list(pairs.itertuples(index=False, name=None))
    labels = pd.concat([told(dict(zip(keys, values, strict=True)), teacher)
                        for teacher, values in (("A", [0, 1, 2, 7, 7]), ("B", [10, 10, 40, 9, 9]))])  # fmt: skip
    sources = [Source(name, name, "answer_likelihood", (), weight, ("t",), ()) for name, weight in (("A", 1.0), ("B", 3.0))]
    assert derive(labels, *sources, pairs=pairs, questions=questions, teachers=teachers) == pytest.approx(expected)


@pytest.mark.parametrize("teachers", ["zscore", "minmax"])
def test_a_teacher_that_finds_all_passages_equal_says_nothing(teachers):
    """The mean of equal numbers need not equal them, once rounded: 0 divided by nearly 0 must not become infinite."""
    chance = np.random.default_rng(1)
    values = {f"q{n}": value for n, value in enumerate([0.1, 0.3, -2.7, *chance.uniform(-9, 9, 200)])}
    pairs = candidates(*((question, f"p{n}") for question in values for n in range(chance.integers(1, 13))))
    questions = pd.DataFrame({"question_id": list(values), "text": "Q?", "answers": [["four"]] * len(values)})
    rows = [reading(passage, "four", 0.0, 1, question) for question, passage in pairs.itertuples(index=False)]
    labels = pd.DataFrame(rows + [reading("", "four", value, 1, question) for question, value in values.items()])
    assert derive(labels, pairs=pairs, questions=questions, teachers=teachers) == [0.0] * len(pairs)


@pytest.mark.parametrize("teachers", ["zscore", "minmax"])
def test_differences_that_may_be_rounding_are_not_blown_up(teachers):
    assert derive(told({("q", "p1"): 0.3, ("q", "p2"): 0.3 + 1e-9}), teachers=teachers) == [0.0, 0.0]
    assert derive(told({("q", "p1"): 0.3, ("q", "p2"): 0.3001}), teachers=teachers)[1] == pytest.approx(1)


def test_query_likelihood_reads_the_question_and_needs_no_answers():
    labels = pd.DataFrame(
        [reading("", "How long?", 12.0, 3), reading("p1", "How long?", 6.0, 3), reading("p2", "How long?", 15.0, 3)]
    )
    source = Source("main", "T", "query_likelihood", (), 1.0, ("t",), ())
    assert derive(labels, source, questions=QUESTIONS.assign(answers=[[]])) == [4.0 - 2.0, 4.0 - 5.0]


def judged(passage: str, *nlls: float, grades=YES_NO.grades) -> list[dict]:
    return [reading(passage, grade, nll, 1, teacher="J") for grade, nll in zip(grades, nlls, strict=True)]


def test_judgement_by_two_grades_is_the_log_odds_of_the_better_one():
    labels = pd.DataFrame(judged("p1", 1.25, 0.5) + judged("p2", 0.25, 3.0))
    assert derive(labels, YES_NO) == pytest.approx([1.25 - 0.5, 0.25 - 3.0])


GRADES = (" Poor", " Fair", " Good", " Perfect")
FOUR = Source("judge", "J", "judgement", GRADES, 1.0, ("t",), ())


def test_judgement_by_four_grades_is_the_log_odds_of_the_expected_grade():
    """p = .1 .2 .3 .4: expected grade 2 of 3, so 2 to 1. p = .4 .3 .2 .1: the reverse. Shares need not add up to one."""
    rising = [-math.log(share) for share in (0.1, 0.2, 0.3, 0.4)]
    falling = [nll + 5 for nll in reversed(rising)]
    labels = pd.DataFrame(judged("p1", *rising, grades=GRADES) + judged("p2", *falling, grades=GRADES))
    assert derive(labels, FOUR) == pytest.approx([math.log(2), -math.log(2)])


def test_grades_count_in_their_order_not_in_that_of_their_hashes():
    """The same readings, the scale turned round: the sign turns."""
    labels = pd.DataFrame(judged("p1", 4.0, 3.0, 2.0, 1.0, grades=GRADES))
    turned = Source("judge", "J", "judgement", GRADES[::-1], 1.0, ("t",), ())
    pairs = CANDIDATES[:1]
    assert derive(labels, FOUR, pairs=pairs) == pytest.approx([-value for value in derive(labels, turned, pairs=pairs)])


def test_grades_that_are_e10000_times_as_likely_stay_numbers():
    """Nearly all on the worst grade: 1 e^-10000 to 3."""
    far = (0.0, 1e4, 2e4, 3e4)
    labels = pd.DataFrame(judged("p1", *far, grades=GRADES) + judged("p2", *far[::-1], grades=GRADES))
    assert derive(labels, FOUR) == pytest.approx([-1e4 - math.log(3), 1e4 + math.log(3)])
    two = pd.DataFrame(judged("p1", 0.0, 1e4) + judged("p2", 1e4, 0.0))
    assert derive(two, YES_NO) == pytest.approx([-1e4, 1e4])


def test_readings_of_others_do_not_count():
    foreign = [
        reading("p1", "four", 99.0, template="u"),
        reading("p1", "four", 99.0, teacher="U"),
        reading("p1", "an old answer", 99.0),
        reading("p1", "4 years", 99.0),  # not asked for: one answer a question
        reading("p9", "four", 99.0),
        reading("p1", "four", 99.0, question="r"),
    ]
    assert derive(pd.concat([LABELS[:3], pd.DataFrame(foreign)])) == [2.0, -1.0]


@pytest.mark.parametrize("missing", range(6))
def test_a_missing_reading_is_an_error(missing):
    with pytest.raises(ArtefactError, match=r"readings are missing.*run the label stage again"):
        derive(LABELS.drop(index=missing), number=2)


@pytest.mark.parametrize("missing", range(4))
def test_a_missing_grade_is_an_error(missing):
    labels = pd.DataFrame(judged("p1", 1.25, 0.5) + judged("p2", 0.25, 3.0))
    with pytest.raises(ArtefactError, match="1 of 4 readings are missing"):
        derive(labels.drop(index=missing), YES_NO)


@pytest.mark.parametrize("source", [SOURCE, YES_NO])
def test_a_candidate_of_an_unknown_question_lacks_its_reading(source):
    labels = pd.concat([LABELS, pd.DataFrame(judged("p1", 1.25, 0.5) + judged("p2", 0.25, 3.0))])
    with pytest.raises(ArtefactError, match="readings are missing"):
        derive(labels, source, pairs=candidates(("q", "p1"), ("gone", "p1"), ("q", "p2")))


@pytest.mark.parametrize("answers", [[], None], ids=["none", "others"])
def test_a_question_whose_answers_were_taken_away_lacks_its_reading(answers):
    questions = QUESTIONS.assign(answers=[["five"] if answers is None else answers])
    with pytest.raises(ArtefactError, match="readings are missing"):
        derive(questions=questions)


@pytest.mark.parametrize("source", [SOURCE, YES_NO])
def test_the_order_is_that_of_the_candidates(source):
    """The table's index does not matter: a sample of candidates has gaps in it."""
    labels = pd.concat([LABELS, pd.DataFrame(judged("p1", 1.25, 0.5) + judged("p2", 0.25, 3.0))])
    expected = dict(zip(["p1", "p2"], derive(labels, source), strict=True))
    turned = CANDIDATES.iloc[::-1]
    assert derive(labels, source, pairs=turned) == [expected["p2"], expected["p1"]]
    sampled = CANDIDATES[CANDIDATES["passage_id"] == "p2"]
    alone = template_utilities(labels, sampled, QUESTIONS, source, "t", 1, "mean")
    assert alone["utility"].tolist() == [expected["p2"]]
    assert alone["passage_id"].tolist() == ["p2"]


def test_many_questions_at_random_equal_the_plain_formula():
    chance = np.random.default_rng(3)
    pairs = candidates(*((f"q{n}", f"p{p}") for n in range(20) for p in chance.permutation(9)[: chance.integers(1, 9)]))
    pairs = pairs.sample(frac=1, random_state=3)
    questions = pd.DataFrame({"question_id": [f"q{n}" for n in range(20)], "text": "Q?", "answers": [["four", "five"]] * 20})
    rows = [
        reading(passage, text, chance.uniform(0, 9), int(chance.integers(1, 6)), question)
        for question in questions["question_id"] for passage in ["", *(f"p{p}" for p in range(9))] for text in ("four", "five")
    ]  # fmt: skip
    mean = {(r["question_id"], r["passage_id"], r["answer_id"]): r["nll_sum"] / r["n_tokens"] for r in rows}
    expected = [
        sum(mean[q, "", answer_id(text)] - mean[q, p, answer_id(text)] for text in ("four", "five")) / 2
        for q, p in pairs.itertuples(index=False)
    ]
    labels = pd.DataFrame(rows).sample(frac=1, random_state=5)
    assert derive(labels, pairs=pairs, questions=questions, number=2) == pytest.approx(expected)
