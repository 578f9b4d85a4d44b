"""Where the files of a run lie: each artefact's path, and the folder that the paths count from."""

from dataclasses import dataclass
from pathlib import Path

# artefact -> its path under the workspace's root
ARTEFACTS = {
    "documents": "data/documents.parquet",
    "passages": "data/passages.parquet",
    "questions": "data/questions.parquet",
    "ledger": "data/ledger.parquet",
    "source": "data/source.parquet",
    "ingestion": "reports/ingest.json",
    "validation": "reports/validation.json",
    "candidates": "data/candidates.parquet",
    "labels": "data/labels",
    "label_manifest": "data/labels.json",
    "label_validation": "reports/label_validation.json",
    "utility_histogram": "reports/utility_histogram.csv",
    "label_quality": "reports/labels.json",
    "label_page": "reports/labels.html",
    "refreshed_candidates": "data/refreshed_candidates.parquet",
    "refreshed_labels": "data/refreshed_labels",
    "student": "models/student",
    "trained_on": "data/trained_on.parquet",
    "rivals": "models/rivals",
    "reward_model": "models/reward",
    "second_stage": "models/second_stage",
    "training_curve": "reports/training.csv",
    "fusion": "models/fusion.json",
    "release": "models/release",
    "evaluation": "reports/evaluation.json",
    "runs": "data/runs.parquet",
    "recall_curve": "reports/recall.csv",
    "evaluation_page": "reports/evaluation.html",
    "query_cost": "reports/query_cost.json",
    "judgements": "data/judgements",
    "promotion": "reports/promotion.json",
    "gate_page": "reports/promotion.html",
    "bento": "models/bento",
    "drift": "reports/drift.json",
    "drift_picture": "reports/drift.png",
    # of uae refresh, which is no stage of the chain
    "refreshed_release": "models/refreshed/release",  # MLflow keeps an artefact under its folder's name
    "refresh": "reports/refresh.json",
    "refresh_page": "reports/refresh.html",
}


@dataclass(frozen=True)
class Workspace:
    """The folder of a run: the project itself, or a folder of its own."""

    root: Path
    model_cache: Path = Path("models")  # where fetched models are kept
    flat_reports: bool = False  # reports lie at the top of the folder, as ``uae run`` promises

    @property
    def vectors(self) -> Path:
        """Where all stages keep vectors of passages: a cache, which no stage makes and DVC does not track."""
        return self.root / "data/vectors"

    @property
    def backfills(self) -> Path:
        """Runs over earlier versions of the corpus, a folder each: no stage makes them, and DVC does not track them."""
        return self.root / "data/backfills"

    def path(self, artefact: str) -> Path:
        relative = ARTEFACTS[artefact]
        return self.root / (relative.removeprefix("reports/") if self.flat_reports else relative)

    @property
    def cache(self) -> Path:
        """A folder for what this machine keeps beside the artefacts. It may be deleted at any time."""
        return self.root / ".uae"
