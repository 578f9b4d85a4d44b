"""The gate: pure comparisons of a candidate with what it would replace, and of what is served with what was trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from uae.io.errors import ConfigError
from uae.release.parity import Parity, is_within

RECALL_AT = 10  # of the index against exact search
_VERDICT = {True: "passed", False: "FAILED"}


@dataclass(frozen=True)
class Bounds:
    """What a candidate must gain and may lose: the keys of ``promote`` in params.yaml. All are absolute."""

    metric: str
    min_gain: float  # of the metric, must be exceeded
    guarded: tuple[str, ...]
    max_loss: float  # of each guarded metric
    min_cosine: float  # of each question's vector as it is served with the trained encoder's
    max_serving_loss: float  # of Recall@1, by the vectors served
    max_index_loss: float  # of recall@10, by the index


class Decision(NamedTuple):
    passed: bool
    reasons: list[str]  # one sentence a rule


def decide_better(
    candidate: Mapping[str, float], reference: Mapping[str, float], reference_name: str, bounds: Bounds
) -> Decision:
    """Pass if the metric rises by more than ``min_gain`` and no guarded one falls by more than ``max_loss``.

    Both mappings hold means over the same test questions.

    Raises:
        ConfigError: a metric is not one that both were measured by.
    """
    known = sorted(set(candidate) & set(reference))
    for name in (bounds.metric, *bounds.guarded):
        if name not in known:
            raise ConfigError(f"promote: the gate has no metric {name!r}; it has {', '.join(known)}")

    def sentence(name: str, rule: str, passed: bool) -> str:
        change = candidate[name] - reference[name]
        compared = f"{name} {candidate[name]:.4f} against {reference[name]:.4f} of {reference_name}"
        return f"{compared} ({change:+.4f}; {rule}): {_VERDICT[passed]}"

    gain = candidate[bounds.metric] - reference[bounds.metric]
    passed = gain > bounds.min_gain and not is_within(gain, bounds.min_gain)
    reasons = [sentence(bounds.metric, f"must rise by more than {bounds.min_gain:g}", passed)]
    for name in bounds.guarded:
        kept = is_within(reference[name] - candidate[name], bounds.max_loss)
        passed = passed and kept
        reasons.append(sentence(name, f"may fall by at most {bounds.max_loss:g}", kept))
    return Decision(passed, reasons)


def decide_serving(parity: Parity, index_recall: float, bounds: Bounds) -> Decision:
    """Pass if serving neither changes the questions' vectors nor loses Recall@1 or recall@10 beyond the bounds."""
    near = parity.cosine >= bounds.min_cosine
    lost = (parity.trained_recall or 0.0) - (parity.served_recall or 0.0)  # every test question has evidence: both are measured
    found = is_within(lost, bounds.max_serving_loss)
    exact = is_within(1 - index_recall, bounds.max_index_loss)
    return Decision(
        near and found and exact,
        [
            f"cosine {parity.cosine:.4f} or more of {parity.questions} questions' served vectors with the trained encoder's "
            f"(must be at least {bounds.min_cosine:g}): {_VERDICT[near]}",
            f"recall@1 {parity.served_recall:.4f} by served vectors against {parity.trained_recall:.4f} by the trained encoder's "
            f"(may fall by at most {bounds.max_serving_loss:g}): {_VERDICT[found]}",
            f"recall@{RECALL_AT} {index_recall:.4f} of the index against exact search (may lose at most "
            f"{bounds.max_index_loss:g}): {_VERDICT[exact]}",
        ],
    )


def decide_second_stage(second: Mapping[str, float], first: Mapping[str, float], bounds: Bounds) -> Decision:
    """Pass if the second stage takes away from the promoted system no more than a guarded metric may lose.

    Args:
        second, first: means over the same test questions, with and without it.
    """
    reasons, passed = [], True
    for name in dict.fromkeys((bounds.metric, *bounds.guarded)):
        kept = is_within(first[name] - second[name], bounds.max_loss)
        passed = passed and kept
        reasons.append(
            f"{name} {second[name]:.4f} with the second stage against {first[name]:.4f} without it "
            f"({second[name] - first[name]:+.4f}; may fall by at most {bounds.max_loss:g}): {_VERDICT[kept]}"
        )
    return Decision(passed, reasons)


def decide_whole(served: float, exact: float, bounds: Bounds, name: str = "the release") -> Decision:
    """Pass if a system of the release, as a service has it, loses no more Recall@1 than it may.

    Args:
        served: by the serving encoder, the index and BM25 together.
        exact: of the system as it was evaluated, by the trained encoder and exact search.
    """
    kept = is_within(exact - served, bounds.max_serving_loss)
    return Decision(
        kept,
        [
            f"recall@1 {served:.4f} of {name} as it is served against {exact:.4f} as it was evaluated (may fall by at most "
            f"{bounds.max_serving_loss:g}): {_VERDICT[kept]}"
        ],
    )
