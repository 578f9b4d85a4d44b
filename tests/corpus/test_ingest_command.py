"""``uae ingest`` as a user runs it, in a process of its own: exit code, one message, no traceback, nothing half-written."""

import errno
import json
import os
import random
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import uae

ROOT = Path(uae.__file__).parents[1]


@pytest.fixture
def project(tmp_path, monkeypatch, write_corpus):
    """A folder with the project's parameters and a small source, where ``uae`` is run."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("COLUMNS", "60")  # a narrow terminal must not break messages
    shutil.copy(ROOT / "params.yaml", tmp_path)
    documents = [{"id": f"d{n}", "text": f"Lamp {n} burns oil. It is lit at dusk."} for n in range(4)]
    questions = [
        {"question": "What burns?", "answers": ["oil"], "document": f"d{n}", "evidence": ["burns oil"]} for n in range(4)
    ]
    write_corpus(documents, questions)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*overrides, path="corpus", format="jsonl", limit=None):
    settings = [f"ingest.path={path}", f"ingest.format={format}", *overrides]
    return subprocess.run(
        [sys.executable, "-m", "uae.cli.main", "ingest", *(part for setting in settings for part in ("--set", setting))],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) if limit else None,
    )


def written(project):
    return {file.name: file.read_bytes() for file in (project / "data").rglob("*") if file.is_file()}


def refused(done, *fragments):
    assert done.returncode == 1
    assert done.stdout == ""
    (message,) = done.stderr.strip().splitlines()
    assert message.startswith("error: ")
    for fragment in fragments:
        assert fragment in message


def test_a_good_source_is_read(project):
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    assert "ingest.documents: 4" in done.stdout
    assert sorted(written(project)) == [
        "documents.parquet", "ledger.parquet", "passages.parquet", "questions.parquet", "source.parquet",
    ]  # fmt: skip


def test_files_that_are_not_read_are_counted_and_named(project):
    Path("docs").mkdir()
    for name in ("lamp.md", "guide.pdf", "old.pdf", "page.rst"):
        Path("docs", name).write_text("The lamp burns oil.")
    Path("docs/questions.jsonl").write_text('{"question": "What burns?", "document": "lamp.md"}\n')
    done = run(path="docs", format="folder")
    assert done.returncode == 0
    assert 'ingest.files: {".md": 1}' in done.stdout
    assert '"file of a kind that is not read (.pdf)": 2, "file of a kind that is not read (.rst)": 1' in done.stdout
    said = " ".join(done.stderr.split())
    assert "left out: 2 x file of a kind that is not read (.pdf)" in said
    assert "page.rst" in said
    assert json.loads(Path("reports/ingest.json").read_text())["left_out"][0]["places"] == ["docs/guide.pdf", "docs/old.pdf"]


def test_an_unknown_format_is_refused_with_those_there_are(project):
    refused(run(format="docx"), "ingest.format", "the formats are folder, jsonl, squad, squad_hub, qasper, qasper_hub, beir")


def test_a_missing_source(project):
    refused(run(path="nowhere"), "nowhere does not exist")
    assert written(project) == {}


def test_a_broken_line(project):
    with open("corpus/questions.jsonl", "a") as stream:
        stream.write('{"question": "Who')
    refused(run(), "corpus/questions.jsonl, line 5, column 14: broken JSON")
    assert written(project) == {}


def test_text_with_square_brackets_is_shown_as_it_is(project):
    with open("corpus/questions.jsonl", "a") as stream:
        stream.write(json.dumps({"question": "Who?", "answers": ["me"], "document": "[bold]d9[/bold]"}) + "\n")
    refused(run(), "there is no document '[bold]d9[/bold]'")


def test_a_misspelt_parameter(project):
    refused(run("ingest.pasage_words=50"), "there is no parameter ingest.pasage_words; did you mean ingest.passage_words?")


def test_a_misspelt_key_in_the_file(project):
    text = Path("params.yaml").read_text().replace("max_documents:", "max_document:")
    Path("params.yaml").write_text(text)
    refused(run(), "params.yaml", "there is no parameter ingest.max_document; did you mean ingest.max_documents?")


def test_no_parameter_file(project):
    Path("params.yaml").unlink()
    refused(run(), "params.yaml does not exist", "run from the project's folder")


def test_a_refused_source_leaves_the_earlier_tables(project):
    run()
    before = written(project)
    Path("corpus/questions.jsonl").unlink()
    refused(run(), "questions.jsonl does not exist")
    assert written(project) == before


def test_a_full_disk_leaves_the_earlier_tables(project):
    assert run().returncode == 0
    before = written(project)
    letters = random.Random(1)
    text = " ".join(f"{letters.getrandbits(64):x}" for _ in range(20_000))
    with open("corpus/documents.jsonl", "a") as stream:
        stream.write(json.dumps({"id": "long", "text": text}) + "\n")

    done = run(limit=100_000)

    refused(
        done, "cannot write data/documents.parquet", os.strerror(errno.EFBIG), "Free some space", "run the same command again"
    )
    tables = {"documents.parquet", "passages.parquet", "questions.parquet"}  # the ledger comes first, and only grows
    assert {name: content for name, content in written(project).items() if name in tables} == {n: before[n] for n in tables}
    assert run().returncode == 0
    assert len(written(project)["documents.parquet"]) > 100_000
