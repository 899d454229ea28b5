"""Measure how fast one core turns JPEG files into training batches, and where the time goes.

    python -m benchmarks.input_pipeline --quick
    python -m benchmarks.input_pipeline --images FOLDER_OF_JPEGS --output result.json

Times are CPU seconds of one process with one thread, medians over rounds, so a busy machine disturbs them little. Where
torchvision is installed, its transforms are measured in turn with ours: random resized crop, flip, RandAugment, tensor,
normalisation.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from processing import (
    AlbefImageProcessor,
    AlbefProcessor,
    AugmentedDataset,
    RandomAugment,
    RetrievalCollator,
    TrainingAugmentation,
    build_tokenizer,
    open_image,
)
from processing.augmentation import RATIO

CAPTIONS = (
    "A man riding a wave on top of a surfboard.",
    "Two dogs are playing with a red frisbee in the park.",
    "A kitchen with a stove, a sink and a large window.",
    "Several people stand around a table full of food.",
    "A double-decker bus drives down a busy city street.",
)
PUBLISHED_WORKERS = 4  # of salesforce/ALBEF and of the recipes in configs/


def synthesise_photos(folder: Path, count: int, width: int, height: int) -> list[Path]:
    """Write JPEG files with the spectrum of photographs (amplitude falls as 1 / frequency) and a few hard edges."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width)[None] * width)
    paths = []
    for number in range(count):
        noise = np.fft.rfft2(rng.standard_normal((4, height, width))) / np.maximum(frequency, 1)
        grey, *colors = np.fft.irfft2(noise, (height, width))
        pixels = np.stack([grey / grey.std() + 0.4 * color / color.std() for color in colors], -1) * 45 + 120
        for _ in range(12):
            left, top = rng.integers(width), rng.integers(height)
            pixels[top : top + rng.integers(20, height // 2), left : left + rng.integers(20, width // 2)] += (
                rng.uniform(-60, 60, 3)
            )
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def processor_of_size(side: int) -> AlbefProcessor:
    """A processor whose vocabulary knows the captions."""
    return AlbefProcessor(AlbefImageProcessor(size={"height": side, "width": side}), build_tokenizer(CAPTIONS))


def our_stages(
    rows: list[dict[str, Any]], side: int, batch_size: int, scaled_decoding: bool
) -> dict[str, Callable[[], Any]]:
    """The pipeline's steps over all rows, each to be called after the one before."""
    augmentation = TrainingAugmentation(side, scaled_decoding=scaled_decoding)
    augment, augmentation.random_augment = augmentation.random_augment, RandomAugment(num_ops=0)
    processor = processor_of_size(side)
    held: dict[str, list[Image.Image]] = {}

    def decode() -> None:
        held["decoded"] = [open_image(row["image"], augmentation.least_size) for row in rows]

    def crop() -> None:
        rng = np.random.default_rng(0)
        held["cropped"] = [augmentation(image, rng) for image in held["decoded"]]

    def operations() -> None:
        rng = np.random.default_rng(1)
        held["augmented"] = [augment(image, rng) for image in held["cropped"]]

    def pixels() -> None:
        for start in range(0, len(rows), batch_size):
            images = held["augmented"][start : start + batch_size]
            processor.image_processor(images, return_tensors="pt", do_rescale=False, do_normalize=False)

    def text() -> None:
        for start in range(0, len(rows), batch_size):
            captions = [row["caption"] for row in rows[start : start + batch_size]]
            processor(text=captions, padding=True, return_tensors="pt")

    return {"decode": decode, "crop": crop, "operations": operations, "pixels": pixels, "text": text}


def whole_pipeline(rows: list[dict[str, Any]], side: int, batch_size: int, **options: Any) -> Callable[[], Any]:
    """A pass over all batches, as training makes it."""
    dataset = AugmentedDataset(rows, TrainingAugmentation(side, **options))
    collator = RetrievalCollator(
        processor_of_size(side), normalize=False
    )  # as the trainers: they normalize on the device
    loader = DataLoader(dataset, batch_size, collate_fn=collator)
    return lambda: [None for _ in loader]


def torchvision_pipeline(paths: list[Path], side: int, batch_size: int) -> Callable[[], Any]:
    """The same in torchvision's transforms, on Pillow images."""
    from torchvision import transforms

    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(side, (0.5, 1.0), interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.RandAugment(2, 7),
            transforms.ToTensor(),
            transforms.Normalize(AlbefImageProcessor.image_mean, AlbefImageProcessor.image_std),
        ]
    )

    def run() -> None:
        for start in range(0, len(paths), batch_size):
            batch = paths[start : start + batch_size]
            torch.stack([transform(Image.open(path).convert("RGB")) for path in batch])

    return run


def scaled_decoding_differences(paths: list[Path], augmentation: TrainingAugmentation) -> dict[str, Any]:
    """What decoding to a smaller size changes in pixels of 0..255, in the narrowest square crop of each file.

    Beside it, what saving the file once more as JPEG of quality 90 changes.
    """
    share, found = math.sqrt(augmentation.scale[0] * RATIO[0]), []
    for path in paths:
        full, small = open_image(path), open_image(path, augmentation.least_size)
        factor = round(full.width / small.width)
        if factor == 1:
            continue
        again = io.BytesIO()
        full.save(again, "JPEG", quality=90)
        cut = int(share * math.sqrt(small.width * small.height))
        left, top = (small.width - cut) // 2, (small.height - cut) // 2
        box = (left, top, left + cut, top + cut)
        full_box = (factor * left, factor * top, factor * (left + cut), factor * (top + cut))
        crops = [full.crop(full_box), small.crop(box), Image.open(again).crop(full_box)]
        size = (augmentation.image_size, augmentation.image_size)
        exact, scaled, saved = (np.asarray(crop.resize(size, Image.Resampling.BICUBIC), dtype=int) for crop in crops)
        found.append([abs(scaled - exact).mean(), abs(scaled - exact).max(), abs(saved - exact).mean()])
    result: dict[str, Any] = {"files": len(found)}
    if found:
        means = np.array(found).mean(0)
        result |= {"mean": means[0], "max": max(worst for _, worst, _ in found), "mean_max": means[1]}
        result["mean_of_saving_again"] = means[2]
    return {name: float(value) for name, value in result.items()}


def cpu_seconds(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median CPU time of each, all of them measured in turn in every round; the first round does not count."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            taken[name].append(time.process_time() - start)
    return {name: statistics.median(times[1:]) for name, times in taken.items()}


def measure(paths: list[Path], args: argparse.Namespace) -> dict[str, Any]:
    """All figures for a list of JPEG files."""
    rows = [
        {"image": str(path), "caption": CAPTIONS[number % len(CAPTIONS)], "image_id": number}
        for number, path in enumerate(paths)
    ]
    count, side, batch_size = len(rows), args.image_size, args.batch_size
    runs = our_stages(rows, side, batch_size, args.scaled_decoding)
    names = list(runs)
    runs["whole"] = whole_pipeline(rows, side, batch_size, scaled_decoding=args.scaled_decoding)
    if importlib.util.find_spec("torchvision"):
        runs["torchvision"] = torchvision_pipeline(paths, side, batch_size)
    seconds = cpu_seconds(runs, args.rounds)
    staged = sum(seconds[name] for name in names)
    per_second = count / seconds["whole"]
    result: dict[str, Any] = {
        "images": count,
        "median_pixels": statistics.median(Image.open(path).size[0] * Image.open(path).size[1] for path in paths),
        "image_size": side,
        "batch_size": batch_size,
        "workers": args.workers,
        "images_per_second_and_core": per_second,
        "milliseconds_per_image": {name: 1e3 * seconds[name] / count for name in names},
        "share": {name: seconds[name] / staged for name in names},
        "step_seconds_at_which_the_loader_falls_behind": batch_size / (per_second * args.workers),
    }
    if "torchvision" in seconds:
        result["torchvision_images_per_second_and_core"] = count / seconds["torchvision"]
        result["times_torchvision"] = seconds["torchvision"] / seconds["whole"]
    if args.scaled_decoding:
        result["scaled_decoding"] = scaled_decoding_differences(paths, TrainingAugmentation(side))
    return result


def report(result: dict[str, Any]) -> str:
    """The figures as text."""
    lines = [
        f"{result['images']} JPEG files of {result['median_pixels'] / 1e6:.2f} megapixels (median) to "
        f"{result['image_size']} x {result['image_size']}, batches of {result['batch_size']}",
        f"images per second and core: {result['images_per_second_and_core']:.1f}",
    ]
    for name, share in result["share"].items():
        lines.append(f"  {name:<10} {result['milliseconds_per_image'][name]:6.2f} ms  {100 * share:4.1f} %")
    lines.append(
        f"{result['workers']} workers, each on a core of its own, fall behind if a step takes less than "
        f"{result['step_seconds_at_which_the_loader_falls_behind']:.3f} s"
    )
    scaled = result.get("scaled_decoding", {"files": 0})
    if scaled["files"]:
        lines.append(
            f"{scaled['files']:.0f} files are large enough to be decoded to a smaller size.\n"
            f"It changes pixels (0..255) by {scaled['mean']:.2f} on average (saving the file as JPEG once more: "
            f"{scaled['mean_of_saving_again']:.2f}),\nat most by {scaled['mean_max']:.1f} in an average file and "
            f"by {scaled['max']:.0f} in the worst"
        )
    if "times_torchvision" in result:
        lines.append(
            f"torchvision: {result['torchvision_images_per_second_and_core']:.1f} images per second and core; "
            f"ours are {result['times_torchvision']:.2f} times that"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Print the figures, and write them if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of JPEG files; default: synthesised ones")
    parser.add_argument("--count", type=int, default=256, help="files that are used")
    parser.add_argument("--size", type=int, nargs=2, default=(640, 480), help="width and height of synthesised files")
    parser.add_argument("--image_size", type=int, default=384, help="side of the model's images")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=PUBLISHED_WORKERS, help="for which the step time is computed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scaled_decoding", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--quick", action="store_true", help="64 files and 2 rounds: under a minute")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    args = parser.parse_args(argv)
    if args.quick:
        args.count, args.rounds = min(args.count, 64), 2
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if args.images is None:
            paths = synthesise_photos(Path(folder), args.count, *args.size)
        else:
            paths = sorted(path for path in args.images.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
        if not paths:
            parser.error(f"there are no JPEG files in {args.images}")
        result = measure(paths[: args.count], args)
    print(report(result))
    if args.output:
        args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
