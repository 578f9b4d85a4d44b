import pytest

SPLITS = {"train": 0.6, "validation": 0.2, "test": 0.2}
# Each sentence has 10 words, so that passages of at most 20 words hold one or two.
SENTENCES = [f"In month {n} the keeper wrote down what came ashore." for n in range(5)]


def document(key, text=None):
    return {"id": key, "title": key.title(), "text": text or f"The {key} is oiled every week. It stands by the door."}


def question(text, key, *answers, **other):
    return {"question": text, "answers": list(answers or ["yes"]), "document": key} | other


@pytest.fixture
def ten(write_corpus):
    """Ten documents with one to four questions each, in a given order of rows."""

    def write(order=1, name="corpus", **changed):
        keys = [f"tool-{n}" for n in range(10)]
        documents = [document(key, changed.get(key.replace("-", "_"))) for key in keys]
        questions = [
            question(f"Question {n} about {key}?", key) for number, key in enumerate(keys) for n in range(1 + number % 4)
        ]
        return write_corpus(documents[::order], questions[::order], name)

    return write


def test_rows_agree_with_each_other_and_with_the_counts(ten, run_ingest):
    found = run_ingest(ten(), split=SPLITS)
    texts = found.documents.set_index("doc_id")["text"]

    assert all(texts[p.doc_id][p.start : p.end] == p.text for p in found.passages.itertuples())
    assert set(found.questions["doc_id"]) == set(texts.index) == set(found.passages["doc_id"])
    for _, passages in found.passages.groupby("doc_id"):
        assert passages["position"].tolist() == list(range(len(passages)))
    assert found.summary["documents"] == len(found.documents) == 10
    assert found.summary["passages"] == len(found.passages)
    assert found.summary["questions"] == len(found.questions) == 23
    assert found.summary["questions_by_split"] == found.questions["split"].value_counts().to_dict()


def test_ids_are_these(write_corpus, run_ingest):
    """Tables and releases are keyed by ids: a change of how they are made must be on purpose."""
    path = write_corpus([document("lamp")], [question("Is it oiled?", "lamp", split="train")])
    found = run_ingest(path)
    assert found.documents["doc_id"].tolist() == ["346d42a42c4b8b458e514d6a"]
    assert found.passages["passage_id"].tolist() == ["66c7fb71d985f4782d432fdf"]
    assert found.questions["question_id"].tolist() == ["dd8788820adc92ad2344c820"]


def test_passages_name_their_document_and_their_heading(write_corpus, run_ingest):
    sections = [{"title": "Wick", "text": "It is trimmed."}, {"title": "Oil", "text": "It is filled in."}]
    found = run_ingest(write_corpus([{"id": "lamp", "title": "The lamp", "sections": sections}], []))
    columns = ["title", "source", "section"]
    assert found.passages[columns].values.tolist() == [["The lamp", "lamp", "Wick"], ["The lamp", "lamp", "Oil"]]


def test_another_heading_over_the_same_words_is_another_passage(write_corpus, run_ingest):
    """The teacher reads headings: labels for the old heading must not be taken for the new one's."""
    ids = {
        run_ingest(write_corpus([{"id": "a", "sections": [{"title": title, "text": "It is trimmed."}]}], [])).passages[
            "passage_id"
        ][0]
        for title in ("", "Wick", "Lamp")
    }
    assert len(ids) == 3


def test_ids_and_splits_do_not_depend_on_the_order_of_rows_or_the_folder(ten, run_ingest):
    first, second = run_ingest(ten(), split=SPLITS), run_ingest(ten(order=-1, name="elsewhere"), split=SPLITS)

    assert first.documents["doc_id"].tolist() == second.documents["doc_id"].tolist()
    assert first.passages.equals(second.passages)
    columns = ["question_id", "text", "doc_id", "evidence", "split"]
    assert first.questions[columns].equals(second.questions[columns])


def test_an_edit_changes_the_ids_of_the_passages_that_it_changes_and_no_others(ten, run_ingest):
    before = run_ingest(ten(), split=SPLITS)
    after = run_ingest(ten(tool_3="The tool-3 is oiled every month. It stands by the door."), split=SPLITS, again=True)

    assert set(before.documents["doc_id"]) == set(after.documents["doc_id"])
    assert set(before.questions["question_id"]) == set(after.questions["question_id"])
    gone = before.passages[~before.passages["passage_id"].isin(after.passages["passage_id"])]
    assert gone["source"].tolist() == ["tool-3"]
    assert len(before.passages) == len(after.passages)


def test_the_same_passage_in_two_documents_has_two_ids(write_corpus, run_ingest):
    text = "Ropes are coiled clockwise."
    path = write_corpus([document(key, text) for key in "abc"], [question("How?", key) for key in "abc"])
    found = run_ingest(path)
    assert found.documents["doc_id"].nunique() == found.passages["passage_id"].nunique() == 3
    assert found.questions["question_id"].nunique() == 3


@pytest.mark.parametrize(
    ("quote", "told"),
    [
        (SENTENCES[0], [0]),
        (SENTENCES[1], [1]),
        (SENTENCES[2], [2]),
        (f"{SENTENCES[1]} {SENTENCES[2]}", [1, 2]),
        (" ".join(SENTENCES), [0, 1, 2, 3, 4]),
        ("In month 4", [4]),
    ],
    ids=["first", "second", "third", "over a border", "all", "last"],
)
def test_evidence_is_the_passages_that_overlap_the_quote(write_corpus, run_ingest, quote, told):
    path = write_corpus(
        [document("log", " ".join(SENTENCES))], [question("What came?", "log", "wood", evidence=[quote], split="train")]
    )
    found = run_ingest(path)
    passages = found.passages.sort_values("position")
    assert len(passages) in (3, 4)
    holding = [any(SENTENCES[n] in text for n in told) for text in passages["text"]]
    assert found.questions["evidence"].tolist() == [passages["passage_id"][holding].tolist()]


def test_a_quote_up_to_a_border_without_a_space_is_in_one_passage(write_corpus, run_ingest):
    """Where no space follows a full stop, one passage ends at the very offset at which the next begins."""
    first, second = (" ".join(f"{letter}{n}" for n in range(20)) + "。" for letter in "ab")
    rows = [question("What?", "log", evidence=[first], split="train"), question("Why?", "log", evidence=[second], split="train")]
    found = run_ingest(write_corpus([document("log", first + second)], rows))
    ids = found.passages.sort_values("position")["passage_id"].tolist()
    assert found.passages["text"].tolist() == [first, second]
    assert found.questions.set_index("text")["evidence"].to_dict() == {"What?": [ids[0]], "Why?": [ids[1]]}


def test_quotes_in_one_passage_count_once_and_none_is_counted(write_corpus, run_ingest):
    path = write_corpus(
        [document("log", " ".join(SENTENCES))],
        [
            question("What came?", "log", evidence=["In month 0", "the keeper"], split="train"),
            question("What went?", "log", split="train"),
        ],
    )
    found = run_ingest(path)
    assert sorted(len(evidence) for evidence in found.questions["evidence"]) == [0, 1]
    assert found.summary["questions_without_evidence"] == 1


def test_a_repeated_question_is_merged_with_all_its_answers_and_evidence(write_corpus, run_ingest):
    path = write_corpus(
        [document("log", " ".join(SENTENCES)), document("lamp")],
        [
            question("What came?", "log", "wood", "ropes", evidence=["In month 0"], split="train"),
            question("What came?", "lamp", "nothing", split="train"),
            question(" What came? ", "log", "ropes", "a cask", evidence=["In month 4", "In month 1"], split="train"),
        ],
    )
    found = run_ingest(path)
    doc_id = found.documents.set_index("source").loc["log", "doc_id"]
    merged = found.questions.set_index("doc_id").loc[doc_id]
    ids = found.passages[found.passages["doc_id"] == doc_id].sort_values("position")["passage_id"].tolist()

    assert found.summary["repeated_questions_merged"] == 1
    assert len(found.questions) == 2
    assert merged["answers"] == ["wood", "ropes", "a cask"]
    second = next(passage.passage_id for passage in found.passages.itertuples() if "month 1" in passage.text)
    assert set(merged["evidence"]) == {ids[0], second, ids[-1]}
    assert merged["source"].endswith("line 1")


def test_no_document_is_in_two_splits_and_none_is_empty(ten, run_ingest):
    questions = run_ingest(ten(), split=SPLITS).questions
    assert questions.groupby("doc_id")["split"].nunique().eq(1).all()
    by_split = questions.groupby("split")["doc_id"].nunique().to_dict()
    assert by_split == {"train": 6, "validation": 2, "test": 2}


def test_given_splits_are_kept_and_carry_their_document_with_them(write_corpus, run_ingest):
    keys = [f"tool-{n}" for n in range(8)]
    questions = [question(f"What is {key}?", key) for key in keys]
    questions += [question(f"Where is {key}?", key, split="test") for key in keys[:4]]
    found = run_ingest(write_corpus([document(key) for key in keys], questions), split=SPLITS).questions

    given = found[found["text"].str.startswith("Where")]
    same_documents = found[found["doc_id"].isin(given["doc_id"])]
    assert set(given["split"]) == set(same_documents["split"]) == {"test"}
    assert set(found["split"]) == {"train", "validation", "test"}


def test_a_question_in_two_splits_is_refused_and_all_such_questions_are_named(write_corpus, refuse):
    rows = [question("What is it?", "lamp", split="train"), question("What is it?", "lamp", split="test")]
    rows += [
        question(f"{how} is the wick trimmed?", "lamp", split=split) for how in ("How", "When") for split in ("train", "test")
    ]
    lines = [f"questions.jsonl, line {n + 1}: {row['question']}" for n, row in enumerate(rows)]
    refuse(write_corpus([document("lamp")], rows), "jsonl", *lines, "ingest.repeated_questions=drop_training_copy")


def test_a_repeated_question_may_name_its_split_once(write_corpus, run_ingest):
    rows = [question("What is it?", "lamp", "a", split="train"), question("What is it?", "lamp", "b")]
    found = run_ingest(write_corpus([document("lamp")], rows)).questions
    assert found[["split", "answers"]].to_numpy().tolist() == [["train", ["a", "b"]]]


def test_another_seed_gives_other_splits_but_the_same_ids(ten, run_ingest):
    first, second = (run_ingest(ten(), split=SPLITS, seed=seed).questions for seed in (1, 2))
    assert first["question_id"].tolist() == second["question_id"].tolist()
    assert first["split"].tolist() != second["split"].tolist()


def test_a_single_document_can_be_read_and_validation_is_left_to_stop_the_chain(write_corpus, run_ingest):
    path = write_corpus([document(key) for key in "abc"], [question("What?", "a"), question("Why?", "a")])
    assert run_ingest(path, split=SPLITS).questions["split"].tolist() == ["train", "train"]


def test_max_documents_takes_documents_with_questions_first(write_corpus, run_ingest):
    keys = [f"tool-{n}" for n in range(20)]
    asked = keys[::5]
    path = write_corpus([document(key) for key in keys], [question("What is it?", key, split="train") for key in asked])

    few, more = run_ingest(path, max_documents=3), run_ingest(path, max_documents=6)

    assert set(few.documents["source"]) < set(asked)
    assert set(asked) < set(more.documents["source"])
    assert (len(few.documents), len(few.questions)) == (3, 3)
    assert (len(more.documents), len(more.questions)) == (6, 4)


def test_without_max_documents_all_are_kept(write_corpus, run_ingest):
    path = write_corpus([document(key) for key in "abcd"], [question("What is it?", "a", split="train")])
    assert len(run_ingest(path).documents) == 4


@pytest.mark.parametrize("seed", [1, 2])
def test_a_second_run_writes_the_same_bytes(ten, run_ingest, tmp_path, seed):
    def written():
        run_ingest(ten(), split=SPLITS, seed=seed)
        return {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}

    first, second = written(), written()
    assert sorted(first) == ["documents.parquet", "ingest.json", "ledger.parquet", "passages.parquet", "questions.parquet"]
    assert first == second


def test_fields_of_a_hash_cannot_run_into_each_other(write_corpus, run_ingest):
    rows = [{"id": "a", "title": "bc", "text": "d"}, {"id": "ab", "title": "c", "text": "d"}]
    path = write_corpus(rows, [question("What?", "a", split="train")])
    assert run_ingest(path).documents["doc_id"].nunique() == 2
