"""``uae label`` with its options, ``uae models`` and ``uae release``, as the command line runs them, on small corpora."""

import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import uae.pipeline.run as uae_run
from uae.cli.main import app
from uae.io.errors import ConfigError
from uae.io.files import read_json, write_json
from uae.io.tables import CANDIDATES, PASSAGES, QUESTIONS, read_table, write_table
from uae.pipeline.chain import model_references
from uae.pipeline.settings import load_settings
from uae.pipeline.stages.train import TrainParameters, training_data
from uae.pipeline.workspace import Workspace
from uae.registry.tracking import connect
from uae.release.manifest import read_manifest
from uae.retrievers.kinds import open_dense
from uae.validation.report import table_hashes
from uae.vectors.store import VectorStore

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "tests" / "teacher"), str(ROOT / "tests" / "serving")]

from labelling import contents, write_corpus  # noqa: E402  (of another folder of tests)
from tiny_releases import tiny_release  # noqa: E402

READINGS = 12 + 12 * 6 + 3 + 3 * 6  # every question alone and with six passages; three of them under the check template too
SERVER = (
    "teachers.main.server={url: 'http://127.0.0.1:9', concurrency: 1, timeout_s: 1, batch_pairs: 8, api: completions, "
    "top_logprobs: 5}"
)


def uae(*words: str) -> Result:
    return CliRunner().invoke(app, words)


def label(*options: str, model: Path | str) -> Result:
    settings = (f"teachers.main.model=path:{model}", "label.check_questions=3", "compute.device=cpu", "label.memory_mb=512")
    return uae("label", *options, *(word for setting in settings for word in ("--set", setting)))


def project(folder: Path) -> Path:
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / "data").mkdir()
    write_corpus(folder / "data")
    tables = {name: folder / "data" / f"{name}.parquet" for name in ("passages", "questions")}
    hashes = table_hashes(tables)
    write_json(folder / "reports" / "validation.json", {"tables": hashes})
    candidates = folder / "data" / "candidates.parquet"
    write_table(candidates, CANDIDATES, read_table(candidates, CANDIDATES), made_from=hashes)
    return folder


@pytest.fixture
def fresh(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return project(tmp_path)


@pytest.fixture(scope="module")
def done(tmp_path_factory, tiny_lm) -> tuple[Path, Result]:
    """A folder where ``uae label`` has run, and what it said."""
    folder = project(tmp_path_factory.mktemp("labelled"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return folder, label(model=tiny_lm)


@pytest.fixture
def labelled(done, tmp_path, monkeypatch) -> Path:
    folder = shutil.copytree(done[0], tmp_path / "labelled")
    monkeypatch.chdir(folder)
    return folder


def said(result: Result) -> str:
    assert result.exit_code == 0, result.output or result.exception
    return " ".join(result.stdout.split())


def test_label_asks_judges_and_says_both(done):
    folder, result = done
    text = said(result)
    assert f"label.readings_asked_now: {READINGS}" in text
    assert "Are these labels worth training on?" in text
    assert "The whole report: reports/labels.html" in text
    report = read_json(folder / "reports" / "labels.json")
    assert report["summary"] in text
    assert f"label.verdict: {report['verdict']}" in text
    assert (folder / "reports" / "labels.html").exists()
    assert (folder / "reports" / "utility_histogram.csv").exists()
    assert (folder / "reports" / "label_validation.json").exists()


def test_a_run_tells_the_verdict_after_labelling(labelled, monkeypatch):
    """Before training, which takes hours: the end of the run is too late."""
    quality = read_json(Path("reports/labels.json"))

    def labels_only(settings, out, models, announce, until, told):
        for stage in ("candidates", "label", "train"):
            announce(f"{stage} is done")
            told(stage, {"quality": quality} if stage == "label" else {})

    monkeypatch.setattr(uae_run, "run_chain", labels_only)
    result = uae("run", "--out", "mine", "--until", "train")
    assert result.exit_code == 0, result.exception
    lines = [f"Are these labels worth training on? {quality['verdict'].capitalize()}.", quality["summary"]]
    assert result.stderr.splitlines() == ["candidates is done", "label is done", *lines, "train is done"]


def test_plan_says_what_label_would_ask_and_stores_nothing(fresh, tiny_lm):
    text = said(label("--plan", "--calibration", "0", model=tiny_lm))
    assert "teacher main" in text
    assert f"readings to ask {READINGS} stored already 0" in text
    for line in (
        "tokens",
        "times as many without shared prefixes",
        "tokens/s",
        "on cpu",
        "(h:mm:ss)",
        "by workers 1: 0:00:",
        ", 32: 0:00:",
        "MB",
    ):
        assert line in text
    assert sorted(path.name for path in fresh.iterdir()) == ["data", "params.yaml", "reports"]
    assert not (fresh / "data" / "labels").exists()


def test_plan_of_finished_labelling_has_nothing_to_ask(labelled, tiny_lm):
    text = said(label("--plan", model=tiny_lm))
    assert text.endswith(f"readings to ask 0 stored already {READINGS}")


def test_report_judges_what_is_stored_without_a_teacher(labelled):
    """The model need not even be there any more."""
    reports = labelled / "reports"
    first = read_json(reports / "labels.json")
    shutil.rmtree(reports)
    before = contents(labelled / "data" / "labels")
    text = said(label("--report", model="/nowhere/at/all"))
    assert first["summary"] in text
    assert read_json(reports / "labels.json") == first
    assert (reports / "labels.html").exists()
    assert contents(labelled / "data" / "labels") == before


def test_report_takes_the_parameters_of_now(labelled, tiny_lm):
    label("--report", "--set", "utility.temperature=0.4", model=tiny_lm)
    assert read_json(labelled / "reports" / "labels.json")["settings"]["temperature"] == 0.4


def test_report_before_labelling_names_what_is_missing(fresh):
    result = label("--report", model="/nowhere/at/all")
    assert result.exit_code != 0
    assert "data/labels.json does not exist" in str(result.exception)


def test_plan_and_report_together_are_refused(labelled, tiny_lm):
    before = contents(labelled / "data" / "labels")
    shutil.rmtree(labelled / "reports")
    result = label("--plan", "--report", model=tiny_lm)
    assert result.exit_code == 2
    assert "ask one at a time" in " ".join(result.output.replace("│", " ").split())
    assert contents(labelled / "data" / "labels") == before
    assert not (labelled / "reports").exists()


# Models


def test_models_prints_where_each_model_is(fresh, tiny_lm, tiny_encoder):
    places = {"models.student": tiny_encoder, "models.reader": tiny_lm, "teachers.main.model": tiny_lm}
    result = uae("models", *(word for key, path in places.items() for word in ("--set", f"{key}=path:{path}")))
    assert result.exit_code == 0, result.output or result.exception
    assert result.stdout.splitlines() == [f"student: {tiny_encoder}", f"reader: {tiny_lm}", f"teacher main: {tiny_lm}"]


def test_models_fetches_nothing_for_a_teacher_on_a_server(fresh, tiny_lm, tiny_encoder):
    settings = (f"models.student=path:{tiny_encoder}", f"models.reader=path:{tiny_lm}", SERVER, "teachers.main.model=its-name")
    result = uae("models", *(word for setting in settings for word in ("--set", setting)))
    assert result.exit_code == 0, result.output or result.exception
    assert "teacher" not in result.stdout
    assert "its-name" not in result.stdout


def test_references_are_those_of_every_model_that_is_loaded():
    settings = load_settings(
        ROOT / "params.yaml", ["teachers.main.model=path:a", "models.student=path:b", "models.reader=path:c"]
    )
    assert model_references(settings) == {"student": "path:b", "reader": "path:c", "teacher main": "path:a"}
    served = load_settings(ROOT / "params.yaml", ["models.student=path:b", "models.reader=path:c", SERVER])
    assert model_references(served) == {"student": "path:b", "reader": "path:c"}


def test_vectors_are_listed_and_those_that_nothing_uses_are_swept_out(fresh, tiny_encoder):
    passages = read_table(fresh / "data" / "passages.parquet", PASSAGES)
    store = VectorStore(fresh / "data" / "vectors")
    open_dense(tiny_encoder, "cpu", store)._passages([*passages["text"], "No passage any more."], "")
    open_dense(tiny_encoder, "cpu", store, dimension=8)._passages(["Of an encoder that is gone."], "")
    student = ("--set", f"models.student=path:{tiny_encoder}")
    listed = said(uae("vectors", *student))
    assert "13 vectors 0.0 MB used" in listed
    assert "1 vectors 0.0 MB not used: uae vectors --sweep drops it" in listed
    assert "dropped: 2 vectors" in said(uae("vectors", "--sweep", *student))
    assert [held.vectors for held in store.held()] == [len(passages)]
    assert "nothing was dropped" in said(uae("vectors", "--sweep", *student))


@pytest.mark.parametrize("table", ["passages", "questions"])
def test_compare_refuses_labels_of_another_corpus(labelled, table):
    """A refresh replaces both tables and leaves candidates and labels as they were."""
    path = Path("data", f"{table}.parquet")
    schema = {"passages": PASSAGES, "questions": QUESTIONS}[table]
    write_table(path, schema, read_table(path, schema).iloc[1:])
    refused = failed(uae("compare", "--contender", "infonce", "--out", "compared"))
    assert f"data/candidates.parquet was made from another {table} table than {path}" in refused
    assert "(uae candidates)" in refused
    assert not Path("compared").exists()


def test_training_takes_questions_of_its_own_beside_those_of_the_candidates(labelled):
    """A comparison with few evidence labels hands over its own table."""
    questions = read_table(Path("data/questions.parquet"), QUESTIONS)
    write_table(Path("fewer.parquet"), QUESTIONS, questions.iloc[1:])
    p = TrainParameters.of(load_settings(Path("params.yaml")))
    data = training_data(p, Workspace(Path(".")), Path("fewer.parquet"))
    assert len(data.questions) == len(questions) - 1


# Releases


@pytest.fixture(scope="module")
def built(tmp_path_factory, tiny_encoder) -> tuple[Path, Path]:
    """Two folders of releases."""
    root = tmp_path_factory.mktemp("releases")
    return tuple(
        tiny_release(root / name, tiny_encoder, [f"The {name} is shut.", "Call first."], name, "torch")
        for name in ("lock", "mill")
    )


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    """A folder with nothing but params.yaml."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path


def failed(result: Result) -> str:
    assert result.exit_code != 0
    return str(result.exception)


def test_release_commands_act_on_the_store(elsewhere, built):
    first, second = (read_manifest(folder).fingerprint[:12] for folder in built)
    assert "models/serving holds no release" in said(uae("release", "list"))
    assert said(uae("release", "activate", str(built[0]))) == (
        f"active: {first} uae release rollback goes to: nothing, there was none before"
    )
    assert said(uae("release", "activate", str(built[1]))) == f"active: {second} uae release rollback goes to: {first}"
    listed = said(uae("release", "list"))
    assert f"active {second}" in listed
    assert f"before {first}" in listed
    assert said(uae("release", "rollback")).startswith(f"active: {first} ")
    assert "no release before this one" in failed(uae("release", "rollback"))
    assert said(uae("release", "activate", second[:8])).startswith(f"active: {second} ")
    assert said(uae("release", "prune", "--keep", "0")) == ""
    assert said(uae("release", "rollback")).startswith(f"active: {first} ")
    assert said(uae("release", "prune", "--keep", "0")) == f"removed {second}"
    assert sorted(path.name for path in elsewhere.iterdir()) == ["models", "params.yaml"]  # MLflow was not asked


def test_release_activate_takes_a_version_or_an_alias_of_the_registry(elsewhere, built):
    client = connect("sqlite:///mlflow.db", "uae", elsewhere)
    client.create_registered_model("uae-retriever")
    for number, folder in enumerate(built, 1):
        logged = elsewhere / f"logged-{number}"
        shutil.copytree(folder, logged / "artifacts" / "release")
        client.create_model_version("uae-retriever", logged.as_uri())
    client.set_registered_model_alias("uae-retriever", "champion", "1")
    first, second = (read_manifest(folder).fingerprint[:12] for folder in built)
    store = ("--store", "served")
    assert said(uae("release", "activate", "2", *store)).startswith(f"active: {second} (uae-retriever version 2)")
    assert said(uae("release", "activate", "champion", *store)).startswith(f"active: {first} (uae-retriever version 1)")
    assert said(uae("release", "rollback", *store)).startswith(f"active: {second} ")
    assert f"uae-retriever version 1 (champion) is active: release {first}" in said(uae("release", "follow", "--once", *store))
    assert said(uae("release", "follow", "--once", *store)) == ""
    client.set_registered_model_alias("uae-retriever", "tried", "2")
    assert f"(tried) is active: release {second}" in said(uae("release", "follow", "--once", "--alias", "tried", *store))


def test_release_commands_say_what_is_not_there(elsewhere):
    for version in ("7", "next", "0123456789ab", "no/such/folder"):
        text = failed(uae("release", "activate", version))
        assert f"{version!r} in the MLflow registry" in text
        assert "no folder of a release" in text
        assert "models/serving" in text
    assert "uae-retriever has no alias 'champion'" in failed(uae("release", "follow", "--once"))


def test_a_run_does_not_write_over_the_parameters_that_it_reads(tmp_path, monkeypatch):
    monkeypatch.chdir(project(tmp_path))
    before = Path("params.yaml").read_text()
    result = uae("run", "--out", ".", "--set", "seed=14")
    assert isinstance(result.exception, ConfigError)
    assert "--out .: params.yaml would be written over there; name another folder" in str(result.exception)
    assert Path("params.yaml").read_text() == before


def test_release_commands_act_on_a_collection_in_a_database(elsewhere, built, new_database):
    from uae.io.errors import DatabaseError

    first, second = (read_manifest(folder).fingerprint[:12] for folder in built)
    to = ("--to", new_database().replace("postgres:@", "postgres:hunter2@"))
    output = said(uae("release", "publish", str(built[0]), *to))
    assert f": {first} dense: 2 added, 0 ended, 0 kept; every vector is compared" in output
    output += said(uae("release", "publish", str(built[1]), *to, "--search", "hnsw"))
    assert "dense: 2 added, 2 ended, 0 kept; HNSW with ef_search 10, recall@10 1.0000" in output
    assert output.endswith(f"uae release rollback --to goes to: {first}")
    output += (listed := said(uae("release", "list", *to)))
    assert f"active {second} 2 2 " in listed
    assert f"before {first} 1 2 " in listed
    output += (back := said(uae("release", "rollback", *to)))
    assert back.endswith(f": {first}")
    output += failed(uae("release", "rollback", *to))
    assert "nothing was loaded" in said(uae("release", "publish", second, *to))
    output += said(uae("release", "rollback", *to))
    assert said(uae("release", "prune", *to, "--keep", "0")) == f"removed {second}"
    away = uae("release", "list", "--to", "postgresql://me:hunter2@127.0.0.1:9/d")
    assert isinstance(away.exception, DatabaseError)
    assert "hunter2" not in output + failed(away) + away.output


ABOUT_A_RUN = [
    ["refresh", "--out"],
    ["compare", "--run"],
    ["lineage", "1", "--root"],
    ["history", "--root"],
    ["rollback", "--why", "it is bad", "--root"],
    ["vectors", "--out"],
    ["forget", "guide.md", "--out"],
    ["source", "show", "--out"],
    ["source", "confirm", "--why", "moved", "--out"],
    ["release", "activate", "1", "--root"],
    ["release", "publish", "1", "--to", "postgresql://nobody@127.0.0.1:9/none", "--root"],
    ["release", "follow", "--once", "--root"],
]


@pytest.mark.parametrize("words", ABOUT_A_RUN, ids=" ".join)
def test_a_command_about_a_run_reads_the_parameters_of_that_run(elsewhere, words):
    """The project's name another source, and a refresh by them would replace the run's tables."""
    Path("mine").mkdir()
    Path("mine/params.yaml").write_text("mine")
    Path("given.yaml").write_text("given")
    assert failed(uae(*words, "mine")).startswith("mine/params.yaml holds no parameters")
    assert failed(uae(*words, "mine", "--params", "given.yaml")).startswith("given.yaml holds no parameters")


def test_a_folder_without_parameters_takes_those_of_the_project(elsewhere):
    Path("mine").mkdir()
    Path("params.yaml").write_text("ours")
    assert failed(uae("refresh", "--out", "mine")).startswith("params.yaml holds no parameters")
    assert failed(uae("refresh")).startswith("params.yaml holds no parameters")
