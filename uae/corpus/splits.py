"""Splits are decided once, by a threshold on the hash of a key."""

from collections import Counter
from collections.abc import Iterable, Mapping

from uae.io.files import sha256_bytes

SPLITS = ("train", "validation", "test")


def place(key: str, seed: int) -> float:
    """Where a key's hash falls, from 0 to 1. Other keys do not count."""
    return int(sha256_bytes(str(seed), key)[:16], 16) / 2**64


def split_of(key: str, fractions: Mapping[str, float], seed: int) -> str:
    """The split whose interval of [0, 1) holds the key's place: so a key's split depends on nothing but itself."""
    at = place(key, seed)
    wanted = [split for split in SPLITS if fractions[split] > 0]
    return next((split for split in wanted if at < _interval(split, fractions)[1]), wanted[-1])


def fill(decided: Mapping[str, str], movable: Iterable[str], fractions: Mapping[str, float], seed: int) -> dict[str, str]:
    """The keys that have to take another split, so that no wanted one is empty while there are keys enough.

    A small corpus needs this: of ten documents none may fall into an interval of 0.15. The key nearest to the interval takes the
    empty split. Where there are fewer keys than splits, the larger fractions are served: a sample of one paper can still be read,
    and validation says which split is empty.

    Args:
        decided: key -> split, of all that count.
        movable: those of them whose split is decided just now.

    Returns:
        key -> its new split.
    """
    now, free = dict(decided), set(movable)
    wanted = sorted((split for split in SPLITS if fractions[split] > 0), key=lambda split: -fractions[split])
    for number, split in enumerate(wanted):
        if split in now.values():
            continue
        larger, counts = wanted[:number], Counter(now.values())
        givers = [key for key in free if now[key] not in larger or counts[now[key]] > 1]
        if givers:
            nearest = min(givers, key=lambda key: (_distance(place(key, seed), _interval(split, fractions)), key))
            now[nearest] = split
            free.discard(nearest)
    return {key: split for key, split in now.items() if split != decided[key]}


def _interval(split: str, fractions: Mapping[str, float]) -> tuple[float, float]:
    start = sum(fractions[before] for before in SPLITS[: SPLITS.index(split)])
    return start, start + fractions[split]


def _distance(at: float, interval: tuple[float, float]) -> float:
    return max(interval[0] - at, at - interval[1], 0.0)
