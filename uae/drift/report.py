"""The drift report: the log is read, queries are measured, windows are judged, what has no good answer is put into groups."""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from uae.drift.clusters import Cluster, cluster
from uae.drift.options import DriftOptions
from uae.drift.signals import Measured, measure, tie_breakers
from uae.drift.watch import Span, Window, judge, low_limit, shares, spans, when
from uae.release.open import Release
from uae.retrievers.bm25_index import terms
from uae.serving.query_log import read_queries, remove_expired

_CONFIDENCE = 0.95
_CLUSTERS = 8  # that the report tells, the largest
_NEW_WORDS = 20
WATCHING, COLLECTING, NO_LOG = "watching", "collecting", "no log"


class Seen(NamedTuple):
    """What a picture shows beside the report."""

    reference: Measured
    recent: Measured
    windows: list[Window]


def drift_report(options: DriftOptions, release_path: Path, device: str, seed: int) -> tuple[dict[str, Any], Seen | None]:
    """What the log of queries says. Expired queries are removed from it first.

    Args:
        release_path: the release that is served, which measures all queries.

    Returns:
        The report, and what its picture needs; None where nothing is watched yet.

    Raises:
        ArtefactError: the log or the release is missing or damaged.
    """
    if options.log is None:
        reason = "drift.log is null: start the service with UAE_QUERY_LOG, and name its folder there"
        return _unwatched(NO_LOG, 0, reason, options), None
    folder = Path(options.log)
    remove_expired(folder)
    queries = read_queries(folder).to_pandas()
    release = Release(release_path, device, mapped=True)
    try:
        return assess(queries, release, options, seed)
    finally:
        release.close()


def assess(queries: pd.DataFrame, release: Release, options: DriftOptions, seed: int) -> tuple[dict[str, Any], Seen | None]:
    """``drift_report`` of a log's rows (QUERIES, ascending in time)."""
    cut = spans(queries, options.reference_queries, options.window_queries)
    if cut.reference is None or not cut.windows:
        reason = (
            f"{len(queries)} queries are logged, and the first {options.reference_queries} are what later ones are compared with"
        )
        return _unwatched(COLLECTING, len(queries), reason, options), None

    texts = queries["text"].tolist()
    rows = np.unique(np.concatenate([span.places for span in (cut.reference, cut.recent, *cut.windows)]))
    measured = measure(release, [texts[row] for row in rows])

    def of(span: Span) -> Measured:
        return measured.take(np.searchsorted(rows, span.places))

    def ties(span: Span, number: int) -> np.ndarray:
        return tie_breakers([texts[row] for row in span.places], seed, number)

    reference, recent = of(cut.reference), of(cut.recent)
    low = low_limit(reference, options.low_share)
    windows = [
        judge(
            reference,
            of(span),
            np.concatenate([ties(cut.reference, 0), ties(span, number)]),
            number,
            options.false_alarms,
        )
        for number, span in enumerate(cut.windows, 1)
    ]
    drifted = [number for number, window in enumerate(windows) if window.first_over is not None]
    recent_shares = shares(recent, low, _CONFIDENCE)
    share = recent_shares["low"]["share"]
    report = {
        "status": WATCHING,
        "drifted": bool(drifted),
        "drifted_at": when(queries, _row(cut.windows[drifted[0]], windows[drifted[0]])) if drifted else None,
        "retrain": bool(drifted) and options.retrain_share is not None and share >= options.retrain_share,
        "reasons": [_reason(windows[number], of(cut.windows[number]), low, options.low_share) for number in drifted],
        "queries": len(queries),
        "release": release.fingerprint,
        "encoder": str(queries["encoder"].iloc[-1]),
        "low_is_below": low,
        "reference": _told(queries, cut.reference) | shares(reference, low, _CONFIDENCE),
        "recent": _told(queries, cut.recent) | recent_shares | {"nothing_found": _nothing_found(queries, cut.recent)},
        "windows": [
            _told(queries, span) | shares(of(span), low, _CONFIDENCE) | _judged(window)
            for span, window in zip(cut.windows, windows, strict=True)
        ],
        "new_words": _new_words(recent, reference),
        "clusters": _clusters(texts, cut.recent, recent, low, [texts[row] for row in cut.reference.places], reference),
        "options": options.model_dump(),
    }
    return report, Seen(reference, recent, windows)


def _unwatched(status: str, queries: int, reason: str, options: DriftOptions) -> dict[str, Any]:
    found = {"status": status, "drifted": False, "drifted_at": None, "retrain": False, "reasons": [], "queries": queries}
    return found | {"why_not": reason, "options": options.model_dump()}


def _row(span: Span, window: Window) -> int:
    assert window.first_over is not None
    return int(span.places[window.first_over])


def _told(queries: pd.DataFrame, span: Span) -> dict[str, Any]:
    return {
        "from": when(queries, span.start),
        "to": when(queries, span.stop - 1),
        "queries": span.stop - span.start,
        "distinct": len(span.places),
    }


def _judged(window: Window) -> dict[str, Any]:
    highest = {name: max(values) for name, values in window.evidence.items()}
    return {"evidence": highest, "limit": window.limit, "drifted": window.first_over is not None}


def _reason(window: Window, measured: Measured, low: float, low_share: float) -> str:
    of = shares(measured, low, _CONFIDENCE)
    return (
        f"window {window.number}: {', '.join(window.reasons) or 'all signals together'}; {of['low']['share']:.1%} of queries "
        f"have no passage as near as {low:.3f} ({low_share:.1%} of the reference), "
        f"{of['with_new_words']['share']:.1%} have a new word"
    )


def _nothing_found(queries: pd.DataFrame, span: Span) -> int:
    """Queries that were answered with no passage at all."""
    return int(queries["best_score"].iloc[span.start : span.stop].isna().sum())


def _new_words(recent: Measured, reference: Measured) -> list[dict[str, Any]]:
    """Words that no passage has, by the number of recent queries with them; those of one query alone are mostly misspelt."""
    written = Counter(word for of_one in recent.new_words for word in of_one)
    now, before = (
        Counter(stem for of_one in each.new_words for stem in {" ".join(terms(word)) for word in of_one})
        for each in (recent, reference)
    )
    often = sorted(((number, stem) for stem, number in now.items() if number > 1), key=lambda each: (-each[0], each[1]))
    forms = {stem: [word for word in written if " ".join(terms(word)) == stem] for _, stem in often[:_NEW_WORDS]}
    return [
        {"word": max(forms[stem], key=lambda word: (written[word], word)), "queries": number, "in_reference": before[stem]}
        for number, stem in often[:_NEW_WORDS]
    ]


def _clusters(
    texts: list[str], span: Span, recent: Measured, low: float, ordinary: list[str], reference: Measured
) -> list[dict[str, Any]]:
    """Of recent queries whose best passage is unusually far."""
    chosen = np.flatnonzero(recent.cosines < low)
    asked = [texts[row] for row in span.places[chosen]]
    found: list[Cluster] = cluster(asked, recent.vectors[chosen], ordinary, reference.vectors)
    return [
        {"queries": len(each.places), "words": each.words, "examples": [asked[place] for place in each.examples]}
        for each in found[:_CLUSTERS]
    ]
