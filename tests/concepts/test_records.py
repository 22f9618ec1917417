"""Records: what a person said goes before what was measured."""

import pytest

from conceptatlas.concepts.names import Name
from conceptatlas.concepts.records import ConceptRecord, Edit, check_tag
from conceptatlas.extraction.errors import UserError


def test_the_label_is_title_then_name_then_number():
    record = ConceptRecord(3, name=Name(("stripes",), "named"))
    assert ConceptRecord(3).label == "concept 3"
    assert ConceptRecord(3, name=Name((), "unnamed")).label == "concept 3"
    assert record.label == "stripes"
    assert ConceptRecord(3, name=record.name, title="zebra skin").label == "zebra skin"


@pytest.mark.parametrize(
    ("record", "judged"),
    [
        (ConceptRecord(0, name=Name(("a",), "named")), False),
        (ConceptRecord(0, title="a"), True),
        (ConceptRecord(0, tag="core"), True),
        (ConceptRecord(0, note="a"), True),
    ],
)
def test_a_record_knows_whether_a_person_spoke(record, judged):
    assert record.judged is judged


def test_a_record_survives_its_dict():
    record = ConceptRecord(3, Name(("a",), "weak", 1.0), "t", "unclear", "n", 1, {"hoyer": 0.5})
    again = ConceptRecord.from_dict(record.to_dict())
    assert again.to_dict() == record.to_dict()
    assert (again.parent, again.quality) == (1, {"hoyer": 0.5})


def test_an_unknown_tag_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="core, spurious, unclear or empty, not 'bias'"):
        ConceptRecord(0, tag="bias")
    assert check_tag("") is None


def test_an_edit_survives_its_dict_and_knows_its_time_in_utc():
    edit = Edit("tag", (1, 2), None, "core")
    assert Edit.from_dict(edit.to_dict()) == edit
    assert edit.at.endswith("+00:00")
