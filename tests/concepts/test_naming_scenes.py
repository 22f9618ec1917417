"""Names of a trained model's concepts on planted scenes that it has not seen."""

import pytest

from benchmarks.naming import SYNONYMS, collect, evaluate, vocabularies
from conceptatlas.concepts import CachedEncoder, OpenClipEncoder
from conceptatlas.concepts.evaluation import naming_report
from conceptatlas.concepts.naming_rules import NamingRules
from conceptatlas.demo.models import demo_encoder_path


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    encoder = CachedEncoder(OpenClipEncoder(demo_encoder_path()), tmp_path_factory.mktemp("embeddings"))
    regions = collect("cnn", 0, encoder, per_class=30, n_concepts=8)
    return evaluate(regions, vocabularies(encoder, 200), NamingRules(), 0)


@pytest.mark.slow
def test_names_are_those_of_the_planted_parts(found):
    for words in ("names", "mixed"):
        report = naming_report(found[words], found["crop"], synonyms=SYNONYMS)
        assert report.n_named >= 15
        assert report.accuracy >= 0.85
        assert report.coverage >= 0.5
        assert naming_report(found[words], found["nearest"], synonyms=SYNONYMS).hallucination <= 0.1


@pytest.mark.slow
def test_unknown_and_wrong_words_name_next_to_nothing(found):
    for words in ("unknown", "wrong"):
        named = sum(name.status == "named" for name in found[words])
        assert named <= 0.05 * len(found[words])
