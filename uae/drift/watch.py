"""Whether queries have changed since the encoder that answers them was put to work.

The *reference* is the last queries before that; where there are too few, the first queries of the log. All later ones are cut
into *windows*. A window ends when it is full, and the next begins with the next day (UTC). So a window is known before its
queries are, and a busy service costs no more than one window a day.
"""

from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import binomtest

from uae.drift.evidence import limit, log_evidence, log_limit, together, untied
from uae.drift.signals import Measured, key

Places = npt.NDArray[np.intp]


class Span(NamedTuple):
    """The queries of the reference or of a window: rows of the log, each text once."""

    start: int  # rows of the log
    stop: int
    places: Places  # of the first row of each distinct query


class Spans(NamedTuple):
    reference: Span | None  # None: there are too few queries yet
    windows: list[Span]
    recent: Span  # the last queries after the reference, as many as a window has


class Window(NamedTuple):
    """What a window says."""

    number: int  # 1 for the first after the reference
    evidence: dict[str, list[float]]  # signal -> logarithm (base 10) after each distinct query; "all": of all signals together
    limit: float  # that "all" has to reach
    first_over: int | None  # row of the log at which it did
    reasons: list[str]  # the signals that reached it by themselves


def spans(queries: pd.DataFrame, reference_queries: int, window_queries: int) -> Spans:
    """Cut a log (``uae.serving.query_log.QUERIES``, ascending in time) into reference and windows."""
    keys = np.array([key(text) for text in queries["text"]], dtype=object)
    days = queries["time"].dt.strftime("%Y-%m-%d").to_numpy(dtype=object)
    others = np.flatnonzero((queries["encoder"] != queries["encoder"].iloc[-1]).to_numpy()) if len(queries) else np.zeros(0, int)
    at_work = int(others[-1]) + 1 if len(others) else 0  # the first row by the encoder that answers today
    start = max(0, at_work - reference_queries)
    end = start + reference_queries
    if end > len(queries):
        return Spans(None, [], _span(keys, len(queries), len(queries)))
    windows, begin = [], end
    while begin < len(queries):
        stop = min(begin + window_queries, len(queries))
        windows.append(_span(keys, begin, stop))
        full = stop - begin == window_queries
        begin = stop
        while full and begin < len(queries) and days[begin] == days[stop - 1]:
            begin += 1
    return Spans(_span(keys, start, end), windows, _span(keys, max(end, len(queries) - window_queries), len(queries)))


def judge(reference: Measured, watched: Measured, ties: npt.NDArray[np.float64], number: int, false_alarms: float) -> Window:
    """Bet on each query of a window in turn.

    Args:
        watched: the window's distinct queries, in the order in which they came.
        ties: of reference and window, from 0 to 1: which of two equally strange queries counts as the stranger.
        number: of the window, from 1.

    Returns:
        A window whose ``first_over`` counts its distinct queries.
    """
    logs = {}
    before, now = reference.strangeness(), watched.strangeness()
    for name, values in before.items():
        ordered = untied(np.concatenate([values, now[name]]), ties)
        logs[name] = log_evidence(ordered[: len(values)], ordered[len(values) :])
    joined, least = together(list(logs.values())), log_limit(false_alarms, number)
    over = np.flatnonzero(joined >= least)
    first = int(over[0]) if len(over) else None
    reasons = [] if first is None else [name for name, values in logs.items() if values[first] >= least]
    in_tens = {name: (values / np.log(10)).tolist() for name, values in (logs | {"all": joined}).items()}
    return Window(number, in_tens, least / np.log(10), first, reasons)


def shares(measured: Measured, low: float, confidence: float) -> dict[str, Any]:
    """The share of queries whose best passage is farther than ``low``, and of those with a new word, with Wilson's intervals."""
    return {
        "low": _share(measured.cosines < low, confidence),
        "with_new_words": _share(measured.new_share > 0, confidence),
    }


def low_limit(reference: Measured, low_share: float) -> float:
    """The cosine that all but this share of the reference reach."""
    return -limit(-reference.cosines, low_share)[0]


def when(queries: pd.DataFrame, row: int) -> str:
    time: datetime = queries["time"].iloc[row].to_pydatetime()
    return time.isoformat(timespec="seconds")


def _span(keys: npt.NDArray[Any], start: int, stop: int) -> Span:
    first: dict[str, int] = {}
    for place in range(start, stop):
        first.setdefault(keys[place], place)
    return Span(start, stop, np.array(list(first.values()), dtype=np.intp))


def _share(flags: npt.NDArray[np.bool_], confidence: float) -> dict[str, Any]:
    number, of = int(flags.sum()), len(flags)
    if not of:
        return {"queries": 0, "of": 0, "share": None, "low": None, "high": None}
    interval = binomtest(number, of).proportion_ci(confidence, "wilson")
    return {"queries": number, "of": of, "share": number / of, "low": float(interval.low), "high": float(interval.high)}
