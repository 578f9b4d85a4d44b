"""The page's figures, as SVG."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from uae.evaluation.comparison import Measured, decisive
from uae.evaluation.page.names import SYSTEMS, look, metric_name, ordered, plain
from uae.evaluation.testset import UAE
from uae.pages.page import INK, canvas, reach, svg

_WIDTH = 5.2  # of a plot, inches: its letters are still read on a telephone


def _legend(figure: Figure, axes: Axes) -> None:
    columns = 1 if max(len(text) for text in axes.get_legend_handles_labels()[1]) > 30 else 2
    figure.legend(loc="outside upper left", ncols=columns, frameon=False, fontsize=9)


def draw_gains(gains: Mapping[str, Mapping[str, Measured]], metrics: Sequence[str]) -> Markup | None:
    """Relative gains of the trained encoders over the base, with intervals."""
    trained = [system for system in (UAE, "infonce") if system in gains]
    relative = {
        system: {metric: decisive(gain)["relative"] for metric, gain in gains[system].items() if decisive(gain)["relative"]}
        for system in trained
    }
    shown = [metric for metric in metrics if any(metric in relative[system] for system in trained)]
    if not shown:
        return None
    figure, axes = canvas("gain over the base encoder (%)", "", _WIDTH, 0.9 + 0.45 * len(shown))
    for number, system in enumerate(trained):
        rows = [(place, relative[system][metric]) for place, metric in enumerate(shown) if metric in relative[system]]
        estimates = [{end: 100 * estimate[end] for end in ("mean", "low", "high")} for _, estimate in rows]
        heights = np.array([place for place, _ in rows]) + (0.24 * number - 0.12 * (len(trained) - 1))
        means = [estimate["mean"] for estimate in estimates]
        axes.errorbar(means, heights, xerr=reach(estimates), fmt="none", ecolor=INK, elinewidth=1.2, capsize=3)
        axes.plot(means, heights, linestyle="none", markersize=7, **look(system))
    axes.axvline(0, color=INK, linewidth=0.9)
    axes.set_yticks(range(len(shown)), [plain(metric_name(metric)) for metric in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)  # the first metric on top
    if len(trained) > 1:
        _legend(figure, axes)
    return svg(figure)


def draw_recall(curves: Mapping[str, Sequence[float]], fewer: Sequence[str]) -> Markup:
    """Recall over k; dashed where fewer questions were asked."""
    figure, axes = canvas("first k passages", "recall", _WIDTH, 4.6)
    for system in ordered(curves):
        line: dict[str, Any] = {"linestyle": "dashed" if system in fewer else "solid", "linewidth": 1.6, "markersize": 5}
        axes.plot(range(1, len(curves[system]) + 1), curves[system], **line, **look(system))
    axes.set_xticks(range(1, max(map(len, curves.values())) + 1))
    axes.set_ylim(0, 1.02)
    axes.grid(axis="y", color="#d9dee3", linewidth=0.7)
    _legend(figure, axes)
    return svg(figure)


def draw_cost(
    cost: Mapping[str, Mapping[str, Any]], systems: Mapping[str, Mapping[str, Any]], lead: str, fewer: Sequence[str]
) -> Markup | None:
    """Quality against time, time in powers of ten; hollow where fewer questions were asked."""
    shown = [system for system in ordered(cost) if lead in systems.get(system, {}) and cost[system]["ms_per_query"] > 0]
    if not shown:
        return None
    figure, axes = canvas("time per query (ms)", metric_name(lead), _WIDTH, 4.6)
    for system in shown:
        estimate, time = decisive(systems[system][lead]), cost[system]["ms_per_query"]
        drawn = look(system)
        face = "#ffffff" if system in fewer else drawn["color"]
        axes.errorbar(
            [time], [estimate["mean"]], yerr=reach([estimate]), fmt="none", ecolor=drawn["color"], elinewidth=1, capsize=3
        )
        axes.plot([time], [estimate["mean"]], linestyle="none", markersize=9, markerfacecolor=face, markeredgewidth=1.6, **drawn)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.set_ylim(0, 1.02)
    axes.grid(color="#d9dee3", linewidth=0.7)
    _legend(figure, axes)
    return svg(figure)


def draw_training(curve: Sequence[Mapping[str, float | None]]) -> Markup:
    axis = "step" if "step" in curve[0] else "epoch"
    drawn = [(name, label) for name, label in (("loss", "training loss"), ("validation", "validation score"))
             if any(row.get(name) is not None for row in curve)]  # fmt: skip
    figure = Figure(figsize=(_WIDTH, 2.6), layout="constrained")
    for axes, (name, label) in zip(np.atleast_1d(figure.subplots(1, max(len(drawn), 1))), drawn, strict=False):
        points = [(row[axis], row[name]) for row in curve if row.get(name) is not None]
        axes.plot(*zip(*points, strict=True), color=SYSTEMS[UAE].colour, marker="o" if len(points) < 30 else None, markersize=4)
        axes.set_xlabel(axis)
        axes.set_ylabel(label)
    return svg(figure)
