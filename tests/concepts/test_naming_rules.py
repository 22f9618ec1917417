"""The status of a name follows its numbers."""

import pytest

from conceptatlas.concepts.names import Name
from conceptatlas.concepts.naming_rules import NamingRules, judge_name


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        ({}, "named", ""),
        ({"heldout_auc": 0.85}, "weak", "held-out AUC 0.85 is below 0.9"),
        ({"p_null": 0.02}, "weak", "p 0.02 is not below 0.01"),
        ({"coherence": -0.1}, "weak", "no more alike"),
        ({"agreement": 1}, "weak", "1 of 3 scores"),
        ({"margin": float("nan")}, "weak", "too few other words"),
        ({"heldout_auc": 0.6}, "unnamed", "below 0.7"),
        ({"heldout_auc": float("nan")}, "unnamed", "nan"),
        ({"p_null": 0.2}, "unnamed", "above 0.05"),
        ({"score": -0.1}, "unnamed", "no word tells"),
    ],
)
def test_the_status_follows_the_numbers(change, status, reason):
    good = {"score": 0.1, "p_null": 0.005, "margin": 0.02, "heldout_auc": 0.95, "coherence": 0.1, "agreement": 3}
    name = judge_name(Name(("tag",), "weak", **{**good, **change}), NamingRules())
    assert name.status == status
    assert reason in name.reason
    assert name.words == (() if status == "unnamed" else ("tag",))
