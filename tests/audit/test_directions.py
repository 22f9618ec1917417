"""How many concepts: a dictionary that misses what decides the class loses its margin, however well it explains."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from conceptatlas.audit.directions import MarginKept
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
