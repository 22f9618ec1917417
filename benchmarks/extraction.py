"""Extraction against a bare loop, against crops as CRAFT's code makes them, and its memory over ten times the images.

``OMP_NUM_THREADS=1 python benchmarks/extraction.py [--quick] [--device cpu] [--models NAME ...] [--parts memory loop crops]``.
Times are CPU seconds of the whole process (wall seconds on a GPU), writing and checksums included; the alternatives take turns in one process.
Memory is the high-water mark of a process of its own. Weights are random: they change neither.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from conceptatlas.extraction import CropSpec, FolderSource, ListSource, Preprocess, extract, load_model, split
from conceptatlas.extraction.crops import cut_crops

MODELS = ("resnet18", "deit_tiny_patch16_224", "convnext_atto", "resnet50")
PARTS = ("memory", "loop", "crops")
BATCH = 16


def photographs(count: int, size: int, seed: int = 0) -> list[Image.Image]:
    """Return smooth random pictures."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, size=(count, 8, 8, 3), dtype=np.uint8)
    return [Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC) for pixels in coarse]


def seconds(work: Callable[[], object], device: str) -> float:
    """Return the CPU seconds of all threads that a call takes; the wall seconds where another device computes."""
    now = time.process_time if device == "cpu" else time.perf_counter
    start = now()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return now() - start


def bare_loop(model: torch.nn.Module, images: list[Image.Image], preprocess: Preprocess, device: str) -> None:
    """Run the whole model over batches of decoded images, and keep nothing."""
    with torch.inference_mode():
        for start in range(0, len(images), BATCH):
            model(torch.stack([preprocess(image) for image in images[start : start + BATCH]]).to(device))


def against_bare_loop(name: str, n_images: int, repeats: int, device: str) -> float:
    """Return images per CPU second of extraction over those of a bare loop (median over paired repeats)."""
    torch.manual_seed(0)
    model = load_model(name, pretrained=False).eval().to(device)
    preprocess = Preprocess.for_model(model)
    images = photographs(n_images, preprocess.size[0])
    source, halves = ListSource(images), split(model, "auto", probe=torch.randn(8, 3, *preprocess.size).to(device))
    bare_loop(model, images[:BATCH], preprocess, device)
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(repeats):
            bare = seconds(lambda: bare_loop(model, images, preprocess, device), device)
            store = Path(folder) / str(turn)
            ours = seconds(lambda store=store: extract(halves, source, preprocess, store, batch_size=BATCH), device)
            ratios.append(bare / ours)
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
    print(f"{name:24} {halves.layer.name:16} {n_images / bare:7.2f} bare, {n_images / ours:7.2f} ours, ", end="")
    print(f"ratio {statistics.median(ratios):.3f} ({spread})", flush=True)
    return statistics.median(ratios)


def official_crops(halves: object, images: torch.Tensor) -> None:
    """Encode CRAFT's crops as its code makes them: 64 pixels at a stride of 51, border not covered, resized to 224."""
    starts = range(0, images.shape[-1] - 64 + 1, 51)
    boxes = np.array([(left, top, left + 64, top + 64) for top in starts for left in starts])
    crops = cut_crops(images, boxes, size=(224, 224))
    with torch.inference_mode():
        for part in crops.split(BATCH):
            halves.encode(part)  # type: ignore[attr-defined]


def against_crops(name: str, n_images: int, device: str) -> float:
    """Return images per CPU second of extraction (by position) over those of official-style crops."""
    torch.manual_seed(0)
    model = load_model(name, pretrained=False).eval().to(device)
    preprocess = Preprocess((224, 224), 1.0, "bilinear")
    images, layer = photographs(n_images, 224), split(model, "auto", probe=torch.randn(8, 3, 224, 224).to(device)).layer
    halves = split(model, layer.name, input_size=(224, 224))
    batch = torch.stack([preprocess(image) for image in images]).to(device)
    with torch.inference_mode():
        halves.encode(batch)
    source = ListSource(images)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        ours = min(
            seconds(lambda turn=turn: extract(halves, source, preprocess, store / turn, batch_size=BATCH), device)
            for turn in "ab"
        )
        crops = seconds(lambda: official_crops(halves, batch), device)
        spec = CropSpec(64, 0.2)
        covering = seconds(lambda: extract(halves, source, preprocess, store / "crops", crops=spec), device)
    print(f"{name:24} {crops / ours:5.1f} times official-style crops (16 per image, encoder alone); ", end="")
    print(f"our crops, which cover the border (25), take {covering / crops:.2f} of theirs", flush=True)
    return crops / ours


def peak_memory(n_images: int, folder: Path) -> int:
    """Return the high-water mark in kB of a process that extracts so many images from disk."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        if status:
            raise RuntimeError(f"the run over {n_images} images failed")
        return int((folder / f"{n_images}.txt").read_text())
    torch.set_num_threads(1)
    torch.manual_seed(0)
    halves = split(load_model("test_resnet", pretrained=False, num_classes=10), "auto", input_size=(64, 64))
    source = FolderSource(folder / f"images-{n_images}")
    extract(halves, source, Preprocess((64, 64)), folder / f"store-{n_images}")
    lines = Path("/proc/self/status").read_text().splitlines()
    (folder / f"{n_images}.txt").write_text(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
    os._exit(0)


def memory_growth(small: int, large: int) -> float:
    """Return the peak memory over `large` images divided by that over `small`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = photographs(100, 80)
        for count in (small, large):
            (folder / f"images-{count}").mkdir()
            for number in range(count):
                pictures[number % 100].save(folder / f"images-{count}" / f"{number:05d}.jpg")
        peaks = [peak_memory(count, folder) for count in (small, large)]
    print(f"peak memory: {peaks[0] / 1024:.0f} MB for {small}, {peaks[1] / 1024:.0f} MB for {large} images, ", end="")
    print(f"ratio {peaks[1] / peaks[0]:.3f}", flush=True)
    return peaks[1] / peaks[0]


def main() -> None:
    """Measure all three."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few images, one small model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--models", nargs="*", default=MODELS)
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS)
    arguments = parser.parse_args()
    names = ["resnet18"] if arguments.quick else arguments.models
    if (
        "memory" in arguments.parts and hasattr(os, "fork") and sys.platform.startswith("linux")
    ):  # first: the children inherit what this process holds
        memory_growth(*((100, 400) if arguments.quick else (1_000, 10_000)))
    for name in names if "loop" in arguments.parts else ():
        against_bare_loop(name, 32 if arguments.quick else 96, 2 if arguments.quick else 3, arguments.device)
    for name in names[:2] if "crops" in arguments.parts else ():
        against_crops(name, 4 if arguments.quick else 8, arguments.device)


if __name__ == "__main__":
    main()
