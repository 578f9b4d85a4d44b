"""A document is forgotten by DVC's cache and remote; every version that never held it can still be pulled."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from dvc.repo import Repo
from git_project import git, git_project
from typer.testing import CliRunner

from dagster_project.forget import forget
from dagster_project.publish import Publication, publish
from uae.io.errors import ArtefactError, ConfigError

DVC_YAML = """
stages:
  make:
    cmd: python make.py
    deps: [make.py, corpus.json]
    outs: [data/passages.parquet, data/questions.parquet, data/ledger.parquet, models/release, models/student, reports/page.html]
"""
# Every version has the same encoder; a release has it, too, beside what is of its own passages.
MAKE = """
import html, json
from pathlib import Path
from uae.io.tables import LEDGER, PASSAGES, QUESTIONS, write_table
corpus = json.loads(Path("corpus.json").read_text())
for name in ("data", "models/release", "models/student", "reports"):
    Path(name).mkdir(parents=True, exist_ok=True)
rows = [
    {"passage_id": f"p-{key}", "doc_id": f"d-{key}", "title": key, "source": key, "position": 0, "section": ""}
    | {"start": 0, "end": len(text), "text": text}
    for key, text in corpus.items()
]
asked = [
    {"question_id": f"q-{key}", "text": f"What of {key}?", "answers": [text[:9]], "doc_id": f"d-{key}", "evidence": [f"p-{key}"]}
    | {"split": "test", "origin": "human", "source": "questions.jsonl"}
    for key, text in corpus.items()
]
known = [{"kind": "document", "id": f"d-{key}", "source": key, "split": "test", "decided": "hash", "content": "", "sketch": []}
         for key in ("kept.md", "crane.md", "new.md")]
write_table(Path("data/passages.parquet"), PASSAGES, rows)
write_table(Path("data/questions.parquet"), QUESTIONS, asked)
write_table(Path("data/ledger.parquet"), LEDGER, known)
write_table(Path("models/release/passages.parquet"), PASSAGES, rows)
Path("models/release/index.faiss").write_bytes(b"\\0" + repr(sorted(corpus)).encode())
for folder in ("models/release", "models/student"):
    Path(folder, "encoder.bin").write_bytes(b"\\0weights" * 99)
Path("reports/page.html").write_text("<p>" + "</p><p>".join(html.escape(text) for text in corpus.values()))
"""
KEPT = {"kept.md": "A ladder of nine rungs leans against the shed."}
CRANE = {"crane.md": 'The crane\'s "gauge" & needle are read every second Tuesday by Ann.'}
NEW = {"new.md": "The shed has two doors."}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A project with three published versions: the second held the crane. (project, tags)"""
    root = tmp_path_factory.mktemp("forget")
    patch = pytest.MonkeyPatch()
    project = git_project(root, patch, DVC_YAML, MAKE, "/data/\n/models/\n/reports/\n")
    tags = []
    for corpus in (KEPT, KEPT | CRANE, KEPT | NEW):
        (project / "corpus.json").write_text(json.dumps(corpus))
        with patch.context() as inside, Repo(str(project)) as repo:
            inside.chdir(project)
            repo.reproduce()
        git(project, "add", "-A")
        git(project, "commit", "-qm", "code")
        tags.append(publish(Publication(project, "data", None, "origin", False, lambda step: None)))
    keep_listing(project)
    yield project, tags
    patch.undo()


def keep_listing(project: Path) -> None:
    """What DVC keeps where a stage depends on a prefix of S3: ETags of objects that are not its own."""
    listing = json.dumps([{"etag": "652e4893e6bb83e16d116ac7b38c01ef", "relpath": "documents/a.md"}])
    oid = hashlib.md5(listing.encode()).hexdigest()
    place = project / ".dvc/cache/files/md5" / oid[:2] / f"{oid[2:]}.dir"
    place.parent.mkdir(exist_ok=True)
    place.write_text(listing)


def contents(folder: Path) -> str:
    """All that the objects below a folder say, tables included."""
    said = []
    for file in folder.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            said.append(repr(pq.read_table(io.BytesIO(content)).to_pylist()) if content[:4] == b"PAR1" else repr(content))
    return "\n".join(said)


def pull(project: Path, tag: str) -> tuple[int, Path]:
    """``dvc pull`` in a fresh clone of a version: exit code, and the clone."""
    there = Path(tempfile.mkdtemp(dir=project.parent)) / "clone"
    subprocess.run(["git", "clone", "-q", "-b", tag, str(project.parent / "remote.git"), str(there)], check=True)
    return subprocess.run(
        [sys.executable, "-m", "dvc", "pull", "-q"], cwd=there, capture_output=True, check=False
    ).returncode, there


def test_what_held_the_document_is_gone_and_all_other_versions_can_be_pulled(published):
    project, (first, second, third) = published
    stores = {"cache": project / ".dvc" / "cache", "remote store": project.parent / "store"}
    for folder in stores.values():
        assert "second Tuesday" in contents(folder)
        assert "What of crane.md?" in contents(folder)

    receipt = forget(project, "crane.md")
    assert (receipt["found"], receipt["standing"], receipt["unreached"]) == (True, [], [])
    lost = ["data/passages.parquet", "data/questions.parquet", "models/release", "reports/page.html"]
    assert receipt["versions"] == {second: lost}
    assert receipt["removed"]["cache"] == receipt["removed"]["remote store"]
    assert len(receipt["removed"]["cache"]) == 5  # a table, questions, the release's listing and its index, the page
    for folder in stores.values():
        said = contents(folder)
        assert "second Tuesday" not in said
        assert "What of crane.md?" not in said
        assert "['crane.md', 'kept.md']" not in said  # the index that was built over it
        assert "weights" in said  # of the encoder that other versions have, too

    for tag, corpus in ((first, KEPT), (third, KEPT | NEW)):
        code, clone = pull(project, tag)
        assert code == 0
        assert {row["source"] for row in pq.read_table(clone / "data/passages.parquet").to_pylist()} == set(corpus)
    code, clone = pull(project, second)
    assert code != 0
    assert (clone / "models/student/encoder.bin").exists()
    assert not (clone / "data/passages.parquet").exists()
    assert not (clone / "models/release").exists()
    assert "second Tuesday" not in contents(clone / "data")
    again = forget(project, "crane.md")
    assert (again["found"], again["removed"]) == (False, {})


def test_a_checkout_of_the_version_does_not_bring_it_back(published):
    project, (_, second, _) = published
    forget(project, "crane.md")
    git(project, "checkout", "-q", second)
    try:
        done = subprocess.run([sys.executable, "-m", "dvc", "checkout", "--force", "-q"], cwd=project, check=False)
        assert done.returncode != 0
        assert not any((project / name).exists() for name in ("data/passages.parquet", "models/release", "reports/page.html"))
    finally:
        git(project, "checkout", "-q", "main")
        subprocess.run([sys.executable, "-m", "dvc", "checkout", "--force", "-q"], cwd=project, check=True)


def test_what_the_project_still_holds_is_refused(published):
    project, _ = published
    with pytest.raises(ArtefactError, match=r"passages.parquet still holds kept.md: delete it from the source, run uae refresh"):
        forget(project, "kept.md")


def test_what_cannot_be_reached_is_said_and_is_a_failure(published):
    from typer import Typer

    from dagster_project.forget import main

    project, _ = published
    config = project / ".dvc" / "config"
    before = config.read_text()
    away = {"disk": project.parent / "not-mounted", "host": "ssh://nowhere/store"}  # of which dvc-ssh is not installed
    config.write_text(before + "".join(f"['remote \"{name}\"']\n    url = {url}\n" for name, url in away.items()))
    app = Typer()
    app.command()(main)
    try:
        done = CliRunner().invoke(app, ["new2.md", "--root", str(project)])
    finally:
        config.write_text(before)
    assert done.exit_code == 1
    host, disk = json.loads(done.stdout)["unreached"]
    assert "remote host: " in host
    assert disk.endswith("not-mounted does not exist: is its disk there? Where nothing was ever pushed, dvc remote remove disk")


def test_what_dvc_lock_names_now_stays_and_is_told(published):
    """Tables follow a deletion within minutes; what is trained and built from them follows with the next chain."""
    project, (_, _, third) = published
    table = project / "data/passages.parquet"
    kept = table.read_bytes()
    rows = pq.read_table(table)
    table.unlink()
    pq.write_table(rows.filter([source != "new.md" for source in rows["source"].to_pylist()]), table)
    try:
        receipt = forget(project, "new.md")
    finally:
        table.unlink()
        table.write_bytes(kept)
    assert receipt["standing"] == ["data/passages.parquet", "data/questions.parquet", "models/release", "reports/page.html"]
    assert receipt["removed"] == {}
    assert pull(project, third)[0] == 0


def test_a_folder_without_dvc_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is no DVC project"):
        forget(tmp_path, "a.md")
    assert os.listdir(tmp_path) == []
