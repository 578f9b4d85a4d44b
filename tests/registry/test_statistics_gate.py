"""A retrained or refreshed release passes by what is sure, not by what was seen."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from uae.io.errors import ConfigError
from uae.registry.budget import next_look
from uae.registry.compared import ANSWERED, FROZEN, RECENT, SHARED, QuestionSet
from uae.registry.gate import Bounds, decide_crept, decide_latency, decide_refreshed, decide_retrained

BOUNDS = Bounds(
    metric="map", min_gain=0.0, guarded=("recall@1",), max_loss=0.02, great_loss=0.05, max_answer_loss=0.1, max_slowdown=1.5,
    confidence=0.95, error_budget=0.05, recent_documents=10, min_cosine=0.9, max_serving_loss=0.02, max_index_loss=0.05,
)  # fmt: skip
LOOK = next_look(0.05, 40, [])


def of(name, change, documents=40, each=5, spread=0.05, seed=0, metrics=("map", "recall@1"), stands_at=0.5):
    """Questions whose candidate differs by ``change`` on average, more or less by document."""
    rng = np.random.default_rng(seed)
    ids = [f"{name} {n}" for n in range(documents * each)]
    owner = pd.Series([f"{name} d{n // each}" for n in range(documents * each)], index=ids)
    by_document = rng.normal(0, spread, documents)
    by_document += change - by_document.mean()
    reference = pd.DataFrame({metric: np.full(len(ids), stands_at) for metric in metrics}, index=ids)
    return QuestionSet(name, reference.add(np.repeat(by_document, each), axis=0), reference, owner)


def failing(decision):
    return [reason.split(",")[0].split(" ")[0] for reason in decision.reasons if reason.endswith("FAILED")]


def test_a_sure_gain_without_a_loss_passes():
    decision = decide_retrained([of(FROZEN, 0.05)], "version 3", BOUNDS, LOOK)
    assert decision.passed, decision.reasons
    assert decision.reasons[0].startswith("map 0.5500 against 0.5000 of version 3 on the frozen test set (+0.0500, ")
    assert "200 questions of 40 documents" in decision.reasons[0]


def test_a_gain_that_chance_explains_does_not_pass():
    decision = decide_retrained([of(FROZEN, 0.01)], "version 3", BOUNDS, LOOK)
    assert not decision.passed
    assert failing(decision) == ["a"]
    assert "this is look 1 at a test set" in decision.reasons[-2]
    assert decision.reasons[-1].startswith("smallest true gain that this look finds in 80 % of repetitions")


def test_later_looks_need_more():
    """The same figures: a gain at the first look is none at the fiftieth."""
    sets = [of(FROZEN, 0.022)]
    assert decide_retrained(sets, "v", BOUNDS, LOOK).passed
    fiftieth = decide_retrained(sets, "v", BOUNDS, next_look(0.05, 40, [40] * 49))
    assert failing(fiftieth) == ["a"]
    assert fiftieth.findings[0].detectable > decide_retrained(sets, "v", BOUNDS, LOOK).findings[0].detectable


def test_a_loss_that_cannot_be_ruled_out_does_not_pass_however_small_it_was():
    noisy = of(RECENT, -0.005, spread=0.1)
    assert "recall@1" in failing(decide_retrained([of(FROZEN, 0.1), noisy], "v", BOUNDS, LOOK))
    sure = of(RECENT, -0.005, spread=0.01)
    assert decide_retrained([of(FROZEN, 0.1), sure], "v", BOUNDS, LOOK).passed


def test_few_documents_must_show_a_large_gain_or_a_great_loss_could_be_true():
    """Significant at 95 % is no more than that: ten documents can look so while five points are lost."""
    lucky = of(FROZEN, 0.06, documents=10, spread=0.08)
    assert decide_retrained([lucky], "v", replace(BOUNDS, great_loss=1), LOOK).passed
    decision = decide_retrained([lucky], "v", BOUNDS, LOOK)
    assert failing(decision) == ["great"]
    assert "must be above -0.05" in decision.reasons[2]
    assert decide_retrained([of(FROZEN, 0.06)], "v", BOUNDS, LOOK).passed
    both = [lucky, of(RECENT, 0.06, documents=30, seed=1)]  # all test questions together have to rule it out
    assert "on all 200 test questions (40 independent units)" in " ".join(decide_retrained(both, "v", BOUNDS, LOOK).reasons)
    assert failing(decide_retrained(both, "v", BOUNDS, LOOK)) == []


def test_a_margin_beyond_the_great_loss_is_what_may_be_lost():
    lucky = of(FROZEN, 0.06, documents=10, spread=0.08)
    assert decide_retrained([lucky], "v", replace(BOUNDS, max_loss=0.1), LOOK).passed


def test_the_recent_set_can_refuse_and_can_show_the_gain():
    refused = decide_retrained([of(FROZEN, 0.1), of(RECENT, -0.05)], "v", BOUNDS, LOOK)
    assert [f.on for f in refused.findings if not f.kept] == [RECENT, RECENT]
    assert not refused.passed
    assert decide_retrained([of(FROZEN, 0.0), of(RECENT, 0.1, seed=1)], "v", BOUNDS, LOOK).passed


def test_answers_are_compared_on_answered_questions_and_are_no_gain():
    bounds = replace(BOUNDS, guarded=("recall@1", "token_f1"))
    both = of(FROZEN, 0.0), of(ANSWERED, 0.3, metrics=("token_f1", "map"))
    decision = decide_retrained(both, "v", bounds, LOOK)
    assert [(f.on, f.metric) for f in decision.findings] == [(FROZEN, "map"), (FROZEN, "recall@1"), (ANSWERED, "token_f1")]
    assert decision.findings[2].p_value is None
    assert failing(decision) == ["a"]
    worse = of(ANSWERED, -0.2, metrics=("token_f1",))
    assert failing(decide_retrained([of(FROZEN, 0.1), worse], "v", bounds, LOOK)) == ["token_f1"]


def test_answers_that_nobody_has_are_told():
    bounds = replace(BOUNDS, guarded=("token_f1",))
    decision = decide_retrained([of(FROZEN, 0.1)], "v", bounds, LOOK)
    assert decision.passed
    assert "token_f1 was measured on no question: it is not guarded" in decision.reasons


def test_bounds_that_ask_for_nothing_pass_whatever_was_measured():
    bounds = replace(BOUNDS, min_gain=-1, max_loss=1)
    assert decide_retrained([of(FROZEN, -0.4, documents=1)], "v", bounds, LOOK).passed


def test_one_document_is_no_gain_and_rules_out_no_loss():
    """Five questions on one document: the rule of evaluation takes the questions, for they are all there is."""
    decision = decide_retrained([of(FROZEN, 0.3, documents=1, each=1)], "v", BOUNDS, LOOK)
    assert failing(decision) == ["map", "recall@1", "great", "a"]
    assert decision.findings[0].numbers()["low"] is None


def test_questions_on_one_document_say_nothing_about_others():
    one = of(FROZEN, 0.3, documents=1, each=5)
    one.candidate.iloc[0] += 0.01
    reasons = decide_retrained([one, of(RECENT, 0.05)], "v", BOUNDS, LOOK).reasons
    assert "; 5 questions, which all belong to one document: they say nothing about others; may fall" in reasons[0]
    assert "one document" not in reasons[1]
    great = next(reason for reason in decide_refreshed(one, "v", BOUNDS).reasons if reason.startswith("great loss"))
    assert "(all belong to one document: they say nothing about others) is with 99.99% confidence" in great
    assert "independent units" not in great


@pytest.mark.parametrize(("documents", "each"), [(1, 5), (8, 5), (40, 1)])
def test_without_a_difference_no_confidence_is_claimed(documents, each):
    """The same rankings have no spread: a bound of 0 "with 99.99 % confidence" would be of no observation at all."""
    number = documents * each
    decision = decide_refreshed(of(SHARED, 0.0, documents=documents, each=each, spread=0.0), "v", BOUNDS)
    assert decision.passed
    assert all(finding.unchanged for finding in decision.findings)
    assert all(f"all {number} differences are 0" in reason for reason in decision.reasons)
    assert "confidence" not in " ".join(decision.reasons)
    cancelling = of(SHARED, 0.0, documents=20, each=2, spread=0.0)
    cancelling.candidate.iloc[::2] += 0.1
    cancelling.candidate.iloc[1::2] -= 0.1  # no document differs, but its questions do
    assert "differences are 0" not in " ".join(decide_refreshed(cancelling, "v", BOUNDS).reasons)


def test_one_question_without_a_difference_still_rules_out_nothing():
    decision = decide_refreshed(of(SHARED, 0.0, documents=1, each=1, spread=0.0), "v", BOUNDS)
    assert not decision.passed
    assert all("the one difference is 0" in reason for reason in decision.reasons)


def test_an_unknown_metric_is_named():
    with pytest.raises(ConfigError, match=r"no metric 'mrr'; it has map, recall@1"):
        decide_retrained([of(FROZEN, 0.1)], "v", replace(BOUNDS, metric="mrr"), LOOK)


@pytest.mark.parametrize(
    ("change", "spread", "passed"), [(0.0, 0.0, True), (0.0, 0.01, True), (-0.05, 0.01, False), (0, 0.5, False)]
)
def test_a_refresh_needs_no_gain_and_may_not_lose(change, spread, passed):
    decision = decide_refreshed(of(SHARED, change, spread=spread), "version 3", BOUNDS)
    assert decision.passed is passed
    assert all(finding.p_value is None for finding in decision.findings)


def test_a_refresh_on_few_documents_has_to_rule_out_a_great_loss_almost_surely():
    few = of(SHARED, 0.0, documents=8, spread=0.045)
    decision = decide_refreshed(few, "version 3", BOUNDS)
    assert not decision.passed
    assert failing(decision) == ["great"]
    assert "map on the 40 questions that both can answer (8 independent units)" in decision.reasons[-1]
    assert decide_refreshed(few, "version 3", replace(BOUNDS, great_loss=1)).passed


@pytest.mark.parametrize(("change", "passed"), [(-0.03, True), (-0.06, False)])
def test_refreshes_in_a_row_may_lose_more_than_one_but_no_great_loss(change, passed):
    since = of(SHARED, change, spread=0.01)
    assert not decide_refreshed(since, "version 3", BOUNDS).passed
    decision = decide_crept(since, "version 1", BOUNDS)
    assert decision.passed is passed
    assert "of version 1, the first of this encoder" in decision.reasons[0]
    assert any("retrain" in reason for reason in decision.reasons) is not passed


@pytest.mark.parametrize(("ours", "most", "passed"), [(14.9, 1.5, True), (15.1, 1.5, False), (99.0, None, True)])
def test_latency(ours, most, passed):
    decision = decide_latency(ours, 10.0, 50, "version 3", replace(BOUNDS, max_slowdown=most))
    assert decision.passed is passed
    assert len(decision.reasons) == (most is not None)


def simulated(rng, loss):
    """25 documents with 8 questions each. Both answer a question by its own chance, which documents share in part."""
    owner = pd.Series([f"d{n // 8}" for n in range(200)], index=[f"q{n}" for n in range(200)])
    chance = np.clip(rng.normal(0.6, 0.25, 200) + np.repeat(rng.normal(0, 0.15, 25), 8), 0, 1)

    def answers(less):
        shown = np.clip(chance - less, 0, 1)
        return pd.DataFrame({m: (rng.random(200) < shown).astype(float) for m in ("map", "recall@1")}, index=owner.index)

    return answers(loss), answers(0), owner


def test_two_hundred_equal_candidates_and_two_hundred_that_lose_five_points():
    rng = np.random.default_rng(5)
    first_look = next_look(0.05, 25, [])  # which may spend most
    equal = [decide_retrained([QuestionSet(FROZEN, *simulated(rng, 0.0))], "v", BOUNDS, first_look) for _ in range(200)]
    gains = [min(finding.p_value for finding in each.findings) <= first_look.level / 2 for each in equal]
    assert 0 < sum(gains) <= 10  # at most 5 %; a gate that never finds anything would be no gate
    for _ in range(200):
        planted = simulated(rng, 0.055)  # where chances are cut off at 0 and 1, five points are left of it
        assert not decide_retrained([QuestionSet(FROZEN, *planted)], "v", BOUNDS, first_look).passed
        assert not decide_refreshed(QuestionSet(SHARED, *planted), "v", BOUNDS).passed
