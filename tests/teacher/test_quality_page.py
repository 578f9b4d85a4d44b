"""The page is read back with an HTML parser: what a browser would show, load and run."""

import re

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from uae.teacher.quality.assess import assess
from uae.teacher.quality.page import page

HOSTILE = '</p><script>alert("x")</script><img src="https://evil.example/x.png" onerror="alert(1)">'
LONG = "word " * 5000 + "the very end"


def tables(rows: dict[str, list[tuple[str, float, float]]], evidence: dict[str, list[str]], text: str = "What?") -> dict:
    """Arguments of ``assess``. ``rows``: question_id -> (passage_id, utility, base score) each."""
    pairs = pd.DataFrame(
        [(q, p, u, s) for q, passages in rows.items() for p, u, s in passages],
        columns=["question_id", "passage_id", "utility", "score"],
    )
    utilities = pairs[["question_id", "passage_id", "utility"]]
    return {
        "utilities": utilities,
        "by_template": utilities.assign(teacher="T", template="t"),
        "candidates": pairs[["question_id", "passage_id", "score"]].assign(source="dense", rank=1),
        "questions": pd.DataFrame({"question_id": list(rows), "text": text, "split": "train"}).assign(
            answers=[[text] for _ in rows], evidence=[evidence.get(q, []) for q in rows]
        ),
        "answer_tokens": pd.Series({q: 2.0 + number % 5 for number, q in enumerate(rows)}),
    }


def world(text: str = "What?", evidence: bool = True, second: str | None = "u") -> dict:
    """Sixty questions with four candidates; the teacher is right in most, the base encoder in a quarter."""
    random = np.random.default_rng(2)
    rows = {
        f"q{number:02}": [(f"p{n}", random.normal(0.2, 0.4) + 1.5 * (n == number % 4), float(random.normal())) for n in range(4)]
        for number in range(60)
    }
    arguments = tables(rows, {q: [f"p{number % 4}"] for number, q in enumerate(rows)} if evidence else {}, text)
    if second:
        first = arguments["by_template"]
        other = first.assign(template=second, utility=first["utility"] + random.normal(0, 0.2, len(first)))
        arguments["by_template"] = pd.concat([first, other])
    return arguments


def render(arguments: dict, text: str = "A passage.") -> tuple[dict, str]:
    report = assess(**arguments, temperature=0.5, confidence=0.95, resamples=99, seed=1)
    return report, page(report, **arguments, passages=dict.fromkeys(arguments["candidates"]["passage_id"], text))


@pytest.fixture(scope="module")
def rendered() -> tuple[dict, str]:
    return render(world())


@pytest.fixture(scope="module")
def hostile() -> str:
    return render(world(HOSTILE, second=HOSTILE), HOSTILE)[1]


@pytest.fixture(scope="module")
def soup(rendered) -> BeautifulSoup:
    return BeautifulSoup(rendered[1], "html.parser")


def words(node) -> str:
    return " ".join(node.get_text(" ").split())


def test_the_verdict_comes_first_in_plain_words(rendered, soup):
    report, html = rendered
    assert html.startswith("<!DOCTYPE html>")
    box = soup.select_one("header .verdict")
    assert report["verdict"] == "worth it"
    assert box["class"] == ["verdict", "worth-it"]
    assert words(box) == f"Worth it {report['summary']}"
    assert box.find_all_previous("section") == []


def test_figures_of_the_report_are_on_the_page(rendered, soup):
    metric = rendered[0]["ranking"]["metrics"]["map"]
    row = next(row for row in soup.select("tr") if row.td and row.td.get_text() == "MAP")
    cells = [words(cell) for cell in row.find_all("td")]
    utility, gain = metric["utility"], metric["gain"]["absolute"]
    assert cells[1] == f"{utility['mean']:.2f} [{utility['low']:.2f}, {utility['high']:.2f}]"
    assert cells[3] == f"{gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]"
    assert "60 labelled questions (60 train), 240 pairs, 4.0 candidates a question" in words(soup)


def test_every_plot_is_there_and_named(soup):
    assert [figure["aria-label"] for figure in soup.select("figure")] == [
        "Labels and base encoder on the same candidates", "The same pairs under two prompts",
        "Best utility of each question against the length of its answer", "How much the passages help",
        "How the weights are spread",
    ]  # fmt: skip
    assert all(len(figure.select("svg")) == 1 for figure in soup.select("figure"))


def test_warnings_are_listed():
    arguments = world()
    arguments["by_template"] = arguments["by_template"].assign(
        utility=arguments["by_template"]["utility"].where(arguments["by_template"]["template"] == "t", lambda u: -u)
    )
    report, html = render(arguments)
    assert [warning["code"] for warning in report["warnings"]] == ["templates_disagree"]
    assert [words(item) for item in BeautifulSoup(html, "html.parser").select(".warnings li")] == [report["warnings"][0]["text"]]


@pytest.mark.parametrize("name", ["plain", "hostile"])
def test_nothing_is_loaded_and_nothing_runs(rendered, hostile, name):
    soup = BeautifulSoup(rendered[1] if name == "plain" else hostile, "html.parser")
    assert soup.find(["script", "link", "iframe", "object", "embed", "img", "base", "form"]) is None
    for node in soup.find_all(True):
        for attribute, value in node.attrs.items():
            assert not attribute.startswith("on")
            if attribute in ("href", "xlink:href", "src", "action"):
                assert value.startswith(("#", "data:image/png;base64,"))
    style = "".join(node.get_text() for node in soup.find_all("style"))
    assert "@import" not in style
    assert "url(" not in style
    if name == "plain":
        assert "http" not in rendered[1]


def test_texts_are_escaped_and_still_readable(hostile):
    examples = BeautifulSoup(hostile, "html.parser").select(".example")
    assert examples
    for example in examples:
        assert HOSTILE in example.strong.get_text()  # the question
        assert HOSTILE in example.select_one("p.soft").get_text()  # the answer
        assert all(HOSTILE in cell.get_text() for cell in example.select("td.text"))


def test_long_texts_are_shortened():
    html = render(world(LONG, second=None), LONG)[1]
    assert "the very end" not in html
    assert len(html) < 400_000
    assert "word …" in html


def test_examples_mark_the_evidence(rendered, soup):
    found = [example for kind in rendered[0]["examples"].values() for example in kind]
    shown = soup.select(".example")
    assert len(shown) == len(found) > 2
    for example, node in zip(found, shown, strict=True):
        marked = [row.select_one(".tag") is not None for row in node.select("tbody tr")]
        assert marked == [passage["gold"] for passage in example["passages"]]
        assert any(marked)


def test_without_evidence_the_page_says_so():
    report, html = render(world(evidence=False))
    soup = BeautifulSoup(html, "html.parser")
    assert [words(node) for node in soup.select(".missing")] == [report["left_out"]["ranking"]]
    assert "No labelled question has evidence" in words(soup)
    assert len(soup.select("svg")) == 4
    assert "Labels against base encoder" in words(soup)


def test_one_template_only():
    report, html = render(world(second=None))
    soup = BeautifulSoup(html, "html.parser")
    assert [words(node) for node in soup.select(".missing")] == [report["left_out"]["agreement"]]
    assert len(soup.select("svg")) == 4


@pytest.mark.parametrize(
    ("rows", "evidence"),
    [
        ({"q": [("a", 1.0, 0.1)]}, {}),  # one pair
        ({"q": [("a", 1.0, 0.1), ("b", 1.0, 0.1)]}, {"q": ["a"]}),  # one question, nothing differs
        ({f"q{n}": [("a", 0.0, 0.1), ("b", -1e12, 0.2)] for n in range(3)}, {"q0": ["b"]}),  # huge spreads
    ],
    ids=["one pair", "one question", "huge"],
)
def test_the_smallest_and_the_wildest_labels_make_a_page(rows, evidence):
    text = words(BeautifulSoup(render(tables(rows, evidence))[1], "html.parser"))
    assert "How the verdict comes about" in text
    assert not re.search(r"\b(nan|inf)\b|None(?!\.)", text)


def test_hashes_are_shortened_and_names_are_not():
    arguments = world(second="0123456789abcdef" * 4)
    arguments["by_template"]["template"] = arguments["by_template"]["template"].replace("t", "the-plain-template")
    text = words(BeautifulSoup(render(arguments)[1], "html.parser"))
    assert "template 01234567 template the-plain-template" in text


def test_the_same_report_gives_the_same_bytes(rendered):
    assert render(world())[1] == rendered[1]
