"""What the number format of the readings decides: what is scaled up, what the report says, what the manifest keeps."""

import pandas as pd
import pytest
from labelling import CountingTeacher, asking, ids_of, run, tables, write_corpus

from uae.io.errors import ArtefactError
from uae.io.files import read_json, write_json
from uae.teacher.keys import answer_id
from uae.teacher.manifest import read_label_manifest
from uae.teacher.noise import NOISE, noise_of
from uae.teacher.quality.report import report_labels
from uae.teacher.utility import Source, utilities

ASKED = pd.DataFrame({"question_id": ["q"], "text": ["How many?"], "answers": [["four"]]})


class Computing(CountingTeacher):
    """A teacher that says in which number format it computes; a passage is worth its place, times ``step``."""

    def __init__(self, dtype: str | None, step: float, fingerprint: str = "f" * 64):
        super().__init__(fingerprint, nll=lambda pair: 5.0 - (int(ids_of(pair)[1][1:]) * step if pair.passage else 0.0))
        self.dtype = dtype

    def provenance(self):
        return super().provenance() | ({"dtype": self.dtype} if self.dtype else {})


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.setattr("uae.teacher.quality.report._RESAMPLES", 99)
    monkeypatch.setattr("uae.teacher.quality.page.page", lambda *tables: "")
    write_corpus(tmp_path)
    return tmp_path


def report(folder, **changes):
    places = tables(folder) | {"store_path": folder / "labels", "manifest_path": folder / "labels.json"}
    outputs = {"report_path": folder / "report.json", "page_path": folder / "page.html", "histogram_path": folder / "utility.csv"}
    usual = {"answers": "mean", "templates": "mean", "teachers": "none", "temperature": 0.5}
    return report_labels(**places, **outputs, **usual | changes)


def codes(found) -> set[str]:
    return {warning["code"] for warning in found["warnings"]}


def test_the_coarsest_format_counts_and_an_unknown_one_is_taken_for_a_coarse_one():
    assert noise_of(["float32", "bfloat16", "float16"]) == NOISE["bfloat16"]
    assert noise_of(["float32", "float16"]) == NOISE["float16"]
    assert noise_of(["unknown"]) == noise_of([]) == NOISE["bfloat16"]


@pytest.mark.parametrize("teachers", ["zscore", "minmax"])
@pytest.mark.parametrize("name", NOISE)
def test_what_the_format_rounds_is_not_scaled_up(teachers, name):
    """Just below and just above what may be rounding in this number format."""
    source = Source("main", "T", "answer_likelihood", (), 1.0, ("t",), (), (name,))
    pairs = pd.DataFrame({"question_id": ["q", "q"], "passage_id": ["a", "b"]})

    def normalised(difference: float) -> list[float]:
        rows = [{"question_id": "q", "passage_id": passage, "answer_id": answer_id("four"), "template": "t", "teacher": "T",
                 "nll_sum": nll, "n_tokens": 1, "truncated": False}
                for passage, nll in (("", 2.0), ("a", 1.0), ("b", 1.0 - difference))]  # fmt: skip
        return utilities(pd.DataFrame(rows), pairs, ASKED, [source], 1, "mean", "mean", teachers)["utility"].tolist()

    assert normalised(0.9 * NOISE[name].spread) == [0.0, 0.0]
    assert normalised(1.1 * NOISE[name].spread)[1] == pytest.approx(1.0)


def test_the_manifest_keeps_the_formats_of_each_teacher(corpus):
    first, second = Computing("float32", 0.5, "1" * 64), Computing("bfloat16", 0.5, "2" * 64)
    run(corpus, asking(first), asking(second, name="other"))
    found = read_label_manifest(corpus / "labels.json").sources
    assert [source.number_formats for source in found] == [("float32",), ("bfloat16",)]
    assert [source.noise for source in found] == [NOISE["float32"], NOISE["bfloat16"]]


def test_a_store_of_two_formats_goes_by_the_coarser_one(corpus):
    run(corpus, asking(Computing("float32", 0.5)))
    write_corpus(corpus, per_question=7)
    run(corpus, asking(Computing("bfloat16", 0.5)))
    (source,) = read_label_manifest(corpus / "labels.json").sources
    assert source.number_formats == ("bfloat16", "float32")
    assert source.noise == NOISE["bfloat16"]


@pytest.mark.parametrize(("name", "warned"), [("float32", False), ("bfloat16", True), (None, True)])
def test_the_report_warns_where_rounding_makes_the_labels(corpus, name, warned):
    """Six neighbouring passages, 0.01 nats apart: much in float32, nothing in bfloat16."""
    run(corpus, asking(Computing(name, 0.01)))
    found = report(corpus)
    assert ("rounding" in codes(found)) is warned
    assert found["noise"]["within"] == (12 if warned else 0)
    assert found["help"]["no_passage_helps"]["questions"] == (12 if warned else 0)


def test_the_report_warns_where_the_temperature_lies_below_the_rounding(corpus):
    run(corpus, asking(Computing("bfloat16", 1.0)))
    assert "rounding" not in codes(report(corpus, temperature=0.5))
    found = report(corpus, temperature=0.1)
    assert found["noise"]["within"] == 0
    assert "rounding" in codes(found)


def test_standardised_utilities_are_no_nats_and_have_no_such_figure(corpus):
    run(corpus, asking(Computing("bfloat16", 1.0)))
    assert report(corpus, teachers="zscore")["noise"] is None


# The manifest's format


def test_a_manifest_of_the_first_format_is_read(corpus):
    """It named the number formats for the store as a whole only."""
    run(corpus, asking(Computing("bfloat16", 0.5)))
    manifest = read_json(corpus / "labels.json")
    del manifest["format"], manifest["teachers"][0]["number_formats"]
    write_json(corpus / "old.json", manifest)
    assert read_label_manifest(corpus / "old.json") == read_label_manifest(corpus / "labels.json")


def test_a_manifest_of_a_newer_version_says_what_to_do(corpus):
    run(corpus, asking(CountingTeacher()))
    write_json(corpus / "labels.json", read_json(corpus / "labels.json") | {"format": 3})
    with pytest.raises(ArtefactError, match=r"labels\.json is of format 3 .*newer version of uae.*up to format 2.*uae label"):
        read_label_manifest(corpus / "labels.json")


@pytest.mark.parametrize("content", [{}, {"teachers": [{}], "answers_per_question": 1}, {"format": "x"}, {"teachers": 3}])
def test_what_is_no_manifest_says_what_to_run(tmp_path, content):
    write_json(tmp_path / "labels.json", content)
    with pytest.raises(ArtefactError, match=r"labels\.json is no label manifest.*uae label"):
        read_label_manifest(tmp_path / "labels.json")
