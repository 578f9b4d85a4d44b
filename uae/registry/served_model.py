"""The registered model as MLflow loads it: this file is stored as code, so nothing is pickled."""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext


class RetrieverModel(PythonModel):
    """Columns ``query`` and optionally ``k`` in; one row for each passage found out."""

    def load_context(self, context: PythonModelContext) -> None:
        from uae.release.open import Release

        self.release = Release(Path(context.artifacts["release"]))

    def predict(
        self, context: PythonModelContext | None, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        rows = []
        for query, k in zip(model_input["query"], model_input.get("k", pd.Series([5] * len(model_input))), strict=True):
            for rank, hit in enumerate(self.release.search([query], int(k))[0], 1):
                found = {name: value for name, value in hit._asdict().items() if name != "metadata"}  # no column for an object
                rows.append({"query": query, "rank": rank, **found})
        return pd.DataFrame(rows)


mlflow.models.set_model(RetrieverModel())
