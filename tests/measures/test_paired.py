import math

import numpy as np
import pytest

from uae.measures.paired import paired_difference


def test_one_question_a_unit_is_students_t():
    """By hand: differences 0.1, 0.3, 0.5 have mean 0.3, deviation 0.2, error 0.2 / sqrt 3; t(2) at 0.95 is 2.919986."""
    found = paired_difference(np.array([0.4, 0.5, 0.9]), np.array([0.3, 0.2, 0.4]), ["a", "b", "c"])
    assert (found.mean, found.error, found.units) == pytest.approx((0.3, 0.2 / math.sqrt(3), 3))
    assert found.lower(0.95) == pytest.approx(0.3 - 2.919986 * 0.2 / math.sqrt(3), abs=1e-6)
    assert found.detectable(0.05) == pytest.approx((2.919986 + 1.060660) * 0.2 / math.sqrt(3), abs=1e-6)


def test_questions_of_one_document_count_together():
    """Four questions on each of two documents whose questions agree say as little as two questions."""
    changes = np.repeat([0.2, 0.0], 4)
    together = paired_difference(changes, np.zeros(8), np.repeat(["a", "b"], 4))
    two = paired_difference(np.array([0.2, 0.0]), np.zeros(2), ["a", "b"])
    assert tuple(together) == pytest.approx(tuple(two))
    alone = paired_difference(changes, np.zeros(8), list("abcdefgh"))
    assert alone.error < together.error / 2


def test_the_bound_holds_as_often_as_it_says_over_documents_of_unequal_size():
    rng = np.random.default_rng(3)
    sizes = rng.integers(1, 30, 20)
    units = np.repeat(np.arange(20), sizes).astype(str)
    held = 0
    for _ in range(1000):
        changes = np.repeat(rng.normal(0, 0.1, 20), sizes) + rng.normal(0, 0.2, sizes.sum())
        held += paired_difference(changes, np.zeros(len(changes)), units).lower(0.95) <= 0
    assert 910 <= held <= 975  # of 1000; few documents of unequal size are the hard case


def test_a_p_value_and_a_bound_agree():
    rng = np.random.default_rng(4)
    found = paired_difference(rng.normal(0.05, 0.2, 60), np.zeros(60), [str(n // 3) for n in range(60)])
    for level in (0.4, 0.05, 0.001, 1e-6):
        assert (found.p_value() <= level) == (found.lower(1 - level) >= 0)
    assert found.lower(1 - found.p_value(0.01)) == pytest.approx(0.01)


def test_one_unit_says_nothing_and_equal_differences_say_all():
    one = paired_difference(np.array([0.9, 0.9]), np.zeros(2), ["a", "a"])
    assert (one.mean, one.lower(0.95), one.p_value(), one.detectable(0.05)) == (0.9, -math.inf, 1.0, math.inf)
    same = paired_difference(np.ones(3), np.ones(3), ["a", "b", "c"])
    assert (same.lower(0.95), same.p_value(), same.detectable(0.05)) == (0.0, 1.0, 0.0)


@pytest.mark.parametrize("noise", [0.0, 1e-12])
def test_a_few_documents_that_all_gain_alike_prove_no_more_than_a_sign_test(noise):
    for number in (2, 4, 20):
        gains = np.full(number, 1.0) + noise * np.arange(number)
        found = paired_difference(gains, np.zeros(number), [str(n) for n in range(number)])
        assert found.p_value() == pytest.approx(0.5**number)
        assert found.p_value(2.0) == 1.0
