from hypothesis import given, settings
from hypothesis import strategies as st

from uae.corpus.splits import SPLITS, fill, split_of

FRACTIONS = {"train": 0.6, "validation": 0.15, "test": 0.25}
_WHOLE = st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20)).filter(any)


def decide(keys, fractions, seed):
    found = {key: split_of(key, fractions, seed) for key in keys}
    return found | fill(found, found, fractions, seed)


@settings(deadline=None, max_examples=200, derandomize=True, database=None)
@given(_WHOLE, st.integers(3, 60), st.integers(0, 5))
def test_every_wanted_split_is_filled_and_no_other(weights, number, seed):
    fractions = {split: weight / sum(weights) for split, weight in zip(SPLITS, weights, strict=True)}
    found = decide([f"key {n}" for n in range(number)], fractions, seed)
    assert set(found.values()) == {split for split, share in fractions.items() if share > 0}


@settings(deadline=None, max_examples=50, derandomize=True, database=None)
@given(_WHOLE, st.integers(0, 5))
def test_of_many_keys_each_split_gets_about_its_share(weights, seed):
    fractions = {split: weight / sum(weights) for split, weight in zip(SPLITS, weights, strict=True)}
    found = [split_of(f"key {n}", fractions, seed) for n in range(4000)]
    for split, fraction in fractions.items():
        assert abs(found.count(split) / 4000 - fraction) <= 0.04  # five standard deviations


def test_a_key_that_is_filled_in_is_the_only_one_to_move():
    keys = [f"key {n}" for n in range(30)]
    found = {key: split_of(key, FRACTIONS, 1) for key in keys}
    few = {key: split for key, split in found.items() if split == "train"}
    assert sorted(fill(few, few, FRACTIONS, 1).values()) == ["test", "validation"]
    assert fill(few, [], FRACTIONS, 1) == {}
    assert fill(found, found, FRACTIONS, 1) == {}


def test_another_seed_gives_other_splits():
    keys = [f"key {n}" for n in range(30)]
    assert decide(keys, FRACTIONS, 1) != decide(keys, FRACTIONS, 2)


def test_of_fewer_keys_than_splits_the_larger_splits_get_them():
    for seed in range(20):
        assert set(decide(["a"], FRACTIONS, seed).values()) == {"train"}
        assert set(decide(["a", "b"], FRACTIONS, seed).values()) == {"train", "test"}
        assert set(decide(["a", "b"], {"train": 0.5, "validation": 0.0, "test": 0.5}, seed).values()) == {"train", "test"}
