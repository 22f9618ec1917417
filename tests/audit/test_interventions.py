"""Interventions: plain modules with known effect, saved and read back; before and after, group by group."""

import copy

import numpy as np
import pytest
import timm
import torch

from conceptatlas.audit import EditedModel, ImageWide, before_after, load_edited
from conceptatlas.audit.coefficients import top_mean
from conceptatlas.audit.interventions import concept_groups
from conceptatlas.extraction import split
from conceptatlas.extraction.errors import UserError


@pytest.fixture(scope="module")
def cut():
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=4).eval()
    return split(model, "layer4", input_size=(64, 64))


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def directions(cut, images):
    with torch.no_grad():
        rows = cut.encode(images).positions.reshape(-1, cut.encode(images).positions.shape[-1])
    chosen = rows[[0, 5, 9]] + 1e-3
    return chosen / chosen.norm(dim=1, keepdim=True)


def test_an_edited_model_without_concepts_to_edit_is_the_model(cut, images, directions):
    edited = EditedModel(cut, directions, [], method="zero")
    with torch.no_grad():
        torch.testing.assert_close(edited(images), cut.model(images))


def test_projection_leaves_nothing_along_the_direction(cut, images, directions):
    edited = EditedModel(cut, directions, [1], method="project")
    with torch.no_grad():
        left = edited._edited(cut.encode(images).positions) @ directions[1]
    assert left.abs().max() < 1e-4


def test_mean_ablation_moves_activations_along_the_concepts_direction_only(cut, images, directions):
    edited = EditedModel(cut, directions, [2], method="mean", reference=torch.tensor([0.0, 0.0, 0.3]))
    with torch.no_grad():
        before = cut.encode(images).positions
        moved = edited._edited(before) - before
    along = (moved @ directions[2]).unsqueeze(-1) * directions[2]
    torch.testing.assert_close(moved, along, atol=1e-4, rtol=1e-3)


def test_removing_takes_off_what_exceeds_the_reference_and_adds_nothing(cut, images, directions):
    reference = torch.tensor([0.0, 0.0, 0.3])
    removing = EditedModel(cut, directions, [2], method="remove", reference=reference)
    with torch.no_grad():
        before = cut.encode(images).positions
        taken = before - removing._edited(before)
        excess = removing._coefficients(before)[..., 2] - reference[2]
    assert (excess < 0).any()
    assert (excess > 0).any()
    torch.testing.assert_close(taken, excess.clamp(min=0).unsqueeze(-1) * directions[2], atol=1e-4, rtol=1e-3)


def test_removing_leaves_images_that_do_not_hold_the_concept_as_they_are(cut, images, directions):
    with torch.no_grad():
        before = cut.encode(images).positions
        plain = EditedModel(cut, directions, [2], method="remove", reference=torch.zeros(3))
        scores = top_mean(plain._coefficients(before))[:, 2]
        thresholds = torch.tensor([0.0, 0.0, float(scores.sort().values[1])])
        edited = EditedModel(
            cut, directions, [2], method="remove", reference=torch.zeros(3), thresholds=thresholds
        )._edited(before)
        everywhere = plain._edited(before)
    lowest = int(scores.argmin())
    others = [i for i in range(len(images)) if i != lowest]
    torch.testing.assert_close(edited[lowest], before[lowest], rtol=0, atol=0)
    torch.testing.assert_close(edited[others], everywhere[others])


def test_clamping_lowers_the_target_logit_and_no_other(cut, images, directions):
    edited = EditedModel(cut, directions, [0], method="clamp", target=2)
    with torch.no_grad():
        change = edited(images) - cut.model(images)
    assert (change[:, 2] <= 1e-6).all()
    torch.testing.assert_close(change[:, [0, 1, 3]], torch.zeros(3, 3), atol=1e-6, rtol=0)


def test_an_edited_model_comes_back_from_its_file(cut, images, directions, tmp_path):
    edited = EditedModel(cut, directions, [0, 2], method="mean", reference=torch.tensor([0.1, 0.2, 0.3]))
    path = edited.save(tmp_path / "edited.safetensors")
    again = load_edited(path, timm.create_model("test_resnet", num_classes=4).eval())
    with torch.no_grad():
        torch.testing.assert_close(again(images), edited(images))


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    path.write_bytes(b"not tensors at all")
    with pytest.raises(UserError, match="other.safetensors"):
        load_edited(path, timm.create_model("test_resnet", num_classes=4))


@pytest.mark.parametrize(
    ("options", "mentioned"),
    [
        ({"method": "mean"}, "reference"),
        ({"method": "remove"}, "reference"),
        ({"method": "clamp"}, "target"),
        ({"method": "cut"}, "cut"),
    ],
)
def test_what_is_missing_is_named(cut, directions, options, mentioned):
    with pytest.raises(UserError, match=mentioned):
        EditedModel(cut, directions, [0], **options)


def groups_of(n=100):
    return concept_groups(["bee"] * n + ["ant"] * n, np.tile([True, False], n))


def test_a_worst_group_that_improves_beyond_its_interval_is_called_improved():
    labels = np.repeat([0, 1], 100)
    with_it = np.tile([True, False], 100)
    before = np.where((labels == 1) & with_it, 0, labels)
    result = before_after(before, labels, labels, groups_of())
    assert result.worst_before == 0.0
    assert result.worst_after == 1.0
    assert result.improved
    assert result.flips == 0.25


def test_an_intervention_that_only_moves_the_harm_is_no_improvement():
    labels = np.repeat([0, 1], 100)
    with_it = np.tile([True, False], 100)
    before = np.where((labels == 1) & with_it, 0, labels)
    after = np.where((labels == 0) & ~with_it, 1, labels)
    result = before_after(before, after, labels, groups_of())
    assert not result.improved
    assert "no fix" in result._repr_html_()


def test_a_group_too_small_to_judge_is_listed_but_never_the_worst():
    labels = np.zeros(30, int)
    wrong = labels.copy()
    wrong[:2] = 1
    names = ["few"] * 2 + ["many"] * 28
    result = before_after(wrong, wrong, labels, names)
    assert result.worst_before == 1.0
    assert set(result.groups["group"]) == {"few", "many"}


def whole_image(cut, images, directions):
    """The last concept is read from the mean activation, at three quarters of what images hold on average."""
    readout = np.linspace(-1, 1, directions.shape[1], dtype=np.float32)[None]
    with torch.no_grad():
        said = cut.encode(images).positions.mean(1) @ torch.tensor(readout[0])
    offset = float(-said.min()) + 1.0
    mean = float(said.mean()) + offset
    last = directions[-1:].numpy()
    wide = ImageWide(last, readout, np.array([offset]), np.array([0.75 * mean]), ("dark",), np.ones(1))
    return wide, said + offset


def test_a_property_of_the_whole_image_is_edited_alike_at_every_position(cut, images, directions):
    wide, said = whole_image(cut, images, directions)
    edited = EditedModel(cut, directions, [2], method="mean", reference=torch.zeros(3), wide=wide)
    with torch.no_grad():
        positions = cut.encode(images).positions
        moved = edited._edited(positions) - positions
    expected = (float(wide.reference[0]) - said)[:, None, None] * directions[2]
    torch.testing.assert_close(moved, expected.expand_as(moved), rtol=1e-4, atol=1e-4)


def test_an_edit_of_a_whole_image_comes_back_from_its_file(cut, images, directions, tmp_path):
    wide, _ = whole_image(cut, images, directions)
    edited = EditedModel(cut, directions, [2], method="mean", reference=torch.zeros(3), wide=wide)
    path = edited.save(tmp_path / "edited.safetensors")
    again = load_edited(path, copy.deepcopy(cut.model))
    with torch.no_grad():
        torch.testing.assert_close(again(images), edited(images))
