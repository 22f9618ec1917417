"""How many concepts: a dictionary that misses what decides the class loses its margin, however well it explains."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from conceptatlas.audit.context import Settings
from conceptatlas.audit.directions import MarginKept, telling, told_apart
from conceptatlas.concepts import choose_n_components
from conceptatlas.extraction import Features


def planted(n=30, positions=16, seed=0):
    """Two strong parts that every class has, and a weak one that the class's logit reads."""
    rng = np.random.default_rng(seed)
    held = rng.gamma(1.0, size=(n, positions, 3)) * np.array([10.0, 8.0, 1.0])
    held[..., 2] *= rng.random((n, 1)) * 2
    directions = np.kron(np.eye(3), np.ones(4))
    rows = held @ directions + rng.random((n, positions, 12)) * 0.05
    weights = torch.zeros(12, 2)
    weights[8:, 0] = 1.0
    head = SimpleNamespace(head=lambda features: features.positions.mean(1) @ weights)
    features = Features(torch.tensor(rows, dtype=torch.float32), None, (4, 4))
    return head, features, rows.reshape(-1, 12).astype(np.float32)


def test_activations_as_they_are_keep_the_margin():
    head, features, rows = planted()
    assert MarginKept.of(head, features, 0)(rows) == pytest.approx(1, abs=1e-5)


def test_without_what_decides_the_margin_is_lost():
    head, features, rows = planted()
    blunt = rows.copy()
    blunt[:, 8:] = rows[:, 8:].mean()
    assert MarginKept.of(head, features, 0)(blunt) < 0.2


def test_margins_that_do_not_vary_ask_for_nothing():
    head, features, rows = planted()
    kept = MarginKept.of(head, features.replace(positions=features.positions[:1].expand(30, -1, -1)), 0)
    assert kept(rows) == 1.0


def test_a_weak_part_that_decides_the_class_is_counted():
    head, features, rows = planted()
    groups = np.repeat(np.arange(30), 16)
    blind = choose_n_components(rows, candidates=(2, 3), groups=groups).curve.set_index("n_components")["score"]
    seeing = choose_n_components(rows, candidates=(2, 3), groups=groups, keep=MarginKept.of(head, features, 0))
    assert blind[3] - blind[2] < 0.1
    assert seeing.n_components == 3


def mixed(n=80, positions=16, seed=0, followed=True):
    """Activations of two parts that all images have and a tag that half of them have; the class follows the tag.

    The first of two dictionaries has the tag and the second part as one direction, the second has three.
    """
    rng = np.random.default_rng(seed)
    tagged, label = rng.random(n) < 0.5, rng.random(n) < 0.5
    held = rng.gamma(2.0, size=(n, positions, 3))
    held[..., 2] *= tagged[:, None] * (rng.random((n, positions)) < 0.2)
    features = Features(torch.tensor(held @ np.eye(3, 12), dtype=torch.float32), None, (4, 4))
    predicted = np.where(rng.random(n) < 0.9, tagged if followed else label, label)
    images = pd.DataFrame({"predicted_index": predicted.astype(int), "label_index": label * 1.0})

    def take(rows):
        return features.replace(positions=features.positions[torch.as_tensor(np.asarray(rows))])

    context = SimpleNamespace(
        settings=Settings(candidates=(2, 3)), images=images, split=SimpleNamespace(device="cpu"), features=take,
        blocks=lambda rows: [(rows, take(rows))],
    )  # fmt: skip
    blunt = np.eye(3, 12)[:2] + 0.7 * np.eye(3, 12)[2] * np.array([[0], [1]])
    return context, blunt / np.linalg.norm(blunt, axis=1, keepdims=True), np.eye(3, 12)


def test_a_dictionary_that_has_the_tag_tells_what_the_class_follows():
    context, blunt, fine = mixed()
    assert told_apart(context, 1, fine) > 0.85
    assert told_apart(context, 1, blunt) < 0.8


def test_where_predictions_are_labels_there_is_nothing_to_tell():
    context, _, fine = mixed(followed=False)
    assert np.isnan(told_apart(context, 1, fine))


@pytest.mark.parametrize(("first", "tried"), [("blunt", [3]), ("fine", [])])
def test_the_larger_dictionary_is_fitted_only_where_the_chosen_one_does_not_tell(first, tried):
    context, blunt, fine = mixed()
    fitted = []

    def fit(k):
        fitted.append(k)
        return fine

    chosen = blunt if first == "blunt" else fine
    found = telling(chosen, len(chosen), 3, fit, lambda one: told_apart(context, 1, one))
    assert found is fine
    assert fitted == tried


def test_a_larger_dictionary_that_tells_no_better_is_not_taken():
    context, blunt, _ = mixed()
    bad = np.eye(3, 12)[[0, 1, 1]]
    assert telling(blunt, len(blunt), 3, lambda k: bad, lambda one: told_apart(context, 1, one)) is blunt
