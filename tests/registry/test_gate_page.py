"""The gate's page is read back with an HTML parser: the headline, the rules and the table of what was compared."""

import re
from dataclasses import replace

import pytest
from bs4 import BeautifulSoup
from test_statistics_gate import BOUNDS, LOOK, of

from uae.registry.compared import FROZEN, SHARED
from uae.registry.gate import decide_better, decide_refreshed, decide_retrained
from uae.registry.gate_page import gate_page


def page_of(decision, lane, champion=3, alias="champion"):
    return gate_page(
        {
            "promoted": decision.passed, "model": "m", "version": 4, "alias": alias, "lane": lane, "look": None,
            "champion": 4 if decision.passed else champion, "replaced": champion if decision.passed else None,
            "reasons": decision.reasons, "findings": [finding.numbers() for finding in decision.findings], "query_times": None,
            "confidence": 0.95, "dataset": "d", "run_id": None, "release": "0" * 64,
        }
    )  # fmt: skip


def headline(page):
    return BeautifulSoup(page, "html.parser").select_one(".verdict strong").get_text()


def test_what_was_refused_is_told_by_what_stays():
    """That there is no champion is no reason to refuse: the rules below are."""
    refused = decide_better({"map": 0.4}, {"map": 0.5}, "the base encoder", replace(BOUNDS, guarded=()))
    assert headline(page_of(refused, "first", None)) == "Refused: nothing becomes the champion"
    assert headline(page_of(refused, "first", None, "live")) == "Refused: nothing becomes the live"
    assert headline(page_of(refused, "retrain")) == "Refused: version 3 stays the champion"


@pytest.mark.parametrize(("stands_at", "least", "said"), [(1.0, 0.0, True), (0.99, 0.0, False), (1.0, -1, False)])
def test_where_no_gain_is_possible_the_rules_say_so(stands_at, least, said):
    bounds = replace(BOUNDS, min_gain=least, guarded=())
    means = {"map": stands_at}
    by_means = decide_better(means, means, "the base encoder", bounds)
    sentence = "map of the base encoder is 1 already: no gain is possible on the test questions. Add harder questions"
    assert (sentence in by_means.reasons) is said
    retrained = decide_retrained([of(FROZEN, 0.0, spread=0.0, stands_at=stands_at)], "version 3", bounds, LOOK)
    assert by_means.passed == retrained.passed == (least == -1)
    sentence = "map of version 3 is 1 already: no gain is possible on the frozen test set. Add harder questions"
    assert (sentence in retrained.reasons) is said
    assert (sentence in page_of(retrained, "retrain")) is said


def test_a_bound_of_no_difference_is_a_dash():
    def bounds_of(decision):
        table = BeautifulSoup(page_of(decision, "refresh"), "html.parser").table
        place = [cell.get_text() for cell in table.select("thead th")].index("above")
        return [row.find_all(["th", "td"])[place].get_text() for row in table.select("tbody tr")]

    assert bounds_of(decide_refreshed(of(SHARED, 0.0, spread=0.0), "v", BOUNDS)) == ["–", "–"]
    assert all(low.startswith("+0.0") for low in bounds_of(decide_refreshed(of(SHARED, 0.05), "v", BOUNDS)))


def test_numbers_below_the_plot_have_room():
    """Names of the questions leave the axis half the width: nine numbers such as -0.0175 ran into each other."""
    decision = decide_refreshed(of(SHARED, 0.0, documents=8, spread=0.004), "v", BOUNDS)
    drawn = BeautifulSoup(page_of(decision, "refresh"), "html.parser").find_all("g", id=re.compile(r"^xtick_\d+$"))
    assert 3 <= len(drawn) <= 6
