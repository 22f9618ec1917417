"""Are the total Sobol indices right, and what do they cost beside the published estimator?

``python benchmarks/importance.py [--only equal coverage demo-cnn demo-vit deit] [--images 4] [--reference 4096]``

- equal: 25 concepts of equal effect; largest over smallest index at 32 designs.
- coverage: share of intervals that hold the truth, over seeded trials, on affine and on bending functions.
- demo-cnn (layer 3), demo-vit, deit (block 8; needs ``CONCEPTATLAS_REAL_DATA``): k = 25 concepts under a head that is not
  affine, against Jansen's estimator with `--reference` scrambled Sobol designs, in scrambles of 512 (how far their mean
  may be off is the column "reference tv"). Where activations have signs, every method weighs concepts against the mean
  activation in their place, as audits do. A differentiated evaluation counts as three passes. References are kept in
  `--cache`, since they take 26 passes a design.

``--quick`` is a smoke run: one image, 64 designs of reference, few trials.
"""

from __future__ import annotations

import argparse
import os
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr

from conceptatlas.concepts import make_factorizer, nnls
from conceptatlas.demo import demo_config, demo_models, load_demo_model, make_split
from conceptatlas.extraction import FolderSource, Preprocess, load_model, split
from conceptatlas.importance import ConceptImportance, concept_importance, total_sobol
from conceptatlas.importance.recomposition import select

K = 25
PUBLISHED_PASSES = 32 * (K + 2)
REFERENCE_PART = 512
METHODS: dict[str, dict] = {
    "auto": {},
    "auto, 16": {"n_designs": 16},
    "auto, 32": {"n_designs": 32},
    "jansen, 32": {"method": "jansen"},
    "published": {"method": "craft"},
}


@dataclass(frozen=True)
class Setting:
    """Images of one class, decomposed at a layer whose head is not affine; `typical` is None where nothing is below 0."""

    name: str
    split_model: object
    features: object
    U: torch.Tensor
    W: torch.Tensor
    target: int
    typical: torch.Tensor | None

    def importance(self, **options: Any) -> ConceptImportance:
        """Return the concepts' importance by the method that the options name."""
        return concept_importance(
            self.split_model, self.features, self.U, self.W, self.target, typical=self.typical, **options
        )


def decompose(name: str, model: torch.nn.Module, layer: str, images: torch.Tensor, target: int, n: int) -> Setting:
    """Fit the concepts to the images that are predicted as the class, and keep the first `n`."""
    cut = split(model, layer, input_size=tuple(images.shape[-2:]))
    with torch.inference_mode():
        images = images[model(images).argmax(1) == target]
        features = cut.encode(images)
    A = features.positions.flatten(0, 1)
    factorizer = make_factorizer("auto", K, signed=bool(cut.layer.signed), seed=0).fit(A.numpy())
    W = torch.as_tensor(factorizer.components_, dtype=torch.float32)
    first = select(features, torch.arange(min(n, len(images))))
    typical = A.mean(dim=0) if (A < 0).any() else None
    return Setting(name, cut, first, nnls(first.positions.clone(), W), W, target, typical)


def demo_setting(kind: str, n: int) -> Setting:
    """Scenes of the demo's first class, at layer 3 of the CNN or at the chosen layer of the ViT."""
    model = load_demo_model(kind).requires_grad_(False)
    prepare = Preprocess.for_model(model)
    scenes = make_split(demo_config(kind), "test", 240)
    images = torch.stack([prepare(scenes[i].image) for i in np.flatnonzero(scenes.labels == 0)])
    layer = "auto"
    if kind == "cnn":
        points = split(model, "auto", input_size=tuple(images.shape[-2:])).cut_points
        layer = next(point.name for point in reversed(points) if "stages.2" in point.name or "layer3" in point.name)
    return decompose(f"demo-{kind}", model, layer, images, 0, n)


def deit_setting(real: Path, n: int) -> Setting:
    """Photographs of bees at block 8 of DeiT-tiny."""
    model = load_model("deit_tiny_patch16_224", checkpoint=real / "deit_tiny_patch16_224.fp16.safetensors")
    prepare = Preprocess.for_model(model)
    source = FolderSource(real / "hymenoptera" / "train" / "bees")
    images = torch.stack([prepare(source[i].image) for i in range(60)])
    return decompose("deit", model.requires_grad_(False), "blocks.8", images, 309, n)


def settings(only: list[str], n: int) -> Iterator[Setting]:
    """Every setting that is asked for and can be built here."""
    for kind in ("cnn", "vit"):
        if f"demo-{kind}" in only and kind in demo_models():
            yield demo_setting(kind, n)
    real = os.environ.get("CONCEPTATLAS_REAL_DATA")
    if real and "deit" in only:
        yield deit_setting(Path(real), n)


def reference(setting: Setting, n_designs: int, cache: Path | None) -> np.ndarray:
    """Long references of the first images, ``(scrambles, B, k)``: one for each scramble of at most 512 designs."""
    sizes = [REFERENCE_PART] * (n_designs // REFERENCE_PART) or [n_designs]
    return np.stack([_reference_part(setting, size, 12345 + seed, cache) for seed, size in enumerate(sizes)])


def _reference_part(setting: Setting, n_designs: int, seed: int, cache: Path | None) -> np.ndarray:
    """Jansen's estimate ``(B, k)`` on one scramble, from the cache where it is there."""
    weighed = [part for part in (setting.W, setting.features.positions, setting.typical) if part is not None]
    digest = zlib.crc32(b"".join(part.numpy().tobytes() for part in weighed))
    kept = cache / f"{setting.name}-{n_designs}-{seed}-{digest:08x}.npy" if cache else None
    if kept and kept.is_file():
        return np.load(kept)
    with torch.inference_mode():
        local = setting.importance(method="jansen", n_designs=n_designs, seed=seed).local
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.save(kept, local)
    return local


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's coefficient; what is below the rounding of float32 is as small as anything else below it."""
    return float(spearmanr(first.round(6), second.round(6)).statistic)


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Total-variation distance of two normalised sets of indices."""
    return float(np.abs(first / first.sum() - second / second.sum()).sum() / 2)


def compare(setting: Setting, n_designs: int, cache: Path | None) -> pd.DataFrame:
    """Hold each method against the reference, image by image."""
    scrambles, rows = reference(setting, n_designs, cache), []
    truth = scrambles.mean(axis=0)
    noise = [_spread(each) for each in scrambles.swapaxes(0, 1)]
    for label, options in METHODS.items():
        started = time.perf_counter()
        found = setting.importance(**options)
        seconds = (time.perf_counter() - started) / len(truth)
        passes = (found.n_evaluations + 2 * found.n_gradients) / len(truth)
        rho = [rank_correlation(a, b) for a, b in zip(found.local, truth, strict=True)]
        tv = [distance(a, b) for a, b in zip(found.local, truth, strict=True)]
        inside = (found.local_low <= truth) & (truth <= found.local_high)
        rows.append(
            {
                "setting": setting.name,
                "method": f"{label} ({found.method})",
                "passes": round(passes, 1),
                "of published": round(passes / PUBLISHED_PASSES, 3),
                "rho mean": np.mean(rho),
                "rho min": np.min(rho),
                "tv mean": np.mean(tv),
                "tv max": np.max(tv),
                "reference tv": np.mean(noise),
                "class rho": rank_correlation(found.total, truth.mean(0)),
                "class tv": distance(found.total, truth.mean(0)),
                "covered": np.nan if label == "published" else inside.mean(),
                "s/image": seconds,
            }
        )
    return pd.DataFrame(rows).round(3)


def _spread(scrambles: np.ndarray) -> float:
    """How far the mean of the scrambles ``(s, k)`` may be off: mean distance from it over the root of their number."""
    if len(scrambles) < 2:
        return np.nan
    middle = scrambles.mean(axis=0)
    return float(np.mean([distance(each, middle) for each in scrambles]) / np.sqrt(len(scrambles)))


def equal_concepts(trials: int) -> pd.DataFrame:
    """Largest over smallest index of 25 equal concepts at 32 designs."""
    rows = []
    for label, options in (
        ("jansen, scrambled Halton", {"method": "jansen"}),
        ("jansen, Latin hypercube", {"method": "jansen", "sampler": "latin"}),
        ("published", {"method": "craft"}),
    ):
        totals = [
            total_sobol(lambda m: m.sum(1), K, n_designs=32, seed=seed, **options).total for seed in range(trials)
        ]
        spread = [total.max() / total.min() for total in totals]
        rows.append({"method": label, "max/min median": np.median(spread), "max/min worst": np.max(spread)})
    return pd.DataFrame(rows).round(2)


def bending(k: int) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """Functions whose concepts interact, differentiable by torch."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(k, 32, generator=generator) * torch.linspace(1.5, 0.1, k)[:, None]
    out, slope = torch.randn(32, generator=generator), torch.randn(k, generator=generator)
    size = torch.linspace(0.6, 0.05, k)
    return {
        "affine": lambda m: torch.as_tensor(m) @ slope,
        "product": lambda m: (1 + size * (2 * torch.as_tensor(m) - 1)).prod(1),
        "sigmoid": lambda m: torch.sigmoid(4 * ((torch.as_tensor(m) - 0.5) @ slope)),
        "gelu layer": lambda m: torch.nn.functional.gelu(torch.as_tensor(m) @ weight - 0.5) @ out,
        "relu layer": lambda m: torch.relu(torch.as_tensor(m) @ weight - 0.5) @ out,
    }


def coverage(trials: int, n_reference: int) -> pd.DataFrame:
    """Share of the concepts' intervals that hold the truth; the intervals aim at 95 %."""
    rows = []
    for name, function in bending(12).items():
        truth = total_sobol(
            lambda m, f=function: f(m).numpy(), 12, n_designs=n_reference, method="jansen", seed=99
        ).total
        for method in ("chaos", "jansen"):
            found = [total_sobol(function, 12, method=method, seed=seed) for seed in range(trials)]
            inside = [(each.low <= truth + 1e-6) & (truth <= each.high + 1e-6) for each in found]
            width = np.mean([(each.high - each.low).mean() for each in found]) / truth.mean()
            rows.append({"function": name, "method": method, "covered": np.mean(inside), "relative width": width})
    return pd.DataFrame(rows).round(3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    everything = ["equal", "coverage", "demo-cnn", "demo-vit", "deit"]
    parser.add_argument("--only", nargs="+", choices=everything, default=everything)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--reference", type=int, default=4096)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--cache", type=Path, default=None)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    n_images, n_designs, trials = options.images, options.reference, options.trials
    if options.quick:
        n_images, n_designs, trials = 1, 64, 5
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if "equal" in options.only:
        print(equal_concepts(min(trials, 20)).to_string(index=False), flush=True)
    if "coverage" in options.only:
        print(coverage(trials, max(n_designs, 512)).to_string(index=False), flush=True)
    for setting in settings(options.only, n_images):
        print(compare(setting, n_designs, options.cache).to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
