import numpy as np
import pytest

from uae.measures.statistics import (
    Resampling,
    bonferroni,
    gain_over_groups,
    holm,
    kept_gain,
    mean_over_groups,
    mean_with_interval,
    paired_gain,
)


def test_interval_holds_the_mean_and_shrinks_with_more_questions():
    rng = np.random.default_rng(0)
    few, many = rng.random(30), rng.random(3000)
    wide, narrow = mean_with_interval(few, 0.95, 2000, 1), mean_with_interval(many, 0.95, 2000, 1)
    assert wide.low < wide.mean == few.mean() < wide.high
    assert (narrow.high - narrow.low) < (wide.high - wide.low) / 5


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        found = mean_with_interval((rng.random(80) < 0.4).astype(float), 0.9, 300, 1)
        covered += found.low <= 0.4 <= found.high
    assert 160 <= covered <= 196


def test_clear_gain_is_significant_and_no_gain_is_not():
    rng = np.random.default_rng(2)
    base = (rng.random(200) < 0.4).astype(float)
    better = np.maximum(base, rng.random(200) < 0.3)
    gain = paired_gain(base, better, 0.95, 2000, 1)
    assert gain.absolute.mean == pytest.approx((better - base).mean())
    assert gain.relative.mean == pytest.approx(better.mean() / base.mean() - 1)
    assert 0 < gain.absolute.low < gain.absolute.high
    assert gain.p_value < 0.01
    shuffled = paired_gain(base, rng.permutation(base), 0.95, 2000, 1)
    assert shuffled.p_value > 0.05
    assert shuffled.absolute.low < 0 < shuffled.absolute.high


def test_pairing_matters():
    """The same two sets of values: significant where every question gains, not where the pairs are broken."""
    base = np.linspace(0, 1, 40)
    assert paired_gain(base, base + 0.02, 0.95, 1000, 1).p_value < 0.01
    assert paired_gain(base, np.roll(base + 0.02, 7), 0.95, 1000, 1).p_value > 0.5


def test_the_bootstrap_keeps_pairs_together():
    """Every question gains the same: there is nothing uncertain about the mean gain, however much the questions differ."""
    base = np.linspace(0, 1, 40)
    absolute = paired_gain(base, base + 0.02, 0.95, 1000, 1).absolute
    assert absolute.low == pytest.approx(absolute.high) == pytest.approx(0.02)


def test_questions_of_one_document_count_as_one_witness():
    """Ten documents of twenty questions each, which gain or lose together: twenty times the questions, no more evidence."""
    rng = np.random.default_rng(4)
    base = rng.random(200)
    documents = np.repeat([f"d{n}" for n in range(10)], 20)
    system = base + np.repeat(rng.normal(0.05, 0.1, 10), 20)
    alone, together = paired_gain(base, system, 0.95, 2000, 1), gain_over_groups(base, system, documents, 0.95, 2000, 1)
    for name in ("absolute", "relative"):
        one, other = getattr(alone, name), getattr(together, name)
        assert other.mean == pytest.approx(one.mean)
        assert other.high - other.low > 2.5 * (one.high - one.low)
    assert together.p_value > 10 * alone.p_value


def test_documents_of_one_question_each_change_nothing():
    rng = np.random.default_rng(5)
    base, system = rng.random(30), rng.random(30)
    groups = np.array([f"{n:02}" for n in range(30)])
    grouped, alone = gain_over_groups(base, system, groups, 0.95, 500, 1), paired_gain(base, system, 0.95, 500, 1)
    assert grouped.absolute == pytest.approx(alone.absolute)
    assert grouped.relative == pytest.approx(alone.relative)
    assert grouped.p_value == pytest.approx(alone.p_value)


def test_base_of_zero_has_no_relative_gain():
    gain = paired_gain(np.zeros(10), np.ones(10), 0.95, 200, 1)
    assert gain.relative is None
    assert gain.absolute.mean == 1


def test_resamples_without_any_base_answer_do_not_blow_up_the_interval():
    base, system = np.zeros(20), np.zeros(20)
    base[0], system[:2] = 0.5, 0.5
    assert paired_gain(base, system, 0.95, 1000, 1).relative.high < 1000


def test_same_seed_same_interval():
    values = np.random.default_rng(3).random(50)
    assert mean_with_interval(values, 0.95, 500, 7) == mean_with_interval(values, 0.95, 500, 7)


def test_what_is_kept_of_a_gain_is_the_second_judges_share():
    rng = np.random.default_rng(6)
    base = 1 + rng.random(100)
    kept = kept_gain((base, 1.5 * base), (3 * base, 3.6 * base), 0.95, 500, 1)  # +50 % and +20 %
    assert kept == pytest.approx((0.4, 0.4, 0.4))
    noisy = kept_gain((base, 1.5 * base + rng.normal(0, 0.5, 100)), (base, 1.2 * base + rng.normal(0, 0.5, 100)), 0.95, 500, 1)
    assert noisy.low < noisy.mean < noisy.high
    for worthless in ((-base, base), (base, 0.9 * base)):
        assert kept_gain(worthless, (base, 1.5 * base), 0.95, 500, 1) is None
    assert kept_gain((base, 1.5 * base), (-base, base), 0.95, 500, 1) is None


def test_holm_is_that_of_r():
    """p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm") and an example with a tie at 1."""
    found = holm({"a": 0.01, "e": 0.05, "b": 0.02, "c": 0.03, "d": 0.04})
    assert list(found) == ["a", "e", "b", "c", "d"]
    assert found == pytest.approx({"a": 0.05, "b": 0.08, "c": 0.09, "d": 0.09, "e": 0.09})
    assert holm({"a": 0.6, "b": 0.001}) == pytest.approx({"a": 0.6, "b": 0.002})
    assert holm({"a": 0.7, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_holm_errs_as_seldom_as_one_test():
    """Of ten true nulls some p-value is below 0.05 in 40% of the cases; adjusted, in 5%."""
    rng = np.random.default_rng(4)
    draws = rng.random((1000, 10))
    raw = (draws.min(axis=1) < 0.05).mean()
    adjusted = np.mean([min(holm(dict(enumerate(draw))).values()) < 0.05 for draw in draws])
    assert raw > 0.3
    assert adjusted < 0.07


def test_bonferroni_shares_the_error_among_the_intervals():
    assert bonferroni(Resampling(0.95, 99, 1), 5).confidence == pytest.approx(0.99)
    assert bonferroni(Resampling(0.95, 99, 1), 0) == bonferroni(Resampling(0.95, 99, 1), 1) == pytest.approx((0.95, 99, 1))


def test_a_mean_over_groups_is_that_over_questions_and_its_interval_is_wider_where_groups_differ():
    rng = np.random.default_rng(5)
    groups = np.repeat(np.arange(8), [3, 5, 8, 10, 12, 15, 20, 27])
    values = np.clip(rng.random(8)[groups] + 0.05 * rng.standard_normal(100), 0, 1)
    over = mean_over_groups(values, groups, 0.95, 2000, 1)
    plain = mean_with_interval(values, 0.95, 2000, 1)
    assert over.mean == pytest.approx(values.mean())
    assert over.high - over.low > 1.5 * (plain.high - plain.low)


@pytest.mark.parametrize(("base", "system"), [([0.0], [1.0]), ([0.5], [0.5]), ([0.0, 0.0], [0.0, 0.0]), ([0.0, 1.0], [1.0, 0.0])])
def test_the_smallest_sets_have_defined_results(base, system):
    gain = paired_gain(np.array(base), np.array(system), 0.95, 100, 1)
    assert 0 <= gain.p_value <= 1
    for estimate in filter(None, (gain.absolute, gain.relative)):
        assert np.isfinite(estimate).all()
    assert gain.p_value == 1 or len(base) > 1
