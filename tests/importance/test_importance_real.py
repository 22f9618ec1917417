"""Importance under the heads of real architectures, and of a trained transformer where its weights are at hand."""

import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from scipy.stats import spearmanr

from conceptatlas.concepts import make_factorizer, nnls
from conceptatlas.extraction import FolderSource, Preprocess, load_model, split
from conceptatlas.importance import ablate, concept_importance, contributions
from conceptatlas.importance.recomposition import select


def decompose(model, layer, images, k, n):
    cut = split(model, layer, input_size=tuple(images.shape[-2:]))
    with torch.no_grad():
        features = cut.encode(images)
    rows = features.positions.flatten(0, 1)
    W = make_factorizer("auto", k, signed=bool(cut.layer.signed)).fit(rows.numpy()).components_
    first = select(features, torch.arange(n))
    return cut, first, nnls(first.positions.contiguous(), torch.as_tensor(W, dtype=torch.float32)), W


@pytest.fixture(scope="module")
def images():
    return torch.randn(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def build(name):
    torch.manual_seed(0)
    size = {"img_size": 64} if "vit" in name else {}
    return timm.create_model(name, num_classes=7, **size).eval().requires_grad_(False)


def test_a_pooled_convolutional_network_is_explained_in_closed_form(images):
    cut, features, U, W = decompose(build("test_resnet"), "auto", images, 5, 3)
    assert cut.head_is_affine
    exact = concept_importance(cut, features, U, W, 3)
    sampled = concept_importance(cut, features, U, W, 3, method="jansen")
    found = contributions(cut, features, U, W, 3)
    assert exact.method == "affine"
    assert np.abs(exact.local - sampled.local).max() < 1e-3
    nothing = cut.head(features.replace(positions=torch.zeros_like(features.positions)))[:, 3]
    assert torch.allclose(found.bias, nothing, atol=1e-4)


@pytest.mark.parametrize(("name", "layer"), [("test_vit", 0), ("test_resnet", 0.5)])
def test_chaos_agrees_with_long_sampling_before_the_last_blocks(images, relative, name, layer):
    model = build(name)
    points = [p for p in split(model, "auto", input_size=(64, 64)).cut_points if p.grid is not None and min(p.grid) > 1]
    point = next(p for p in points if p.depth >= layer)
    cut, features, U, W = decompose(model, point, images, 6, 2)
    assert not cut.head_is_affine
    reference = concept_importance(cut, features, U, W, 3, method="jansen", n_designs=256)
    found = concept_importance(cut, features, U, W, 3)
    assert found.method == "chaos"
    for image in range(2):
        assert relative(found.local[image], reference.local[image]) < 0.1
    assert torch.allclose(ablate(cut, features, U, W, []), cut.head(features), atol=1e-4)


@pytest.mark.slow
def test_a_trained_transformer_reaches_the_reference_with_an_eighth_of_the_published_passes(relative):
    real = os.environ.get("CONCEPTATLAS_REAL_DATA")
    if not real:
        pytest.skip("needs CONCEPTATLAS_REAL_DATA")
    model = load_model("deit_tiny_patch16_224", checkpoint=Path(real) / "deit_tiny_patch16_224.fp16.safetensors")
    prepare, source = Preprocess.for_model(model), FolderSource(Path(real) / "hymenoptera" / "train" / "bees")
    views = torch.stack([prepare(source[i].image) for i in range(30)])
    cut, features, U, W = decompose(model.requires_grad_(False), "blocks.8", views, 25, 1)
    found = concept_importance(cut, features, U, W, 309)
    reference = concept_importance(cut, features, U, W, 309, method="jansen", n_designs=512, seed=9)
    assert (found.n_evaluations + 2 * found.n_gradients) <= 864 / 8
    assert spearmanr(found.local[0], reference.local[0]).statistic >= 0.95
    assert relative(found.local[0], reference.local[0]) <= 0.12
