"""The page is read back with an HTML parser: what a browser would show, load and run."""

import re

import pandas as pd
import pytest
from bs4 import BeautifulSoup

from uae.evaluation.page import evaluation_page, page
from uae.evaluation.page.words import findings, times
from uae.io.errors import ArtefactError

HOSTILE = '</p><script>alert("x")</script><img src="https://evil.example/x.png" onerror="alert(1)">'
# question -> places of the evidence under base and UAE: q1 and q3 are won, q2 is lost, q4 stays
PLACES = {"q1": (3, 1), "q2": (1, 2), "q3": (2, 1), "q4": (1, 1)}


def estimate(mean: float, questions: int = 292) -> dict:
    return {"mean": mean, "low": mean - 0.05, "high": mean + 0.06, "questions": questions}


def gain(absolute: float, relative: float | None, p_value: float, questions: int = 292) -> dict:
    def ends(value: float) -> dict:
        return {"mean": value, "low": value - 0.11, "high": value + 0.13}

    return {
        "absolute": ends(absolute),
        "relative": None if relative is None else ends(relative),
        "p_value": p_value,
        "questions": questions,
    }


def smallest() -> dict:
    """What the evaluate stage wrote before there were other systems than two."""
    return {
        "dataset": "d1", "scope": "document", "seeds": [13], "confidence": 0.95, "resamples": 99, "release": "r1",
        "counts": {"passages": 5, "test_questions": 292, "test_documents": 25, "answered_questions": 70},
        "models": {"base": "b1", "uae": "u1", "reader": "l1"},
        "systems": {
            "base": {"recall@1": estimate(0.36), "map": estimate(0.5), "token_f1": estimate(0.2, 70)},
            "uae": {"recall@1": estimate(0.48), "map": estimate(0.61), "token_f1": estimate(0.25, 70)},
        },
        "gains": {
            "uae": {
                "recall@1": gain(0.12, 0.33, 0.0001),
                "map": gain(0.11, 0.22, 0.0123),
                "token_f1": gain(0.05, 0.25, 0.21, 70),
            }
        },
    }  # fmt: skip


def context(passages: int, order: str, questions: int, **changes) -> dict:
    answers = {
        "token_f1": estimate(0.2, questions),
        "answer_recall": estimate(0.31, questions),
        "k_precision": estimate(0.87, questions),
    }
    return {
        "reader": "reader", "passages": passages, "order": order, "questions": questions, "cut": 0,
        "systems": {"base": answers, "uae": answers}, "gains": {"token_f1": gain(0.05, 0.25, 0.21, questions)}, "over_first": {},
        "over_best_first": {},
    } | changes  # fmt: skip


def largest() -> dict:
    whole = smallest()
    for name in ("bm25", "hybrid", "infonce", "ceiling"):
        whole["systems"][name] = {"recall@1": estimate(0.4), "map": estimate(0.45)}
    whole["systems"]["rerank_list"] = {"recall@1": estimate(0.7, 2), "map": estimate(0.75, 2)}
    whole["gains"]["infonce"] = {"recall@1": gain(0.14, 0.38, 0.0001)}
    top = {"top_passage_utility": {"base": estimate(0.211), "uae": estimate(0.377)}}
    return whole | {
        "gains_over": {"infonce": {"uae": {"recall@1": gain(-0.02, -0.031, 0.44)}}},
        "recall_curve": {"base": [k / 20 for k in range(1, 11)], "uae": [k / 11 for k in range(1, 11)]},
        "cost": {
            "uae": {"ms_per_query": 12.5, "queries": 50},
            "bm25": {"ms_per_query": 0.0, "queries": 50},
            "rerank_list": {"ms_per_query": 10150.0, "queries": 10},
        },
        "held_out": {
            "teachers": [
                {"name": "small", "model": "t1", "role": "teacher", "gain": gain(0.166, 0.8, 0.0004)} | top,
                {"name": "other", "model": "t2", "role": "held out", "gain": gain(0.121, None, 0.002)} | top,
            ],
            "agreement": {"spearman": estimate(0.613, 280)},
            "kept": 0.73,
            "kept_absolute": 0.61,
        },
        "readers": {
            "second reader": {
                "base": {"token_f1": estimate(0.313)},
                "uae": {"token_f1": estimate(0.329), "exact_match": estimate(0.1)},
            }
        },
        "reader_contexts": [
            context(1, "best_first", 70),
            context(5, "best_first", 9, over_first={"uae": {"token_f1": gain(0.02, 0.1, 0.3, 9)}}),
            context(5, "best_at_both_ends", 9, cut=3, over_best_first={"uae": {"k_precision": gain(-0.01, None, 0.6, 9)}}),
        ],
        "training": {"curve": [{"step": 1, "loss": 2.0, "validation": None}, {"step": 2, "loss": 1.5, "validation": 0.6}]},
    }  # fmt: skip


def tables(question: str = "How long?", passage: str = "It took five years, and 25 more.", answers=("Five years",)) -> dict:
    ids = ["evidence", *(f"other-{n}" for n in range(4))]
    rows = []
    for q, places in PLACES.items():
        for system, place in zip(("base", "uae"), places, strict=True):
            ranking = ids[1:place] + ids[:1] + ids[place:]
            metrics = [("recall@1", float(place == 1)), ("map", 1 / place), ("mrr", 1 / place)]
            asked = q == "q1"
            rows.append(
                {
                    "system": system, "question_id": q, "passage_ids": ranking, "scores": [0.9 - n / 10 for n in range(5)],
                    "metrics": metrics + [("token_f1", 0.25)] * asked, "answer": f"said by {system}" if asked else "",
                }
            )  # fmt: skip
    questions = [
        {
            "question_id": q, "text": f"{q}: {question}", "answers": list(answers), "doc_id": "d", "evidence": ["evidence"],
            "split": "test",
        }
        for q in PLACES
    ]  # fmt: skip
    train = {"question_id": "t", "text": "Else?", "answers": [], "doc_id": "another", "evidence": [], "split": "train"}
    return {
        "runs": pd.DataFrame(rows),
        "questions": pd.DataFrame([*questions, train]),
        "passages": pd.DataFrame({"passage_id": ids, "doc_id": "d", "text": [passage, *["Something else."] * 4]}),
    }


def with_reranking(parts: dict) -> dict:
    """Two of the four questions were re-ranked, both perfectly."""
    rows = [
        {"system": "rerank_list", "question_id": q, "passage_ids": ["evidence"], "scores": [1.0], "answer": "",
         "metrics": [("recall@1", 1.0), ("map", 1.0)]}
        for q in ("q1", "q2")
    ]  # fmt: skip
    return parts | {"runs": pd.concat([parts["runs"], pd.DataFrame(rows)], ignore_index=True)}


def soup_of(evaluation: dict, **parts) -> BeautifulSoup:
    return BeautifulSoup(page(evaluation, **(parts or tables())), "html.parser")


def words(node) -> str:
    return " ".join(node.get_text(" ").split())


def table_named(soup: BeautifulSoup, label: str) -> list[list[str]]:
    region = soup.find(attrs={"aria-label": label, "role": "region"})
    return [[words(cell) for cell in row.find_all(["th", "td"])] for row in region.select("tr")]


@pytest.fixture(scope="module")
def whole() -> str:
    return page(largest(), **with_reranking(tables()))


@pytest.fixture(scope="module")
def soup(whole) -> BeautifulSoup:
    return BeautifulSoup(whole, "html.parser")


@pytest.fixture(scope="module")
def hostile() -> str:
    evaluation = largest()
    evaluation["systems"][HOSTILE] = {"recall@1": estimate(0.4)}
    evaluation["recall_curve"][HOSTILE + " $x"] = [0.1] * 10
    evaluation["held_out"]["teachers"][1]["name"] = HOSTILE
    parts = tables(HOSTILE, f"{HOSTILE} It took {HOSTILE}.", (HOSTILE,))
    parts["runs"].loc[0, "answer"] = HOSTILE
    return page(evaluation, **parts)


def over_documents() -> dict:
    """An evaluation in which documents decide otherwise than questions."""
    evaluation = largest()
    evaluation["intervals"] = {"over": "documents", "documents": 24, "why": "questions on one document are not independent"}
    wide = {"mean": 0.33, "low": -0.21, "high": 0.87}
    evaluation["gains"]["uae"]["recall@1"]["by_document"] = {
        "absolute": {"mean": 0.12, "low": -0.09, "high": 0.33}, "relative": wide, "p_value": 0.214, "documents": 24,
    }  # fmt: skip
    evaluation["systems"]["uae"]["recall@1"]["by_document"] = {"mean": 0.48, "low": 0.222, "high": 0.777, "documents": 24}
    return evaluation


def test_intervals_over_documents_are_what_the_whole_page_goes_by():
    soup = soup_of(over_documents())
    header, *rows = table_named(soup, "UAE over the base encoder")
    assert header[-3:] == ["documents", "over questions: relative gain", "p"]
    assert rows[0][1:] == [
        "+0.120 [-0.090, +0.330]", "+33.0% [-21.0%, +87.0%]", "0.214", "292", "24", "+33.0% [+22.0%, +46.0%]", "<0.001"
    ]  # fmt: skip
    assert [row[-1] for row in rows[1:]] == ["", ""]
    assert table_named(soup_of(largest()), "UAE over the base encoder")[0][-1] == "questions"
    box = soup.select_one("header .verdict")
    assert box["class"] == ["verdict", "unsure"]
    assert "+33% (95% interval over 24 documents -21% to +87%, p = 0.214), is not significant" in words(box)
    assert "intervals over 24 documents: questions on one document are not independent" in words(soup.header)
    assert "[0.222, 0.777]" in words(soup.find(attrs={"aria-label": "All systems", "role": "region"}))


@pytest.mark.parametrize(("documents", "said"), [(3, True), (24, False)])
def test_few_documents_are_a_caution(documents, said):
    evaluation = over_documents()
    evaluation["gains"]["uae"]["recall@1"]["by_document"]["documents"] = documents
    found = words(soup_of(evaluation).select_one(".cautions"))
    assert (f"Only {documents} documents. Intervals over so few documents are too narrow" in found) is said


def test_the_first_sentence_says_it_all(soup):
    box = soup.select_one("header .verdict")
    assert box["class"] == ["verdict", "good"]
    assert words(box) == (
        "UAE finds better passages than the base encoder On 292 questions about 25 documents that training never saw, UAE puts a "
        "right passage first for 48.0% of them, the base encoder for 36.0%: +33% (95% interval +22% to +46%, p < 0.001)."
    )
    assert box.find_all_previous("section") == []


@pytest.mark.parametrize(
    ("found", "style", "said"),
    [
        (gain(0.02, 0.041, 0.3), "unsure", "The difference, +4.1% (95% interval -6.9% to +17.1%, p = 0.300), is not significant"),
        (gain(-0.12, -0.33, 0.001), "bad", "-33% (95% interval -44% to -20%, p = 0.001). That is a significant loss"),
        (gain(-0.02, -0.3, 0.05), "unsure", "is not significant"),  # at the bound itself there is no doubt to claim
        (gain(0.48, None, 0.0001), "good", "+0.480 (95% interval +0.370 to +0.610, p < 0.001)."),  # a base of 0 has no percents
    ],
    ids=["small", "loss", "bound", "nothing to divide by"],
)
def test_a_gain_that_is_none_is_not_sold_as_one(found, style, said):
    evaluation = smallest()
    evaluation["gains"]["uae"]["recall@1"] = found
    box = soup_of(evaluation).select_one(".verdict")
    assert box["class"] == ["verdict", style]
    assert said in words(box)
    assert ("finds better" in words(box)) == (style == "good")


@pytest.mark.parametrize(("both", "said"), [(1.0, True), (0.98, False)])
def test_questions_that_both_find_are_not_called_chance(both, said):
    evaluation = smallest()
    for system in ("base", "uae"):
        evaluation["systems"][system]["recall@1"] = estimate(both)
    evaluation["gains"]["uae"]["recall@1"] = gain(0.0, 0.0, 1.0)
    box = words(soup_of(evaluation).select_one(".verdict"))
    assert ("Both find all of them: these questions cannot tell the systems apart. Add harder ones." in box) is said
    assert ("it may well be chance" in box) is not said


def test_several_evidence_passages_a_question_are_no_share_of_questions():
    parts = tables()
    parts["questions"].at[0, "evidence"] = ["evidence", "other-1"]
    text = words(soup_of(smallest(), **parts).select_one(".verdict"))
    assert "UAE’s first passage is 48.0% of what there is to find, on average, and the base encoder’s 36.0%" in text


def test_documents_that_training_saw_are_not_called_unseen():
    parts = tables()
    parts["questions"].loc[parts["questions"]["split"] == "train", "doc_id"] = "d"
    soup = soup_of(smallest(), **parts)
    assert "about 25 documents, UAE" in words(soup.select_one(".verdict"))
    assert any(words(item).startswith("1 of the documents have training") for item in soup.select(".cautions li"))


def test_few_questions_are_warned_of():
    evaluation = smallest()
    assert "Only" not in " ".join(words(item) for item in soup_of(evaluation).select(".cautions li"))
    evaluation["gains"]["uae"]["recall@1"]["questions"] = 49
    assert words(soup_of(evaluation).select_one(".cautions li")).startswith("Only 49 questions.")


def test_cautions_name_what_is_not_significant_or_worse():
    evaluation = smallest()
    evaluation["gains"]["uae"]["map"] = gain(-0.1, -0.2, 0.001)
    cautions = [words(item) for item in soup_of(evaluation).select(".cautions li")]
    assert "Significantly worse than the base encoder: MAP." in cautions
    assert "Not significantly different from the base encoder: token F1 (p = 0.210)." in cautions
    assert any(caution.startswith("One seed") for caution in cautions)


@pytest.mark.parametrize("chosen", [{"questions": 42, "at_bound": True}, {"questions": 42}, None])
def test_a_second_stage_without_a_say_is_a_caution(chosen):
    second = {"depth": 10, "weight": 749.07, "chosen": chosen, "model": "m"}
    said = [words(item) for item in soup_of(smallest() | {"second_stage": second}).select(".cautions li")]
    told = [caution for caution in said if caution.startswith("UAE, then its second stage: the second stage has no say")]
    assert len(told) == (1 if chosen and chosen.get("at_bound") else 0)
    assert all("on 42 validation questions is 749.07, at the bound" in caution for caution in told)


@pytest.mark.parametrize(
    ("queries", "said"),
    [
        ({"uae": 5, "bm25": 5}, "Times, and their ratios, rest on 5 queries. Take them"),
        ({"uae": 1, "bm25": 1}, "Times, and their ratios, rest on 1 query. Take them"),
        ({"uae": 50, "bm25": 9}, "Times, and their ratios, rest on few queries: BM25 (9). Take them"),
        ({"uae": 10, "bm25": 10}, None),
    ],
)
def test_times_of_few_queries_are_a_caution(queries, said):
    cost = {system: {"ms_per_query": 2.0, "queries": number} for system, number in queries.items()}
    found = [words(item) for item in soup_of(smallest() | {"cost": cost}).select(".cautions li")]
    assert [caution.startswith(said or "") for caution in found if "Times" in caution] == ([True] if said else [])


@pytest.mark.parametrize(
    ("ratio", "said"), [(0.0, "0"), (0.0312, "0.031"), (0.00001234, "0.000012"), (0.0996, "0.1"), (0.12, "0.1"), (12, "12")]
)
def test_a_small_ratio_of_times_is_not_nothing(ratio, said):
    assert times(ratio) == f"{said} times"


def test_figures_of_the_evaluation_are_on_the_page(soup):
    rows = {row[0]: row[1:] for row in table_named(soup, "All systems")}
    assert rows["system"] == ["Recall@1 292 questions", "MAP 292 questions", "token F1 70 questions"]
    assert rows["UAE"] == ["0.480 [0.430, 0.540]", "0.610 [0.560, 0.670]", "0.250 [0.200, 0.310]"]
    assert rows["hybrid (BM25 + base)"] == ["0.400 [0.350, 0.460]", "0.450 [0.400, 0.510]", "–"]
    gains = {row[0]: row[1:] for row in table_named(soup, "UAE over the base encoder")}
    assert gains["Recall@1"] == ["+0.120 [+0.010, +0.250]", "+33.0% [+22.0%, +46.0%]", "<0.001", "292"]
    assert gains["MAP"][2:] == ["0.012", "292"]
    assert table_named(soup, "UAE over InfoNCE on evidence")[1][2:] == ["-3.1% [-14.1%, +9.9%]", "0.440", "292"]
    assert table_named(soup, "Recall by number of passages")[2] == ["UAE", *(f"{k / 11:.3f}" for k in range(1, 11))]
    assert table_named(soup, "Time per query")[3] == ["LLM re-ranking, list-wise", "10,150", "812", "10"]
    assert table_named(soup, "Answers of second reader")[2] == [
        "UAE",
        "0.329 [0.279, 0.389]",
        "0.100 [0.050, 0.160]",
        "–",
        "–",
        "292",
    ]
    held_out = table_named(soup, "Utility of the first passage, by LLM")[2]
    assert held_out[:2] + held_out[4:] == ["other", "held out", "+0.121 [+0.011, +0.251]", "–", "0.002", "292"]
    text = words(soup)
    assert "the held-out LLM sees 73% of the relative gain" in text
    assert "in nats it would be 61%" in text
    assert "Rank correlation 0.613 [0.563, 0.673], mean over 280 questions" in text


def test_readers_of_several_passages_are_compared(soup):
    rows = table_named(soup, "Answers by number and order of passages")
    assert rows[0] == ["reader, passages", "from", "token F1", "exact match", "answer recall", "K-precision", "questions"]
    answers = ["0.200 [0.150, 0.260]", "–", "0.310 [0.260, 0.370]", "0.870 [0.820, 0.930]"]
    assert rows[2] == ["reader: 1", "UAE", *answers, "70"]
    assert rows[5] == ["reader: 5, best at both ends", "base encoder", *answers, "9"]
    text = words(soup)
    assert "reader, 5 passages, best at both ends: 3 answers were read from fewer" in text
    assert "reader, 5 passages, best first from UAE, over the reader’s first row" in text
    assert "reader, 5 passages, best at both ends from UAE, over best first" in text


def test_what_was_found_besides_is_said_in_sentences(soup):
    found = [words(item) for item in soup.select(".findings li")]
    assert found[0].startswith("Answers of a reader LLM: token F1 0.250 from UAE’s passages, 0.200 from the base encoder’s")
    assert found[0].endswith("p = 0.210), not significant.")
    assert "LLM re-ranking, list-wise takes 812 times as long per query as UAE." in found
    assert found[-1] == "An LLM of another family sees 73% of the relative gain in utility that the teacher sees."


def test_systems_on_fewer_questions_say_so_and_are_compared_on_the_same_ones(soup):
    marked = [words(row.th) for row in soup.select("table.systems tr") if row.select_one(".tag")]
    assert marked == ["LLM re-ranking, list-wise fewer questions"]
    assert "only 2" in table_named(soup, "All systems")[6][1]
    # q1 and q2: the base's evidence stands at places 3 and 1, UAE's at 1 and 2
    assert table_named(soup, "On the same 2 questions")[1:] == [
        ["base encoder", "0.500", "0.667"],
        ["UAE", "0.500", "0.750"],
        ["LLM re-ranking, list-wise", "1.000", "1.000"],
    ]
    assert "fewer questions" not in words(soup_of(smallest()))


def test_every_plot_is_there_and_described(soup):
    assert [figure["aria-label"] for figure in soup.select("figure")] == [
        "Relative gain over the base encoder",
        "Recall by number of passages",
        "Quality against time per query",
        "How training went",
    ]
    for figure in soup.select("figure"):
        image = figure.select_one("[role=img]")
        assert len(image.select("svg")) == 1
        assert image["aria-label"]


@pytest.mark.parametrize("part", ["gains_over", "recall_curve", "cost", "held_out", "readers", "reader_contexts", "training"])
def test_a_missing_part_is_left_out(part, soup):
    evaluation = largest()
    del evaluation[part]
    less = soup_of(evaluation, **with_reranking(tables()))
    headings, fewer = ([words(h) for h in s.select("h2, p.caption")] for s in (soup, less))
    assert set(fewer) < set(headings)
    assert [heading for heading in headings if heading in fewer] == fewer


def test_a_gain_that_only_the_teacher_saw_is_called_no_proof():
    evaluation = largest()
    del evaluation["held_out"]["teachers"][1], evaluation["held_out"]["kept"], evaluation["held_out"]["teachers"][0]["model"]
    evaluation["held_out"]["agreement"] = {"spearman": None, "questions": 0}
    text = words(soup_of(evaluation))
    assert "its gain here is no proof" in text
    assert "Does the gain hold for another LLM?" not in text
    assert "another family sees" not in text


def test_the_smallest_evaluation_makes_a_page():
    soup = soup_of(smallest())
    assert [words(heading) for heading in soup.select("h2")] == [
        "What to look out for", "All systems", "Gains", "Question by question", "How this was measured",
    ]  # fmt: skip
    assert len(soup.select("svg")) == 1
    assert not re.search(r"\b(nan|inf|None|Undefined)\b", words(soup))


def test_wins_and_regressions_are_those_that_differ_most_first(soup):
    regressions, wins = soup.find("h3", string="Worst regressions"), soup.find("h3", string="Best wins")
    shown = [words(node.strong)[:2] for node in regressions.find_next_siblings("details", class_="question")]
    assert shown == ["q2", "q1", "q3"]  # UAE gains 2/3 in q1, 1/2 in q3
    assert [words(node.strong)[:2] for node in wins.find_next_siblings("details", class_="question")] == ["q1", "q3"]
    assert "better than the base encoder in 2 questions, worse in 1, alike in 1." in words(soup)


def test_an_example_shows_both_rankings_side_by_side(soup):
    example = next(node for node in soup.select("details.question") if words(node.strong).startswith("q1"))
    assert "evidence at: base encoder place 3, UAE place 1 · average precision 0.33 → 1.00" in words(example.summary)
    sides = example.select(".sides > div")
    assert [words(side.h4) for side in sides] == ["base encoder", "UAE"]
    for side, place in zip(sides, (3, 1), strict=True):
        items = side.select("li")
        assert len(items) == 5
        tagged = [number for number, item in enumerate(items, start=1) if item.select_one(".tag")]
        assert tagged == [place]
        assert words(items[place - 1].select_one(".tag")) == "evidence"
        assert [words(mark) for mark in side.select("mark")] == ["five years"]  # case aside
        assert f"said by {'base' if place == 3 else 'uae'}" in words(side.select_one(".answer"))
    assert "LLM re-ranking, list-wise place 1" in words(example)
    other = next(node for node in soup.select("details.question") if words(node.strong).startswith("q2"))
    assert other.select(".answer") == []  # the reader was not asked


def test_answers_are_marked_as_whole_words_only():
    soup = soup_of(smallest(), **tables(passage="In 1925, 25 of them; 25, 2500.", answers=("25",)))
    item = soup.select_one("li.evidence")
    assert [words(mark) for mark in item.select("mark")] == ["25", "25"]
    assert "In 1925, 25 of them; 25, 2500." in item.get_text()


def test_a_long_passage_is_shown_around_the_answer_and_can_be_unfolded():
    passage = "first " + "word " * 400 + "then five years passed " + "word " * 400 + "last"
    item = soup_of(smallest(), **tables(passage=passage)).select_one("li.evidence")
    excerpt = item.select_one("summary .excerpt")
    assert words(excerpt.mark) == "five years"
    assert words(excerpt).startswith("… word")
    assert words(excerpt).endswith("word …")
    assert len(words(excerpt)) < 400
    whole = item.details.find_all("span", recursive=False)[0]
    assert words(whole) == passage
    assert words(whole.mark) == "five years"


def test_texts_are_escaped_and_still_readable(hostile):
    soup = BeautifulSoup(hostile, "html.parser")
    example = next(node for node in soup.select("details.question") if words(node.strong).startswith("q1"))
    assert HOSTILE in example.strong.get_text()
    assert f"{HOSTILE} It took {HOSTILE}." in example.select_one("li.evidence").get_text()
    assert HOSTILE in example.select_one(".answer").get_text()
    assert HOSTILE in soup.select_one("table.held-out").get_text()
    assert HOSTILE in soup.select_one("table.systems").get_text()


@pytest.mark.parametrize("name", ["plain", "hostile"])
def test_nothing_is_loaded_and_nothing_runs(whole, hostile, name):
    html = whole if name == "plain" else hostile
    soup = BeautifulSoup(html, "html.parser")
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
        assert "http" not in html


def test_tables_have_headers_with_a_scope(soup):
    for table in soup.select("table"):
        assert all(head.get("scope") in ("col", "row") for head in table.select("th"))
        assert all(row.find("th") is not None for row in table.select("tbody tr"))


def test_no_win_and_no_regression_is_said():
    parts = tables()
    parts["runs"] = parts["runs"][parts["runs"]["question_id"] == "q4"]
    found = [words(node) for node in soup_of(smallest(), **parts).select("p.none")]
    assert [text.split()[-5:-3] for text in found] == [["lower", "than"], ["higher", "than"]]


def test_runs_that_do_not_fit_are_an_error():
    parts = tables()
    twice = pd.concat([parts["runs"], parts["runs"].head(1)])
    with pytest.raises(ArtefactError, match="hold question q1 twice for system base"):
        page(smallest(), **parts | {"runs": twice})
    with pytest.raises(ArtefactError, match="name question q1, which is not among the questions"):
        page(smallest(), **parts | {"questions": parts["questions"].iloc[1:]})
    with pytest.raises(ArtefactError, match="name passage other-3, which is not among the passages"):
        page(smallest(), **parts | {"passages": parts["passages"].iloc[:-1]})
    with pytest.raises(ArtefactError, match="no gain of UAE"):
        page(smallest() | {"gains": {"uae": {}}}, **parts)


def test_the_same_evaluation_gives_the_same_bytes_and_is_left_as_it_was(whole, tmp_path):
    evaluation = largest()
    evaluation_page(evaluation, **with_reranking(tables()), path=tmp_path / "evaluation.html")
    assert (tmp_path / "evaluation.html").read_text(encoding="utf-8") == whole
    assert evaluation == largest()


def test_the_weight_of_bm25_in_a_fused_system_is_told():
    both = ["train", "validation"]
    fused = {
        "convex_base": {"form": "scores", "weight": 0.4, "map": 0.6, "questions": 9, "splits": both},
        "uae": {"form": "ranks", "weight": 2.0, "questions": 52, "splits": both},
    }
    said = findings({"gains": {"uae": {}}, "systems": {}, "confidence": 0.95, "fusion": fused})
    assert said == [
        "BM25 + base, best form: BM25’s scaled scores count 0.4 times beside cosines "
        "(chosen on 9 train and validation questions).",
        "UAE: BM25’s places count 2 times as much as the encoder’s (chosen on 52 train and validation questions).",
    ]
    alone = {"uae": {"form": "scores", "weight": 0.0}}
    said = findings({"gains": {"uae": {}}, "systems": {}, "confidence": 0.95, "fusion": alone})
    assert said == ["UAE: BM25 has the weight 0, so this is the encoder alone."]
