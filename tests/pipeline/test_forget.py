"""A deleted document is forgotten: nothing that is served, installed, registered or kept holds it or brings it back."""

import json
import shutil
from datetime import UTC, datetime

import pytest
from test_refresh import ADDED, Project

import uae.pipeline.forget
from uae.io.errors import ArtefactError, InputError
from uae.io.files import sha256_bytes, write_json, write_text
from uae.pipeline.forget import forget
from uae.registry.rollback import roll_back
from uae.registry.versions import release_of, version_numbered
from uae.release.forgotten import passage_texts
from uae.serving.query_log import Logged, QueryLog, read_queries
from uae.teacher.keys import text_key
from uae.teacher.store import LabelStore

READING = {"answer_id": "a", "template": "t", "teacher": "main", "nll_sum": 1.0, "n_tokens": 2, "truncated": False}


@pytest.fixture(scope="module")
def project(tmp_path_factory, tiny_encoder):
    """Version 1 and the service hold a document on a crane, and so does a version 2; the source has lost it since."""
    found = Project(tmp_path_factory.mktemp("forget"), tiny_encoder)
    document = found.source / "documents" / "crane.md"
    document.write_text(f"# Gauge of the crane\n\n{ADDED}\n")
    found.promote_first()
    assert any(ADDED in text for text in found.served())
    other = found.source / "documents" / "other.md"
    other.write_text("# Other\n\nA ladder of nine rungs leans against the eastern wall of the boat shed.\n")
    assert found.refresh()["promoted"]
    found.served()
    document.unlink()
    return found


def call(project, in_dvc=False):
    watched = project.settings.drift.model_copy(update={"log": str(project.workspace.root / "queries")})
    return forget(
        project.settings.model_copy(update={"drift": watched}),
        project.workspace,
        project.store.folder,
        "documents/crane.md",
        "a test",
        in_dvc,
    )


def write_log(folder):
    """Two queries: the document answered the first, another one the second."""
    log = QueryLog(folder, days=30, max_bytes=1 << 20)
    answered = {"Which gauge has the crane?": "documents/crane.md", "Where is the ladder?": "documents/other.md"}
    log.add(
        Logged(datetime.now(UTC), text, "uae", "cosine", 0.5, 5, None, False, ["p"], ["d"], [source], "release", "encoder")
        for text, source in answered.items()
    )
    log.close()


def test_forgotten_is_forgotten(project, monkeypatch):
    client, names, w = project.client(), project.settings.promote, project.workspace
    with pytest.raises(ArtefactError, match=r"version 2 \(champion\) still holds documents/crane.md: delete it from the source"):
        call(project)
    held = next(iter(passage_texts(project.store.active().folder)["documents/crane.md"]))
    labels = LabelStore(w.path("labels"), 100)
    with labels.writing():
        rows = [READING | {"question": "q", "passage": text_key(text)} for text in (held, "another text")]
        labels.append(rows, {"teacher": "main"})
    write_log(w.root / "queries")
    write_text(w.backfills / "data-0123456789ab" / "data" / "passages", held)
    run_id = version_numbered(client, names.model, "1").run_id
    client.log_dict(run_id, {"examples": [{"question": "Which gauge?", "passage": held}]}, "validation_examples.json")
    client.log_dict(run_id, {"examples": [{"question": "Which?", "passage": "another text"}]}, "other.json")
    assert project.refresh()["promoted"]
    project.served()
    before = {each.fingerprint for each in project.store.installed()}

    receipt = call(project)
    left = {each.fingerprint for each in project.store.installed()}
    assert left == {project.store.active().fingerprint}
    assert set(receipt["releases_in_store"]) == before - left
    assert receipt["versions"]["removed"] == [1, 2]
    assert len(receipt["versions"]["places"]) == 2
    assert receipt["files_of_runs"] == [f"{run_id}/validation_examples.json"]
    assert [each.path for each in client.list_artifacts(run_id)] == ["other.json"]
    assert receipt["unreached"] == []
    assert receipt["passages"] == [sha256_bytes(held)]
    assert receipt["readings"] == {"labels": 1}
    assert LabelStore(w.path("labels")).read()["passage"].tolist() == [text_key("another text")]
    assert receipt["vectors"] == 1
    assert receipt["queries"] == 1
    assert receipt["backfills"] == ["data-0123456789ab"]
    assert not any(w.backfills.iterdir())
    assert read_queries(w.root / "queries")["text"].to_pylist() == ["Where is the ladder?"]
    (written,) = (w.path("refresh").parent / "forgotten").iterdir()
    assert json.loads(written.read_text()) == receipt
    assert ADDED not in written.read_text()

    with pytest.raises(InputError, match="version 2 of uae-retriever has lost its release"):
        roll_back(client, project.settings.tracking.experiment, names.model, names.alias, "2", "try it", "a test")
    with pytest.raises(InputError, match="no release before this one"):
        project.store.rollback()
    again = call(project)
    assert (again["releases_in_store"], again["versions"]["removed"], again["vectors"]) == ([], [], 0)
    assert again["unreached"] == []
    found = {"found": True, "removed": {"cache": ["0a"]}, "versions": {"data-1": ["models/release"]}}
    found |= {"standing": ["models/release"], "unreached": ["DVC's remote away: no"]}
    monkeypatch.setattr(uae.pipeline.forget, "_forget_in_dvc", lambda root, source_key: found)
    with_dvc = call(project, in_dvc=True)
    assert with_dvc["dvc"] == {"removed": {"cache": ["0a"]}, "versions": {"data-1": ["models/release"]}}
    away, standing = with_dvc["unreached"]
    assert away == "DVC's remote away: no"
    assert standing.startswith("models/release of this project holds it, and dvc.lock names that: run the chain")
    with pytest.raises(InputError, match="no release holds texts of 'nowhere' alone"):
        forget(project.settings, w, project.store.folder, "nowhere", "a test")


def test_dvc_is_asked_in_a_process_of_its_own(tmp_path):
    with pytest.raises(ArtefactError, match=r"is no DVC project.*uae forget --no-dvc leaves them as they are"):
        uae.pipeline.forget._forget_in_dvc(tmp_path, "documents/crane.md")


def test_a_copy_of_the_release_cannot_be_brought_back(project):
    """A document of other name and the same text is the same to the list; so is a backup of an old release."""
    (project.source / "documents" / "renamed.md").write_text(f"# Gauge of the crane\n\n{ADDED}\n")
    result = project.refresh()
    version = version_numbered(project.client(), result["model"], str(result["version"]))
    with pytest.raises(ArtefactError, match=r"holds passages of documents/renamed.md that were forgotten \(uae forget\)"):
        project.store.install(release_of(version), None)


def test_a_call_that_has_nothing_left_to_forget_says_so(project):
    """As the docs have it made again, after what an earlier call could not reach was mended."""
    for name in ("release", "refreshed_release"):
        shutil.rmtree(project.workspace.path(name), ignore_errors=True)
    for each in project.store.installed():
        if not each.is_active:
            project.store.remove(each.fingerprint)
    earlier = call(project)["passages"]
    receipts = project.workspace.path("refresh").parent / "forgotten"
    assert earlier == [sha256_bytes(text) for text in (ADDED,)]
    clean = call(project)
    assert (clean["passages"], clean["releases_in_store"], clean["unreached"]) == (earlier, [], [])

    last = max(receipts.iterdir())
    write_json(last, json.loads(last.read_text()) | {"unsearched": ["files of the run 7 cannot be read"]})
    for _ in range(2):  # nobody knows its texts any more, so it is said each time
        assert call(project)["unreached"] == ["files of the run 7 cannot be read"]
