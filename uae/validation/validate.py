"""The validate stage, and the check of the labels: run suites, write the report, stop the chain where one fails."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from uae.corpus.repeated_questions import RepeatedQuestions, told
from uae.io.errors import ValidationFailed
from uae.io.files import write_json
from uae.io.tables import DOCUMENTS, QUESTIONS, read_table, scan_table
from uae.teacher.store import LabelStore
from uae.text.stored_passages import StoredPassages
from uae.validation.facts import CorpusFacts
from uae.validation.judging import run_suite
from uae.validation.leakage import Leaks
from uae.validation.report import Report, table_hashes
from uae.validation.suites import document_suite, label_suite, leakage_suite, passage_suite, question_suite

_USABLE = re.compile(r"n_(\w+)_usable")
_TOLD = 100  # groups of repeated questions in a message; the report has all


def validate(
    documents_path: Path,
    passages_path: Path,
    questions_path: Path,
    report_path: Path,
    scope: str,
    min_words_per_passage: int,
    min_questions: Mapping[str, int],
    require_answers: bool,
    near_duplicate: float,
    dropped: Sequence[Mapping[str, Any]] = (),
) -> Report:
    """Check the three corpus tables, and that no split knows another's questions, and write the report.

    The report holds the hashes of the tables, so that a later stage can tell whether it is about the tables that it reads
    (``require_validated``).

    Args:
        near_duplicate: from where on texts count as the same: see ``RepeatedQuestions`` and ``leakage_facts``.
        dropped: the copies that ingest left out because they stood in a later split, too; the report repeats them.

    Raises:
        ValidationFailed: an expectation does not hold. The message lists failing rows, the report holds all suites, and
            the report file of an earlier success is gone, so that nothing downstream takes it for this data's.
    """
    # Before they are read: a table that is replaced meanwhile must not pass for validated.
    hashes = table_hashes({"documents": documents_path, "passages": passages_path, "questions": questions_path})
    questions = read_table(questions_path, QUESTIONS)
    corpus = CorpusFacts(documents_path, passages_path)
    named = set(questions["doc_id"])
    stored = StoredPassages(passages_path, named)
    evidence = stored.rows(_evidence(questions))
    question_facts = _question_facts(questions, corpus.known_documents(named), set(evidence["passage_id"]), require_answers)
    repeated = RepeatedQuestions(questions, evidence, scope, near_duplicate)
    texts = stored.rows(stored.ids["passage_id"]) if scope == "document" else evidence
    leaks = Leaks(_sources(documents_path, named), texts, questions, scope, near_duplicate, repeated)
    suites = [
        run_suite("documents", corpus.documents, document_suite(), "doc_id"),
        run_suite("passages", corpus.passages, passage_suite(min_words_per_passage), "passage_id"),
        run_suite("questions", question_facts, question_suite(dict(min_questions), scope, require_answers), "question_id"),
        run_suite("leakage", lambda: _leakage_facts(leaks, questions, corpus), leakage_suite(), "item"),
    ]
    asked = {"scope": scope, "repeated_questions": repeated.listed(), "dropped_questions": list(dropped)}
    return _conclude(suites, hashes, report_path, asked)


def validate_labels(store_path: Path, report_path: Path, asked: Mapping[str, Path]) -> Report:
    """Check the label store's readings.

    Args:
        asked: name -> table or manifest that the labels were asked by. The report holds their hashes: what is trained on must be
            what was labelled.

    Raises:
        ValidationFailed: as ``validate``.
    """
    hashes = table_hashes({"labels": store_path, **asked})
    return _conclude([_labels_of(store_path)], hashes, report_path)


def check_readings(store_path: Path) -> None:
    """The labels' suite over a store that no report is written about: what training asked the teacher by itself.

    Raises:
        ValidationFailed: an expectation does not hold.
    """
    if LabelStore(store_path).read().empty:
        return  # all that training wanted to know was known
    suite = _labels_of(store_path)
    if not suite["success"]:
        report: Report = {"success": False, "tables": {}, "suites": [suite]}
        raise ValidationFailed(f"{store_path}: {_explain([suite])}", report)


def _labels_of(store_path: Path) -> dict[str, Any]:
    labels = LabelStore(store_path).read()
    labels = labels.assign(reading=labels["question"] + "/" + labels["passage"])
    return run_suite("labels", labels, label_suite(), "reading")


def _conclude(
    suites: list[dict[str, Any]], hashes: dict[str, str], report_path: Path, more: Mapping[str, Any] | None = None
) -> Report:
    report: Report = {"success": all(suite["success"] for suite in suites), "tables": hashes, "suites": suites, **(more or {})}
    if not report["success"]:
        Path(report_path).unlink(missing_ok=True)
        failed = Path(report_path).with_suffix(".failed.json")
        write_json(failed, report)
        said = [_explain(suites), *_all_repeated(report.get("repeated_questions", [])), f"The whole report: {failed}"]
        raise ValidationFailed("\n".join(said), report)
    Path(report_path).with_suffix(".failed.json").unlink(missing_ok=True)
    write_json(report_path, report)
    return report


def _explain(suites: list[dict[str, Any]]) -> str:
    lines = ["The data do not hold what the chain relies on:"]
    for suite in suites:
        for outcome in suite["expectations"]:
            if outcome["success"]:
                continue
            if found := _USABLE.fullmatch(outcome["column"] or ""):
                lines.append(f"  {suite['suite']}.{outcome['column']}: {_too_few(found[1], outcome, suite)}")
                continue
            limits = ", ".join(f"{name}={value}" for name, value in outcome["limits"].items())
            what = f"  {suite['suite']}.{outcome['column'] or 'table'}: {outcome['expectation']}({limits})"
            count = f" - {outcome['unexpected']} rows" if outcome["unexpected"] else f" - observed {outcome['observed']}"
            lines.append(what + count + (f" ({outcome['error']})" if outcome["error"] else ""))
            lines += [f"    {' '.join(str(v) for v in row.values())}" for row in outcome["rows"][:5]]
    return "\n".join(lines)


def _too_few(split: str, outcome: Mapping[str, Any], suite: Mapping[str, Any]) -> str:
    """In words: the figure stands in a column that only this check has."""
    answers = any(each["column"] == "n_answers" for each in suite["expectations"])
    need = " with evidence" if split == "test" else " with answers" if answers else ""
    return (
        f"{split} has {outcome['observed'] or 0} questions{need}; validate.min_questions.{split} asks for "
        f"{outcome['limits']['min_value']:.0f}: give `split` in the questions, or add documents and questions"
    )


def _all_repeated(groups: list[list[dict[str, str]]]) -> list[str]:
    """Every group at once: who removes one copy after another would start the run as many times."""
    if not groups:
        return []
    number = f"{len(groups)} questions stand" if len(groups) > 1 else "1 question stands"
    return [
        f"{number} in two splits, in the same words or nearly. Remove all copies but those of one split, or let ingest leave out "
        f"the copies in train and validation by ingest.repeated_questions=drop_training_copy:\n{told(groups, _TOLD)}"
    ]


def _evidence(questions: pd.DataFrame) -> set[str]:
    return {passage_id for evidence in questions["evidence"] for passage_id in evidence}


def _sources(documents_path: Path, doc_ids: Collection[str]) -> pd.DataFrame:
    """Columns doc_id and source of these documents."""
    parts = scan_table(documents_path, DOCUMENTS, ["doc_id", "source"])
    return pd.concat([pd.DataFrame(columns=["doc_id", "source"]), *(part[part["doc_id"].isin(doc_ids)] for part in parts)])


def _leakage_facts(leaks: Leaks, questions: pd.DataFrame, corpus: CorpusFacts) -> Iterator[pd.DataFrame]:
    yield leaks.of_questions(questions)
    yield from map(leaks.of_documents, corpus.documents())
    yield from map(leaks.of_passages, corpus.passages())


def _question_facts(
    questions: pd.DataFrame, known_documents: Collection[str], known_passages: Collection[str], require_answers: bool
) -> pd.DataFrame:
    splits = questions[questions["doc_id"] != ""].groupby("doc_id")["split"].nunique()
    usable = questions.assign(usable=(questions["answers"].str.len() > 0) | (not require_answers))
    # Test questions count by evidence: without it there is nothing to measure retrieval against.
    usable.loc[questions["split"] == "test", "usable"] = questions["evidence"].str.len() > 0
    counts = usable[usable["usable"]]["split"].value_counts()
    return questions.assign(
        n_answers=questions["answers"].str.len(),
        answers_filled=[all(answer.strip() for answer in answers) for answers in questions["answers"]],
        document_known=questions["doc_id"].isin({"", *known_documents}),
        evidence_known=[all(passage in known_passages for passage in evidence) for evidence in questions["evidence"]],
        n_splits_of_document=questions["doc_id"].map(splits).fillna(0).astype(int),
        **{f"n_{split}_usable": int(counts.get(split, 0)) for split in ("train", "validation", "test")},
    )
