"""Paths that a run cannot use, and sources that hold its own results, are refused before any work."""

import os
import shutil
from pathlib import Path

import pytest

from uae.io.errors import ArtefactError, ConfigError, ModelError
from uae.io.files import sha256_tree
from uae.pipeline.chain import STAGES, run_stage
from uae.pipeline.places import check_source
from uae.pipeline.run import run_chain
from uae.pipeline.settings import load_settings
from uae.pipeline.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Three pages in docs/, seen from a project's folder."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    docs = tmp_path / "docs"
    docs.mkdir()
    for n in range(3):
        (docs / f"{n}.md").write_text(f"# Lamp {n}\n\nLamp {n} burns rape oil and is lit at dusk.\n")
    (docs / "questions.jsonl").write_text('{"question": "What burns?", "document": "0.md", "split": "train"}\n')
    monkeypatch.chdir(tmp_path)
    return docs


def run(out, *overrides, path="docs"):
    settings = load_settings(Path("params.yaml"), [f"ingest.path={path}", *overrides])
    run_chain(settings, Path(out), Path("models"), lambda line: None, until="ingest")


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("out", ["docs", "docs/run", "docs/deep/run", "linked/run"])
def test_a_run_inside_its_source_is_refused_and_nothing_is_written(source, out):
    (source.parent / "linked").symlink_to(source)
    before = files(source)
    with pytest.raises(ConfigError, match=r"ingest\.path=docs is the folder in which this run writes its results.*--out"):
        run(out)
    assert files(source) == before


@pytest.mark.parametrize("path", [".", "data", "reports", "models"])
def test_a_project_whose_source_holds_its_results_is_refused_by_the_stage_alone(source, path):
    """``uae ingest``, DVC and Dagster run the stage, not the whole chain."""
    Path(path).mkdir(exist_ok=True)
    settings = load_settings(Path("params.yaml"), [f"ingest.path={path}"])
    with pytest.raises(ConfigError, match="writes its results"):
        run_stage(STAGES["ingest"], settings, Workspace(Path(".")))
    assert not Path("data/documents.parquet").exists()


@pytest.mark.parametrize("path", ["data/labels/texts", "models/student"])
def test_a_source_inside_a_result_is_refused(source, path):
    with pytest.raises(ConfigError, match=r"(lies in .*, which the run replaces|writes its results)"):
        check_source(path, Workspace(Path(".")))


@pytest.mark.parametrize("path", ["data/sample", "docs", "hf:a/b@c", "elsewhere"])
def test_a_source_beside_the_results_is_fine(source, path):
    check_source(path, Workspace(Path(".")))


def test_the_second_run_reads_the_same_documents(source):
    run("out")
    first = (Path("out") / "data" / "documents.parquet").read_bytes()
    run("out")
    assert (Path("out") / "data" / "documents.parquet").read_bytes() == first
    assert (Path("out") / "ingest.json").exists()


@pytest.mark.parametrize("sign", ["?", "%"])
def test_a_folder_that_the_registry_cannot_use_is_refused_first(source, sign):
    with pytest.raises(ConfigError, match="MLflow's database cannot lie in a folder"):
        run(f"out{sign}20")
    assert not Path(f"out{sign}20").exists()
    run(f"out{sign}20", f"tracking.uri=sqlite:////{source}/elsewhere.db")  # one that lies elsewhere


@pytest.mark.parametrize("name", ["a b", "a#b", "100% sure? #1"])
def test_signs_in_the_path_of_a_source_are_only_signs(source, name):
    source.rename(source.parent / name)
    run("out", path=name)
    assert (Path("out") / "data" / "passages.parquet").exists()


@pytest.mark.parametrize("what", ["out", "path"])
def test_a_path_that_is_not_utf_8_is_refused_first(source, what):
    odd = os.fsdecode(b"caf\xe9")
    with pytest.raises(ConfigError, match=r"the path 'caf\\udce9' is not UTF-8"):
        run(odd) if what == "out" else check_source(odd, Workspace(Path("out")))


def test_a_misspelt_model_is_refused_before_ingestion(source):
    with pytest.raises(ModelError):
        run("out", "models.student=bge-base")
    assert not Path("out").exists()


@pytest.mark.parametrize("setting", ["models.second_stage=path:nowhere", "teachers.main.model=path:nowhere/teacher.gguf"])
def test_a_model_that_is_not_there_is_refused_before_the_stages_that_it_needs_not(source, setting):
    """A second stage is loaded by train: the teacher would have been paid by then."""
    settings = load_settings(Path("params.yaml"), ["ingest.path=docs", setting])
    with pytest.raises(ModelError, match=r"'path:nowhere.*: nowhere\S* is not a (folder|file)"):
        run_chain(settings, Path("out"), Path("models"), lambda line: None, until="train")
    assert not Path("out").exists()
    run("out", setting)  # until ingest: nothing loads it


def test_a_source_with_names_that_are_not_utf_8_has_a_hash(tmp_path):
    (tmp_path / "a.md").write_text("Lamp.")
    before = sha256_tree(tmp_path)
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.pdf")).write_text("x")
    except OSError:
        pytest.skip("this file system holds only UTF-8 names")
    assert sha256_tree(tmp_path) != before


def test_a_pipe_in_place_of_a_source_is_said_so(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArtefactError, match="is neither a file nor a folder"):
        sha256_tree(tmp_path / "pipe")
