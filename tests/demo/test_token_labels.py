from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from sklearn.metrics import davies_bouldin_score

from conceptatlas.demo.classifiers import Recipe, augment, render, train_classifier
from conceptatlas.demo.config import SceneConfig
from conceptatlas.demo.splits import make_split
from conceptatlas.demo.token_labels import MERGED, THINGS, TokenLabelling, davies_bouldin, thing_map, token_labels


@pytest.fixture
def vit():
    torch.manual_seed(0)
    return timm.create_model("test_vit", img_size=32, patch_size=8, num_classes=3)


def test_every_pixel_shows_what_the_masks_say(tagged):
    shown = thing_map(tagged)
    names = {THINGS[index] for index in np.unique(shown)}
    assert {"background", "tag", *tagged.attributes["parts"]} <= names
    assert (shown[tagged.parts["tag"]] == THINGS.index("tag")).all()
    assert not tagged.parts["striped coat"][shown == 0].any()


def test_labels_are_shares_of_each_patch_in_the_order_of_the_tokens():
    things = torch.zeros(1, 16, 24, dtype=torch.uint8)
    things[0, 8:, 8:12] = 5
    labels = token_labels(things, 8)
    assert labels.shape == (1, 6, len(THINGS))
    assert torch.allclose(labels.sum(2), torch.ones(1, 6))
    assert labels[0, :, 5].tolist() == [0, 0, 0, 0, 0.5, 0]


def test_what_pixels_show_moves_with_them():
    config = SceneConfig(size=48)
    pixels, things = render(config, "train", 4)
    rng = np.random.default_rng(3)
    marked = torch.from_numpy(things[:, None].astype(np.float32))
    images, moved = augment(marked.expand(-1, 3, -1, -1), torch.from_numpy(things), rng)
    low, high = images[:, 0].min(), images[:, 0].max()
    expected = (images[:, 0] - low) / (high - low) * float(things.max() - things.min()) + float(things.min())
    assert torch.equal(expected.round().to(torch.uint8), moved)
    assert pixels.shape == (4, 48, 48, 3)


def test_heads_learn_what_patches_show_and_leave_the_model_as_it_was(vit):
    images, things = torch.zeros(8, 3, 32, 32), torch.zeros(8, 32, 32, dtype=torch.uint8)
    for i in range(8):
        images[i, :, 8 * (i % 4) :, :] = 1.0
        things[i, 8 * (i % 4) :, :] = 7
    names = list(vit.state_dict())
    with TokenLabelling(vit, [2, 5]) as heads:
        optimiser = torch.optim.Adam([*vit.parameters(), *heads.parameters()], 1e-3)
        losses = []
        for _ in range(25):
            vit(images)
            loss = heads.loss(heads.labels(things))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]
    assert list(vit.state_dict()) == names
    assert not any(block._forward_hooks for block in vit.blocks)


def test_a_recipe_with_token_labels_gives_an_ordinary_model_and_the_same_one_twice():
    kwargs = {"img_size": 96, "patch_size": 16}
    recipe = Recipe("tiny", "test_vit", kwargs, n_scenes=16, epochs=1, batch=8, token_blocks=(3,))
    first, second = (train_classifier(recipe).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    plain = timm.create_model("test_vit", num_classes=8, **kwargs)
    plain.load_state_dict(first)


def test_the_scenes_of_a_split_are_rendered_in_order():
    config = SceneConfig(size=48)
    pixels, things = render(config, "audit", 3)
    scene = make_split(config, "audit", 3)[2]
    assert np.array_equal(pixels[2], np.asarray(scene.image))
    assert np.array_equal(things[2], thing_map(scene))


def test_images_exchange_class_tokens_behind_a_block_and_nothing_else(vit):
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    seen = []
    hook = vit.blocks[3].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    vit(images)
    with TokenLabelling(vit, [], exchange=2):
        vit(images)
    hook.remove()
    assert torch.equal(seen[1][:, 0], seen[0][:, 0].roll(1, dims=0))
    assert torch.equal(seen[1][:, 1:], seen[0][:, 1:])


def test_the_models_own_parameters_are_not_the_heads(vit):
    heads = TokenLabelling(vit, [3, 5], exchange=3)
    assert not {id(p) for p in vit.parameters()} & {id(p) for p in heads.parameters()}


def test_merged_labels_keep_what_decides_apart_and_take_the_rest_together():
    by_name = dict(zip(THINGS, MERGED, strict=True))
    assert by_name["stone"] == by_name["twig"] != by_name["background"]
    assert by_name["head"] == by_name["legs"] == by_name["eye"]
    deciding = THINGS[8:]
    assert len({by_name[name] for name in deciding}) == len(deciding) == 14


def three_groups():
    tokens = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    tokens[20:40] += 9.0
    return tokens, torch.eye(3).repeat_interleave(20, 0)


def test_the_index_of_davies_and_bouldin_is_scikit_learns():
    tokens, labels = three_groups()
    centred = torch.cat([part - part.mean(0) for part in tokens.split(20)])
    ring = torch.nn.functional.normalize(centred, dim=1) + (tokens - centred)  # all tokens of a label equally far out
    means = torch.stack([part.mean(0) for part in ring.split(20)])
    assert float((ring - means.repeat_interleave(20, 0)).norm(dim=1).std()) < 0.2
    expected = davies_bouldin_score(ring.numpy(), labels.argmax(1).numpy())
    assert float(davies_bouldin(ring, labels)) == pytest.approx(expected, rel=0.05)


def test_the_index_knows_no_scale_and_no_size_of_groups():
    tokens, labels = three_groups()
    index = float(davies_bouldin(tokens, labels))
    assert davies_bouldin(7.0 * tokens, labels) == pytest.approx(index, rel=1e-4)
    twice = davies_bouldin(torch.cat([tokens, tokens[:20]]), torch.cat([labels, labels[:20]]))
    assert twice == pytest.approx(index, rel=1e-4)


def test_the_index_falls_where_groups_are_tight_and_not_where_a_distant_one_moves_farther():
    tokens, labels = three_groups()
    index = float(davies_bouldin(tokens, labels))
    means = torch.stack([part.mean(0) for part in tokens.split(20)]).repeat_interleave(20, 0)
    assert float(davies_bouldin(means + 0.1 * (tokens - means), labels)) == pytest.approx(0.1 * index, rel=1e-3)
    farther = tokens.clone()
    farther[20:40] += 900.0
    assert float(davies_bouldin(farther, labels)) > 0.6 * index
