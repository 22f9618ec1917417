"""How time and memory of an audit grow with images, features, concepts and classes, and what ImageNet would take.

``OMP_NUM_THREADS=1 python benchmarks/growth.py [--quick] [--device cpu] [--parts images ... overhead projection]``.
Every point is a process of its own: CPU seconds (wall seconds on a GPU) and the peak of the resident memory, by stage.
Images are scenes of the demo; over images one class of the demo's network is fitted, which grows with them; over
features, concepts and classes the model is a wide layer of random filters, whose outputs are scaled so that all classes
are predicted about equally often. `overhead` compares what an audit does beyond
its forward passes with these, for DeiT-tiny on 2,000 images: the photographs in ``CONCEPTATLAS_REAL_DATA``, and mirrored
and cropped copies of them (skipped where that is not set). It is measured for all classes that an audit fits, and for
those of a hundred images and more: part of it is spent on every class, however small.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

STAGES = {  # functions of conceptatlas.audit.classes -> what they are called here
    "fit_directions": "fit",
    "measure_class": "transform",
    "sobol_indices": "importance",
    "locate": "choose map",
    "illustrate": "pictures",
    "measure": "elsewhere",
    "evidence": "evidence",
    "find_strategies": "strategies",
    "slices_of": "slices",
    "image_table": "image table",
}
PARTS = ("images", "features", "concepts", "classes", "overhead", "projection")
FULL = {"images": (1000, 4000, 16000), "features": (64, 256, 1024), "concepts": (5, 10, 20), "classes": (4, 8, 16)}
QUICK = {"images": (200, 400), "features": (32, 64), "concepts": (3, 6), "classes": (2, 4)}
LEAST_IMAGES = (20, 100)  # of a class that is fitted: the default, and classes of hundreds, as ImageNet's are
IMAGENET = {"images": 1_281_167, "classes": 1000}


class Meter:
    """CPU seconds and peak memory by stage; stages within a stage are taken out of it."""

    def __init__(self, device: str) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.peaks: dict[str, float] = defaultdict(float)
        self._inner = [0.0]
        self._now = time.process_time if device == "cpu" else time.perf_counter

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what happens inside as one stage."""
        start = self._now()
        self._inner.append(0.0)
        try:
            yield
        finally:
            took = self._now() - start
            self.seconds[name] += took - self._inner.pop()
            self._inner[-1] += took
            self.peaks[name] = max(self.peaks[name], peak_megabytes())

    def watch(self, module: Any, function: str, name: str) -> None:
        """Count the calls of a function of a module as a stage."""
        inner: Callable[..., Any] = getattr(module, function)

        @wraps(inner)
        def watched(*arguments: Any, **options: Any) -> Any:
            with self.stage(name):
                return inner(*arguments, **options)

        setattr(module, function, watched)


def peak_megabytes() -> float:
    """Return the high-water mark of this process's resident memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Wide(nn.Module):
    """Random filters, their mean, and classes that are predicted about equally often on some images."""

    def __init__(self, n_features: int, n_classes: int, images: torch.Tensor) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.filters = nn.Conv2d(3, n_features, 8, stride=8)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(n_features, n_classes)
        with torch.no_grad():
            self.filters.weight.copy_(torch.randn(self.filters.weight.shape, generator=generator) / 8)
            self.filters.bias.zero_()
            pooled = self.pool(torch.relu(self.filters(images)))
            spread = torch.linalg.svd(pooled - pooled.mean(0), full_matrices=False)
            kept = min(n_features, 16)
            whitened = spread.Vh[:kept] / spread.S[:kept, None]
            self.head.weight.copy_(torch.randn(n_classes, kept, generator=generator) @ whitened)
            scores = self.head.weight @ pooled.T
            self.head.bias.copy_(-scores.mean(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return self.head(self.pool(torch.relu(self.filters(images))))


def write_scenes(folder: Path, count: int) -> None:
    """Write scenes of the demo as class folders."""
    from conceptatlas.demo import write_demo_images

    write_demo_images(folder, n_per_class=-(-count // 8), seed=0)


def write_photographs(folder: Path, real: Path, count: int) -> None:
    """Write photographs, and mirrored and cropped copies, until there are so many."""
    paths = sorted((real / "hymenoptera").rglob("*.jpg"))
    rng = np.random.default_rng(0)
    for i in range(count):
        path = paths[i % len(paths)]
        target = folder / path.parent.name / f"{i:05d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        if i >= len(paths):
            width, height = image.size
            share = rng.uniform(0.7, 1.0)
            left, top = rng.uniform(0, 1 - share, 2) * (width, height)
            image = image.crop((int(left), int(top), int(left + share * width), int(top + share * height)))
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else image
        image.save(target, quality=92)


def subject_of(point: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """Return the model of a point, and options of the audit."""
    if point["model"] == "deit":
        from conceptatlas.extraction import load_model

        weights = Path(os.environ["CONCEPTATLAS_REAL_DATA"]) / "deit_tiny_patch16_224.fp16.safetensors"
        return load_model("deit_tiny_patch16_224", checkpoint=weights), {}
    if point["model"] == "demo":
        from conceptatlas.demo import load_demo_model

        return load_demo_model("cnn"), {"classes": sorted(path.name for path in Path(point["folder"]).iterdir())[:1]}
    from conceptatlas.extraction import FolderSource, Preprocess

    preprocess = Preprocess((96, 96), 1.0, "bilinear")
    source = FolderSource(point["folder"])
    chosen = np.linspace(0, len(source) - 1, 200).astype(int)
    images = torch.stack([preprocess(source[int(i)].image) for i in chosen])
    return Wide(point["features"], point["classes"], images), {"preprocess": preprocess, "layer": "filters"}


def measure_point(point: dict[str, Any]) -> dict[str, Any]:
    """Audit one point in this process and return what each stage took."""
    from conceptatlas.audit import audit, classes, engines, pipeline, request
    from conceptatlas.audit.context import Settings

    model, options = subject_of(point)
    if point["compiled"]:
        _compile_umap()
    meter = Meter(point["device"])
    for function, name in STAGES.items():
        meter.watch(classes, function, name)
    meter.watch(engines, "fit_class", "the rest of a class")
    meter.watch(engines.storage, "save_class", "save")
    meter.watch(pipeline, "extract", "extract")
    meter.watch(request, "_subject", "load and choose layer")
    base = peak_megabytes()
    with tempfile.TemporaryDirectory() as out, meter.stage("the rest"):
        atlas = audit(
            model, point["folder"], out=Path(out) / "run", n_concepts=point["k"], device=point["device"],
            min_images=point.get("min_images", 20), progress=False, settings=Settings(), **options,
        )  # fmt: skip
        fitted = [atlas[name].n_images for name in atlas]
    return {
        **point,
        "seconds": dict(meter.seconds),
        "peaks": dict(meter.peaks),
        "base": base,
        "peak": peak_megabytes(),
        "fitted": fitted,
    }


def _compile_umap() -> None:
    """Run UMAP once, so that what numba compiles is not counted."""
    from conceptatlas.audit.strategies import find_strategies

    rng = np.random.default_rng(0)
    find_strategies(rng.normal(size=(120, 10)).astype(np.float32), np.ones(120), seed=0, umap=True)


def run_point(**point: Any) -> dict[str, Any]:
    """Measure a point in a fresh process."""
    command = [sys.executable, __file__, "--point", json.dumps(point)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def exponent(sizes: list[float], values: list[float]) -> float:
    """Return the slope of log(value) over log(size)."""
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(values, 1e-3)), 1)[0])


def grow(axis: str, sizes: tuple[int, ...], folders: dict[int, Path], device: str) -> list[dict[str, Any]]:
    """Measure the points of one axis and print a table with the fitted exponents."""
    standard = {"model": "wide", "features": 256, "k": 10, "classes": 8, "device": device, "compiled": True}
    smallest = min(folders)
    points = []
    for size in sizes:
        point = {**standard, "folder": str(folders.get(size if axis == "images" else smallest, folders[smallest]))}
        point |= {"model": "demo"} if axis == "images" else {"k" if axis == "concepts" else axis: size}
        points.append(run_point(**point))
        print(f"# {axis} {size}: {sum(points[-1]['seconds'].values()):.1f} s, {points[-1]['peak']:.0f} MB", flush=True)
    stages = sorted({stage for point in points for stage in point["seconds"]})
    print(f"\n{axis}: {', '.join(map(str, sizes))} (seconds by stage; exponent)")
    for stage in stages:
        values = [point["seconds"].get(stage, 0.0) for point in points]
        fitted = f"{exponent(list(sizes), values):6.2f}" if max(values) > 0.5 else "  (small)"
        print(f"  {stage:22s}" + "".join(f"{value:9.2f}" for value in values) + fitted)
    totals = [sum(point["seconds"].values()) for point in points]
    print(f"  {'all':22s}" + "".join(f"{value:9.2f}" for value in totals) + f"{exponent(list(sizes), totals):6.2f}")
    print(f"  {'peak MB':22s}" + "".join(f"{point['peak']:9.0f}" for point in points))
    print(f"  {'classes fitted':22s}" + "".join(f"{len(point['fitted']):9d}" for point in points), flush=True)
    return points


def measure_overhead(folder: Path, device: str, min_images: int) -> dict[str, Any]:
    """Measure the audit of DeiT-tiny and print what it does beyond the forward passes."""
    point = run_point(model="deit", folder=str(folder), k=10, device=device, compiled=True, min_images=min_images)
    seconds = point["seconds"]
    forward = seconds["extract"]
    beyond = sum(seconds.values()) - forward - seconds["load and choose layer"]
    print(f"\noverhead: DeiT-tiny, {sum(point['fitted'])} images in classes of {point['fitted']}, k = 10")
    for stage, value in sorted(seconds.items(), key=lambda item: -item[1]):
        print(f"  {stage:22s}{value:9.2f}")
    print(f"  beyond the forward passes: {beyond:.1f} s = {beyond / forward:.0%} of their {forward:.1f} s", flush=True)
    return point


def project(point: dict[str, Any], n_images: int, gpu_images: float, workers: int) -> None:
    """Print what ImageNet would take: forward passes by the image, all else by the class."""
    seconds, n_fitted = point["seconds"], len(point["fitted"])
    per_image = seconds["extract"] / n_images
    beyond = sum(seconds.values()) - seconds["extract"] - seconds["load and choose layer"]
    forward, per_class = per_image * IMAGENET["images"] / 3600, beyond / n_fitted * IMAGENET["classes"] / 3600
    on_gpu = IMAGENET["images"] / gpu_images / 3600
    print(f"\nImageNet ({IMAGENET['images']:,} images, {IMAGENET['classes']:,} classes), DeiT-tiny, k = 10, in hours")
    print(
        f"  measured: {1000 * per_image:.1f} ms an image, {beyond / n_fitted:.1f} s a class of {point['fitted']} images"
    )
    print(f"  one CPU core                  {forward:8.1f} forward + {per_class:8.1f} classes")
    print(f"  one machine of 16 cores       {forward / 16:8.1f} forward + {per_class / 16:8.1f} classes")
    print(f"  one GPU, 16 cores             {on_gpu:8.2f} forward + {per_class / 16:8.1f} classes")
    print(
        f"  cluster of {workers} such machines  {on_gpu / workers:8.2f} forward + {per_class / 16 / workers:8.1f} classes"
    )
    print(
        f"  assumed: {gpu_images:g} images per second and GPU, reading included; classes on CPU cores; classes of 1,300"
    )
    print("  images cost what those measured here do (transforms grow with images, the rest is bounded by settings);")
    print("  work divides evenly (units: shards of 64 images, single classes)")


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--images", nargs="+", type=int, help="sizes of the first axis, the smallest first")
    parser.add_argument("--photographs", type=int, default=2000, help="images of the overhead")
    parser.add_argument("--gpu-images", type=float, default=1500.0, help="assumed images per second of one GPU")
    parser.add_argument("--workers", type=int, default=8, help="machines of the projected cluster")
    parser.add_argument("--json", type=Path, help="also write all points to this file")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.point:
        print(json.dumps(measure_point(json.loads(given.point))))
        return
    sizes, points = dict(QUICK if given.quick else FULL), []
    if given.images:
        sizes["images"] = tuple(given.images)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        axes = [part for part in given.parts if part in sizes]
        folders = {size: root / str(size) for size in (sizes["images"] if "images" in axes else sizes["images"][:1])}
        for size, folder in folders.items() if axes else ():
            write_scenes(folder, size)
        for axis in axes:
            points += grow(axis, sizes[axis], folders, given.device)
        real = os.environ.get("CONCEPTATLAS_REAL_DATA")
        if real and {"overhead", "projection"} & set(given.parts):
            count = 200 if given.quick else given.photographs
            write_photographs(root / "photographs", Path(real), count)
            points += [measure_overhead(root / "photographs", given.device, least) for least in LEAST_IMAGES]
            project(points[-1], count, given.gpu_images, given.workers)
    if given.json:
        given.json.write_text(json.dumps(points, indent=1))


if __name__ == "__main__":
    main()
