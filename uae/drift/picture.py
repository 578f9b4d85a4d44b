"""The drift report as one picture: how near the best passages are, how the evidence grew, what has no good answer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.ticker import MaxNLocator

from uae.drift.report import Seen
from uae.io.files import atomic_path
from uae.pages.page import INK, drawing

_BEFORE, _NOW, _ALARM = "#8a94a0", "#1f6fb2", "#b42318"
_COLOURS = {"best scores": "#1f6fb2", "new words": "#b7791f", "both together": "#6b46c1", "all": INK}
_LONGEST = 44  # letters of a label


def draw(path: Path, report: Mapping[str, Any], seen: Seen | None) -> None:
    """Write a PNG of 1100 by 820 points; where nothing is watched yet, a line that says so."""
    with drawing():
        figure = Figure(figsize=(11, 8.2), layout="constrained")
        if seen is None:
            figure.set_size_inches(11, 1.2)
            figure.text(0.02, 0.5, f"Not watched yet: {report['why_not']}", va="center", color=INK)
        else:
            _fill(figure, report, seen)
        with atomic_path(path) as partial:
            figure.savefig(partial, format="png", dpi=100)


def _fill(figure: Figure, report: Mapping[str, Any], seen: Seen) -> None:
    grid = GridSpec(2, 2, figure=figure, height_ratios=(1, 1))
    verdict = f"Drift, seen at {report['drifted_at']}" if report["drifted"] else "No drift"
    low = report["recent"]["low"]
    figure.suptitle(
        f"{verdict}\n{low['share']:.1%} [{low['low']:.1%}, {low['high']:.1%}] of recent queries are unusually far from every "
        f"passage; {report['reference']['low']['share']:.1%} of the reference",
        fontsize=12,
        color=_ALARM if report["drifted"] else INK,
        x=0.01,
        ha="left",
    )
    _cosines(figure.add_subplot(grid[0, 0]), report, seen)
    _evidence(figure.add_subplot(grid[0, 1]), seen)
    _bars(
        figure.add_subplot(grid[1, 0]),
        "queries without a near passage, by topic",
        [(", ".join(each["words"]) or "(no telling word)", each["queries"]) for each in report["clusters"]],
    )
    _bars(
        figure.add_subplot(grid[1, 1]),
        "recent queries with a word that no passage has",
        [(each["word"], each["queries"]) for each in report["new_words"][:10]],
    )


def _cosines(axes: Axes, report: Mapping[str, Any], seen: Seen) -> None:
    both = np.concatenate([seen.reference.cosines, seen.recent.cosines])
    bins = np.linspace(both.min(), both.max() + 1e-9, 31)
    for values, colour, name in ((seen.reference.cosines, _BEFORE, "reference"), (seen.recent.cosines, _NOW, "recent")):
        weights = np.full(len(values), 1 / len(values))
        axes.hist(values, bins=bins.tolist(), weights=weights, color=colour, alpha=0.55, label=f"{name} ({len(values)})")
    axes.axvline(report["low_is_below"], color=_ALARM, linewidth=1.2)
    axes.set_xlabel("cosine of the nearest passage; the line: unusually far")
    axes.set_ylabel("share of distinct queries")
    axes.legend(frameon=False, loc="upper right")


def _evidence(axes: Axes, seen: Seen) -> None:
    start = 0
    for number, window in enumerate(seen.windows):
        for name, values in window.evidence.items():
            steps = np.arange(start, start + len(values))
            label = name if number == 0 else None
            axes.plot(steps, values, color=_COLOURS[name], linewidth=2 if name == "all" else 1, label=label)
        length = len(window.evidence["all"])
        axes.plot(
            [start, start + length], [window.limit] * 2, color=_ALARM, linestyle="dashed", label=None if number else "limit"
        )
        if number:
            axes.axvline(start, color="#d9dee3", linewidth=0.8, zorder=0)
        start += length
    axes.set_xlabel("distinct queries; each window begins anew")
    axes.set_ylabel("evidence (log 10)")
    axes.legend(frameon=False, loc="upper left", fontsize=9)


def _bars(axes: Axes, title: str, rows: list[tuple[str, int]]) -> None:
    axes.set_title(title, fontsize=10, loc="left", color=INK)
    if not rows:
        axes.text(0.5, 0.5, "none", ha="center", va="center", color="#6b7280", transform=axes.transAxes)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    names = [name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…" for name, _ in rows]
    axes.barh(range(len(rows)), [number for _, number in rows], color=_NOW, height=0.65)
    axes.set_yticks(range(len(rows)), [name.replace("$", r"\$") for name in names])
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("queries")
