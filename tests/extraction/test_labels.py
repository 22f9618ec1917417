"""Names of classes, and folder names matched to them."""

import logging

import pytest
import torch

from conceptatlas.extraction import UserError, class_names_of, class_synonyms_of, load_model, match_labels

NAMES = ["bee", "ant", "knife", "sea lion", "crane (wading)", "crane (lifts)"]
SYNONYMS = [
    ("bee", "n02206856"),
    ("ant", "emmet", "pismire", "n02219486"),
    ("knife",),
    ("sea lion",),
    ("crane", "n02012849"),
    ("crane", "n03126707"),
]


@pytest.fixture(scope="module")
def imagenet_model():
    return load_model("test_resnet", pretrained=False)


class TestClassNames:
    def test_imagenet_names_are_short_and_unique(self, imagenet_model):
        names = class_names_of(imagenet_model, 1000)
        assert names[309:311] == ["bee", "ant"]
        assert len(set(names)) == 1000
        assert names[134].startswith("crane (")
        assert not any("," in name for name in names)

    def test_synonyms_hold_lemmas_and_wordnet_id(self, imagenet_model):
        assert class_synonyms_of(imagenet_model, 1000)[310] == ("ant", "emmet", "pismire", "n02219486")

    def test_torchvision_classifier_of_1000_has_imagenet_names(self):
        model = load_model("torchvision/squeezenet1_1", pretrained=False)
        assert class_names_of(model, 1000)[309] == "bee"

    def test_other_models_have_no_names(self, imagenet_model):
        assert class_names_of(imagenet_model, 10) is None
        assert class_names_of(torch.nn.Linear(2, 1000), 1000) is None
        assert class_synonyms_of(torch.nn.Linear(2, 1000), 1000) is None

    def test_names_in_the_configuration_go_first(self):
        model = torch.nn.Linear(2, 2)
        model.pretrained_cfg = {"num_classes": 2, "label_names": ["yes", "no"]}
        assert class_names_of(model, 2) == ["yes", "no"]


class TestMatchLabels:
    @pytest.mark.parametrize(
        ("label", "expected"),
        [
            ("bee", 0),
            ("Bee", 0),
            ("bees", 0),
            ("sea_lion", 3),
            ("Sea-Lions", 3),
            ("knives", 2),
            ("emmet", 1),
            ("n02219486", 1),
            ("crane", None),
            ("n03126707", 5),
            ("wasp", None),
            ("1", 1),
            ("6", None),
        ],
    )
    def test_one_label(self, label, expected):
        assert match_labels([label], NAMES, SYNONYMS) == {label: expected}

    def test_users_map_goes_first_by_name_synonym_and_index(self):
        mapping = {"a": "ant", "b": 0, "c": "emmet", "bee": "ant"}
        assert match_labels(["a", "b", "c", "bee", "ants"], NAMES, SYNONYMS, mapping) == {
            "a": 1,
            "b": 0,
            "c": 1,
            "bee": 1,
            "ants": 1,
        }

    def test_integers_count_only_if_all_labels_are(self):
        assert match_labels(["0", "1"], NAMES) == {"0": 0, "1": 1}
        assert match_labels(["0", "ant"], NAMES) == {"0": None, "ant": 1}
        assert match_labels([0, 1], NAMES) == {0: 0, 1: 1}

    def test_without_synonyms_only_names_match(self):
        assert match_labels(["emmet", "ants"], NAMES) == {"emmet": None, "ants": 1}

    @pytest.mark.parametrize("wanted", ["wasp", 6, -1, "crane"])
    def test_map_to_a_class_that_is_not_there_is_an_error(self, wanted):
        with pytest.raises(UserError, match=str(wanted)):
            match_labels(["a"], NAMES, SYNONYMS, {"a": wanted})

    def test_unmapped_labels_are_logged_once(self, caplog):
        with caplog.at_level(logging.WARNING):
            match_labels(["wasp", "fly", "wasp", "ant"], NAMES, SYNONYMS)
        assert len(caplog.records) == 1
        assert "wasp, fly" in caplog.text

    def test_mapped_labels_are_silent(self, caplog):
        match_labels(["ant"], NAMES, SYNONYMS)
        assert not caplog.records
