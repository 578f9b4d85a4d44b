"""The refresh lane: a corpus changes, and the champion's encoder serves it, after the gate."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from uae.cli.main import app
from uae.io.errors import ArtefactError, ConfigError, InputError
from uae.io.files import read_json
from uae.pipeline.refresh import refresh
from uae.pipeline.run import run_chain
from uae.pipeline.settings import load_settings
from uae.pipeline.workspace import Workspace
from uae.registry.register import register
from uae.registry.tracking import connect, run_of
from uae.registry.versions import version_of
from uae.release.build import IndexRecipe, build_release
from uae.release.open import Release
from uae.release.store import ReleaseStore
from uae.serving.follow import step

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"
DOCS = 24
ADDED = "Brass gauge 4711 of the harbour crane is read every second Tuesday, and its needle is greased with tallow afterwards."
SETTINGS = (
    "scope=corpus", "compute.device=cpu", "validate.min_questions={train: 1, validation: 1, test: 1}", "index.serving=onnx",
    "index.max_recall_loss=1", "index.min_cosine=0.9", "index.base=true", "promote.max_slowdown=null", "promote.max_loss=0.05",
)  # fmt: skip


def document(number: int) -> str:
    lines = [
        f"Valve {number * 7 + part} of pump {number} is checked on day {number + 3 * part} by crew {part}." for part in range(4)
    ]
    return "\n\n".join(f"## Part {part}\n\n{line}" for part, line in enumerate(lines))


def write_source(folder: Path) -> None:
    (folder / "documents").mkdir(parents=True)
    asked = []
    for number in range(DOCS):
        (folder / "documents" / f"pump-{number}.md").write_text(f"# Pump {number}\n\n{document(number)}\n")
        quote = f"Valve {number * 7} of pump {number} is checked on day {number} by crew 0."
        question = {"question": f"When is valve {number * 7} of pump {number} checked by crew 0?", "answers": [f"day {number}"]}
        asked.append(question | {"document": f"documents/pump-{number}.md", "evidence": [quote]})
    (folder / "questions.jsonl").write_text("".join(json.dumps(each) + "\n" for each in asked))


class Project:
    """A folder of ``uae run`` whose champion is a release of the tiny encoder, and a service's store that follows it."""

    def __init__(self, root: Path, encoder: Path):
        self.source, self.encoder = root / "source", encoder
        write_source(self.source)
        self.settings = self.with_overrides()
        self.workspace = Workspace(root / "run", root / "models", flat_reports=True)
        self.store = ReleaseStore(root / "store")

    def with_overrides(self, *more: str):
        return load_settings(PARAMS, [*SETTINGS, f"models.student=path:{self.encoder}", f"ingest.path={self.source}", *more])

    def read(self):
        run_chain(self.settings, self.workspace.root, self.workspace.model_cache, lambda line: None, "validate")

    def refresh(self, *more: str):
        self.read()
        return refresh(self.with_overrides(*more), self.workspace)

    def client(self):
        return connect(self.settings.tracking.uri, self.settings.tracking.experiment, self.workspace.root)

    def champion(self):
        return version_of(self.client(), self.settings.promote.model, self.settings.promote.alias)

    def promote_first(self):
        w, s = self.workspace, self.settings
        self.read()
        tables = {name: w.path(name) for name in ("documents", "passages", "questions")}
        built = build_release(
            **{f"{name}_path": path for name, path in tables.items()}, encoder_path=self.encoder, base_path=self.encoder,
            release_path=w.path("release"), recipe=IndexRecipe(**s.index.model_dump(exclude={"base"})), scope=s.scope,
            passage_words=s.ingest.passage_words, device="cpu",
        )  # fmt: skip
        client = self.client()
        run_id = run_of(client, s.tracking.experiment, built.manifest.dense().encoder)
        version = register(
            client,
            s.promote.model,
            run_id,
            w.path("release"),
            built.manifest,
            {},
            {},
            tables,
            True,
            {"dvc.labels": "of training"},
        )
        client.set_registered_model_alias(s.promote.model, s.promote.alias, version.version)

    def served(self) -> set[str]:
        """What the service finds after it looked at the alias."""
        step(self.client(), self.settings.promote.model, self.settings.promote.alias, self.store, lambda line: None)
        release = Release(self.store.active().folder, "cpu")
        try:
            return {hit.text for hit in release.search(["the gauge of the harbour crane"], release.passage_count)[0]}
        finally:
            release.close()


@pytest.fixture(scope="module")
def project(tmp_path_factory, tiny_encoder):
    found = Project(tmp_path_factory.mktemp("refresh"), tiny_encoder)
    found.promote_first()
    return found


def test_the_served_index_follows_the_corpus(project):
    """Nothing changes; a document comes; it goes, and the vector store is lost; echoes of the questions hide what was found."""
    first = project.champion()
    assert not any(ADDED in text for text in project.served())
    same = project.refresh()
    assert (same["lane"], same["version"], same["passages"]["new"]) == ("same", int(first.version), 0)

    new = project.source / "documents" / "crane.md"
    new.write_text(f"# Gauge of the crane\n\n{ADDED}\n")
    result = project.refresh()
    assert (result["lane"], result["promoted"], result["refreshed"]) == ("refresh", True, int(first.version)), result["reasons"]
    assert (result["passages"]["new"], result["passages"]["gone"], result["vectors_embedded"]) == (1, 0, 1)
    second = project.champion()
    assert int(second.version) == result["version"] == int(first.version) + 1
    assert second.tags["uae.encoder"] == first.tags["uae.encoder"]
    assert (second.tags["uae.refresh_of"], second.tags["dvc.labels"]) == (str(first.version), "of training")
    assert second.tags["uae.corpus"]
    assert second.tags["dvc.passages"] != first.tags["dvc.passages"]
    assert read_json(project.workspace.path("refresh")) == result
    assert any(ADDED in text for text in project.served())

    new.unlink()
    shutil.rmtree(project.workspace.vectors)  # a cache: the champion's own index knows every text that is left
    result = project.refresh()
    assert (result["promoted"], result["passages"]["gone"], result["vectors_embedded"]) == (True, 1, 0)
    assert any(f"of version {first.version}, the first of this encoder" in reason for reason in result["reasons"])
    assert not any(ADDED in text for text in project.served())

    before = project.champion()
    for line in (project.source / "questions.jsonl").read_text().splitlines():
        question = json.loads(line)["question"]
        echo = project.source / "documents" / f"echo-{question.split()[3]}.md"
        echo.write_text("# Echo\n\n" + "\n\n".join(f"## {word}\n\n{question} {word}" for word in ("Once", "Twice", "Again")))
    result = project.refresh("promote.max_loss=0")
    assert not result["promoted"]
    assert any(reason.startswith("map") and reason.endswith("FAILED") for reason in result["reasons"])
    assert project.champion().version == before.version
    assert len(project.served()) == DOCS * 4


def test_tables_that_were_not_validated_are_refused(project):
    report = project.workspace.path("validation")
    kept = report.read_text()
    found = json.loads(kept)
    found["tables"]["documents"] = "0" * 64
    report.write_text(json.dumps(found))
    try:
        with pytest.raises(ArtefactError, match="was changed after it was validated"):
            refresh(project.settings, project.workspace)
    finally:
        report.write_text(kept)


def test_another_length_of_passages_is_no_refresh(project):
    other = project.with_overrides("ingest.passage_words=33")
    with pytest.raises(ConfigError, match=r"ingest.passage_words is 33, and version \d+ \(champion\) was cut to \d+"):
        refresh(other, project.workspace)


def test_without_a_champion_it_says_what_to_run(tmp_path, project):
    with pytest.raises(InputError, match="is the champion, so there is nothing to refresh: run the whole chain first"):
        refresh(project.settings, Workspace(tmp_path, flat_reports=True))


def test_the_command_names_what_is_missing(tmp_path, project):
    words = ["refresh", "--out", str(tmp_path), "--no-read", "--params", str(PARAMS)]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, InputError)
    assert "run the whole chain first" in str(done.exception)
