from __future__ import annotations

import socket

import numpy as np
import pytest
import torch

from conceptatlas.demo import (
    demo_card,
    demo_class_names,
    demo_config,
    demo_encoder_path,
    demo_models,
    demo_vocabulary,
    load_demo_model,
    make_scene,
)
from conceptatlas.demo.card import model_card
from conceptatlas.demo.models import WEIGHTS
from conceptatlas.demo.retrieval import measure_text_image
from conceptatlas.demo.text_image import load_text_image


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def text_image():
    return load_text_image(WEIGHTS / "text_image")


def test_weights_take_at_most_twelve_megabytes():
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) <= 12_000_000


def test_only_safetensors_and_json_are_shipped():
    assert {path.suffix for path in WEIGHTS.rglob("*") if path.is_file()} == {".safetensors", ".json"}


def test_a_cnn_its_clean_twin_and_a_vit_are_shipped():
    assert {"cnn", "cnn_clean", "vit"} <= set(demo_models())


@pytest.mark.parametrize("name", ["cnn", "cnn_clean", "vit"])
def test_models_load_without_a_network(no_network, name):
    model = load_demo_model(name)
    assert not model.training
    assert model(torch.zeros(2, 3, 96, 96)).shape == (2, 8)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


@pytest.mark.parametrize("name", ["cnn", "vit"])
def test_the_timm_configuration_states_preprocessing_and_names(name):
    from timm.data import resolve_model_data_config

    model = load_demo_model(name)
    data = resolve_model_data_config(model)
    assert (data["input_size"], data["mean"], data["std"]) == ((3, 96, 96), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert (data["crop_pct"], data["interpolation"]) == (1.0, "bicubic")
    assert list(model.pretrained_cfg["label_names"]) == demo_class_names() == demo_card(name)["class_names"]


def test_the_model_card_says_what_the_files_say():
    written = (WEIGHTS.parent / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert written == model_card(WEIGHTS)
    assert f"{demo_card('cnn')['measured']['reliance']:.3f}" in written


def test_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match=r"'resnet'; there are .*cnn"):
        load_demo_model("resnet")


def test_cards_draw_the_training_scenes_again():
    assert demo_config("cnn").shortcuts[0].kind == "tag"
    assert demo_config("cnn_clean").shortcuts == ()


@pytest.mark.parametrize("name", ["cnn", "vit"])
def test_classifiers_lean_on_the_tag_and_know_the_rest(measured, name):
    numbers = measured[name]
    assert numbers["accuracy_unbiased"] >= 0.9
    assert numbers["reliance"] >= 0.3


def test_the_clean_twin_ignores_the_tag(measured):
    numbers = measured["cnn_clean"]
    assert numbers["accuracy_unbiased"] >= 0.9
    assert abs(numbers["reliance"]) <= 0.1


@pytest.mark.parametrize("name", ["cnn", "cnn_clean", "vit"])
def test_a_small_sample_agrees_with_the_card(measured, name):
    card = demo_card(name)["measured"]
    for key in ("accuracy_unbiased", "others_without_tag"):
        assert measured[name][key] == pytest.approx(card[key], abs=0.05)


def test_the_encoder_loads_from_its_folder_without_a_network(no_network):
    import open_clip

    model, _, transform = open_clip.create_model_and_transforms(demo_encoder_path(), require_pretrained=True)
    tokens = open_clip.get_tokenizer(demo_encoder_path())(demo_vocabulary())
    with torch.no_grad():
        text = model.eval().encode_text(tokens, normalize=True)
    assert text.shape == (len(demo_vocabulary()), 64)
    assert torch.allclose(text.norm(dim=1), torch.ones(len(text)), atol=1e-5)
    assert transform(make_scene(demo_config(), 0, 0).image).shape == (3, 64, 64)


def test_the_encoder_names_parts_and_crops(text_image):
    numbers = measure_text_image(text_image, n=40, seed=77)
    assert numbers["scene_retrieval"] >= 0.93
    assert numbers["crop_retrieval"] >= 0.93
    assert numbers["tag_auc"] >= 0.95


def test_words_of_another_world_stay_away_from_every_crop(text_image):
    import open_clip

    tokenizer = open_clip.get_tokenizer(demo_encoder_path())
    scenes = [make_scene(demo_config(), k % 8, k, tag=k % 2 == 0) for k in range(24)]
    from conceptatlas.demo.classifiers import to_tensor
    from conceptatlas.demo.text_image import shrink

    pixels = np.stack([shrink(scene.image, (0, 0, 96, 96)) for scene in scenes])
    with torch.no_grad():
        images = text_image.encode_image(to_tensor(pixels), normalize=True)
        known = text_image.encode_text(tokenizer(demo_vocabulary()), normalize=True)
        strange = text_image.encode_text(
            tokenizer(["telephone", "guitar", "pizza", "aeroplane", "sofa"]), normalize=True
        )
    best = (images @ known.T).max(dim=1).values
    assert ((images @ strange.T).max(dim=1).values < best).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn", "cnn_clean", "vit"])
def test_the_card_of_a_classifier_is_what_is_measured_again(name):
    from conceptatlas.demo import SceneConfig
    from conceptatlas.demo.classifiers import draw_pairs, measure_classifier

    card = demo_card(name)
    again = measure_classifier(load_demo_model(name), draw_pairs(SceneConfig(seed=card["seed"]), card["n_measured"]))
    assert again == pytest.approx(card["measured"], abs=0.004)


@pytest.mark.slow
def test_the_card_of_the_encoder_is_what_is_measured_again(text_image):
    import json

    card = json.loads((WEIGHTS / "text_image" / "card.json").read_text())["measured"]
    assert measure_text_image(text_image) == pytest.approx(card, abs=0.004)
    assert card["scene_retrieval"] >= 0.95
    assert card["crop_retrieval"] >= 0.95
