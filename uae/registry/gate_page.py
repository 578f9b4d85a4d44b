"""The gate's decision as one HTML page: what was decided, by which numbers, and what it could not have seen."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from uae.pages.page import INK, canvas, drawing, or_dash, render, svg

_KEPT, _LOST = "#2b7a43", "#b23b2e"
# What decided, in words for people.
LANES = {
    "first": "There is no champion yet: the means decide, against the strongest system that needs no training.",
    "retrain": "A retrained encoder: no loss beyond its margin may be true, and chance must not explain a gain.",
    "refresh": "The champion's encoder over a changed corpus: it may not be worse on the questions that both can answer.",
    "same": "This release is the champion already: nothing was compared.",
    "withdrawn": "A person rolled this release back: nothing was compared.",
}


def gate_page(promotion: Mapping[str, Any]) -> str:
    """HTML of what ``promote`` returns."""
    findings = promotion["findings"]
    with drawing():
        plot = _losses(findings) if findings else None
    return render(
        "registry/gate_page.html.j2",
        _FILTERS,
        promotion=promotion,
        lane=LANES[promotion["lane"]],
        findings=findings,
        look=promotion["look"],
        times=promotion["query_times"],
        confidence=f"{promotion['confidence'] * 100:g}%",
        losses=plot,
    )


def _losses(findings: Sequence[Mapping[str, Any]]) -> Markup:
    """A row a metric and set: the difference, how far down the truth may lie, and what may be lost."""
    figure, axes = canvas("candidate less champion", "", height=0.9 + 0.42 * len(findings))
    for place, finding in enumerate(reversed(findings)):
        low = finding["low"] if finding["low"] is not None else finding["difference"] - 2 * finding["margin"]
        colour = _KEPT if finding["kept"] else _LOST
        axes.plot([low, finding["difference"]], [place, place], color=colour, linewidth=2.5, solid_capstyle="butt")
        axes.plot(finding["difference"], place, "o", color=colour, markersize=6)
        axes.plot([-finding["margin"]] * 2, [place - 0.38, place + 0.38], color=_LOST, linewidth=1.6)
    axes.axvline(0, color=INK, linewidth=0.8)
    names = [f"{finding['metric']}, {finding['on']}" for finding in reversed(findings)]
    axes.set_yticks(np.arange(len(names)), names)
    axes.set_ylim(-0.7, len(names) - 0.3)
    axes.locator_params(axis="x", nbins=5)  # long names leave the axis little room
    return svg(figure)


_FILTERS: dict[str, Callable[..., Any]] = {
    "score": or_dash("{:.4f}".format),
    "points": or_dash("{:+.4f}".format),
    "level": or_dash("{:.2g}".format),
    "effect": or_dash("{:.3f}".format),
    "milliseconds": "{:.1f}".format,
}
