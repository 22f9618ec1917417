"""The recursion on planted truth: what a late layer merges and an earlier one tells apart comes out as its parts."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from conceptatlas.concepts.levels import Level, earlier_layers, levels_of
from conceptatlas.concepts.recursion import RecursionRule, grow_tree, grow_tree_from_rows, rank_one_error
from conceptatlas.extraction import Features
from conceptatlas.extraction.errors import LayerError, UserError


@dataclass(frozen=True)
class Point:
    name: str
    index: int
    depth: float
    grid: tuple[int, int] | None


class TwoTextures:
    """Channels 0 and 1 of an image are textures, 2 is something else; the late layer adds the textures up.

    The early layer has twice the late grid, so that a late position covers 2 x 2 early ones.
    """

    layer = Point("late", 5, 0.9, (4, 4))
    cut_points = (Point("early", 2, 0.5, (8, 8)), layer)

    def encode_through(self, images, layers):
        assert [getattr(x, "name", x) for x in layers] in ([], ["early"])
        early = torch.nn.functional.avg_pool2d(images, 2)
        coarse = torch.nn.functional.avg_pool2d(images, 4)
        late = torch.stack([coarse[:, 0] + coarse[:, 1], coarse[:, 2]], dim=1)
        both = [self._features(early)] * len(layers) + [self._features(late)]
        return tuple(both)

    @staticmethod
    def _features(maps):
        return Features(maps.flatten(2).transpose(1, 2), None, tuple(maps.shape[2:]))


def _images(n=120, size=16, seed=0):
    """Every 4 x 4 cell holds one texture, the other, or neither."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(3, size=(n, 4, 4), p=[0.15, 0.15, 0.7])
    strength = rng.uniform(0.7, 1.3, size=(n, 1, size, size))
    images = np.eye(3)[kind].transpose(0, 3, 1, 2).repeat(size // 4, 2).repeat(size // 4, 3)
    noise = 0.02 * rng.random((n, 3, size, size))
    return torch.from_numpy((images * strength + noise).astype(np.float32)), kind


def test_two_textures_merged_late_and_told_apart_early_are_exactly_two_children():
    images, kind = _images()
    tree = grow_tree(TwoTextures(), images, np.eye(2, dtype=np.float32), layers=["early"], concepts=[0])
    assert [len(tree.children(root.id)) for root in tree.roots] == [2, 0]
    directions = np.array([child.direction for child in tree.children(0)])
    assert sorted(directions.argmax(axis=1)) == [0, 1]
    for child in tree.children(0):
        assert set(kind.reshape(-1)[list(child.examples)]) == {int(np.argmax(child.direction))}
        assert child.layer == "early"


def test_the_automatic_trigger_splits_the_merged_concept_and_leaves_the_other_whole():
    tree = grow_tree(TwoTextures(), _images()[0], np.eye(2, dtype=np.float32))
    assert [len(tree.children(i)) for i in (0, 1)] == [2, 0]
    assert tree.nodes[1].reason in {"coherent", "one part"}
    assert tree.nodes[0].spread > 0.5


def test_members_are_the_rows_from_the_90th_percentile_on():
    images, _ = _images()
    tree = grow_tree(TwoTextures(), images, np.eye(2, dtype=np.float32), concepts=[])
    levels, positions = levels_of(TwoTextures(), images, [], unit="position", batch_size=32)
    u = levels[0].rows[:, 0]
    assert positions == 16
    assert tree.nodes[0].n_members == int((u >= np.percentile(u, 90)).sum())
    assert tree.nodes[0].threshold == pytest.approx(np.percentile(u, 90), rel=1e-6)
    assert tree.nodes[0].examples[0] == int(np.argmax(u))


def test_crops_are_rows_of_their_own():
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, 1500)
    crops = np.eye(3, dtype=np.float32)[kind][:, :, None, None] * rng.uniform(0.7, 1.3, (1500, 1, 4, 4))
    tree = grow_tree(
        TwoTextures(),
        torch.from_numpy(crops.astype(np.float32)),
        np.eye(2, dtype=np.float32),
        concepts=[0],
        unit="crop",
    )
    assert len(tree.children(0)) == 2
    assert tree.nodes[0].n_images == tree.nodes[0].n_members


def test_a_concept_of_one_kind_is_not_split_even_when_asked():
    rng = np.random.default_rng(0)
    early = rng.uniform(0.7, 1.3, (900, 1)) * np.array([[1.0, 0.5, 0.2]]) + 0.01 * rng.random((900, 3))
    tree = grow_tree_from_rows([Level("late", early[:, :1]), Level("early", early)], np.ones((1, 1)), concepts=[0])
    assert tree.depth == 0
    assert tree.nodes[0].reason == "one part"


@pytest.mark.parametrize("n_kinds", [1, 2, 3])
def test_kinds_that_share_most_of_their_activations_are_split_by_the_automatic_trigger(n_kinds):
    rng = np.random.default_rng(0)
    kinds = rng.random((n_kinds, 20)) ** 3 + 0.5
    member = rng.integers(n_kinds, size=2000)
    early = (kinds[member] + 0.05 * rng.random((2000, 20))) * rng.uniform(0.7, 1.3, (2000, 1))
    levels = [Level("late", early.sum(axis=1, keepdims=True)), Level("early", early)]
    groups = np.arange(2000) // 10
    tree = grow_tree_from_rows(levels, np.ones((1, 1)), groups=groups, rule=RecursionRule(percentile=0, max_depth=1))
    assert len(tree.children(0)) == (n_kinds if n_kinds > 1 else 0)
    assert n_kinds == 1 or 0.25 < tree.nodes[0].spread < 0.5


def test_one_kind_in_strong_noise_is_tried_and_stays_whole():
    rng = np.random.default_rng(0)
    amount = rng.gamma(2, 0.5, size=(1500, 1))
    early = amount * (rng.normal(size=40) + 0.5 * rng.normal(size=(1500, 40)))
    levels = [Level("late", amount), Level("early", early)]
    tree = grow_tree_from_rows(levels, np.ones((1, 1)), groups=np.arange(1500) // 10, rule=RecursionRule(percentile=50))
    assert tree.nodes[0].spread > 0.25
    assert (tree.depth, tree.nodes[0].reason) == (0, "one part")


def test_the_stops_hold():
    images, _ = _images(n=30)
    W = np.eye(2, dtype=np.float32)
    few = grow_tree(TwoTextures(), images, W, concepts=[0], rule=RecursionRule(min_members=49))
    assert few.depth == 0
    assert few.nodes[0].reason == "48 members, 49 needed"
    assert grow_tree(TwoTextures(), images, W, concepts=[0], rule=RecursionRule(max_depth=0)).depth == 0
    three = grow_tree(TwoTextures(), images, W, concepts=[0], rule=RecursionRule(n_children=3, min_members=20))
    assert len(three.children(0)) == 3


def test_with_an_independent_embedding_coherence_alone_decides():
    images, kind = _images()
    kinds = kind.reshape(-1)
    W = np.eye(2, dtype=np.float32)
    whole = grow_tree(TwoTextures(), images, W, embed=lambda rows: np.eye(2)[(kinds[rows] == 2).astype(int)])
    assert len(whole.children(0)) == 0
    assert whole.nodes[0].reason == "coherent"
    random = np.random.default_rng(0).normal(size=(len(kinds), 16))
    assert len(grow_tree(TwoTextures(), images, W, embed=lambda rows: random[rows]).children(0)) == 2


def test_a_concept_of_few_images_stays_whole():
    images, _ = _images()
    rule = RecursionRule(min_images=1000)
    tree = grow_tree(TwoTextures(), images, np.eye(2, dtype=np.float32), concepts=[0], rule=rule)
    assert tree.nodes[0].reason.endswith("images, 1000 needed")


def test_earlier_layers_are_chosen_by_depth_and_must_exist():
    assert [point.name for point in earlier_layers(TwoTextures())] == ["early"]
    model = TwoTextures()
    model.cut_points = (TwoTextures.layer,)
    with pytest.raises(LayerError, match="before 'late'"):
        earlier_layers(model)


def test_concepts_that_do_not_exist_are_refused():
    with pytest.raises(UserError, match="between 0 and 1"):
        grow_tree(TwoTextures(), _images(n=4)[0], np.eye(2), concepts=[2])


def test_rank_one_error_of_two_equal_orthogonal_groups():
    assert rank_one_error(np.repeat(np.eye(2), 50, axis=0)) == pytest.approx(np.sqrt(0.5))
    assert rank_one_error(np.zeros((3, 2))) == 0.0
