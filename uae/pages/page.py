"""What the HTML reports share: one look, plots as inline SVG, numbers as text. A page needs no script and no outside asset."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_FOLDER = Path(__file__).parents[1]
INK = "#1f2933"
_STYLE = {
    "svg.fonttype": "path",  # text as outlines: it looks alike everywhere and fits where it was placed
    "svg.hashsalt": "uae",  # the same figures give the same bytes
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#6b7280",
    "axes.labelcolor": INK,
    "xtick.color": "#3a4550",
    "ytick.color": "#3a4550",
}
# The caption stands outside what is read as an image: a screen reader reads it too.
_FIGURE = Markup(
    '<figure class="{shape}" aria-label="{title}"><div role="img" aria-label="{alt}">{svg}</div>'
    "<figcaption>{title}. {caption}</figcaption></figure>\n"
)


def render(template: str, filters: Mapping[str, Callable[..., Any]], **values: object) -> str:
    """A page from a template that extends ``pages/page.html.j2``; every value is escaped, and an unknown name is an error.

    Args:
        template: its path within ``uae/``. It may call ``plot``, and use ``filters``.
    """
    environment = Environment(
        loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= filters
    environment.globals["plot"] = plot
    return environment.get_template(template).render(**values)


def plot(svg: Markup, title: str, caption: str, shape: str = "", alt: str | None = None) -> Markup:
    """A figure with its caption; ``alt`` says in words what the image shows, if the title alone does not."""
    return _FIGURE.format(svg=svg, title=title, caption=caption, shape=shape, alt=alt or title)


def drawing() -> AbstractContextManager[None]:
    """Figures are made and turned into SVG within this context: it holds their style."""
    return matplotlib.rc_context(_STYLE)  # type: ignore[arg-type]  # its stub lists every name


def canvas(x_label: str, y_label: str, width: float = 7.2, height: float = 3.2) -> tuple[Figure, Axes]:
    """A figure of one pair of axes; width and height in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")  # not pyplot: it keeps figures in a global
    axes = figure.subplots()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return figure, axes


def reach(estimates: Sequence[Mapping[str, float]]) -> np.ndarray:
    """How far each interval reaches below and above its mean, shape (2, n), as ``Axes.errorbar`` takes it."""
    ends = [[e["mean"] - e["low"] for e in estimates], [e["high"] - e["mean"] for e in estimates]]
    # rounding can put an end of the interval past the mean by a hair, which matplotlib refuses
    return np.maximum(ends, 0)


def svg(figure: Figure) -> Markup:
    """The figure as an <svg> element: equal figures give equal bytes."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", dpi=150, metadata=nothing)
    text = buffer.getvalue()
    # In HTML an <svg> needs neither a prolog nor namespaces: without them the page names no address at all.
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text[text.index("<svg") :], count=2)
    return Markup(re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1))  # the width is the page's choice


def or_dash(form: Callable[[float], str]) -> Callable[[float | None], str]:
    """``form``, and a dash where there is no number."""
    return lambda value: "–" if value is None else form(value)


def interval(estimate: Mapping[str, float] | None, form: Callable[[float], str]) -> str:
    """ "mean [low, high]", or a dash."""
    return "–" if estimate is None else f"{form(estimate['mean'])} [{form(estimate['low'])}, {form(estimate['high'])}]"
