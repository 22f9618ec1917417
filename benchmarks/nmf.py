"""Factorizers against scikit-learn, the textbook SemiNMF and scipy: CPU seconds on one thread, medians of pairs.

Run ``python benchmarks/nmf.py`` (quick) or ``--full``; ``CONCEPTATLAS_REAL_DATA`` adds activations of DeiT-tiny (MLP after
the activation, clipped at zero, and block outputs for SemiNMF). Every alternative of a row is measured in this process,
in alternation; peak memory in fresh processes. Times are CPU time of the process, so that a busy machine distorts less.
"""

from __future__ import annotations

# ruff: noqa: E402 (threads are set before the libraries load)
import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from scipy.optimize import nnls as scipy_nnls
from sklearn.cluster import KMeans as ClusterKMeans
from sklearn.decomposition import NMF as SklearnNMF

from conceptatlas.concepts import NMF, SemiNMF, match_components, nnls

torch.set_num_threads(1)
warnings.filterwarnings("ignore")


def planted(n: int, p: int, k: int, *, rank: int | None = None, sparse: bool = True, noise: float = 0.3, seed: int = 0):
    """Low rank plus half-normal noise (in units of the signal's spread); coefficients 60 % zero where ``sparse``."""
    rng = np.random.default_rng(seed)
    rank = rank or k
    W = rng.gamma(0.5, size=(rank, p)).astype(np.float32)
    U = rng.gamma(0.5, size=(n, rank)).astype(np.float32)
    if sparse:
        U *= rng.random((n, rank)) < 0.4
    A = U @ W
    return A + np.abs(rng.standard_normal(A.shape, dtype=np.float32)) * np.float32(noise * A.std()), W


def real_activations(limit: int) -> dict[str, np.ndarray]:
    """Rows of DeiT-tiny's block 8 on bee photographs: ``mlp`` (n, 768), clipped at zero, and ``block`` (n, 192)."""
    root = os.environ.get("CONCEPTATLAS_REAL_DATA")
    if not root:
        return {}
    import timm
    from PIL import Image
    from safetensors.torch import load_file

    model = timm.create_model("deit_tiny_patch16_224").eval()
    weights = load_file(str(Path(root) / "deit_tiny_patch16_224.fp16.safetensors"))
    model.load_state_dict({name: value.float() for name, value in weights.items()})
    view = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    files = sorted((Path(root) / "hymenoptera" / "train" / "bees").iterdir())[: -(-limit // 196)]
    kept: dict[str, list[torch.Tensor]] = {"mlp": [], "block": []}
    block = model.blocks[8]
    block.mlp.act.register_forward_hook(lambda *call: kept["mlp"].append(call[-1][:, 1:].clamp(min=0).flatten(0, 1)))
    block.register_forward_hook(lambda *call: kept["block"].append(call[-1][:, 1:].flatten(0, 1)))
    with torch.inference_mode():
        for file in files:
            model(view(Image.open(file).convert("RGB"))[None])
    return {name: torch.cat(pieces)[:limit].numpy() for name, pieces in kept.items()}


def demo_activations(limit: int) -> np.ndarray:
    """Rows of the demo CNN's last spatial layer on its own scenes, clipped at zero."""
    from conceptatlas.demo import demo_config, load_demo_model, make_split
    from conceptatlas.extraction import Preprocess, split

    model = load_demo_model("cnn")
    preprocess = Preprocess.for_model(model)
    images = torch.stack([preprocess(scene.image) for scene in make_split(demo_config("cnn"), "audit", 400)])
    with torch.inference_mode():
        positions = split(model).encode(images).positions
    return positions.flatten(0, 1).clamp(min=0)[:limit].numpy()


def cpu(function: Callable[[], object]) -> tuple[float, object]:
    """CPU seconds of one call, and what it returned."""
    start = time.process_time()
    found = function()
    return time.process_time() - start, found


def nmf_sets(full: bool) -> Iterator[tuple[str, np.ndarray, int]]:
    """Name, matrix and k of each comparison."""
    sizes = [(5000, 512, 10), (5000, 2048, 25)]
    if full:
        sizes += [(20000, 512, 25), (5000, 2048, 50), (20000, 2048, 25)]
    for n, p, k in sizes:
        yield f"planted sparse {n} x {p}", planted(n, p, k, rank=k * 3 // 2)[0], k
    if full:
        yield "planted dense 5000 x 2048", planted(5000, 2048, 25, sparse=False, noise=1.0)[0], 25
    limit = 19600 if full else 5000
    real = real_activations(limit)
    if real:
        for k in (10, 25, 50) if full else (25,):
            yield f"DeiT MLP {real['mlp'].shape[0]} x 768", real["mlp"], k
    if full:
        demo = demo_activations(limit)
        yield f"demo CNN {demo.shape[0]} x {demo.shape[1]}", demo, 10


def time_to_error(A: np.ndarray, k: int, error: float) -> float:
    """CPU seconds of the shortest of our fits that is at most 0.05 % above ``error``; NaN where none is."""
    for steps in (5, 10, 15, 20, 30, 45, 60, 90, 150):
        seconds, model = cpu(lambda steps=steps: NMF(k, max_iter=steps, tol=0, random_state=0).fit(A))
        if model.reconstruction_err_ <= 1.0005 * error:
            return seconds
    return float("nan")


def compare_nmf(full: bool, repeats: int) -> None:
    """Our NMF against scikit-learn's cd at its defaults, in alternation."""
    print("\nNMF against scikit-learn cd (nndsvda, tol 1e-4, max_iter 200)")
    print(
        f"{'data':28s} {'k':>3s} {'sklearn s':>10s} {'ours s':>8s} {'ratio':>6s} {'error / sklearn':>15s} {'steps':>11s} {'s to its error':>15s}"
    )
    NMF(3, random_state=0).fit(planted(100, 40, 3)[0])  # compile
    errors = []
    for name, A, k in nmf_sets(full):
        pairs = []
        for _ in range(repeats):
            theirs, other = cpu(lambda A=A, k=k: SklearnNMF(k, init="nndsvda", random_state=0).fit(A))
            ours, model = cpu(lambda A=A, k=k: NMF(k, random_state=0).fit(A))
            pairs.append((theirs, ours))
        ratio = statistics.median(a / b for a, b in pairs)
        errors.append(model.reconstruction_err_ / other.reconstruction_err_)
        medians = [statistics.median(column) for column in zip(*pairs, strict=True)]
        steps = f"{other.n_iter_} / {model.n_iter_}"
        print(
            f"{name:28s} {k:3d} {medians[0]:10.2f} {medians[1]:8.2f} {ratio:6.1f} {errors[-1]:15.5f} {steps:>11s} {time_to_error(A, k, other.reconstruction_err_):15.2f}",
            flush=True,
        )
    print(
        f"error / sklearn: median {statistics.median(errors):.5f} (goal 1.001), largest {max(errors):.5f} (goal 1.005)"
    )


def compare_recovery() -> None:
    """Mean matched cosine with a planted dictionary."""
    for k in (8, 25):
        A, W = planted(2000, 400, k, noise=0.05)
        print(
            f"planted dictionary of rank {k}: mean matched cosine {match_components(NMF(k, random_state=0).fit(A).components_, W)[2].mean():.4f}"
        )


def textbook_seminmf(A: np.ndarray, k: int, n_iter: int) -> float:
    """Ding, Li and Jordan (2010) from k-means, Gram-based; returns |A - U W|."""
    U = np.eye(k, dtype=A.dtype)[ClusterKMeans(k, n_init=1, random_state=0).fit_predict(A)] + np.float32(0.2)
    W = np.linalg.solve(U.T @ U + 1e-6 * np.eye(k, dtype=A.dtype), U.T @ A)
    for _ in range(n_iter):
        P, G = A @ W.T, W @ W.T
        up = np.maximum(P, 0) + U @ np.maximum(-G, 0)
        U *= np.sqrt(up / np.maximum(np.maximum(-P, 0) + U @ np.maximum(G, 0), np.float32(1e-9)))
        W = np.linalg.solve(U.T @ U + 1e-6 * np.eye(k, dtype=A.dtype), U.T @ A)
    return float(np.linalg.norm(A - U @ W))


def compare_seminmf(full: bool) -> None:
    """Time to within 0.05 % of the error that the textbook update has after 200 iterations."""
    print("\nSemiNMF: time to within 0.05 % of the error of 200 textbook iterations")
    rng = np.random.default_rng(0)
    W = rng.standard_normal((16, 768), dtype=np.float32)
    A = rng.gamma(0.5, size=(5000, 16)).astype(np.float32) @ W + rng.standard_normal((5000, 768), dtype=np.float32)
    sets = [("planted 5000 x 768", A)]
    real = real_activations(19600 if full else 5000)
    if real:
        sets.append((f"DeiT block {real['block'].shape[0]} x 192", real["block"]))
    SemiNMF(3, random_state=0).fit(A[:200, :40])
    for name, X in sets:
        theirs, error = cpu(lambda X=X: textbook_seminmf(X, 16, 200))
        for steps in (15, 30, 45, 60, 90, 120, 200, 400):
            ours, model = cpu(lambda X=X, steps=steps: SemiNMF(16, max_iter=steps, tol=0, random_state=0).fit(X))
            if model.reconstruction_err_ <= 1.0005 * error:
                break
        reached = "" if model.reconstruction_err_ <= 1.0005 * error else "  (not reached)"
        share = model.reconstruction_err_ / error
        print(
            f"{name:28s} textbook {theirs:.2f} s, ours {ours:.2f} s ({steps} steps): {theirs / ours:.1f}x, error / textbook {share:.5f}{reached}"
        )


def compare_nnls() -> None:
    """Exact coefficients against a loop over scipy's nnls on the components."""
    print("\nExact coefficients against the scipy loop")
    for p, k in ((512, 10), (2048, 25), (2048, 50)):
        A, W = planted(2000, p, k)
        W = W / np.linalg.norm(W, axis=1, keepdims=True)
        nnls(A[:10], W)
        ours, U = cpu(lambda A=A, W=W: nnls(A, W))
        theirs, exact = cpu(
            lambda A=A, W=W: np.array([scipy_nnls(W.T.astype(float), a.astype(float))[0] for a in A[:200]])
        )
        deviation = np.abs(U[:200] - exact).max() / exact.max()
        print(
            f"p {p:5d} k {k:3d}: {1e6 * ours / len(A):7.1f} us per row, scipy {1e6 * theirs / 200:8.1f}: {theirs / 200 / (ours / len(A)):5.1f}x, deviation {deviation:.1e}"
        )


def measure_memory(which: str, n: int) -> None:
    """Print the peak memory above the matrix, in MB, of one fit (run in a fresh process)."""
    rng = np.random.default_rng(0)
    U = rng.gamma(0.5, size=(n, 25)).astype(np.float32)
    W = rng.gamma(0.5, size=(25, 2048)).astype(np.float32)
    A = np.empty((n, 2048), dtype=np.float32)
    for start in range(0, n, 2000):  # in blocks, so that making A does not set the peak
        noise = rng.random((min(2000, n - start), 2048), dtype=np.float32)
        np.add(U[start : start + 2000] @ W, noise, out=A[start : start + 2000])
    small = A[:300].copy()
    fit = {
        "ours": lambda X: NMF(25, random_state=0, max_iter=45).fit(X),
        "sklearn": lambda X: SklearnNMF(25, init="nndsvda", random_state=0, max_iter=10).fit(X),
    }[which]
    fit(small)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fit(A)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def compare_memory(n: int) -> None:
    """Peak memory above the matrix, each in a fresh process."""
    peaks = {}
    for which in ("sklearn", "ours"):
        command = [sys.executable, __file__, "--memory-of", which, "--rows", str(n)]
        peaks[which] = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
    ratio = peaks["ours"] / peaks["sklearn"]
    print(
        f"\nPeak memory above the matrix, {n} x 2048, k 25: sklearn {peaks['sklearn']:.0f} MB, ours {peaks['ours']:.0f} MB: {ratio:.2f}"
    )


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--repeats", type=int, default=None)
    parser.add_argument("--rows", type=int, default=None, help="rows of the memory comparison")
    parser.add_argument("--only", choices=["nmf", "recovery", "seminmf", "nnls", "memory"], default=None)
    parser.add_argument("--memory-of", choices=["ours", "sklearn"], default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        measure_memory(options.memory_of, options.rows)
        return
    parts = {
        "nnls": compare_nnls,
        "recovery": compare_recovery,
        "nmf": lambda: compare_nmf(options.full, options.repeats or (5 if options.full else 1)),
        "seminmf": lambda: compare_seminmf(options.full),
        "memory": lambda: compare_memory(options.rows or (100_000 if options.full else 20_000)),
    }
    for name, part in parts.items():
        if options.only in (None, name):
            part()


if __name__ == "__main__":
    main()
