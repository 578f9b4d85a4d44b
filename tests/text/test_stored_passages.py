"""Texts that are read from their table give what a table in memory gives, wherever a part of it ends."""

import pytest

import uae.text.stored_passages
from uae.io.tables import PASSAGES, read_table, write_table
from uae.text.passage_template import PassageTemplate
from uae.text.stored_passages import StoredPassages, passages_beside, template_for

PLACE = {"title": "Lamps", "source": "s", "start": 0, "end": 1}
DOCUMENTS = {"d1": 3, "d2": 1, "d3": 7, "d4": 2}


@pytest.fixture
def path(tmp_path):
    rows = [
        PLACE | {"passage_id": f"{doc}-{n}", "doc_id": doc, "position": n, "section": f"Part {n}", "text": f"{doc} {n}. It ends."}
        for doc, count in DOCUMENTS.items()
        for n in range(count)
    ]
    write_table(tmp_path / "passages.parquet", PASSAGES, rows)
    return tmp_path / "passages.parquet"


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 13, 100])
@pytest.mark.parametrize("template", ["{text}", "{title} {section}\n{text}", "{before}\n{text}\n{after}"])
@pytest.mark.parametrize("documents", [None, {"d1", "d3"}, {"d4"}, set()])
def test_texts_are_those_of_the_whole_table(path, monkeypatch, rows, template, documents):
    monkeypatch.setattr(uae.text.stored_passages, "_ROWS", rows)
    whole = read_table(path, PASSAGES)
    whole = whole if documents is None else whole[whole["doc_id"].isin(documents)]
    stored, read_as = StoredPassages(path, documents), PassageTemplate(template)
    texts = stored.texts(read_as)
    assert stored.ids.to_dict("list") == whole[["passage_id", "doc_id"]].to_dict("list")
    assert len(texts) == len(whole)
    assert list(texts) == list(texts) == read_as.texts(whole)


@pytest.mark.parametrize("rows", [1, 4, 100])
@pytest.mark.parametrize("wanted", [set(), {"d3-2"}, {"d1-0", "d4-1", "elsewhere"}])
def test_passages_beside_others_are_those_of_their_documents(path, monkeypatch, rows, wanted):
    monkeypatch.setattr(uae.text.stored_passages, "_ROWS", rows)
    whole = read_table(path, PASSAGES)
    kept = whole[whole["doc_id"].isin({name.split("-")[0] for name in wanted})]
    assert passages_beside(path, wanted).to_dict("records") == kept.to_dict("records")


def test_a_table_without_rows_has_no_passages_beside_any(tmp_path):
    write_table(tmp_path / "none.parquet", PASSAGES, [])
    assert passages_beside(tmp_path / "none.parquet", {"p"}).empty


@pytest.mark.parametrize("rows", [1, 4, 100])
def test_single_passages_come_with_their_documents_where_a_template_needs_them(path, monkeypatch, rows):
    monkeypatch.setattr(uae.text.stored_passages, "_ROWS", rows)
    whole, stored = read_table(path, PASSAGES), StoredPassages(path)
    few = stored.rows({"d3-2", "d1-0", "elsewhere"})
    assert few.to_dict("records") == whole[whole["passage_id"].isin({"d3-2", "d1-0"})].to_dict("records")
    beside = stored.rows({"d3-2"}, PassageTemplate("{before}\n{text}"))
    assert beside.to_dict("records") == whole[whole["doc_id"] == "d3"].to_dict("records")
    assert stored.texts().at([0, 5, 12]) == whole["text"].iloc[[0, 5, 12]].tolist()
    assert stored.documents()["doc_id"].tolist() == list(DOCUMENTS)


@pytest.mark.parametrize("rows", [1, 4, 100])
@pytest.mark.parametrize(
    ("last", "read"),
    [("Lamps", "{section}\n{text}"), (" Lamps ", "{section}\n{text}"), ("", "{title}\n{section}\n{text}"), ("Horns", None)],
)
def test_a_title_that_all_documents_have_is_left_out(path, monkeypatch, rows, last, read):
    """Of the last document the title is another one, or none."""
    monkeypatch.setattr(uae.text.stored_passages, "_ROWS", rows)
    table, template = read_table(path, PASSAGES), "{title}\n{section}\n{text}"
    table.loc[table["doc_id"] == "d4", "title"] = last
    write_table(path, PASSAGES, table)
    assert template_for(template, path).template == (read or template)
    assert template_for("{section}\n{text}", path).template == "{section}\n{text}"


def test_where_no_document_has_a_title_the_template_stays(path):
    write_table(path, PASSAGES, read_table(path, PASSAGES).assign(title=" "))
    assert template_for("{title}\n{text}", path).template == "{title}\n{text}"
