"""The report over a log that a service wrote and a real small release: from `uae drift` to the picture."""

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from uae.cli.main import app
from uae.drift.options import DriftOptions
from uae.drift.report import drift_report
from uae.io.errors import ArtefactError
from uae.pipeline.drift import watch_drift
from uae.pipeline.settings import load_settings
from uae.pipeline.workspace import Workspace
from uae.serving.query_log import Logged, QueryLog

sys.path.append(str(Path(__file__).resolve().parents[1] / "serving"))

from tiny_releases import tiny_release

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"
THINGS, PLACES = ("seal", "pump", "fan", "valve", "lamp", "door"), ("lodge", "hall", "cellar", "yard", "shed")
KNOWN = [f"Is the {thing} in the {place} number {n}?" for thing in THINGS for place in PLACES for n in range(20)]
NEW = [f"May zebras and giraffes {verb} {n} bananas?" for verb in ("eat", "peel") for n in range(60)]


@pytest.fixture(scope="module")
def release(tmp_path_factory, tiny_encoder) -> Path:
    """Of passages that hold every word of the known questions, and none of the new ones."""
    texts = [text.rstrip("?") + " or not may" for text in KNOWN[::3]] + [f"number {n}" for n in range(60)]
    return tiny_release(tmp_path_factory.mktemp("drift"), tiny_encoder, texts, "known", "torch")


def write_log(folder: Path, texts: list[str], found: bool = True) -> Path:
    start = datetime.now(UTC) - timedelta(hours=2)
    log = QueryLog(folder, 30, 10_000_000)
    score = 0.5 if found else None
    log.add(
        Logged(start + timedelta(seconds=n), text, "uae", "cosine", score, 5, None, False, [], [], [], "f" * 64, "e" * 64)
        for n, text in enumerate(texts)
    )
    log.close()
    return folder


def asked(drifted: bool) -> list[str]:
    rng = np.random.default_rng(0)
    known = rng.permutation(KNOWN).tolist()
    later = known[300:450]
    if drifted:
        later = [NEW[n // 3] if n % 3 == 0 else text for n, text in enumerate(later)]
    return known[:300] + later


def options(log: Path, **changes) -> DriftOptions:
    values = {"reference_queries": 300, "window_queries": 150, "low_share": 0.05, "false_alarms": 0.05, "retrain_share": None}
    return DriftOptions(log=str(log), **(values | changes))


@pytest.fixture(scope="module")
def drifted(tmp_path_factory, release) -> tuple[dict, object]:
    log = write_log(tmp_path_factory.mktemp("log"), asked(True))
    return drift_report(options(log, retrain_share=0.0), release, "cpu", 13)


def test_a_new_topic_is_found_and_told(drifted):
    report, seen = drifted
    assert (report["status"], report["drifted"], report["retrain"]) == ("watching", True, True)
    (window,) = report["windows"]
    assert window["drifted"]
    assert window["evidence"]["all"] >= window["limit"]
    (reason,) = report["reasons"]
    assert "new words" in reason
    assert report["recent"]["with_new_words"]["queries"] == 50
    assert {word["word"] for word in report["new_words"]} == {"zebras", "giraffes", "bananas", "eat"}
    assert report["new_words"][0]["in_reference"] == 0
    assert report["reference"]["from"] < report["drifted_at"] <= report["recent"]["to"]
    assert len(seen.windows) == 1
    json.dumps(report, allow_nan=False)


def test_the_same_questions_are_no_drift(tmp_path, release):
    report, _ = drift_report(options(write_log(tmp_path, asked(False)), retrain_share=0.0), release, "cpu", 13)
    assert (report["drifted"], report["retrain"], report["reasons"], report["drifted_at"]) == (False, False, [], None)


def test_a_second_look_says_the_same(tmp_path, release, drifted):
    again, _ = drift_report(options(write_log(tmp_path, asked(True)), retrain_share=0.0), release, "cpu", 13)
    assert [each["evidence"] for each in again["windows"]] == [each["evidence"] for each in drifted[0]["windows"]]


def test_drift_asks_for_no_retraining_below_the_share_that_was_set(tmp_path, release):
    log = write_log(tmp_path, asked(True))
    for share in (None, 1.0):
        report, _ = drift_report(options(log, retrain_share=share), release, "cpu", 13)
        assert (report["drifted"], report["retrain"]) == (True, False)


@pytest.fixture
def project(tmp_path, monkeypatch, release) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(PARAMS.read_text())
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "release").symlink_to(release)
    return tmp_path


def drift(*overrides: str):
    return CliRunner().invoke(app, ["drift", *[part for each in ("compute.device=cpu", *overrides) for part in ("--set", each)]])


def test_the_command_writes_the_report_and_its_picture(project):
    write_log(project / "log", asked(True))
    done = drift("drift.log=log", "drift.reference_queries=300", "drift.window_queries=150")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("Drift, seen at ")
    assert json.loads((project / "reports" / "drift.json").read_text())["drifted"] is True
    with Image.open(project / "reports" / "drift.png") as picture:
        assert picture.size == (1100, 820)


def test_where_nothing_is_watched_the_report_says_why(project):
    settings = load_settings(PARAMS)
    report = watch_drift(settings, Workspace(Path(".")))
    assert (report["status"], report["drifted"], report["retrain"]) == ("no log", False, False)
    assert "UAE_QUERY_LOG" in report["why_not"]
    write_log(project / "log", asked(False)[:200])
    report = watch_drift(load_settings(PARAMS, ["drift.log=log", "compute.device=cpu"]), Workspace(Path(".")))
    assert (report["status"], report["drifted"], report["queries"]) == ("collecting", False, 200)
    assert (project / "reports" / "drift.png").exists()


def test_the_active_release_of_the_store_measures(project, release, tmp_path_factory, tiny_encoder):
    from uae.release.store import ReleaseStore

    other = tiny_release(tmp_path_factory.mktemp("other"), tiny_encoder, ["zebras and giraffes", *KNOWN[:30]], "other", "torch")
    store = ReleaseStore(Path("models/serving"))
    store.activate(store.install(other, None))
    write_log(project / "log", asked(True))
    overrides = ["drift.log=log", "drift.reference_queries=300", "drift.window_queries=150", "compute.device=cpu"]
    report = watch_drift(load_settings(PARAMS, overrides), Workspace(Path(".")))
    assert report["release"] == store.active().fingerprint
    assert "zebras" not in {word["word"] for word in report["new_words"]}


def test_a_log_that_is_not_there_is_named(release, tmp_path):
    with pytest.raises(ArtefactError, match="holds no log of queries"):
        drift_report(options(tmp_path / "none"), release, "cpu", 13)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "setting", ["reference_queries=99", "window_queries=10", "low_share=0.5", "false_alarms=0", "retrain_share=2"]
)
def test_impossible_settings_are_refused(project, setting):
    done = drift(f"drift.{setting}")
    assert done.exit_code == 1
    assert f"drift.{setting.split('=')[0]}" in str(done.exception)
