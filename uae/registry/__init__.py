"""MLflow: training runs, registered versions with their lineage, the gate, and the promotion behind it."""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # a library must not call home from a user's data pipeline
