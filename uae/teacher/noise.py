"""How far a utility is from its exact value, by the number format that the teacher computes in.

What is smaller than this error is no finding. So utilities that differ by less are not scaled up, the probe of token trees allows
for it, and the label-quality report says where it decides. The figures are what ``benchmarks/reading_noise.py`` measured with
SmolLM2-135M on the bundled corpus; see docs/labelling.md. A larger model has errors of the same kind, and may have others in
size: the command measures the teacher in ``params.yaml``.
"""

from collections.abc import Iterable
from typing import NamedTuple


class Noise(NamedTuple):
    """Nats per token of the answer."""

    sd: float  # standard deviation of a utility's error
    largest: float  # error of a utility
    spread: float  # the largest difference of two passages of one question that was error alone
    # Largest difference of the engine's two ways of reading the probe that still counts as rounding. Measured with the same
    # model: 2.9e-6, 0.0064 and 0.031 in float32, float16 and bfloat16.
    probe: float


NOISE = {
    "float32": Noise(sd=3.3e-6, largest=3e-5, spread=3e-5, probe=1e-3),  # 1.3e-5 there, up to 2.8e-5 on COVID-QA
    "float16": Noise(sd=0.006, largest=0.028, spread=0.028, probe=0.02),
    "bfloat16": Noise(sd=0.047, largest=0.19, spread=0.25, probe=0.1),
}
_COARSEST = "bfloat16"  # what servers and GPUs compute in unless they are told otherwise


def noise_of(number_formats: Iterable[str]) -> Noise:
    """Of readings in these number formats: the coarsest counts. A format that is not known counts as bfloat16, and so do none."""
    found = [NOISE.get(name, NOISE[_COARSEST]) for name in number_formats]
    return max(found, key=lambda noise: noise.spread, default=NOISE[_COARSEST])
