"""Names: words only with a status, numbers that survive JSON, weak ones marked as such."""

import json
import math

import pytest

from conceptatlas.concepts.names import Name
from conceptatlas.extraction.errors import UserError


def test_a_name_survives_json():
    name = Name(
        ("red", "stripes"), "named", 0.2, 0.001, 0.05, 0.97, 3.0, 0.1, 0.4, (("red", 0.2), ("pink", 0.1)),
        synonyms=("scarlet",), agreement=3,
    )  # fmt: skip
    assert Name.from_dict(json.loads(json.dumps(name.to_dict(), allow_nan=False))) == name


def test_unknown_numbers_become_null_and_come_back_as_nan():
    values = Name((), "unnamed", mad=math.inf).to_dict()
    assert values["mad"] is None
    assert values["score"] is None
    assert math.isnan(Name.from_dict(values).mad)


def test_keys_of_a_later_version_are_passed_over():
    assert Name.from_dict({**Name(("tag",), "weak").to_dict(), "colour": 1}).words == ("tag",)


def test_a_weak_name_is_shown_with_a_question_mark_and_no_name_as_nothing():
    assert Name(("red", "stripes"), "weak").label == "red + stripes?"
    assert Name(("red", "stripes"), "named").label == "red + stripes"
    assert Name((), "unnamed").label == ""


def test_the_evidence_says_retrieves_and_never_means():
    text = Name(("tag",), "weak", p_null=0.002, heldout_auc=0.8, margin=0.01, reason="held-out AUC below 0.9").evidence
    assert text.startswith("text that retrieves these regions: held-out AUC 0.80, p 0.002")
    assert text.endswith("weak: held-out AUC below 0.9")
    assert Name((), "unnamed", reason="too few regions").evidence == "no name: too few regions"
    assert Name((), "unnamed").evidence == "no name"


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [((), "certain", "not 'certain'"), (("a",), "unnamed", "no words"), ((), "named", "at least one word")],
)
def test_words_and_status_must_agree(words, status, message):
    with pytest.raises(UserError, match=message):
        Name(words, status)
