import pytest

from uae.errors import ConfigError
from uae.registry.gate import decide

RULES = {"metric": "map", "min_gain": 0.125, "guarded": ["recall@1"], "max_loss": 0.02}


@pytest.mark.parametrize(
    ("candidate", "passed", "failed_rule"),
    [
        ({"map": 0.63, "recall@1": 0.40}, True, None),
        ({"map": 0.625, "recall@1": 0.50}, False, "map"),  # exactly min_gain is not more than it
        ({"map": 0.55, "recall@1": 0.50}, False, "map"),
        ({"map": 0.70, "recall@1": 0.375}, False, "recall@1"),
        ({"map": 0.70, "recall@1": 0.385}, True, None),
    ],
)
def test_decide(candidate, passed, failed_rule):
    decision = decide(candidate, {"map": 0.5, "recall@1": 0.40}, "version 3", **RULES)
    assert decision.passed is passed
    failing = [reason.split()[0] for reason in decision.reasons if reason.endswith("FAILED")]
    assert failing == ([failed_rule] if failed_rule else [])
    assert all("version 3" in reason for reason in decision.reasons)


def test_unknown_metric_is_an_error_that_lists_the_known():
    with pytest.raises(ConfigError, match=r"no metric 'mapp'.*map, recall@1"):
        decide({"map": 1, "recall@1": 1}, {"map": 0, "recall@1": 0}, "base", **RULES | {"metric": "mapp"})
