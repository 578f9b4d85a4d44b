"""What follows from a decision: the version's record, the decision's page, the history, and the alias if the gate passed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from uae.io.files import write_json, write_text
from uae.registry.budget import Look
from uae.registry.errors import registry_errors
from uae.registry.gate import Bounds, Decision
from uae.registry.gate_page import gate_page
from uae.registry.history import DECIDED, PROMOTED, Event, History
from uae.registry.tracking import RELEASE_TAG

# Which gate decided: without a champion the means do, a retrained encoder needs a gain, another corpus must only not be worse.
FIRST, RETRAINED, REFRESHED, SAME, WITHDRAWN = "first", "retrain", "refresh", "same", "withdrawn"


@dataclass(frozen=True)
class Place:
    """Where the release is registered."""

    root: Path
    uri: str
    experiment: str
    model: str
    alias: str


class Verdict(NamedTuple):
    lane: str
    decision: Decision
    look: Look | None = None
    times: Mapping[str, float] | None = None  # of queries


def conclude(
    client: MlflowClient,
    place: Place,
    history: History,
    verdict: Verdict,
    version: ModelVersion,
    champion: ModelVersion | None,
    release: str,
    bounds: Bounds,
    test_set: str,
    promotion_path: Path,
    page_path: Path,
) -> dict[str, Any]:
    """Write page and record, note the decision in the history, and move the alias to ``version`` if the gate passed.

    Args:
        version: of the release (a fingerprint) that was judged.
        champion: the version that the alias points at.
        test_set: hash of what was measured on.

    Raises:
        RegistryError: MLflow does not answer.
    """
    promotion = _outcome(verdict, place, version, champion, release, bounds, test_set)
    page = gate_page(promotion)
    if verdict.lane != SAME:
        _record(history, promotion, page, verdict)
        if verdict.decision.passed:
            with registry_errors(f"the alias {place.alias!r} of {place.model} cannot be moved"):
                client.set_registered_model_alias(place.model, place.alias, version.version)
            why = f"the gate passed ({verdict.lane})"
            history.record(PROMOTED, int(version.version), number_of(champion), release, why)
    write_text(page_path, page)
    write_json(promotion_path, promotion)
    return promotion


def withdrawn_verdict(left: Event) -> Verdict:
    """Of a release that a person rolled back."""
    said = f"version {left.before} has this release: {left.who} rolled it back on {left.at:%Y-%m-%d} ({left.why})"
    return Verdict(WITHDRAWN, Decision(False, [f"{said}. uae rollback {left.before} brings it back: FAILED"]))


def _outcome(
    verdict: Verdict,
    place: Place,
    version: ModelVersion,
    champion: ModelVersion | None,
    release: str,
    bounds: Bounds,
    test_set: str,
) -> dict[str, Any]:
    before, now, passed = number_of(champion), int(version.version), verdict.decision.passed
    return {
        "promoted": passed,
        "model": place.model,
        "version": now,
        "alias": place.alias,
        "champion": now if passed else before,
        "replaced": before if passed and before != now else None,
        "lane": verdict.lane,
        "reasons": verdict.decision.reasons,
        "findings": [finding.numbers() for finding in verdict.decision.findings],
        "look": verdict.look._asdict() if verdict.look else None,
        "query_times": verdict.times,
        "confidence": bounds.confidence,
        "dataset": test_set,
        "run_id": version.run_id,
        "release": release,
    }


def _record(history: History, promotion: Mapping[str, Any], page: str, verdict: Verdict) -> None:
    """The decision as an event: what was measured as metrics, and the page beside them."""
    numbers = {}
    for finding in promotion["findings"]:
        place = f"gate/{finding['on']}/{finding['metric']}".replace(" ", "_").replace("@", "_at_")
        for name in ("candidate", "reference", "difference", "low", "p_value", "detectable"):
            if finding[name] is not None:
                numbers[f"{place}/{name}"] = finding[name]
    numbers |= {f"gate/query/{name}": float(value) for name, value in (verdict.times or {}).items()}
    failed = [reason for reason in promotion["reasons"] if reason.endswith("FAILED")]
    history.record(
        DECIDED,
        promotion["version"],
        promotion["champion"] if not promotion["promoted"] else promotion["replaced"],
        promotion["release"],
        failed[0] if failed else f"passed ({verdict.lane})",
        passed=verdict.decision.passed,
        units=verdict.look.units if verdict.look else None,
        numbers=numbers,
        files={"gate.html": page, "gate.json": json.dumps(promotion, indent=2, sort_keys=True)},
    )


def number_of(version: ModelVersion | None) -> int | None:
    return int(version.version) if version is not None else None


def release_tag(version: ModelVersion | None) -> str:
    return str(version.tags.get(RELEASE_TAG, "")) if version is not None else ""
