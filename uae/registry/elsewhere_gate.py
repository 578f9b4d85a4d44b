"""The gate's guard of other collections: what the trained encoder may unlearn."""

from collections.abc import Mapping
from typing import Any

from uae.evaluation.testset import BASE
from uae.registry.gate import VERDICT, Bounds, Decision
from uae.release.manifest import DENSE
from uae.release.parity import is_within

_FEWEST = 30  # questions of a kind that are enough to decide by


def decide_elsewhere(also: Mapping[str, Mapping[str, Any]], bounds: Bounds) -> Decision:
    """Pass if the trained encoder loses no more than it may in any other collection, against the untrained one.

    Means decide, of questions with one evidence passage and of those with several apart. A kind with fewer than 30 questions is
    not guarded, and a reason says so: chance alone moves such a mean by more than any sensible bound.

    Args:
        also: as ``uae.evaluation.elsewhere.measure_elsewhere`` gives it.
    """
    most = bounds.max_loss_elsewhere
    if most is None:
        return Decision(True, [])
    passed, reasons = True, []
    for name, found in also.items():
        for kind, part in found["kinds"].items():
            if part["questions"] < _FEWEST:
                reasons.append(
                    f"{name} (evidence passages: {kind}) is not guarded: it has {part['questions']} questions, and {_FEWEST} are "
                    "the fewest"
                )
                continue
            for metric in ("recall@1", "map"):
                before, after = (part["systems"][system][metric]["mean"] for system in (BASE, DENSE))
                change = (after - before) / before if before else 0.0
                kept = is_within(-change, most)
                passed = passed and kept
                reasons.append(
                    f"{metric} {after:.4f} in {name} against {before:.4f} of the untrained encoder (evidence passages: {kind}; "
                    f"{part['questions']} questions; {change:+.1%}, may fall by at most {most:.1%}): "
                    f"{VERDICT[kept]}"
                )
    return Decision(passed, reasons)
