import pytest

from uae.registry.budget import next_look


def test_all_looks_together_spend_no_more_than_the_budget():
    seen, spent = [], 0.0
    for number in range(1, 2001):
        look = next_look(0.05, 40, seen)
        assert look.number == number
        spent += look.level
        seen.append(40)
    assert 0.0499 < spent < 0.05


def test_a_look_is_forgotten_when_the_test_set_has_doubled():
    assert next_look(0.05, 79, [40, 40, 60]).number == 4
    assert next_look(0.05, 80, [40, 40, 60]).number == 2
    assert next_look(0.05, 10, [40]).number == 2  # a set that shrank was looked at as a part of it


def test_the_first_look_may_spend_most():
    assert next_look(0.05, 10, []).level == pytest.approx(0.05 * 0.6079271)
