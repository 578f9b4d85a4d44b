"""The label-quality report of a store: made of what is stored alone, as JSON, as a page and as a histogram."""

import json
import re

import pytest
from labelling import CHECK, CountingTeacher, asking, contents, ids_of, run, stored, tables, write_corpus

from uae.io.errors import ArtefactError
from uae.io.tables import CANDIDATES, QUESTIONS, read_table
from uae.teacher.prompts import Template
from uae.teacher.protocol import Pair
from uae.teacher.quality import report as module
from uae.teacher.quality.report import report_labels
from uae.teacher.utility import Source, utilities

AGGREGATION = {"answers": "mean", "templates": "mean", "teachers": "none"}


def evidence_helps(pair: Pair) -> float:
    """5 nats a token without a passage, 1 with the shelf asked for, and with others 4 and something, whatever the wording."""
    question, passage = (id[1:] for id in ids_of(pair))
    return 5.0 if not passage else 1.0 if passage == question else 4.0 + int(passage) / 100


def evidence_misleads(pair: Pair) -> float:
    return 10.0 - evidence_helps(pair) if pair.passage else 5.0


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_RESAMPLES", 99)
    write_corpus(tmp_path)
    return tmp_path


@pytest.fixture
def no_page(monkeypatch):
    """For tests of figures: the page's plots take most of the time."""
    monkeypatch.setattr("uae.teacher.quality.page.page", lambda *tables: "")


figures_only = pytest.mark.usefixtures("no_page")


def report(folder, **changes) -> dict:
    outputs = {"report_path": folder / "report.json", "page_path": folder / "page.html", "histogram_path": folder / "utility.csv"}
    places = tables(folder) | {"store_path": folder / "labels", "manifest_path": folder / "labels.json"} | outputs
    return report_labels(**places, **AGGREGATION | {"temperature": 0.5} | changes)


def test_the_report_is_written_and_returned(corpus):
    run(corpus, asking(CountingTeacher(nll=evidence_helps), check_templates=(CHECK,)), check_questions=4)
    before = contents(corpus / "labels")
    found = report(corpus)
    assert json.loads((corpus / "report.json").read_text(encoding="utf-8")) == found
    assert contents(corpus / "labels") == before
    assert found["questions"]["labelled"] == 12
    assert found["settings"]["temperature"] == 0.5
    # the shelf asked for is the first of six by utility, and by base score
    assert found["ranking"]["metrics"]["map"]["utility"]["mean"] == 1.0
    # 5 - 1 at best, 5 - 4.11 at worst
    assert found["help"]["quantiles"][-1]["utility"] == pytest.approx(4.0)
    assert found["help"]["quantiles"][0]["utility"] == pytest.approx(0.89)
    assert found["length"]["median_tokens"] == 2.0  # "7 boxes"


@figures_only
def test_labels_that_are_wrong_are_not_worth_it(corpus):
    run(corpus, asking(CountingTeacher(nll=evidence_misleads)))
    found = report(corpus)
    assert found["ranking"]["metrics"]["map"]["utility"]["mean"] == pytest.approx(1 / 6)
    assert found["verdict"] != "worth it"


def test_the_page_stands_alone_and_says_the_same(corpus):
    run(corpus, asking(CountingTeacher(nll=evidence_misleads)))
    found = report(corpus)
    page = (corpus / "page.html").read_text(encoding="utf-8")
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert found["verdict"] in page.lower()
    assert "How many boxes are on shelf" in page  # where the teacher prefers another passage to the evidence
    assert re.search(r"Shelf \d+ holds \d+ boxes", page)
    assert "<script" not in page


@figures_only
def test_the_histogram_counts_every_pair_once(corpus):
    run(corpus, asking(CountingTeacher()))
    report(corpus)
    heading, *rows = (corpus / "utility.csv").read_text(encoding="utf-8").splitlines()
    assert heading == "utility,pairs"
    assert sum(int(row.split(",")[1]) for row in rows) == 72
    manifest = json.loads((corpus / "labels.json").read_text(encoding="utf-8"))
    (source,) = (Source.from_manifest(entry) for entry in manifest["teachers"])
    candidates, questions = (
        read_table(corpus / "candidates.parquet", CANDIDATES),
        read_table(corpus / "questions.parquet", QUESTIONS),
    )
    values = utilities(stored(corpus), candidates, questions, [source], 1, **AGGREGATION)["utility"]
    middles = [float(row.split(",")[0]) for row in rows]
    assert values.min() < middles[0] < middles[-1] < values.max()


@figures_only
def test_check_templates_are_compared_on_the_questions_that_they_were_asked_of(corpus):
    """The teacher goes by the passage and not by the wording: both orders are the same. The sample is not the first rows."""
    run(corpus, asking(CountingTeacher(nll=evidence_helps), check_templates=(CHECK,)), check_questions=4)
    (comparison,) = report(corpus)["agreement"]["pairs"]
    assert (comparison["kind"], comparison["questions"], comparison["pairs"]) == ("templates", 4, 24)
    assert comparison["spearman"]["mean"] == pytest.approx(1.0)
    assert comparison["median_absolute_difference"] == pytest.approx(0.0)


@figures_only
def test_without_a_check_there_is_no_agreement_to_report(corpus):
    run(corpus, asking(CountingTeacher(nll=evidence_helps), check_templates=(CHECK,)), check_questions=0)
    assert report(corpus)["agreement"] is None


@figures_only
def test_two_teachers_are_compared_and_brought_together(corpus):
    helps, misleads = CountingTeacher("1" * 64, nll=evidence_helps), CountingTeacher("2" * 64, nll=evidence_misleads)
    run(corpus, asking(helps), asking(misleads, name="other", weight=3.0))
    found = report(corpus)
    (comparison,) = found["agreement"]["pairs"]
    assert comparison["kind"] == "teachers"
    assert comparison["spearman"]["mean"] == pytest.approx(-1.0)
    # the one says 4 for the shelf asked for, the other 5 - 9 = -4, three times as loud
    assert found["help"]["quantiles"][0]["utility"] == pytest.approx((4 - 3 * 4) / 4)
    assert found["ranking"]["metrics"]["map"]["utility"]["mean"] == pytest.approx(1 / 6)


@figures_only
def test_the_parameters_decide_what_the_readings_mean(corpus):
    """No teacher is asked for it: several answers can be read as their best, teachers be standardised."""
    run(corpus, asking(CountingTeacher()), answers_per_question=2)
    mean, best = (report(corpus, answers=answers)["help"]["quantiles"][3]["utility"] for answers in ("mean", "best"))
    assert best > mean
    spread = report(corpus, teachers="minmax")["help"]["quantiles"]
    assert (spread[0]["utility"], spread[-1]["utility"]) == (0.0, 1.0)


@pytest.mark.parametrize("method", ["query_likelihood", "judgement"])
def test_the_other_methods_are_reported_too(corpus, method):
    changes = {"method": method}
    if method == "judgement":
        changes |= {"grades": (" No", " Yes")}
    else:
        changes |= {"templates": (Template("{passage}\n", "A question about it:", " {answer}"),)}
    run(corpus, asking(CountingTeacher(), **changes))
    found = report(corpus)
    assert found["help"]["pairs"] == 72
    assert (corpus / "page.html").exists()


def written(folder) -> list[str]:
    return [name for name in ("report.json", "page.html", "utility.csv") if (folder / name).exists()]


@figures_only
def test_a_damaged_store_is_an_error(corpus):
    run(corpus, asking(CountingTeacher()))
    part = min((corpus / "labels").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(ArtefactError, match=f"damaged parts.*{part.name}.*uae label"):
        report(corpus)
    assert written(corpus) == []


@figures_only
def test_a_missing_manifest_is_an_error(corpus):
    run(corpus, asking(CountingTeacher()))
    (corpus / "labels.json").unlink()
    with pytest.raises(ArtefactError, match=r"labels\.json does not exist: run the stage that makes it"):
        report(corpus)
    assert written(corpus) == []


@figures_only
def test_candidates_without_readings_are_an_error(corpus):
    run(corpus, asking(CountingTeacher()))
    write_corpus(corpus, per_question=7)
    with pytest.raises(ArtefactError, match="12 of 84 readings are missing"):
        report(corpus)
    assert written(corpus) == []
