"""Scenes and models shared by the tests of the demo."""

from __future__ import annotations

import pytest

from conceptatlas.demo import SceneConfig, make_scene
from conceptatlas.demo.classifiers import draw_pairs, measure_classifier
from conceptatlas.demo.models import demo_models, load_demo_model


@pytest.fixture(scope="session")
def config():
    return SceneConfig()


@pytest.fixture(scope="session")
def tagged(config):
    return make_scene(config, 0, 7, tag=True)


@pytest.fixture(scope="session")
def measured(config):
    """Numbers of every shipped classifier on a small sample of unseen scenes."""
    pairs = draw_pairs(config, 160)
    return {name: measure_classifier(load_demo_model(name), pairs) for name in demo_models()}
