from hypothesis import given, settings
from hypothesis import strategies as st

from uae.corpus.splits import SPLITS, assign

FRACTIONS = {"train": 0.6, "validation": 0.15, "test": 0.25}
_WHOLE = st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20)).filter(any)


@settings(deadline=None, max_examples=200, derandomize=True, database=None)
@given(_WHOLE, st.integers(3, 60), st.integers(0, 5))
def test_every_wanted_split_is_filled_about_as_asked(weights, number, seed):
    fractions = {split: weight / sum(weights) for split, weight in zip(SPLITS, weights, strict=True)}
    keys = [f"key {n}" for n in range(number)]

    found = assign(keys, fractions, seed)

    assert set(found) == set(keys)
    for split, fraction in fractions.items():
        count = sum(name == split for name in found.values())
        assert (count > 0) == (fraction > 0)
        assert abs(count - fraction * number) <= 2.5


def test_the_order_and_number_of_times_keys_are_given_do_not_matter():
    keys = [f"key {n}" for n in range(30)]
    assert assign(keys, FRACTIONS, 1) == assign(keys[::-1] + keys[:5], FRACTIONS, 1)


def test_another_seed_gives_other_splits():
    keys = [f"key {n}" for n in range(30)]
    assert assign(keys, FRACTIONS, 1) != assign(keys, FRACTIONS, 2)


def test_of_fewer_keys_than_splits_the_larger_splits_get_them():
    assert set(assign(["a"], FRACTIONS, 1).values()) == {"train"}
    assert set(assign(["a", "b"], FRACTIONS, 1).values()) == {"train", "test"}
    assert set(assign(["a", "b"], {"train": 0.5, "validation": 0.0, "test": 0.5}, 1).values()) == {"train", "test"}
