"""Running the chain over stub stages: metadata, checks that stop what is downstream, errors without a trace."""

import os
import signal
import time
from pathlib import Path

import dagster as dg
import pytest

from dagster_project.again import AGAIN
from dagster_project.checks import quality_result
from uae.io.errors import ArtefactError, InputError, ValidationFailed
from uae.pipeline.chain import CHAIN

NAMES = [stage.name for stage in CHAIN]


def materialised(result) -> list[str]:
    return [event.asset_key.to_user_string() for event in result.get_asset_materialization_events()]


def committed(project) -> list[str]:
    return (project / "commits.txt").read_text(encoding="utf-8").split()


def checks(result) -> dict[str, bool]:
    return {evaluation.check_name: evaluation.passed for evaluation in result.get_asset_check_evaluations()}


def raising(error: Exception):
    def run(parameters, workspace):
        raise error

    return run


def test_the_whole_chain(project, run_chain):
    result = run_chain()
    assert result.success
    assert sorted(materialised(result)) == sorted(NAMES)
    assert sorted(committed(project)) == sorted(NAMES)
    names = ("documents", "passages", "questions", "leakage", "labels", "label_quality", "gate")
    assert checks(result) == dict.fromkeys(names, True)


SHOWN = [
    ("ingest", "passages", "9"),
    ("ingest", "path of questions", "data/questions.parquet"),
    ("candidates", "dagster/row_count", "12"),
    ("label", "utilities", "data:image/png;base64,"),
    ("train", "training", "data:image/png;base64,"),
    ("train", "mlflow run", "http://mlflow.test/run1"),
    ("evaluate", "metrics", "0.500 [0.250, 0.750]"),
    ("evaluate", "uae map", "0.5"),
    ("evaluate", "recall", "data:image/png;base64,"),
    ("promote", "reasons", "- map rose: passed"),
    ("promote", "promoted", "True"),
]


def test_the_catalogue_shows_what_a_person_wants_of_each_asset(run_chain):
    result = run_chain()
    found = {name: result.asset_materializations_for_node(name)[0].metadata for name in NAMES}
    missing = [(asset, name) for asset, name, text in SHOWN if text not in str(found[asset].get(name))]
    assert missing == []


def test_a_refused_release_is_a_warning_with_its_numbers(run_chain, results, monkeypatch):
    refused = {"promoted": False, "reasons": ["map fell: FAILED", "recall@1 held: passed"]}
    monkeypatch.setitem(results, "promote", results["promote"] | refused)
    result = run_chain()
    assert result.success  # a refusal harms nobody
    (gate,) = [check for check in result.get_asset_check_evaluations() if check.check_name == "gate"]
    assert (gate.passed, gate.severity.value, gate.description) == (False, "WARN", "map fell: FAILED")
    assert gate.metadata["map, frozen test set: difference"].value == 0.04
    assert "map, frozen test set: low" not in gate.metadata
    assert gate.metadata["page"].path.endswith("reports/promotion.html")


@pytest.mark.parametrize(
    ("stage", "failing", "suites", "ran"),
    [
        ("validate", "passages", ("documents", "passages", "questions", "leakage"), ["ingest"]),
        ("label", "labels", ("labels",), ["ingest", "validate", "candidates"]),
    ],
)
def test_a_failing_suite_stops_what_is_downstream(project, run_chain, report, stage, failing, suites, ran):
    found = report(*suites, failing=(failing,))
    result = run_chain(**{stage: raising(ValidationFailed("rows fail", found))})
    assert not result.success
    assert materialised(result) == ran
    assert committed(project) == ran
    evaluations = {e.check_name: e for e in result.get_asset_check_evaluations() if e.check_name in suites}
    assert {name: e.passed for name, e in evaluations.items()} == {name: name != failing for name in suites}
    assert evaluations[failing].severity.value == "ERROR"
    (row,) = evaluations[failing].metadata["failing rows"].records
    assert (row.data["row"], row.data["source"]) == ("d1", "documents/a.md")


def test_a_user_error_is_a_failure_with_its_message_alone(project, run_chain):
    result = run_chain(ingest=raising(InputError("questions.jsonl:3: no answer")))
    assert not result.success
    assert materialised(result) == []
    failure = result.failure_data_for_node("ingest")
    assert failure.user_failure_data.description == "questions.jsonl:3: no answer"
    assert failure.error.cause is None
    assert "in run(" not in failure.error.to_string()  # the stage's own frames are left out


@pytest.fixture
def no_pauses(monkeypatch):
    monkeypatch.setattr("dagster_project.again.AGAIN", dg.RetryPolicy(max_retries=2, delay=0))


@pytest.mark.parametrize(("outage", "tries", "success"), [(2, 3, True), (3, 3, False)])
def test_what_may_go_away_by_itself_is_tried_again(project, run_chain, no_pauses, outage, tries, success, results):
    tried = []

    def run(parameters, workspace):
        tried.append(True)
        if len(tried) <= outage:
            raise ArtefactError("the server is away", transient=True)
        return make_promotion(workspace, results)

    result = run_chain(promote=run)
    assert (len(tried), result.success) == (tries, success)
    if not success:
        assert result.failure_data_for_node("promote").user_failure_data.description == "the server is away"


def make_promotion(workspace, results):
    workspace.path("promotion").write_text("{}")
    return results["promote"]


@pytest.mark.parametrize("error", [InputError("bad data"), ZeroDivisionError("a bug")])
def test_what_comes_back_until_somebody_does_something_is_not_tried_again(run_chain, no_pauses, error):
    tried = []

    def run(parameters, workspace):
        tried.append(True)
        raise error

    assert not run_chain(ingest=run).success
    assert len(tried) == 1


def test_the_pauses_outlast_a_minute():
    pauses = [AGAIN.calculate_delay(number) for number in range(1, AGAIN.max_retries + 1)]
    assert pauses == sorted(pauses)
    assert sum(pauses) > 120


@pytest.mark.parametrize(("asked_for", "status"), [(True, "CANCELED"), (False, "FAILURE")])
def test_a_terminated_run_is_marked(project, run_chain, asked_for, status):
    """Dagster's launcher notes that a user terminates the run, then sends the signal; a signal alone is a failure to it."""

    def terminated(parameters, workspace):
        if asked_for:
            instance.report_run_canceling(*instance.get_runs())
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    with dg.DagsterInstance.ephemeral() as instance:
        run_chain(instance=instance, candidates=terminated)
        (run,) = instance.get_runs()
    assert run.status.value == status
    assert committed(project) == ["ingest", "validate"]


def test_a_bug_is_not_dressed_up(run_chain):
    result = run_chain(ingest=raising(ZeroDivisionError("a bug")))
    assert result.failure_data_for_node("ingest").user_failure_data is None


def test_stages_get_the_parameters_they_declare_and_relative_paths(run_chain, report):
    seen = {}

    def run(parameters, workspace):
        seen["scope"], seen["path"] = parameters.scope, workspace.path("documents")
        return report("documents", "passages", "questions", "leakage")

    run_chain(validate=run)
    assert seen["scope"] == "document"
    assert str(seen["path"]) == "data/documents.parquet"


def test_labels_not_worth_training_on_warn_and_stop_nothing(run_chain, results, monkeypatch):
    warning = {"code": "no_gain", "text": "Distillation is not worth it on this data."}
    quality = {"verdict": "not worth it", "summary": "They rank no better.", "warnings": [warning], "ranking": None}
    monkeypatch.setitem(results, "label", results["label"] | {"quality": quality})
    result = run_chain()
    assert result.success
    (check,) = [e for e in result.get_asset_check_evaluations() if e.check_name == "label_quality"]
    assert (check.passed, check.severity.value, check.description) == (False, "WARN", "They rank no better.")
    assert "Distillation is not worth it" in str(check.metadata["warnings"])
    assert "package" in materialised(result)


def test_the_judgement_of_labels_shows_its_figures_and_its_page(results):
    sides = {"utility": {"mean": 0.8}, "base": {"mean": 0.6}}
    quality = results["label"]["quality"] | {"ranking": {"metrics": {"map": sides, "auc": sides}}}
    result = quality_result(quality, Path("/project/reports/labels.html"))
    assert (result.passed, result.check_name) == (True, "label_quality")
    assert {name: value.value for name, value in result.metadata.items()} == {
        "map of utility": 0.8, "map of base": 0.6, "auc of utility": 0.8, "auc of base": 0.6, "warnings": "none",
        "page": "/project/reports/labels.html",
    }  # fmt: skip


@pytest.mark.parametrize("verdict", ["doubtful", "not worth it"])
def test_labels_without_evidence_are_judged_without_a_ranking(results, verdict):
    result = quality_result(results["label"]["quality"] | {"verdict": verdict, "ranking": None}, Path("labels.html"))
    assert not result.passed
    assert set(result.metadata) == {"warnings", "page"}
