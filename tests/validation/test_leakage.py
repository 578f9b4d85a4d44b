"""What counts as a leak between splits, what does not, and what a leak's message says."""

import random

import pandas as pd
import pytest

from uae.corpus.repeated_questions import RepeatedQuestions
from uae.validation.copies import MIN_WORDS, MOST_COPIES, find_copies
from uae.validation.leakage import Leaks

LEAKS = ["repeated_question", "repeated_evidence", "copied_document"]


def prose(name: str, length: int = 60) -> str:
    """Words that hang together with no other text's."""
    draw = random.Random(name)
    return " ".join(f"{draw.choice('bdfgklmnprst')}{draw.choice('aeiou')}{draw.randrange(1000)}" for _ in range(length))


def reworded(text: str, places: list[int]) -> str:
    words = text.split()
    for place in places:
        words[place] = "otherwise"
    return " ".join(words)


def facts_of(tables, scope, near_duplicate, repeated):
    documents, passages, questions = tables
    leaks = Leaks(documents, passages, questions, scope, near_duplicate, repeated)
    parts = [leaks.of_questions(questions), leaks.of_documents(documents), leaks.of_passages(passages)]
    return pd.concat(parts, ignore_index=True)


class Corpus:
    """Documents of three splits, without any leak: each has eight passages and one question on the first of them."""

    def __init__(self):
        self.documents, self.passages, self.questions = [], [], []
        for name, split in {"a": "train", "b": "train", "c": "validation", "d": "test"}.items():
            self.add(name, split, [prose(f"{name}{n}") for n in range(8)])

    def add(self, name, split, texts, question="", answers=("yes",), evidence=0):
        self.documents.append({"doc_id": name, "source": f"{name}.md"})
        start = 0
        for n, text in enumerate(texts):
            row = {"passage_id": f"{name}{n}", "doc_id": name, "position": n, "text": text}
            self.passages.append(row | {"start": start, "end": start + len(text)})
            start += len(text) + 2
        self.ask(name, split, question or f"How is {prose(name, 3)} of {name} done?", answers, [f"{name}{evidence}"])

    def ask(self, name, split, question, answers=("yes",), evidence=()):
        number = len(self.questions)
        row = {"question_id": f"q{number}", "text": question, "answers": list(answers), "doc_id": name}
        self.questions.append(row | {"evidence": list(evidence), "split": split, "source": f"questions.jsonl, line {number + 1}"})
        return f"q{number}"

    def facts(self, scope="document", near_duplicate=0.8, shuffle=None):
        tables = []
        for rows in (self.documents, self.passages, self.questions):
            table = pd.DataFrame(rows)
            tables.append(table if shuffle is None else table.sample(frac=1, random_state=shuffle).reset_index(drop=True))
        repeated = RepeatedQuestions(tables[2], tables[1], scope, near_duplicate)
        return facts_of(tables, scope, near_duplicate, repeated)

    def leaks(self, **arguments):
        """kind -> items."""
        facts = self.facts(**arguments)
        return {kind: items for kind in LEAKS if (items := facts.loc[facts[kind].notna(), "item"].tolist())}

    def message(self, item, **arguments):
        facts = self.facts(**arguments).set_index("item")
        return next(text for text in facts.loc[item, LEAKS] if isinstance(text, str))

    def counted(self):
        facts = self.facts()
        return facts.loc[facts["repeated_passage"] == 1, "item"].tolist()


@pytest.fixture
def corpus():
    return Corpus()


@pytest.mark.parametrize("scope", ["document", "corpus"])
def test_a_clean_corpus_has_a_row_for_everything_and_no_leak(corpus, scope):
    facts = corpus.facts(scope)
    assert len(facts) == 4 + 4 + 32
    assert facts[LEAKS].isna().all(axis=None)
    assert facts["repeated_passage"].sum() == 0


# Questions, in corpus scope

QUESTION = "Which of the three seals does the Halden freezer need after a door was left open overnight?"
SAME = {
    "exactly": QUESTION,
    "in capitals, without punctuation": QUESTION.upper().replace("?", " !"),
    "with other spaces": QUESTION.replace(" ", "\t\u00a0 "),
    "in full-width characters": "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in QUESTION),
    "with one word changed": QUESTION.replace("overnight", "unattended"),
}
OTHER = {
    "half of the words changed": "Which of the two hinges does the Halden fridge take when its lid was frozen shut for a week?",
    "another order of the same words": "Was a Halden freezer left open overnight which the three seals need of the door does?",
}


@pytest.mark.parametrize("how", SAME)
def test_the_same_question_in_two_splits_leaks(corpus, how):
    corpus.ask("a", "train", QUESTION)
    later = corpus.ask("d", "test", SAME[how])
    assert corpus.leaks(scope="corpus") == {"repeated_question": [later]}


@pytest.mark.parametrize("how", OTHER)
def test_another_question_is_no_leak(corpus, how):
    corpus.ask("a", "train", QUESTION)
    corpus.ask("d", "test", OTHER[how])
    assert corpus.leaks(scope="corpus") == {}


def test_a_question_asked_twice_in_one_split_is_no_leak(corpus):
    corpus.ask("a", "train", QUESTION)
    corpus.ask("b", "train", QUESTION)
    assert corpus.leaks(scope="corpus") == {}


def test_who_did_it_to_whom_is_another_question_though_its_words_are_the_same(corpus):
    corpus.ask("a", "train", "Can bats infect camels?")
    corpus.ask("d", "test", "Can camels infect bats?")
    assert corpus.leaks(scope="corpus") == {}


@pytest.mark.parametrize(("one", "other", "leaks"), [("Why?", "why", True), ("Why?", "How?", False), ("C++?", "C?", False)])
def test_one_word_questions(corpus, one, other, leaks):
    corpus.ask("a", "train", one)
    later = corpus.ask("d", "test", other)
    assert corpus.leaks(scope="corpus") == ({"repeated_question": [later]} if leaks else {})


@pytest.mark.parametrize("text", ["", " \n", "?!", "…"])
def test_texts_without_words_repeat_nothing(corpus, text):
    for name, split in {"a": "train", "d": "test"}.items():
        corpus.ask(name, split, text, answers=[text])
        corpus.passages.append({"passage_id": f"{name}9", "doc_id": name, "position": 9, "text": text, "start": 900, "end": 901})
    assert corpus.leaks(scope="corpus") == {}
    assert corpus.leaks(scope="document") == {}


def test_a_script_without_spaces_is_compared_by_its_characters(corpus):
    corpus.ask("a", "train", "冷凍庫の扉の密閉材は一年に何回交換しますか")
    later = corpus.ask("d", "test", "冷凍庫の扉の密閉材は一年に何回交換しますか?ね")
    corpus.ask("c", "validation", "圧縮機の油はいつ補充しますか")
    assert corpus.leaks(scope="corpus") == {"repeated_question": [later]}


def test_the_threshold_is_the_callers(corpus):
    corpus.ask("a", "train", QUESTION)
    later = corpus.ask("d", "test", SAME["with one word changed"])
    assert corpus.leaks(scope="corpus", near_duplicate=1.0) == {}
    corpus.questions[-1]["text"] = SAME["exactly"]
    assert corpus.leaks(scope="corpus", near_duplicate=1.0) == {"repeated_question": [later]}


def test_the_message_names_both_questions_and_what_to_do(corpus):
    corpus.ask("a", "train", QUESTION)
    later = corpus.ask("d", "test", SAME["with one word changed"])
    assert corpus.facts("corpus").set_index("item").loc[later, "source"] == "questions.jsonl, line 6"
    message = corpus.message(later, scope="corpus")
    assert message.startswith("test question that asks in nearly the same words (0.8")
    assert "asked in train (questions.jsonl, line 5: 'Which of the three seals" in message
    assert message.endswith("): remove one of the two, or give both the same split")


def test_the_nearest_is_named_and_the_others_are_counted(corpus):
    corpus.ask("a", "train", SAME["with one word changed"])
    corpus.ask("c", "validation", QUESTION)
    later = corpus.ask("d", "test", QUESTION)
    message = corpus.message(later, scope="corpus")
    assert "in the same words what is asked in validation (questions.jsonl, line 6" in message
    assert message.endswith(" (and 1 more)")


FACT = "at least two hundred bar of dry nitrogen"


@pytest.mark.parametrize(("answer", "leaks"), [(FACT, True), (FACT.upper() + ".", True), ("200 bar", False), ("yes", False)])
def test_the_same_evidence_with_the_same_telling_answer_leaks_in_other_words_too(corpus, answer, leaks):
    corpus.ask("", "train", "What pressure is used?", [answer.lower(), "none"], ["a1"])
    later = corpus.ask("", "test", "To how much is the pipe filled for the trial?", [answer], ["a1", "b1"])
    assert corpus.leaks(scope="corpus") == ({"repeated_question": [later]} if leaks else {})
    if leaks:
        assert "has the evidence and the answer of one in train" in corpus.message(later, scope="corpus")


def test_the_same_evidence_with_another_answer_is_no_leak(corpus):
    corpus.ask("", "train", "What pressure is used?", [FACT], ["a1"])
    corpus.ask("", "test", "Who watches the gauge during the trial?", ["two trained technicians of the night shift"], ["a1"])
    assert corpus.leaks(scope="corpus") == {}


# Questions, in document scope

GENERIC = "What is the conclusion of this paper?"


@pytest.mark.parametrize("answer", ["yes", "1998", "a support vector machine"])
def test_a_generic_question_of_two_documents_with_a_short_answer_is_no_leak(corpus, answer):
    corpus.ask("a", "train", GENERIC, [answer], ["a1"])
    corpus.ask("d", "test", GENERIC, [answer], ["d1"])
    assert corpus.leaks() == {}


def test_a_question_of_two_documents_with_an_equal_telling_answer_leaks(corpus):
    corpus.ask("a", "train", GENERIC, [FACT], ["a1"])
    later = corpus.ask("d", "test", GENERIC.upper(), ["another", FACT], ["d1"])
    assert corpus.leaks() == {"repeated_question": [later]}
    corpus.questions[-1]["text"] = "How is the pipe tested?"  # the answer alone, on other evidence, is no leak
    assert corpus.leaks() == {}


def test_a_question_that_is_asked_of_one_document_in_two_splits_leaks(corpus):
    corpus.ask("a", "train", GENERIC, ["yes"], ["a1"])
    later = corpus.ask("a", "test", GENERIC, ["no"], ["a2"])
    assert corpus.leaks() == {"repeated_question": [later]}


# Passages and documents, in document scope

COPIES = {
    "exactly": prose("a0"),
    "in capitals with punctuation": prose("a0").upper().replace(" ", ", "),
    "with two words changed": reworded(prose("a0"), [7, 41]),
}


def long_document(first, place=0):
    texts = [prose(f"e{n}") for n in range(9)]
    texts[place] = first
    return texts


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("evidence", ["here", "there"])
def test_a_passage_of_two_splits_leaks_if_either_copy_is_evidence(corpus, how, evidence):
    corpus.add("e", "test", long_document(COPIES[how]), evidence=0 if evidence == "here" else 5)
    if evidence == "here":
        corpus.questions[0]["evidence"] = ["a3"]
    assert corpus.leaks() == {"repeated_evidence": ["e0"]}
    message = corpus.message("e0")
    assert message.startswith("test passage that stands in train too (a.md, characters 0-")
    assert f"is evidence in {'test' if evidence == 'here' else 'train'}: remove one of the two" in message


def test_a_passage_with_more_words_changed_than_the_threshold_allows_is_no_leak(corpus):
    corpus.add("e", "test", long_document(reworded(prose("a0"), list(range(3, 60, 9)))))
    assert corpus.leaks() == {}


def test_a_copy_is_found_though_the_other_document_is_cut_elsewhere(corpus):
    """The evidence a1 stands in the second half of e0 and the first of e1."""
    corpus.questions[0]["evidence"] = ["a1"]
    words = prose("a1").split()
    texts = long_document(prose("front", 30) + " " + " ".join(words[:30]))
    texts[1] = " ".join(words[30:]) + " " + prose("back", 30)
    corpus.add("e", "test", texts, evidence=8)
    (found,) = corpus.leaks()["repeated_evidence"]
    assert found in ("e0", "e1")


def test_a_short_passage_is_no_copy(corpus):
    short = prose("short", MIN_WORDS - 1)
    corpus.add("e", "test", long_document(short))
    corpus.add("f", "train", [prose(f"f{n}") for n in range(8)] + [short], evidence=8)
    assert corpus.leaks() == {}
    assert corpus.counted() == []


LICENCE = prose("licence", 30)


def test_boilerplate_is_counted_and_stops_nothing(corpus):
    corpus.add("e", "train", [prose(f"e{n}") for n in range(4)] + [LICENCE])
    corpus.add("f", "test", [prose(f"f{n}") for n in range(4)] + [LICENCE])
    assert corpus.leaks() == {}
    assert corpus.counted() == ["e4", "f4"]


def test_boilerplate_of_many_short_documents_does_not_make_them_copies(corpus):
    for n in range(2 * MOST_COPIES):
        corpus.add(f"n{n}", ("train", "test")[n % 2], [prose(f"n{n}", 30), LICENCE])  # half of each document
    assert corpus.leaks() == {}
    assert len(corpus.counted()) == 2 * MOST_COPIES


def test_boilerplate_that_answers_a_question_leaks(corpus):
    for n in range(2 * MOST_COPIES):
        corpus.add(f"n{n}", ("train", "test")[n % 2], [prose(f"n{n}", 30), LICENCE], evidence=int(n == 3))
    assert corpus.leaks() == {"repeated_evidence": ["n31"]}


def test_a_copied_document_is_named_once_and_not_passage_by_passage(corpus):
    corpus.add("e", "test", [prose(f"a{n}") for n in range(8)])
    assert corpus.leaks() == {"copied_document": ["e"]}
    assert corpus.counted() == []
    assert corpus.message("e") == (
        "test document that has 100% of the smaller one's words in common with the train document a.md: "
        "remove one of the two, or give both the same split"
    )


def test_a_copied_document_is_found_behind_a_new_beginning_and_with_edits(corpus):
    """As a preprint and its journal version: cut at the same length, no two passages are alike."""
    words = " ".join(prose(f"a{n}") for n in range(8)).split()
    words = [*prose("preface", 30).split(), *words]
    words[100] = "otherwise"
    texts = [" ".join(words[start : start + 60]) for start in range(0, len(words), 60)]
    corpus.add("e", "test", texts, evidence=4)
    assert corpus.leaks() == {"copied_document": ["e"]}


def test_a_fifth_of_the_smaller_document_makes_a_copy(corpus):
    corpus.add("s", "train", [prose(f"s{n}") for n in range(4)])
    corpus.add("e", "test", [prose(f"e{n}") for n in range(19)] + [prose("s1")], evidence=5)  # 1 of 20, but 1 of 4
    assert corpus.leaks() == {"copied_document": ["e"]}
    assert "has 25% of the smaller one's words" in corpus.message("e")


def test_copies_within_a_split_are_no_leak(corpus):
    corpus.add("e", "train", [prose(f"a{n}") for n in range(8)])
    assert corpus.leaks() == {}
    assert corpus.counted() == []


def test_a_document_without_questions_belongs_to_no_split(corpus):
    corpus.add("e", "test", [prose(f"a{n}") for n in range(8)])
    corpus.questions.pop()
    assert corpus.leaks() == {}


def test_in_corpus_scope_passages_belong_to_no_split(corpus):
    corpus.add("e", "test", [prose(f"a{n}") for n in range(8)])
    assert corpus.leaks(scope="corpus") == {}


# Tables as they come


def test_neither_the_order_of_rows_nor_a_second_run_changes_the_result(corpus):
    corpus.add("e", "test", [prose(f"a{n}") for n in range(8)])
    corpus.add("f", "validation", long_document(prose("b0")), QUESTION)
    corpus.add("g", "test", [*long_document(prose("b0"))[:1], *(prose(f"g{n}") for n in range(9))], QUESTION, [FACT])
    corpus.ask("b", "train", QUESTION, [FACT])
    corpus.ask("a", "train", QUESTION, [FACT])
    for scope in ("document", "corpus"):
        first = corpus.facts(scope).sort_values(["item", "source"], ignore_index=True)
        assert first[LEAKS].notna().any(axis=None)
        for seed in range(3):
            again = corpus.facts(scope, shuffle=seed).sort_values(["item", "source"], ignore_index=True)
            pd.testing.assert_frame_equal(first, again)


def test_the_callers_tables_stay_as_they_are(corpus):
    corpus.ask("d", "test", corpus.questions[0]["text"])
    tables = [pd.DataFrame(rows) for rows in (corpus.documents, corpus.passages, corpus.questions)]
    before = [table.copy(deep=True) for table in tables]
    facts_of(tables, "corpus", 0.8, RepeatedQuestions(tables[2], tables[1], "corpus", 0.8))
    for table, copy in zip(tables, before, strict=True):
        pd.testing.assert_frame_equal(table, copy)


def test_ids_that_lead_nowhere_are_left_to_the_other_suites(corpus):
    corpus.ask("gone", "train", GENERIC, [FACT], ["gone"])
    later = corpus.ask("gone", "test", GENERIC, [FACT], ["gone"])
    corpus.passages.append({"passage_id": "x", "doc_id": "nowhere", "position": 0, "text": prose("a0"), "start": 0, "end": 9})
    corpus.ask("d", "dev", "To which split does it belong?")
    assert corpus.leaks() == {"repeated_question": [later]}


def test_a_document_in_two_splits_is_left_to_the_questions_suite(corpus):
    corpus.add("e", "test", [prose(f"a{n}") for n in range(8)])
    corpus.ask("e", "train", "Is it in two splits?")
    assert corpus.leaks() == {}


# The search for copies


def passages(**texts):
    """doc__n -> text"""
    rows = []
    for name, text in texts.items():
        doc_id, position = name.split("__")
        rows.append({"passage_id": name, "doc_id": doc_id, "position": int(position), "text": text})
    return pd.DataFrame(rows)


def test_the_share_is_that_of_the_passages_runs_of_five_words():
    """12 words have 8 runs of five; the change of the last word breaks one of them."""
    text = prose("text", 12)
    found = find_copies(passages(a__0=text, b__0=prose("b"), b__1=reworded(text, [11])), {"a": "train", "b": "test"}, 0.8)
    assert [(copy.passage_id, copy.doc_id, copy.copy_id, copy.share) for copy in found] == [
        ("a__0", "b", "b__1", 7 / 8),
        ("b__1", "a", "a__0", 7 / 8),
    ]


def test_runs_that_stand_in_several_documents_make_no_copy_of_one():
    """Each half of a stands elsewhere, but no document holds most of it."""
    first, second = prose("first", 30), prose("second", 30)
    table = passages(a__0=f"{first} {second}", b__0=first, c__0=second)
    found = find_copies(table, {"a": "train", "b": "test", "c": "test"}, 0.8)
    assert [(copy.passage_id, copy.doc_id) for copy in found] == [("b__0", "a"), ("c__0", "a")]


def test_of_a_passage_in_very_many_documents_some_copies_of_each_other_group_are_found():
    texts = {f"d{n:03}__0": LICENCE for n in range(100)} | {"z__0": LICENCE}
    groups = dict.fromkeys((name.split("__")[0] for name in texts), "train") | {"z": "test"}
    found = find_copies(passages(**texts), groups, 0.8)
    assert [copy.doc_id for copy in found if copy.passage_id == "d050__0"] == ["z"]
    assert [copy.doc_id for copy in found if copy.passage_id == "z__0"] == [f"d{n:03}" for n in range(MOST_COPIES)]


def test_every_document_may_be_a_group_of_its_own():
    table = passages(a__0=prose("a"), b__0=prose("a"), c__0=prose("c"))
    found = find_copies(table, {name: name for name in "abc"}, 0.8)
    assert [(copy.passage_id, copy.doc_id) for copy in found] == [("a__0", "b"), ("b__0", "a")]
    assert find_copies(table, dict.fromkeys("abc", "train"), 0.8) == []
    assert find_copies(table, {}, 0.8) == []
