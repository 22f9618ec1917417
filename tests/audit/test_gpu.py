"""What a GPU computes is what a CPU computes, to the tolerance of its arithmetic."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from conceptatlas.audit import Settings, audit
from conceptatlas.concepts import NMF, SemiNMF, nnls
from conceptatlas.extraction import Preprocess, extract, split
from conceptatlas.importance import concept_importance, contributions

pytestmark = pytest.mark.gpu
SMALL = Settings(max_probe=4, n_examples=3, sobol_images=2, umap=False)


def network(name):
    torch.manual_seed(0)
    extra = {"img_size": 32} if "vit" in name else {}
    model = timm.create_model(name, num_classes=3, **extra)
    model.pretrained_cfg.update(input_size=(3, 32, 32), crop_pct=1.0)
    return model.eval()


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)) for _ in range(40)]


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_activations_and_logits_agree(name, pictures, tmp_path):
    stores = []
    for device in ("cpu", "cuda"):
        halves = split(network(name).to(device), "auto", input_size=(32, 32))
        stores.append(extract(halves, pictures, Preprocess((32, 32)), tmp_path / device, device=device).store)
    np.testing.assert_allclose(stores[0].logits, stores[1].logits, atol=1e-3)
    np.testing.assert_allclose(stores[0].rows()[0], stores[1].rows()[0], atol=1e-2)


def test_coefficients_stay_on_the_device_and_agree():
    rng = np.random.default_rng(0)
    A, W = (torch.from_numpy(rng.random(size).astype(np.float32)) for size in ((500, 12), (4, 12)))
    there = nnls(A.cuda(), W.cuda())
    assert there.is_cuda
    torch.testing.assert_close(there.cpu(), nnls(A, W), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", [NMF, SemiNMF])
def test_factorizers_take_tensors_of_the_device(kind):
    A = torch.rand(300, 16, generator=torch.Generator().manual_seed(0))
    errors = [kind(4, random_state=0).fit(values).reconstruction_err_ for values in (A, A.cuda())]
    assert errors[1] == pytest.approx(errors[0], rel=0.02)


def test_importance_and_contributions_agree(pictures):
    preprocess, found = Preprocess((32, 32)), []
    images = torch.stack([preprocess(image) for image in pictures[:4]])
    for device in ("cpu", "cuda"):
        halves = split(network("test_vit").to(device), "auto", input_size=(32, 32))
        with torch.no_grad():
            features = halves.encode(images.to(device))
        W = torch.eye(features.positions.shape[2])[:5].to(device)
        u = features.positions @ W.T
        parts = contributions(halves, features, u, W, 1)
        found.append((concept_importance(halves, features, u, W, 1, n_designs=16).total, parts.values.cpu()))
    np.testing.assert_allclose(found[0][0], found[1][0], atol=0.02)
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-3, rtol=1e-2)


def test_an_audit_runs_on_the_device_and_says_the_same(pictures, tmp_path):
    for label in ("a", "b"):
        (tmp_path / "images" / label).mkdir(parents=True)
    for i, image in enumerate(pictures):
        image.save(tmp_path / "images" / "ab"[i % 2] / f"{i}.png")
    atlases = [
        audit(
            network("test_resnet"), tmp_path / "images", out=tmp_path / device, device=device, n_concepts=3,
            min_images=4, progress=False, settings=SMALL,
        )
        for device in ("cpu", "cuda")
    ]  # fmt: skip
    assert list(atlases[0]) == list(atlases[1])
    for name in atlases[0]:
        one, other = (atlas[name].images["logit"] for atlas in atlases)
        np.testing.assert_allclose(one, other, atol=1e-2)
