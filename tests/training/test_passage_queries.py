import torch

from uae.text.words import count_words
from uae.training.batches import UtilityCollator, label_rows
from uae.training.examples import Example
from uae.training.objectives import OBJECTIVES
from uae.training.objectives.contract import ScoredBatch
from uae.training.passage_queries import passage_queries

NONE: frozenset[str] = frozenset()


def example(question: str, passages, utilities) -> Example:
    return Example(question, "d", tuple(passages), tuple(utilities), NONE, NONE, NONE)


def preprocess(texts, prompt=None, task=None):
    return {"input_ids": torch.tensor([[len(text)] for text in texts])}


LONG = ["one two three four five six seven eight nine ten", "a b c d e f g h i j k l m n o p q r s t u v w x y z"]
ROWS = [example("q1", (LONG[0], "too short"), (1.0, 0.0)), example("q2", (LONG[1], LONG[0]), (2.0, 0.5))]


def test_a_run_of_words_asks_for_the_passage_that_holds_it():
    made = passage_queries(ROWS, 9)
    assert sorted(row.passages for row in made) == sorted((text,) for text in LONG)  # each once, and no short one
    for row in made:
        (text,) = row.passages
        assert f" {row.question} " in f" {text} "
        assert 6 <= count_words(row.question) <= min(16, count_words(text) - 1)
        assert row.evidence == {text}
        assert row.utilities == (0.0,)


def test_as_many_as_are_asked_for_and_the_same_twice():
    assert len(passage_queries(ROWS, 1)) == 1
    assert passage_queries(ROWS, 2) == passage_queries(ROWS, 2)
    drawn = {tuple(row.question for row in passage_queries([example(f"q{n}", LONG, (0.0, 0.0))], 2)) for n in range(8)}
    assert len(drawn) > 1, "other questions, other runs"


def test_where_no_spaces_stand_characters_are_words():
    (made,) = passage_queries([example("q", ("海港小镇醒得很早渔船在日出之前离开码头面包师打开店门",), (1.0,))], 1)
    assert 6 <= len(made.question) <= 16


def test_another_passage_that_holds_the_run_does_not_count_against_it():
    text = "one two three four five six seven"
    rows = [example("q", (text, f"{text} and more", "nothing of the kind is said in this one here"), (1.0, 0.0, 0.0))]
    made = {row.passages[0]: row for row in passage_queries(rows, 3)}
    assert made[text].ignored == {f"{text} and more"}


def test_they_are_further_questions_of_the_batch():
    collator = UtilityCollator(preprocess_fn=preprocess, examples=dict(enumerate(ROWS)), passage_queries=0.5)
    batch = collator([{"key": 0}, {"key": 1}])
    assert len(batch["question_input_ids"]) == 3
    assert batch["label"].shape == (5, 3, 3)
    _, candidates, negatives, _, _ = batch["label"][:, 2]
    assert candidates.sum() == 1
    assert negatives.sum() == 2


def test_every_objective_wants_the_run_s_own_passage_first_or_leaves_it_alone():
    """The gradient of the run's own passage is never positive, and for Utility-Modulated InfoNCE it is InfoNCE's."""
    (row,) = passage_queries([example("q", LONG, (1.0, 0.0))], 1)
    utilities, masks = label_rows([row], LONG, in_batch_negatives=True)
    own = LONG.index(row.passages[0])
    parameters = {"utility_infonce": {"evidence_share": 0.0}, "plackett_luce": {"rankings": 16, "places": 10}}
    for name, kind in OBJECTIVES.items():
        scores = torch.tensor([[0.3, 0.4]], requires_grad=True)
        torch.manual_seed(0)
        kind(**parameters.get(name, {}))(ScoredBatch(scores, utilities, masks, 0.25, 0.05)).backward()
        assert scores.grad[0, own] <= 1e-6, name
    scores = torch.tensor([[0.3, 0.4]])
    expected = -torch.log_softmax(scores / 0.05, 1)[0, own]
    loss = OBJECTIVES["utility_infonce"](evidence_share=0.0)(ScoredBatch(scores, utilities, masks, 0.25, 0.05))
    assert torch.allclose(loss, expected)
