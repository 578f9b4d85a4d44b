"""Folders as people have them: other kinds of files, odd names, and things with a known suffix that are no such file."""

import os
import socket

import pytest

from uae.corpus.adapters import folder
from uae.io.errors import InputError


@pytest.fixture
def place(tmp_path, write_jsonl):
    (tmp_path / "lamp.md").write_text("The lamp burns rape oil.")
    write_jsonl(tmp_path / "questions.jsonl", [])
    return tmp_path


def test_files_of_other_kinds_are_counted_by_kind_and_named(place):
    (place / "deep").mkdir()
    for name in ("a.pdf", "deep/b.PDF", "c.docx", "Makefile", "README.md", ".hidden.md"):
        (place / name).write_text("x")
    source = folder.read(str(place))
    assert source.files == {".md": 1}
    assert source.skipped == {
        "file of a kind that is not read (.pdf)": 2,
        "file of a kind that is not read (.docx)": 1,
        "file of a kind that is not read (no suffix)": 1,
        "README.md, which is about the folder": 1,
    }
    assert source.skipped.places["file of a kind that is not read (.pdf)"] == [
        str(place / "a.pdf"),
        str(place / "deep" / "b.PDF"),
    ]


def test_a_folder_with_the_name_of_a_file_is_a_folder(place):
    (place / "site.html").mkdir()
    (place / "site.html" / "page.md").write_text("The horn is loud.")
    assert [document.key for document in folder.read(str(place)).documents] == ["lamp.md", "site.html/page.md"]


def test_pipes_and_sockets_are_left_out_and_counted(place, monkeypatch):
    os.mkfifo(place / "pipe.md")
    monkeypatch.chdir(place)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.txt")
        source = folder.read(str(place))
    assert source.skipped == {"pipe with the name of a .md file": 1, "socket with the name of a .txt file": 1}


def test_links_to_files_are_followed_and_links_to_folders_are_named(place, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "horn.md").write_text("The horn is loud.")
    (place / "linked.md").symlink_to(elsewhere / "horn.md")
    (place / "more").symlink_to(elsewhere)
    (place / "round").symlink_to(place)
    source = folder.read(str(place))
    assert [document.key for document in source.documents] == ["lamp.md", "linked.md"]
    assert source.skipped == {"link to a folder, which is not followed": 2}


def test_all_files_that_cannot_be_read_are_named_at_once(place):
    (place / "gone.md").symlink_to("nowhere.md")
    (place / "bytes.txt").write_bytes("Où ?".encode("latin-1"))
    (place / "manual.txt").write_bytes(b"%PDF-1.4\n")
    with pytest.raises(InputError) as caught:
        folder.read(str(place))
    said = str(caught.value)
    assert said.startswith("3 files cannot be read:")
    assert all(part in said for part in ("gone.md is a link that leads nowhere", "bytes.txt, line 1: ", "manual.txt holds a PDF"))


def test_names_that_are_not_utf_8_matter_only_where_the_file_is_read(place):
    try:
        (place / os.fsdecode(b"caf\xe9.pdf")).write_text("x")
    except OSError:
        pytest.skip("this file system holds only UTF-8 names")
    source = folder.read(str(place))
    assert source.skipped.places["file of a kind that is not read (.pdf)"] == [f"{place}/caf\\xe9.pdf"]


@pytest.mark.parametrize("name", ["100%25 sure?.md", "a#b c.md", "a b.md"])
def test_signs_in_names_are_only_signs(place, write_jsonl, name):
    (place / name).write_text("The horn is loud.")
    write_jsonl(place / "questions.jsonl", [{"question": "Is it loud?", "document": name}])
    source = folder.read(str(place))
    assert name in [document.key for document in source.documents]
    assert source.questions[0].document == name


def test_a_name_may_be_spelt_in_either_way_of_unicode(place, write_jsonl):
    (place / "cafe\u0301.md").write_text("The horn is loud.")
    write_jsonl(place / "questions.jsonl", [{"question": "Is it loud?", "document": "caf\u00e9.md"}])
    assert folder.read(str(place)).questions[0].document == "cafe\u0301.md"


def test_names_that_differ_in_their_spelling_alone_are_two_documents(place, write_jsonl):
    names = ["cafe\u0301.md", "caf\u00e9.md"]
    for name in names:
        (place / name).write_text(f"The horn is {name!a}.")
    if len([file for file in place.iterdir() if file.name.startswith("caf")]) < 2:
        pytest.skip("this file system takes both spellings for one name")
    write_jsonl(place / "questions.jsonl", [{"question": "Is it loud?", "document": name} for name in names])
    assert [question.document for question in folder.read(str(place)).questions] == names


@pytest.mark.parametrize(
    ("quote", "place_of"),
    [("How to reset", "Press it."), ("Alarms", "Press it."), ("Mute", "Turn it."), ("How to reset Press it.", "How to reset")],
)
@pytest.mark.parametrize("name", ["a.md", "a.html"])
def test_headings_and_titles_may_be_quoted_as_evidence(tmp_path, write_jsonl, run_ingest, name, quote, place_of):
    pages = {
        "a.md": "---\ntitle: Alarms\n---\n# How to reset\n\nPress it.\n\n# Mute\n\nTurn it.\n",
        "a.html": "<title>Alarms</title><h1>How to reset</h1><p>Press it.<h1>Mute</h1><p>Turn it.",
    }
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_text(pages[name])
    asked = {"question": "How?", "document": name, "evidence": [quote], "split": "train"}
    write_jsonl(tmp_path / "in" / "questions.jsonl", [asked])
    found = run_ingest(tmp_path / "in", "folder")
    texts = found.passages.set_index("passage_id")["text"]
    (evidence,) = found.questions["evidence"]
    expected = "Press it." if place_of == "How to reset" else place_of
    assert [texts[passage_id] for passage_id in evidence] == [expected]


def test_empty_files_can_be_left_out_with_their_questions(place, write_jsonl, run_ingest):
    (place / "empty.md").write_text("---\ntitle: Nothing\n---\n")
    (place / "blank.txt").write_text(" \n")
    rows = [{"question": f"What of {name}?", "document": name, "split": "train"} for name in ("lamp.md", "empty.md")]
    write_jsonl(place / "questions.jsonl", rows)
    found = run_ingest(place, "folder", skip_empty=True)
    assert found.documents["source"].tolist() == ["lamp.md"]
    assert found.questions["text"].tolist() == ["What of lamp.md?"]
    assert found.summary["skipped"] == {"document without text": 2, "question about a document without text": 1}


def test_what_is_left_out_is_said_and_kept_in_the_report(place, run_ingest, caplog):
    for n in range(5):
        (place / f"{n}.pdf").write_text("x")
    found = run_ingest(place, "folder")
    reason = "file of a kind that is not read (.pdf)"
    assert found.report["left_out"] == [{"reason": reason, "count": 5, "places": [str(place / f"{n}.pdf") for n in range(5)]}]
    assert found.report["counts"] == found.summary
    assert found.summary["files"] == {".md": 1}
    (line,) = caplog.messages
    assert line.startswith(f"left out: 5 x {reason}: {place / '0.pdf'}; ")
    assert line.endswith(" and 2 more")
