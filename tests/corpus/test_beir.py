import pytest

from uae.corpus.adapters import beir
from uae.io.errors import InputError

CORPUS = [
    {"_id": "d1", "title": "Oil", "text": "Oil is kept in the cellar.", "metadata": {"year": 1880}},
    {"_id": "d2", "title": "", "text": "The cellar floods in spring."},
    {"_id": "d3", "text": "Ropes hang in the loft."},
]
QUERIES = [
    {"_id": "q1", "text": "Where is the oil?", "metadata": {"answers": ["in the cellar", "the cellar"]}},
    {"_id": "q2", "text": "When does the cellar flood? "},
    {"_id": "q3", "text": "Where are ropes?", "metadata": {}},
    {"_id": "q4", "text": "Who sings?"},
]
HEADER = ("query-id", "corpus-id", "score")


@pytest.fixture
def write(tmp_path, write_jsonl):
    def write_folder(corpus=CORPUS, queries=QUERIES, **qrels):
        write_jsonl(tmp_path / "corpus.jsonl", corpus)
        write_jsonl(tmp_path / "queries.jsonl", queries)
        for split, rows in qrels.items():
            (tmp_path / "qrels").mkdir(exist_ok=True)
            lines = "".join("\t".join(map(str, row)) + "\n" for row in [HEADER, *rows])
            (tmp_path / "qrels" / f"{split}.tsv").write_text(lines)
        return str(tmp_path)

    return write_folder


def test_documents_come_with_title_text_and_metadata(write, sections_of):
    source = beir.read(write(test=[("q1", "d1", 1)]))
    assert [(d.key, d.title, d.metadata) for d in source.documents] == [
        ("d1", "Oil", {"year": 1880}),
        ("d2", "", {}),
        ("d3", "", {}),
    ]
    assert sections_of(source.documents[1]) == [("", "The cellar floods in spring.")]


def test_each_qrels_file_is_a_split_and_dev_is_validation(write):
    source = beir.read(write(train=[("q1", "d1", 1)], dev=[("q2", "d2", 1)], test=[("q3", "d3", 1)]))
    assert [(q.text, q.split) for q in source.questions] == [
        ("Where is the oil?", "train"),
        ("When does the cellar flood?", "validation"),
        ("Where are ropes?", "test"),
    ]
    assert {q.document for q in source.questions} == {None}


def test_a_single_qrels_file_leaves_the_split_to_ingest(write):
    source = beir.read(write(test=[("q1", "d1", 1), ("q2", "d2", 2)]))
    assert [q.split for q in source.questions] == [None, None]


def test_relevant_documents_are_evidence_and_score_zero_is_not(write, evidence_of):
    source = beir.read(write(test=[("q1", "d1", 1), ("q1", "d3", 0), ("q1", "d2", 2), ("q4", "d1", 0)]))

    (asked,) = source.questions

    assert evidence_of(source, asked) == ["Oil is kept in the cellar.", "The cellar floods in spring."]
    assert source.skipped["query without judgements"] == 3


def test_answers_stand_in_the_metadata_or_there_are_none(write):
    source = beir.read(write(test=[("q1", "d1", 1), ("q2", "d2", 1), ("q3", "d3", 1)]))
    assert [q.answers for q in source.questions] == [("in the cellar", "the cellar"), (), ()]


def test_answers_that_are_one_string_are_not_taken_apart(write):
    queries = [{"_id": "q1", "text": "Where is the oil?", "metadata": {"answers": "cellar"}}]
    with pytest.raises(InputError) as caught:
        beir.read(write(queries=queries, test=[("q1", "d1", 1)]))
    assert all(part in str(caught.value) for part in ("queries.jsonl, line 1", "answers", "list"))


@pytest.mark.parametrize(
    ("part", "change", "fragment"),
    [
        ("corpus", {"title": 5}, "corpus.jsonl, line 1: the field 'title' must be str"),
        ("corpus", {"metadata": [1]}, "corpus.jsonl, line 1: the field 'metadata' must be dict"),
        ("queries", {"metadata": [1]}, "queries.jsonl, line 1: the field 'metadata' must be dict"),
    ],
)
def test_a_field_of_another_form_names_file_line_and_field(write, part, change, fragment):
    first, *others = {"corpus": CORPUS, "queries": QUERIES}[part]
    with pytest.raises(InputError) as caught:
        beir.read(write(**{part: [first | change, *others]}, test=[("q1", "d1", 1)]))
    assert fragment in str(caught.value)


def test_blank_lines_of_judgements_are_passed_over(write):
    path = write(test=[("q1", "d1", 1), ("",), ("q2", "d2", 1), (" ",)])
    assert len(beir.read(path).questions) == 2


def test_a_query_judged_in_two_splits_stays_in_the_first(write):
    source = beir.read(write(train=[("q1", "d1", 1)], test=[("q1", "d2", 1), ("q2", "d2", 1)]))
    assert [(q.text, q.split) for q in source.questions] == [
        ("Where is the oil?", "train"),
        ("When does the cellar flood?", "test"),
    ]
    assert source.skipped["query judged in two splits, kept in the first"] == 1


def test_a_title_stands_in_for_an_empty_text(write, sections_of, evidence_of):
    corpus = [*CORPUS, {"_id": "d4", "title": "Only a title", "text": ""}, {"_id": "d5", "title": "Null", "text": None}]
    source = beir.read(write(corpus, test=[("q1", "d4", 1), ("q2", "d5", 1)]))
    assert [sections_of(document) for document in source.documents[3:]] == [[("", "Only a title")], [("", "Null")]]
    assert [evidence_of(source, question) for question in source.questions] == [["Only a title"], ["Null"]]
    assert not source.empty


def test_documents_without_text_and_title_can_be_left_out_with_their_judgements(write, run_ingest):
    corpus = [*CORPUS, {"_id": "d4", "title": "", "text": " "}]
    path = write(corpus, test=[("q1", "d1", 1), ("q2", "d4", 1)])
    found = run_ingest(path, "beir", skip_empty=True)
    assert found.questions["text"].tolist() == ["Where is the oil?"]
    assert found.summary["skipped"] == {
        "document without text": 1,
        "judgement of a document without text": 1,
        "query without judgements": 3,
    }


def test_judgements_that_point_nowhere_are_left_out_counted_and_listed(write):
    path = write(test=[("q1", "d1", 1), ("q1", "d9", 1), ("q2", "d8", 1), ("PLAIN-2", "d2", 1)])
    source = beir.read(path)
    assert [question.text for question in source.questions] == ["Where is the oil?"]
    assert source.skipped.places["judgement of a document that is not in corpus.jsonl"] == [
        f"{path}/qrels/test.tsv, line 3: d9",
        f"{path}/qrels/test.tsv, line 4: d8",
    ]
    assert source.skipped.places["judgement of a query that is not in queries.jsonl"] == [
        f"{path}/qrels/test.tsv, line 5: PLAIN-2"
    ]
    assert source.skipped["query without judgements"] == 3


@pytest.mark.parametrize("name", ["dev", "valid", "validation", "val"])
def test_validation_has_several_names(write, name):
    source = beir.read(write(train=[("q1", "d1", 1)], test=[("q3", "d3", 1)], **{name: [("q2", "d2", 1)]}))
    assert [question.split for question in source.questions] == ["train", "validation", "test"]
    assert not source.lacks_validation


def test_files_of_other_names_are_named(write):
    source = beir.read(write(test=[("q1", "d1", 1)], train_small=[("q2", "d2", 1)]))
    (place,) = source.skipped.places["file in qrels that no split is named after"]
    assert place.endswith("train_small.tsv")


@pytest.mark.parametrize(
    "lines",
    [
        "q1 0 d1 1\nq2 0 d2 0\nq2 0 d3 2\n",
        "q1\t0\td1\t1\nq2\t0\td3\t1\n",
        "query_id\tdoc_id\trelevance\nq1\td1\t1.0\nq2\td3\t2\n",
        "q1\td1\t1\r\nq2\td3\t1\r\n",
        "query-id\tQ0\tcorpus-id\tscore\nq1\t0\td1\t1\nq2\t0\td3\t1\n",
    ],
    ids=["TREC", "TREC with tabs", "other names", "no names", "TREC with names"],
)
def test_judgements_in_the_forms_of_trec(write, evidence_of, tmp_path, lines):
    path = write(test=[])
    (tmp_path / "qrels" / "test.tsv").write_text(lines)
    source = beir.read(path)
    assert [evidence_of(source, question) for question in source.questions] == [
        ["Oil is kept in the cellar."],
        ["Ropes hang in the loft."],
    ]


def test_ids_may_be_numbers_and_rows_may_stand_twice(write):
    corpus = [*CORPUS, CORPUS[0], {"_id": 4, "text": "Four."}]
    source = beir.read(write(corpus, [*QUERIES, QUERIES[0], {"_id": 7, "text": " "}], test=[("q1", "4", 1)]))
    assert [document.key for document in source.documents] == ["d1", "d2", "d3", "4"]
    assert len(source.questions) == 1
    assert (source.skipped["document that stands there twice"], source.skipped["query without text"]) == (1, 1)
    assert source.skipped["query that stands there twice"] == 1


@pytest.mark.parametrize(
    ("row", "fragment"),
    [
        (("q1", "d1"), "expected query-id, corpus-id and score"),
        (("q1", "d1", "high"), "must be a number, not 'high'"),
        (("q1", "d" * 140_000, 1), "field larger than field limit"),
    ],
)
def test_a_wrong_judgement_names_file_and_line(write, row, fragment):
    with pytest.raises(InputError) as caught:
        beir.read(write(test=[("q1", "d1", 1), row]))
    assert "test.tsv, line 3" in str(caught.value)
    assert fragment in str(caught.value)


def test_a_folder_without_judgements_is_refused(write):
    with pytest.raises(InputError, match=r"qrels: there is no file of judgements \(train\.tsv, dev\.tsv, valid\.tsv"):
        beir.read(write())


@pytest.mark.parametrize(("part", "file"), [("corpus", "corpus.jsonl"), ("queries", "queries.jsonl")])
def test_an_id_used_twice_names_both_lines(write, part, file):
    rows = {"corpus": CORPUS, "queries": QUERIES}[part]
    with pytest.raises(InputError) as caught:
        beir.read(write(**{part: [*rows, rows[0] | {"text": "Another."}]}, test=[("q1", "d1", 1)]))
    assert f"{file}, line {len(rows) + 1}" in str(caught.value)
    assert f"{file}, line 1" in str(caught.value)


def test_max_documents_keeps_documents_with_judgements(write, run_ingest):
    """BEIR's questions belong to no document, so the documents that hold their evidence must come first."""
    corpus = [{"_id": f"d{n}", "text": f"Store {n} holds rope number {n}."} for n in range(40)]
    queries = [{"_id": f"q{n}", "text": f"Where is rope {n}?"} for n in range(4)]
    found = run_ingest(write(corpus, queries, test=[(f"q{n}", f"d{n}", 1) for n in range(4)]), "beir", max_documents=4)

    assert sorted(found.documents["source"]) == ["d0", "d1", "d2", "d3"]
    assert len(found.questions) == 4


@pytest.mark.parametrize("dev", [None, 0])
def test_validation_is_drawn_from_train_where_there_is_no_dev_split(write, run_ingest, dev):
    """SciFact's shape. Two queries a document: they stay together, as they may ask nearly the same."""
    corpus = [{"_id": f"d{n}", "text": f"Store {n} holds rope number {n}."} for n in range(61)]
    queries = [{"_id": f"q{n}{m}", "text": f"Where is rope {n}, {m}?"} for n in range(61) for m in "ab"]
    judged = [(query["_id"], f"d{query['_id'][1:-1]}", 1) for query in queries]
    qrels = {"train": judged[:120], "test": judged[120:]} | ({} if dev is None else {"dev": judged[:dev]})

    found = run_ingest(write(corpus, queries, **qrels), "beir")

    counts = found.summary["questions_by_split"]
    assert (counts["test"], counts["train"] + counts["validation"]) == (2, 120)
    assert (counts["validation"] == 0) if dev == 0 else (25 <= counts["validation"] <= 55)  # a third of 120
    assert {len(set(group)) for _, group in found.questions.groupby(found.questions["evidence"].str[0])["split"]} == {1}
