"""Pictures of the reports, inline: Dagster shows a data URI in Markdown and needs no file to serve."""

import base64
import io
from pathlib import Path

import dagster as dg
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def utility_histogram(path: Path) -> dg.MarkdownMetadataValue:
    table = pd.read_csv(path)
    figure, axes = _canvas("utility (nats per answer token)", "pairs")
    width = table["utility"].diff().median()
    axes.bar(table["utility"], table["pairs"], width=width)
    axes.axvline(0, color="black", linewidth=0.8)  # right of it, the passage helped
    return _inline(figure, "How much the passages help")


def training_curve(path: Path) -> dg.MarkdownMetadataValue:
    table = pd.read_csv(path)
    figure, axes = _canvas("step", "training loss")
    loss = table.dropna(subset="train_loss")
    axes.plot(loss["step"], loss["train_loss"], label="training loss")
    agreement = table.dropna(subset="validation_ndcg")
    right = axes.twinx()
    right.plot(agreement["step"], agreement["validation_ndcg"], "o-", color="tab:orange", label="validation nDCG")
    right.set_ylabel("validation nDCG by the teacher")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return _inline(figure, "Training")


def recall_curve(path: Path) -> dg.MarkdownMetadataValue:
    figure, axes = _canvas("passages retrieved (k)", "recall")
    for system, rows in pd.read_csv(path).groupby("system"):
        axes.plot(rows["k"], rows["recall"], "o-", label=system)
    axes.legend(frameon=False)
    return _inline(figure, "Recall at k")


def picture(path: Path, title: str) -> dg.MarkdownMetadataValue:
    """A PNG that stands in a file."""
    return _shown(path.read_bytes(), title)


def _canvas(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    # Not pyplot: it keeps figures in a global, and picks a window system.
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return figure, axes


def _inline(figure: Figure, title: str) -> dg.MarkdownMetadataValue:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return _shown(buffer.getvalue(), title)


def _shown(png: bytes, title: str) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})")
