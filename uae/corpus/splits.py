"""Assign documents (or, where questions have none, questions) to train, validation and test by a seeded hash."""

from collections.abc import Iterable

from uae.io.files import sha256_bytes

SPLITS = ("train", "validation", "test")


def assign(keys: Iterable[str], fractions: dict[str, float], seed: int) -> dict[str, str]:
    """Map each key to a split. The order is a hash, so the same key and seed land in the same place in the order.

    Every split with a fraction above zero gets at least one key. Where there are fewer keys than splits, the splits with the
    larger fractions get one. So a sample of one paper can still be read, and validation says which split is empty.
    """
    order = sorted(set(keys), key=lambda key: sha256_bytes(str(seed), key))
    wanted = [split for split in SPLITS if fractions[split] > 0]
    if len(order) < len(wanted):
        wanted = sorted(wanted, key=lambda split: -fractions[split])[: len(order)]
    counts = {split: max(1, round(fractions[split] * len(order))) for split in wanted}
    largest = max(wanted, key=lambda split: counts[split])
    counts[largest] += len(order) - sum(counts.values())
    names = [split for split in wanted for _ in range(counts[split])]
    return dict(zip(order, names, strict=True))
