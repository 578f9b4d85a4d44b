"""``uae label`` with its options, and ``uae models``, as the command line runs them, on a small labelled corpus."""

import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from uae.cli import app
from uae.files import read_json
from uae.settings import load_settings
from uae.stages import model_references

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests" / "teacher"))

from labelling import contents, write_corpus  # noqa: E402  (of another folder of tests)

READINGS = 12 + 12 * 6 + 3 + 3 * 6  # every question alone and with six passages; three of them under the check template too
SERVER = "teachers.main.server={url: 'http://127.0.0.1:9', concurrency: 1, timeout_s: 1, batch_pairs: 8}"


def uae(*words: str) -> Result:
    return CliRunner().invoke(app, words)


def label(*options: str, model: Path | str) -> Result:
    settings = (f"teachers.main.model=path:{model}", "label.check_questions=3", "compute.device=cpu", "label.memory_mb=512")
    return uae("label", *options, *(word for setting in settings for word in ("--set", setting)))


def project(folder: Path) -> Path:
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / "data").mkdir()
    write_corpus(folder / "data")
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


def test_plan_says_what_label_would_ask_and_stores_nothing(fresh, tiny_lm):
    text = said(label("--plan", "--calibration", "0", model=tiny_lm))
    assert "teacher main" in text
    assert f"readings to ask {READINGS} stored already 0" in text
    for line in ("tokens", "times as many without shared prefixes", "tokens/s", "on cpu", "(h:mm:ss)", "MB"):
        assert line in text
    assert sorted(path.name for path in fresh.iterdir()) == ["data", "params.yaml"]
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
    label("--report", "--set", "utility.temperature=0.25", model=tiny_lm)
    assert read_json(labelled / "reports" / "labels.json")["settings"]["temperature"] == 0.25


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
