"""Sweeps: the compiled kernel and the torch loop are one algorithm."""

import pytest
import torch

from conceptatlas.concepts import sweeps as sweeps_module
from conceptatlas.concepts.sweeps import _sweep_torch, few_threads, sweep


@pytest.mark.parametrize(("k", "n"), [(1, 5), (7, 300), (25, 256), (30, 513)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_compiled_kernel_does_what_the_torch_loop_does(k, n, dtype):
    generator = torch.Generator().manual_seed(0)
    W = torch.rand(k, 40, generator=generator, dtype=dtype)
    U, P = torch.rand(k, n, generator=generator, dtype=dtype), 5 * torch.randn(k, n, generator=generator, dtype=dtype)
    before = U.clone()
    found = sweep(U, P, W @ W.T, 2)
    assert torch.allclose(found, _sweep_torch(U.clone(), P, W @ W.T, 2), rtol=1e-3, atol=1e-4)
    assert torch.equal(U, before)
    assert float(found.min()) >= 0


@pytest.mark.parametrize("compiled", [True, False])
def test_several_problems_at_once_are_swept_as_each_alone(compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(sweeps_module, "compiled", lambda: None)
    U, P, W = torch.rand(3, 7, 40), torch.rand(3, 7, 40), torch.rand(3, 7, 20)
    G = W @ W.mT
    expected = [sweep(u, p, g, 2) for u, p, g in zip(U, P, G, strict=True)]
    assert torch.equal(sweep(U, P, G, 2), torch.stack(expected))


def test_a_dead_coordinate_is_left_as_it_is():
    G = torch.tensor([[0.0, 0.0], [0.0, 2.0]])
    assert sweep(torch.tensor([[3.0], [0.0]]), torch.tensor([[9.0], [4.0]]), G, 1).tolist() == [[3.0], [2.0]]


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with few_threads(10):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
