import numpy as np
import pytest
import torch
from torch import nn

from conceptatlas.concepts import nnls
from conceptatlas.extraction import split
from conceptatlas.extraction.errors import LayerError, UserError
from conceptatlas.importance.cams import class_maps, class_weighted_map, eigen_cam
from conceptatlas.importance.contributions import contributions
from conceptatlas.importance.maps import peak
from conceptatlas.importance.targets import margin

SIZE = 16


class TwoColours(nn.Module):
    """Class 0 is red minus half of green, class 1 is green: a linear head on mean-pooled non-negative features."""

    def __init__(self):
        super().__init__()
        self.detect = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.ReLU())
        self.reduce = nn.AvgPool2d(2)
        self.fc = nn.Linear(2, 2)
        with torch.no_grad():
            self.detect[0].weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 0]])[:, :, None, None])
            self.fc.weight.copy_(torch.tensor([[1.0, -0.5], [0, 1]]))

    def forward(self, x):
        return self.fc(self.reduce(self.detect(x)).mean((2, 3)))


@pytest.fixture
def model():
    return split(TwoColours().eval(), "reduce", input_size=(SIZE, SIZE))


@pytest.fixture
def images():
    """A red square at the top left and a green one at the bottom right of every image."""
    images = torch.zeros(3, 3, SIZE, SIZE)
    images[:, 0, 2:6, 2:6] = 1.0
    images[:, 1, 10:14, 10:14] = 1.0
    return images


@pytest.mark.parametrize("method", ["gradcam", "layercam", "gradxact"])
@pytest.mark.parametrize("cut", [None, "detect.1"])
def test_each_class_is_mapped_to_its_own_square(model, images, method, cut):
    for target, low in ((0, 2), (1, 10)):
        maps = class_maps(model, images, target, method=method, cut=cut)
        assert float(maps.min()) >= 0.0
        at = peak(maps[:, None], (SIZE, SIZE))[:, 0]
        assert ((at >= low) & (at < low + 4)).all()


def test_grad_cam_is_its_formula(model, images):
    A = model.encode(images).positions.detach()
    weight = model.model.fc.weight[0].detach() / A.shape[1]
    expected = (A @ weight).clamp(min=0).reshape(3, 8, 8)
    torch.testing.assert_close(class_maps(model, images, 0), expected)


def test_norm_grad_is_its_formula(model, images):
    A = model.encode(images).positions.detach()
    expected = A.norm(dim=-1) * model.model.fc.weight[1].detach().norm() / A.shape[1]
    torch.testing.assert_close(class_maps(model, images, 1, method="normgrad"), expected.reshape(3, 8, 8))


def test_a_margin_speaks_for_one_class_and_against_the_other(model, images):
    for first, second, low in ((0, 1, 2), (1, 0, 10)):
        at = peak(class_maps(model, images, margin(first, second))[:, None], (SIZE, SIZE))[0, 0]
        assert low <= int(at[0]) < low + 4


def test_the_class_weighted_map_sums_to_the_contributions_of_the_concepts(model, images):
    W = torch.eye(2)
    signed = class_weighted_map(model, W, images, 0)
    features = model.encode(images)
    U = nnls(features.positions.flatten(0, 1), W).reshape(*features.positions.shape[:2], 2)
    parts = contributions(model, features, U, W, 0)
    torch.testing.assert_close(signed.sum(dim=(1, 2)), parts.values.sum(dim=1).detach(), atol=1e-6, rtol=1e-4)
    assert float(signed.min()) < 0.0 < float(signed.max())


def test_eigen_cam_does_not_depend_on_the_sign_of_the_singular_vector():
    generator = torch.Generator().manual_seed(0)
    A = 0.1 * torch.randn(20, 49, 6, generator=generator)
    at = torch.randint(49, (20,), generator=generator)
    A[torch.arange(20), at] += torch.randn(20, 6, generator=generator) * 5.0
    for sign in (1.0, -1.0):
        assert (eigen_cam(sign * A).argmax(dim=1) == at).all()


def test_eigen_cam_of_flat_features_is_empty(model):
    assert float(class_maps(model, torch.zeros(1, 3, SIZE, SIZE), 0, method="eigencam").max()) == 0.0


def test_a_users_own_map_is_taken_and_checked(model, images):
    maps = class_maps(model, images, 1, method=lambda x, target: x[:, target])
    torch.testing.assert_close(maps, images[:, 1])
    with pytest.raises(ValueError, match="map function"):
        class_maps(model, images, 1, method=lambda x, target: x)


def test_unknown_methods_and_layers_without_positions_are_refused(model, images):
    with pytest.raises(UserError, match="scorecam"):
        class_maps(model, images, 0, method="scorecam")
    pooled = split(
        nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)).eval(),
        "2",
        input_size=SIZE,
    )
    with pytest.raises(LayerError, match="positions"):
        class_maps(pooled, images, 0)


def test_neither_batching_nor_the_map_changes_the_model(model, images):
    one = class_maps(model, images, 0, batch_size=1)
    np.testing.assert_allclose(one.numpy(), class_maps(model, images, 0).numpy(), rtol=1e-6)
    assert all(p.requires_grad and p.grad is None for p in model.model.parameters())
