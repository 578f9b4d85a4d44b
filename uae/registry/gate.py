"""The gate: a pure comparison of a candidate with what it would replace."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from uae.errors import ConfigError
from uae.index.parity import is_within


class Decision(NamedTuple):
    passed: bool
    reasons: list[str]  # one sentence a rule


def decide(
    candidate: Mapping[str, float],
    reference: Mapping[str, float],
    reference_name: str,
    metric: str,
    min_gain: float,
    guarded: Sequence[str],
    max_loss: float,
) -> Decision:
    """Pass if ``metric`` rises by more than ``min_gain`` and no guarded metric falls by more than ``max_loss`` (absolute).

    Both mappings hold means over the same test questions.

    Raises:
        ConfigError: a metric is not one that both were measured by.
    """
    known = sorted(set(candidate) & set(reference))
    for name in (metric, *guarded):
        if name not in known:
            raise ConfigError(f"promote: the gate has no metric {name!r}; it has {', '.join(known)}")
    gain = candidate[metric] - reference[metric]
    passed = gain > min_gain and not is_within(gain, min_gain)
    reasons = [_sentence(metric, candidate, reference, reference_name, f"must rise by more than {min_gain:g}", passed)]
    for name in guarded:
        kept = is_within(reference[name] - candidate[name], max_loss)
        passed = passed and kept
        reasons.append(_sentence(name, candidate, reference, reference_name, f"may fall by at most {max_loss:g}", kept))
    return Decision(passed, reasons)


def _sentence(metric: str, candidate: Mapping, reference: Mapping, name: str, rule: str, passed: bool) -> str:
    change = candidate[metric] - reference[metric]
    verdict = "passed" if passed else "FAILED"
    return f"{metric} {candidate[metric]:.4f} against {reference[metric]:.4f} of {name} ({change:+.4f}; {rule}): {verdict}"
