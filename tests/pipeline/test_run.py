"""``uae run`` over a chain of one stage: what it takes for unchanged, and what it refuses."""

from pathlib import Path
from typing import Annotated

import pytest

import uae.pipeline.run
from uae.io.errors import ArtefactError
from uae.io.files import write_text
from uae.pipeline.chain import STAGES, model_references
from uae.pipeline.run import models_of, run_chain
from uae.pipeline.settings import IngestSettings, TeacherSettings, load_settings
from uae.pipeline.stage import Key, Parameters, Stage

LEAVE = (lambda: None,)
PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"


class Source(Parameters):
    ingest: IngestSettings


class Models(Source):
    teachers: dict[str, TeacherSettings]
    student: Annotated[str, Key("models.student")]


@pytest.fixture
def go(tmp_path, monkeypatch):
    """Run one stage of the name ``ingest`` over a source file, and return whether it ran."""
    write_text(tmp_path / "source", "one")

    def run(meanwhile=lambda: None, *overrides: str, parameters: type[Parameters] = Source, code: tuple[str, ...] = ()) -> bool:
        ran = []

        def work(p, workspace):
            ran.append(True)
            write_text(workspace.path("documents"), (tmp_path / "source").read_text())
            meanwhile()

        stage = Stage("ingest", "Read.", work, parameters, needs=(), makes=("documents", "source"), code=code, reads_source=True)
        monkeypatch.setattr(uae.pipeline.run, "CHAIN", (stage,))
        settings = load_settings(PARAMS, [f"ingest.path={tmp_path / 'source'}", *overrides])
        run_chain(settings, tmp_path / "out", tmp_path / "models", lambda line: None, "ingest")
        return bool(ran)

    return run


def test_a_source_changed_while_its_stage_runs_is_read_again(go, tmp_path):
    assert go(lambda: write_text(tmp_path / "source", "two"))
    assert go()
    assert not go()


def test_changed_code_of_a_stage_runs_it_again(go, tmp_path, monkeypatch):
    """As it is installed: the package's files lie beside each other, in a checkout or in site-packages."""
    package = tmp_path / "site-packages" / "uae"
    write_text(package / "__init__.py", "")
    write_text(package / "corpus" / "ingest.py", "one")
    write_text(package / "training" / "train.py", "one")
    monkeypatch.setattr(uae, "__file__", str(package / "__init__.py"))
    assert go(code=("uae/corpus",))
    assert not go(code=("uae/corpus",))
    write_text(package / "training" / "train.py", "two")  # another stage's
    assert not go(code=("uae/corpus",))
    write_text(package / "corpus" / "ingest.py", "two")
    assert go(code=("uae/corpus",))


def test_a_second_run_in_the_same_folder_is_kept_out(go, tmp_path):
    def second():
        with pytest.raises(ArtefactError, match="out: another uae run works in this folder; wait for it to end"):
            go()

    assert go(second)
    assert not go()


def test_a_local_model_changed_in_place_is_a_change_to_the_stages_that_name_it(go, tmp_path):
    weights = tmp_path / "model" / "model.safetensors"
    write_text(weights, "one")
    local = f"teachers.main.model=path:{weights.parent}"
    assert go(*LEAVE, local, parameters=Models)
    assert not go(*LEAVE, local, parameters=Models)
    write_text(weights, "two")
    assert go(*LEAVE, local, parameters=Models)


def test_each_stage_answers_for_the_models_that_its_parameters_name():
    settings = load_settings(PARAMS)
    named = {name: set(models_of(STAGES[name], settings)) for name in ("ingest", "candidates", "label", "evaluate")}
    everything = set(model_references(settings))
    assert named == {"ingest": set(), "candidates": {"student"}, "label": {"teacher main"}, "evaluate": everything}


def test_a_stage_that_left_work_runs_again_though_nothing_changed(tmp_path, monkeypatch):
    left = [2]

    def work(p, workspace):
        left[0] -= 1
        write_text(workspace.path("documents"), "x")

    stage = Stage(
        "ingest", "Read.", work, Source, needs=(), makes=("documents",), code=(), unfinished=lambda p, workspace: left[0] > 0
    )
    monkeypatch.setattr(uae.pipeline.run, "CHAIN", (stage,))
    for expected in (1, 0, 0):
        run_chain(load_settings(PARAMS), tmp_path / "out", tmp_path / "models", lambda line: None, "ingest")
        assert left == [expected]


def test_a_run_may_begin_after_what_lies_there_already(tmp_path, monkeypatch):
    ran = []

    def stage(name: str, needs: tuple[str, ...], makes: str) -> Stage:
        def work(p, workspace):
            ran.append(name)
            write_text(workspace.path(makes), name)

        return Stage(name, name, work, Source, needs=needs, makes=(makes,), code=(), reads_source=name == "ingest")

    chain = (stage("ingest", (), "documents"), stage("validate", ("documents",), "validation"))
    monkeypatch.setattr(uae.pipeline.run, "CHAIN", chain)
    write_text(tmp_path / "source", "one")
    write_text(tmp_path / "out/data/documents.parquet", "from elsewhere")
    settings = load_settings(PARAMS, [f"ingest.path={tmp_path / 'source'}"])
    run_chain(settings, tmp_path / "out", tmp_path / "models", lambda line: None, "validate", since="validate")
    assert ran == ["validate"]
    assert (tmp_path / "out/data/documents.parquet").read_text() == "from elsewhere"
