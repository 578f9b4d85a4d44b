"""A budget of readings for one run: which of the missing ones are asked for now, and what is complete without the others."""

from collections.abc import Container, Sequence

import pandas as pd

from uae.io.errors import ArtefactError
from uae.teacher.asking import Asked
from uae.teacher.manifest import LabelManifest
from uae.teacher.prompts import Template
from uae.teacher.protocol import Pair
from uae.teacher.utility import has_readings

Work = Sequence[tuple[Asked, Template, list[Pair]]]


def affordable(work: Work, done: Container[tuple[str, ...]], budget: int | None) -> set[tuple[str, ...]]:
    """Keys of the missing readings that are asked for now: at most ``budget``, None: all.

    New questions come first: they have no reading yet. Questions follow each other in the order of their ids, so that as many
    as possible are complete. Within a question the main templates come before those that only check, and the readings without a
    passage before the others: without them a passage's reading says nothing.
    """
    wanted: dict[tuple[str, ...], tuple[bool, str, bool, bool, str]] = {}
    known = {pair.key[0] for _, _, pairs in work for pair in pairs if pair.key in done}
    for asked, template, pairs in work:
        checks = template not in asked.templates
        for pair in pairs:
            if pair.key not in done:
                question, passage = pair.key[0], pair.key[1]
                order = (question in known, question, checks, pair.passage is not None, passage)
                wanted[pair.key] = min(order, wanted.get(pair.key, order))
    return set(sorted(wanted, key=lambda key: (wanted[key], key))[:budget])


def complete(candidates: pd.DataFrame, labels: pd.DataFrame, questions: pd.DataFrame, manifest: LabelManifest) -> pd.DataFrame:
    """The candidates that all teachers have read. Where no reading waits for the next run, these are all of them, or an error
    says later which is missing. The tables are of their schemas.

    Raises:
        ArtefactError: no candidate is complete yet.
    """
    if not manifest.waiting:
        return candidates
    for source in manifest.sources:
        for template in source.templates:
            found = has_readings(labels, candidates, questions, source, template, manifest.answers_per_question)
            candidates = candidates[found]
    if candidates.empty:
        raise ArtefactError(
            f"the budget (retrain.budget_readings) has completed no pair yet, and {manifest.waiting} readings wait: run "
            "the label stage again, or raise the budget"
        )
    return candidates.reset_index(drop=True)
