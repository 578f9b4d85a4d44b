"""Asset checks: one for each Great Expectations suite, blocking, with the failing rows; and one that judges the labels."""

from pathlib import Path
from typing import Any

import dagster as dg

from uae.pipeline.workspace import Workspace

SUITES = {"validate": ("documents", "passages", "questions", "leakage"), "label": ("labels",)}  # stage -> the suites that it runs


QUALITY = "label_quality"  # the label stage's other check: it warns, for whether to train all the same is a person's decision


GATE = "gate"  # of the promote stage: it warns, for a refused release harms nobody


def check_specs(stage: str) -> list[dg.AssetCheckSpec]:
    if stage == "promote":
        return [
            dg.AssetCheckSpec(GATE, asset=stage, description="The release may take the champion's place (uae/registry/gate.py).")
        ]
    quality = dg.AssetCheckSpec(
        QUALITY, asset=stage, description="The labels are worth training on (uae/teacher/quality/verdict.py)."
    )
    return ([quality] if stage == "label" else []) + [
        dg.AssetCheckSpec(
            suite,
            asset=stage,
            description=f"The {suite} hold what the chain relies on (uae/validation/suites.py).",
            blocking=True,
        )
        for suite in SUITES.get(stage, ())
    ]


def check_results(stage: str, report: dict[str, Any]) -> list[dg.AssetCheckResult]:
    """The results of a stage from its validation report; none for a stage without suites."""
    if stage not in SUITES:
        return []
    return [_result(suite) for suite in report["suites"]]


def results_of_checks(stage: str, result: dict[str, Any], workspace: Workspace) -> list[dg.AssetCheckResult]:
    """All results of a stage's checks, from what the stage said."""
    checks = check_results(stage, result.get("validation", result))
    if "quality" in result:
        checks.append(quality_result(result["quality"], workspace.path("label_page").absolute()))
    if stage == "promote":
        checks.append(gate_result(result, workspace.path("gate_page").absolute()))
    return checks


def unjudged() -> dg.AssetCheckResult:
    """Of labels that failed their suite."""
    return dg.AssetCheckResult(
        check_name=QUALITY,
        passed=False,
        severity=dg.AssetCheckSeverity.WARN,
        description="Not judged: the readings failed their suite.",
    )


def quality_result(report: dict[str, Any], page: Path) -> dg.AssetCheckResult:
    """The label-quality report's verdict, its warnings and the figures behind it."""
    figures: dict[str, Any] = {}
    if ranking := report["ranking"]:
        for metric, sides in ranking["metrics"].items():
            figures |= {f"{metric} of utility": sides["utility"]["mean"], f"{metric} of base": sides["base"]["mean"]}
    warnings = "\n".join(f"- {warning['text']}" for warning in report["warnings"]) or "none"
    return dg.AssetCheckResult(
        check_name=QUALITY,
        passed=report["verdict"] == "worth it",
        severity=dg.AssetCheckSeverity.WARN,
        description=report["summary"],
        metadata=figures | {"warnings": dg.MetadataValue.md(warnings), "page": dg.MetadataValue.path(page)},
    )


def gate_result(promotion: dict[str, Any], page: Path) -> dg.AssetCheckResult:
    """The gate's decision, its rules one by one, and the numbers behind them."""
    metadata: dict[str, Any] = {
        "lane": promotion["lane"],
        "rules": dg.MetadataValue.md("\n".join(f"- {reason}" for reason in promotion["reasons"])),
        "page": dg.MetadataValue.path(page),
    }
    for finding in promotion["findings"]:
        for name in ("difference", "low", "detectable"):
            if finding[name] is not None:
                metadata[f"{finding['metric']}, {finding['on']}: {name}"] = float(finding[name])
    refused = [reason for reason in promotion["reasons"] if reason.endswith("FAILED")]
    return dg.AssetCheckResult(
        check_name=GATE,
        passed=promotion["promoted"],
        severity=dg.AssetCheckSeverity.WARN,
        description=refused[0] if refused else f"version {promotion['version']} is the {promotion['alias']}",
        metadata=metadata,
    )


def _result(suite: dict[str, Any]) -> dg.AssetCheckResult:
    outcomes = suite["expectations"]
    held = sum(outcome["success"] for outcome in outcomes)
    metadata: dict[str, Any] = {"rows": suite["rows"], "expectations": len(outcomes), "held": held}
    if failing := [row for outcome in outcomes if not outcome["success"] for row in _failing_rows(outcome)]:
        metadata["failing rows"] = dg.MetadataValue.table([dg.TableRecord(row) for row in failing])
    return dg.AssetCheckResult(
        check_name=suite["suite"],
        passed=suite["success"],
        severity=dg.AssetCheckSeverity.ERROR,
        description=f"{held} of {len(outcomes)} expectations hold over {suite['rows']} rows",
        metadata=metadata,
    )


def _failing_rows(outcome: dict[str, Any]) -> list[dict[str, str]]:
    """The same columns for every suite, whose rows name themselves by different ids; one row where none can be named."""
    limits = ", ".join(f"{name}={value}" for name, value in outcome["limits"].items())
    rule = {"column": outcome["column"] or "(table)", "expectation": f"{outcome['expectation']}({limits})"}
    if not outcome["rows"]:
        return [rule | {"row": "-", "source": "", "value": str(outcome["error"] or outcome["observed"])}]
    return [rule | {"row": next(iter(row.values())), "source": row["source"], "value": row["value"]} for row in outcome["rows"]]
