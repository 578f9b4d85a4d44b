import numpy as np
import pandas as pd
import pytest

from uae.io.errors import InputError
from uae.io.mapped import temporary
from uae.measures import ranking
from uae.measures.ranking import compact, place, places, rank, rows_by_id, rows_of, strings

PASSAGES = pd.DataFrame({"passage_id": ["pd", "pa", "pc", "pb", "pe"], "doc_id": ["d1", "d1", "d2", "d1", "d2"]})
VECTORS = np.array([[1, 0], [0.6, 0.8], [0, 1], [0.8, 0.6], [-1, 0]], dtype=np.float32)


def ask(*doc_ids):
    number = range(1, len(doc_ids) + 1)
    return pd.DataFrame(
        {"question_id": [f"q{n}" for n in number], "doc_id": doc_ids, "source": [f"questions.jsonl, line {n}" for n in number]},
        columns=["question_id", "doc_id", "source"],
    )


def vectors(*rows):
    return np.array(rows, dtype=np.float32).reshape(len(rows), 2)


EAST, NORTH = (1, 0), (0, 1)


def test_the_whole_corpus_best_first_with_cosines():
    (found,) = rank(ask("d1"), PASSAGES, vectors(EAST), VECTORS, "corpus")
    assert found.question_id == "q1"
    assert found.passage_ids == ["pd", "pb", "pa", "pc", "pe"]
    assert found.scores == pytest.approx([1, 0.8, 0.6, 0, -1])


def test_each_question_is_ranked_by_its_own_vector_within_its_own_document():
    first, second, third = rank(ask("d2", "d1", "d2"), PASSAGES, vectors(EAST, NORTH, NORTH), VECTORS, "document")
    assert (first.question_id, first.passage_ids) == ("q1", ["pc", "pe"])
    assert (second.question_id, second.passage_ids) == ("q2", ["pa", "pb", "pd"])
    assert second.scores == pytest.approx([0.8, 0.6, 0])
    assert (third.question_id, third.passage_ids) == ("q3", ["pc", "pe"])


@pytest.mark.parametrize(("depth", "expected"), [(None, 5), (1, 1), (3, 3), (99, 5)])
def test_depth_keeps_the_best(depth, expected):
    (found,) = rank(ask("d1"), PASSAGES, vectors(EAST), VECTORS, "corpus", depth)
    assert found.passage_ids == ["pd", "pb", "pa", "pc", "pe"][:expected]
    assert len(found.scores) == expected


@pytest.mark.parametrize("scope", ["document", "corpus"])
def test_ties_are_broken_by_id_whatever_the_order_of_rows(scope):
    ids = ["b", "a", "d", "c"]
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        passages = pd.DataFrame({"passage_id": [ids[n] for n in order], "doc_id": "d1"})
        (found,) = rank(ask("d1"), passages, vectors(EAST), vectors(*[(0.6, 0.8)] * 4), scope)
        assert found.passage_ids == ["a", "b", "c", "d"]


@pytest.mark.parametrize("count", [5, 7, 17, 101])
@pytest.mark.parametrize("dimension", [33, 384, 768])
def test_equal_passages_tie_though_their_products_differ_in_the_last_bit(count, dimension):
    """A matrix product rounds by the place of a row: equal vectors in different rows do not get equal scores."""
    generator = np.random.default_rng(dimension)
    rows = generator.normal(size=(count, dimension)).astype(np.float32)
    rows[count // 2 :] = rows[0]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    ids = [f"p{n:03}" for n in generator.permutation(count)]
    passages = pd.DataFrame({"passage_id": ids, "doc_id": "d1"})
    question = rows[:1] + 0.02 * generator.normal(size=(1, dimension)).astype(np.float32)

    (found,) = rank(ask("d1"), passages, question / np.linalg.norm(question), rows, "corpus")

    equal = [ids[0], *ids[count // 2 :]]
    assert found.passage_ids[: len(equal)] == sorted(equal)


def test_a_question_without_a_document_is_named_in_document_scope():
    with pytest.raises(InputError) as caught:
        list(rank(ask("d1", "", ""), PASSAGES, vectors(EAST, EAST, EAST), VECTORS, "document"))
    assert "questions.jsonl, line 2" in str(caught.value)
    assert "1 more" in str(caught.value)
    assert "set scope to corpus" in str(caught.value)


def test_a_question_without_a_document_is_ranked_in_corpus_scope():
    (found,) = rank(ask(""), PASSAGES, vectors(NORTH), VECTORS, "corpus")
    assert found.passage_ids == ["pc", "pa", "pb", "pd", "pe"]


def test_a_document_without_passages_gives_an_empty_ranking():
    (found,) = rank(ask("d9"), PASSAGES, vectors(NORTH), VECTORS, "document")
    assert (found.passage_ids, found.scores) == ([], [])


def test_no_questions_give_no_rankings():
    assert list(rank(ask(), PASSAGES, vectors(), VECTORS, "document")) == []


def test_vectors_of_another_number_than_questions_are_an_error():
    with pytest.raises(ValueError, match="2 questions and 1 vectors"):
        list(rank(ask("d1", "d1"), PASSAGES, vectors(EAST), VECTORS, "document"))


@pytest.mark.parametrize("depth", [None, 0, 1, 7, 60])
@pytest.mark.parametrize("scope", ["document", "corpus"])
def test_blocks_change_nothing(monkeypatch, depth, scope):
    """Many ties over the blocks' borders, and documents whose rows do not stand together."""
    generator = np.random.default_rng(3)
    rows = generator.integers(-1, 2, size=(53, 4)).astype(np.float32)
    passages = pd.DataFrame(
        {"passage_id": [f"p{n:02}" for n in generator.permutation(53)], "doc_id": ["d1", "d2", "d3"] * 17 + ["d1"] * 2}
    )
    asked, questions = ask(*["d2", "d1", "d9", "d3"] * 4), generator.integers(-1, 2, size=(16, 4)).astype(np.float32)
    whole = list(rank(asked, passages, questions, rows, scope, depth))
    monkeypatch.setattr(ranking, "_PASSAGES", 5)
    monkeypatch.setattr(ranking, "_QUESTIONS", 3)
    assert list(rank(asked, passages, questions, rows, scope, depth)) == whole
    for found, doc_id, vector in zip(whole, asked["doc_id"], questions, strict=True):
        within = passages["doc_id"].eq(doc_id) | (scope == "corpus")
        scores = dict(zip(passages["passage_id"][within], (rows @ vector)[within], strict=True))
        assert found.passage_ids == sorted(scores, key=lambda key: (-scores[key], key))[:depth]
        assert found.scores == [scores[key] for key in found.passage_ids]


def many_ties():
    generator = np.random.default_rng(5)
    rows = generator.integers(-1, 2, size=(61, 4)).astype(np.float32)
    documents = [f"d{n % 3}" for n in range(61)]
    passages = pd.DataFrame({"passage_id": [f"p{n:02}" for n in generator.permutation(61)], "doc_id": documents})
    questions = generator.integers(-1, 2, size=(12, 4)).astype(np.float32)
    return ask(*["d0", "d1", "d9", "d2"] * 3), passages, questions, rows


@pytest.mark.parametrize("block", [1, 4, 7, 60, 61, 8192])
@pytest.mark.parametrize("depth", [0, 1, 5, 99])
@pytest.mark.parametrize("scope", ["document", "corpus"])
def test_places_are_those_of_the_whole_ranking_at_any_size_of_block(monkeypatch, block, depth, scope):
    asked, passages, questions, rows = many_ties()
    whole = list(rank(asked, passages, questions, rows, scope))
    also = {question_id: ["p07", "p33", "p60", "elsewhere"] for question_id in asked["question_id"][:7]}
    monkeypatch.setattr(ranking, "_PASSAGES", block)
    for question, found in zip(whole, place(asked, passages, questions, rows, scope, depth, also), strict=True):
        wanted = {*question.passage_ids[:depth], *also.get(question.question_id, ())}
        expected = [each for each in enumerate(question.passage_ids, 1) if each[1] in wanted]
        assert list(zip(found.places, found.passage_ids, strict=True)) == expected
        assert found.scores == [question.scores[at - 1] for at, _ in expected]


@pytest.mark.parametrize("block", [3, 8192])
def test_what_is_wanted_besides_is_kept_once_and_in_order(monkeypatch, block):
    asked, passages, questions, rows = many_ties()
    whole = list(rank(asked, passages, questions, rows, "corpus"))
    also = {question.question_id: question.passage_ids[1::9] for question in whole}
    monkeypatch.setattr(ranking, "_PASSAGES", block)
    for question, found in zip(whole, rank(asked, passages, questions, rows, "corpus", 4, also), strict=True):
        wanted = {*question.passage_ids[:4], *also[question.question_id]}
        assert found.passage_ids == [name for name in question.passage_ids if name in wanted]


def test_ids_of_any_script_and_length_keep_their_order(monkeypatch):
    monkeypatch.setattr(ranking, "_IDS", 2)  # whose parts have other widths
    ids = ["b", "é", "灯", "a", "aa", "Z", "\U0001f4a1", ""]
    kept = compact(pd.Series(ids))
    assert strings(kept) == ids
    ordered = rows_by_id(kept)
    assert [ids[row] for row in ordered] == [ids[row] for row in np.argsort(places(ordered))] == sorted(ids)
    wanted = {"aa", "é", "aaaaaa", "\U0001f4a1!", "elsewhere"}  # longer ones begin like one that is there
    assert [ids[row] for row in rows_of(kept, ordered, wanted)] == ["é", "aa"]


def test_ids_of_one_length_that_lie_in_one_piece_are_not_copied(monkeypatch):
    monkeypatch.setattr(ranking, "_IDS", 2)
    ids = pd.Series(["first", "ée12", "third", "xyz42", "fifth"], dtype="str")
    for column in (ids, ids.iloc[1:4]):
        kept = compact(column)
        assert strings(kept) == column.tolist()
        assert not kept.flags.owndata
        assert not kept.flags.writeable
    for odd in (pd.concat([ids, ids]), ids.iloc[[0, 1]] + ["x", ""], ids.iloc[:0], ids.astype(object)):
        assert strings(compact(odd)) == odd.tolist()
        assert not len(odd) or compact(odd).flags.owndata


def test_vectors_may_lie_in_a_mapped_file(tmp_path):
    asked, passages, questions, rows = many_ties()
    mapped = np.memmap(tmp_path / "vectors", dtype=np.float32, mode="w+", shape=rows.shape)
    mapped[:] = rows
    found = list(place(asked, passages, questions, mapped, "corpus", 3, {}))
    assert found == list(place(asked, passages, questions, rows, "corpus", 3, {}))


def test_mapped_vectors_do_not_stay_in_memory(tmp_path, mapped_bytes):
    vectors = temporary(tmp_path, (1 << 14, 1024), np.float32)  # 64 MB
    names = [f"p{n}" for n in range(len(vectors))]
    passages = pd.DataFrame({"passage_id": names, "doc_id": "d"})
    asked = pd.DataFrame({"question_id": ["q"], "doc_id": ["d"], "source": ["s"]})
    before = mapped_bytes()
    (found,) = place(asked, passages, np.ones((1, 1024), np.float32), vectors, "corpus", 3, {"q": ["p9999"]})
    assert found.passage_ids == ["p0", "p1", "p10", "p9999"]  # all tie
    assert mapped_bytes() - before < 1 << 24
