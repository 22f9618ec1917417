"""Measures of names, on cases whose answer is known."""

import math

import numpy as np
import pytest

from conceptatlas.concepts.evaluation import check_name, is_right, naming_report, word_competence
from conceptatlas.concepts.names import Name
from conceptatlas.extraction.errors import UserError


def test_a_concept_that_answers_to_the_named_thing_has_auc_one_and_a_large_difference():
    rng = np.random.default_rng(0)
    on, off = 5 + rng.standard_normal(50), rng.standard_normal(200)
    check = check_name(on, off)
    assert check.auc > 0.99
    assert check.mad == pytest.approx(5, abs=0.5)
    assert check_name(off, off).auc == pytest.approx(0.5)
    assert check_name([1.0], [0.0, 0.0]).mad == 0.0


@pytest.mark.parametrize(("on", "off"), [([], [1.0]), ([1.0], []), ([math.nan], [1.0])])
def test_activations_that_cannot_be_compared_are_refused(on, off):
    with pytest.raises(UserError):
        check_name(on, off)


def test_competence_is_high_for_known_words_and_chance_for_strangers(planted_regions):
    regions = planted_regions(("tag", "wing"))
    words = regions.encoder.encode_texts(["tag", "wing"])
    truth = regions.truth
    assert word_competence(regions.embeddings, words, truth).min() > 0.95
    assert word_competence(regions.embeddings, words[::-1], truth).max() < 0.7
    with pytest.raises(UserError, match="600 images"):
        word_competence(regions.embeddings, words, truth[:5])


def test_rates_count_what_they_say():
    names = [
        Name(("Stripes",), "named"),
        Name(("dots",), "named"),
        Name(("wing", "blue"), "named"),
        Name(("tail",), "weak"),
        Name((), "unnamed"),
        Name(("sky",), "named"),
    ]
    truths = ["stripes", "spots", "horns", "tail", "ears", None]
    report = naming_report(names, truths, synonyms={"spots": ["Dots"]})
    assert (report.n_concepts, report.n_clear, report.n_named, report.n_right) == (6, 5, 4, 2)
    assert (report.accuracy, report.coverage, report.hallucination) == (0.5, 0.4, 2 / 6)
    assert naming_report(names, truths, statuses=("named", "weak")).n_right == 2


def test_rates_of_nothing_are_unknown_and_json_ready():
    report = naming_report([Name((), "unnamed")], [None])
    assert math.isnan(report.accuracy)
    assert math.isnan(report.coverage)
    assert report.to_dict()["accuracy"] is None
    assert report.hallucination == 0


def test_a_name_without_truth_is_never_right():
    assert not is_right(Name(("a",), "named"), None)
    assert not is_right(Name((), "unnamed"), "a")
    with pytest.raises(UserError, match="1 names"):
        naming_report([Name((), "unnamed")], [])
