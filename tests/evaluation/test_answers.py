"""What a reader is given, and in which form; what its answers are worth by number and order of passages."""

import pandas as pd
import pytest

from uae.evaluation.answers import ORDERS, Context, Reader, read_answers
from uae.evaluation.contexts import Answering, compare_contexts, read_in_contexts
from uae.io.errors import ModelError
from uae.measures.answers import ANSWER_METRICS
from uae.measures.statistics import Resampling

QUESTION = "When is the valve opened?"
TEXTS = {f"p{n}": f"Valve {n} of the pump is opened on day {n}." for n in range(5)}
PASSAGES = pd.DataFrame({"passage_id": list(TEXTS), "text": list(TEXTS.values())})
QUESTIONS = pd.DataFrame(
    {
        "question_id": [f"q{n}" for n in range(4)],
        "text": [f"When is valve {n} opened?" for n in range(4)],
        "answers": [[f"on day {n}"] for n in range(3)] + [[]],
    }
)
DOCUMENTS = pd.Series({f"q{n}": f"d{n}" for n in range(4)})
RANKED = (list(TEXTS), [5.0, 4.0, 3.0, 2.0, 1.0])
TURNED = (list(TEXTS)[::-1], [5.0, 4.0, 3.0, 2.0, 1.0])
RANKINGS = {
    "base": dict.fromkeys(QUESTIONS["question_id"], TURNED),
    "uae": dict.fromkeys(QUESTIONS["question_id"], RANKED),
}
SEVERAL = Answering([1, 3, 5], ["best_first", "best_at_both_ends"], None, 2, 4, 8)


@pytest.fixture(scope="module")
def reader(tiny_lm) -> Reader:
    return Reader(tiny_lm, "cpu", "float32", 4, 8)


@pytest.mark.parametrize(
    ("number", "expected"), [(0, ""), (1, "1"), (2, "12"), (3, "132"), (4, "1342"), (5, "13542"), (6, "135642")]
)
def test_the_best_stand_at_both_ends(number, expected):
    ranked = [str(place) for place in range(1, number + 1)]
    assert "".join(ORDERS["best_at_both_ends"](ranked)) == expected
    assert ORDERS["best_first"](ranked) == ranked


def test_the_prompt_has_a_line_a_passage(reader):
    prompt = reader.prompt(QUESTION, ["One.", "Two."])
    assert prompt.endswith(f"Answer: Mr Olsen\n\nPassage: One.\nPassage: Two.\nQuestion: {QUESTION}\nAnswer:")
    assert prompt.startswith("Passage: Entry to the museum costs six crowns")


@pytest.mark.parametrize("order", list(ORDERS))
def test_what_does_not_fit_is_left_out_from_the_worst_on(reader, order):
    ranked = [f"{name} " + "filler words " * 25 for name in ("best", "second", "third", "fourth", "worst")]
    kept = reader.fitting(QUESTION, ranked, order)
    assert 1 < len(kept) < 5
    assert sorted(kept) == sorted(ranked[: len(kept)])
    assert kept == ORDERS[order](ranked[: len(kept)])
    assert len(reader._ids(reader.prompt(QUESTION, kept))) <= 512 - 4


@pytest.mark.parametrize("chat", [False, True])
def test_one_passage_that_is_too_long_loses_its_end(chat_lm, chat):
    reader = Reader(chat_lm, "cpu", "float32", 4, 8, chat)
    (kept,) = reader.fitting(QUESTION, ["The valve is opened on day 3. " + "Filler. " * 600], "best_first")
    assert kept.startswith("The valve is opened on day 3. Filler.")
    assert 400 < len(reader._ids(reader.prompt(QUESTION, [kept]))) <= 508


def test_a_question_beyond_the_context_is_still_answered(reader):
    (answer,) = reader.answer([("why " * 600, reader.fitting("why " * 600, ["Because."], "best_first"))])
    assert isinstance(answer, str)


def test_in_chat_the_examples_are_turns_of_the_talk(chat_lm):
    prompt = Reader(chat_lm, "cpu", "float32", 4, 8, chat=True).prompt(QUESTION, ["One.", "Two."])
    assert prompt.startswith("<user>Passage: Entry to the museum")
    assert "afternoon?<eos><assistant>four crowns<eos><user>Passage: The caretaker" in prompt
    assert prompt.endswith(f"<user>Passage: One.\nPassage: Two.\nQuestion: {QUESTION}<eos><assistant>")


def test_answers_in_chat_are_those_of_the_model_by_itself(chat_lm):
    """Padding, batches and the chat's special tokens change nothing."""
    reader = Reader(chat_lm, "cpu", "float32", 6, 2, chat=True)
    requests = [(question, [text]) for question, text in zip(QUESTIONS["text"], TEXTS.values(), strict=False)]
    expected = []
    for question, passages in requests:
        ids = reader.tokenizer(reader.prompt(question, passages), add_special_tokens=False, return_tensors="pt")
        out = reader.model.generate(**ids, max_new_tokens=6, do_sample=False, pad_token_id=0)
        text = reader.tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
        expected.append(text.strip().split("\n")[0].strip())
    assert reader.answer(requests) == expected


def test_a_reader_without_a_chat_template_is_an_error_before_anything_is_read(tiny_lm):
    with pytest.raises(ModelError, match="which has none: set chat to false, or take an instruct model"):
        Reader(tiny_lm, "cpu", "float32", 4, 8, chat=True)


def test_the_reader_gets_the_first_passages_of_each_ranking_in_the_order_asked(reader, monkeypatch):
    asked = []
    monkeypatch.setattr(reader, "answer", lambda requests: asked.extend(requests) or [" ".join(texts) for _, texts in requests])
    tables = read_answers(RANKINGS, QUESTIONS, PASSAGES, reader, Context(3, "best_at_both_ends"), 2)
    texts = list(TEXTS.values())
    assert asked == [
        (question, given)
        for given in ([texts[4], texts[2], texts[3]], [texts[0], texts[2], texts[1]])
        for question in QUESTIONS["text"][:2]
    ]
    assert list(tables["uae"].index) == ["q0", "q1"]
    assert tables["uae"]["given"].tolist() == [3, 3]
    assert tables["uae"]["k_precision"].tolist() == [1, 1]  # the answer is what was given
    assert tables["uae"]["answer_recall"].tolist() == [1, 1]
    assert tables["base"]["answer_recall"].tolist() == [2 / 3, 2 / 3]  # the day's number is not in its passages


@pytest.mark.parametrize(
    ("passages", "orders", "expected"),
    [
        ([1, 3, 5], ["best_first", "best_at_both_ends"], ["1 f", "3 f", "5 f", "5 e"]),
        ([5, 1], ["best_at_both_ends", "best_first"], ["5 e", "1 e", "5 f"]),
        ([1, 2], ["best_first", "best_at_both_ends"], ["1 f", "2 f"]),  # of two, both orders are one
        ([3], ["best_first"], ["3 f"]),
    ],
)
def test_the_contexts_that_are_read(passages, orders, expected):
    short = {"best_first": "f", "best_at_both_ends": "e"}
    contexts = Answering(passages, orders, None, 2, 4, 8).contexts()
    assert [f"{context.passages} {short[context.order]}" for context in contexts] == expected


def test_contexts_are_compared_on_the_questions_that_both_were_asked(tiny_lm):
    answers = read_in_contexts(RANKINGS, QUESTIONS, PASSAGES, {"reader": tiny_lm}, SEVERAL, "cpu", "float32")
    compared = compare_contexts(answers, DOCUMENTS, Resampling(0.95, 100, 1))
    assert [(found["passages"], found["order"], found["questions"]) for found in compared] == [
        (1, "best_first", 3), (3, "best_first", 2), (5, "best_first", 2), (5, "best_at_both_ends", 2),
    ]  # fmt: skip
    first, third, *_, ends = compared
    assert first["over_first"] == first["over_best_first"] == third["over_best_first"] == {}
    for gains in (*third["over_first"].values(), *ends["over_first"].values(), *ends["over_best_first"].values()):
        assert list(gains) == list(ANSWER_METRICS)
        assert {gain["questions"] for gain in gains.values()} == {2}
    for system in ("base", "uae"):
        before, after = (answers["reader"][Context(1, "best_first")], answers["reader"][Context(3, "best_first")])
        gain = (after[system]["k_precision"] - before[system]["k_precision"]).dropna().mean()
        assert third["over_first"][system]["k_precision"]["absolute"]["mean"] == pytest.approx(gain)
        assert third["systems"][system]["k_precision"]["mean"] == pytest.approx(after[system]["k_precision"].mean())


def test_answers_from_fewer_passages_than_asked_for_are_counted(tiny_lm):
    answering = Answering([5], ["best_first"], 2, 0, 4, 8)
    few = {system: {question: (ids[:2], scores[:2]) for question, (ids, scores) in of.items()} for system, of in RANKINGS.items()}
    answers = read_in_contexts(few, QUESTIONS, PASSAGES, {"reader": tiny_lm}, answering, "cpu", "float32")
    (found,) = compare_contexts(answers, DOCUMENTS, Resampling(0.95, 100, 1))
    assert (found["questions"], found["cut"]) == (2, 4)


def test_more_contexts_can_be_turned_off(tiny_lm):
    answering = Answering([1, 5], ["best_first"], None, 0, 4, 8)
    answers = read_in_contexts(RANKINGS, QUESTIONS, PASSAGES, {"reader": tiny_lm}, answering, "cpu", "float32")
    assert list(answers["reader"]) == [Context(1, "best_first")]


def test_only_the_readers_named_are_asked_in_chat(chat_lm, tiny_lm):
    answering = Answering([1], ["best_first"], 1, 0, 4, 8, chat=frozenset({"reader"}))
    readers = {"reader": chat_lm, "held out": tiny_lm}  # the second one has no chat template
    answers = read_in_contexts(RANKINGS, QUESTIONS, PASSAGES, readers, answering, "cpu", "float32")
    assert list(answers) == ["reader", "held out"]
    with pytest.raises(ModelError, match="which has none"):
        read_in_contexts(RANKINGS, QUESTIONS, PASSAGES, dict.fromkeys(readers, tiny_lm), answering, "cpu", "float32")


def test_without_answers_there_is_nothing_to_compare(tiny_lm):
    answers = read_in_contexts(RANKINGS, QUESTIONS[3:], PASSAGES, {"reader": tiny_lm}, SEVERAL, "cpu", "float32")
    assert compare_contexts(answers, DOCUMENTS, Resampling(0.95, 100, 1)) == []
