"""Search in a folder of images: indexing, an update of one per cent, a restart, queries, memory and disk.

    python -m benchmarks.search --model output/demo_retrieval    # 10,000 drawn images
    python -m benchmarks.search --base                           # 100 images, a base model with random weights
    python -m benchmarks.search --quick

Seconds on the clock and, in `.._cpu`, of the processor over all threads, which other work on the machine changes less.
`query_k` ranks the k closest by their kept states; `encoding_k` by images that are opened and encoded again.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import pipeline

from benchmarks.measure import arguments, peak_megabytes, report, reset_peak
from dataset_scripts.drawn.scene_texts import all_captions
from dataset_scripts.drawn.scenes import IMAGE, draw_image, draw_scenes, random_stream
from modeling_albef import AlbefConfig, AlbefForImageTextRetrieval
from processing import AlbefImageProcessor, AlbefProcessor, build_tokenizer

QUERIES = 16
KS = (0, 16, 100)
SIDE = 128  # pixels of a drawn image
make_pipeline: Any = pipeline  # whose overloads know the library's own tasks alone


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and report."""
    parser = arguments(__doc__)
    parser.add_argument("--model", help="retrieval model; default: a small one with random weights")
    parser.add_argument("--base", action="store_true", help="a base model at 384 pixels, with random weights")
    parser.add_argument("--images", type=int, help="number of images; default: 10,000, with --base 100")
    options = parser.parse_args(argv)
    count = options.images or (120 if options.quick else 100 if options.base else 10_000)
    with tempfile.TemporaryDirectory(prefix="albef_search_") as place:
        folder = Path(place)
        model = options.model or str(save_model(folder / "model", options.base))
        captions = draw(folder / "photos", 0, count)
        report({f"{count} images": measure(model, folder, captions, options)}, options.output)


def measure(model: str, folder: Path, captions: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures."""
    photos, kept = folder / "photos", folder / "index"
    queries = captions[:QUERIES]
    search = make_pipeline("image-text-retrieval", model=model)
    figures: dict[str, Any] = {}
    reset_peak()
    timed(figures, "indexing", lambda: search.index_images(photos, keep_in=kept))
    figures["images_per_cpu_second"] = len(captions) / figures["indexing_cpu"]
    figures["indexing_peak_mb"] = peak_megabytes()
    figures["disk_mb_an_image"] = sum(path.stat().st_size for path in kept.rglob("*.*")) / 1e6 / len(captions)
    changed = change(photos, len(captions))
    timed(figures, f"update_of_{changed}", lambda: search.index_images(photos, keep_in=kept))
    timed(figures, "update_of_0", lambda: search.index_images(photos, keep_in=kept))
    del search
    reset_peak()

    def restart() -> Any:
        again = make_pipeline("image-text-retrieval", model=model)
        again.load_index(kept)
        return again

    search = timed(figures, "restart", restart)
    timed(figures, "first_query_k100", lambda: search(queries[0], k=100))
    for k in KS:
        several(figures, f"query_k{k}", lambda k=k: [search(query, k=k) for query in queries], options.runs)
        several(figures, f"query_k{k}_batched", lambda k=k: search(queries, k=k), options.runs)
    figures["search_peak_mb"] = peak_megabytes()
    index = search.index
    found = {one["image"]: one["score"] for one in search(queries[0], k=16, top_k=16)}
    index.kept = None
    timed(figures, "encoding_k16", lambda: search(queries[0], k=16))
    plain = {one["image"]: one["score"] for one in search(queries[0], k=16, top_k=16)}
    figures["max_score_difference"] = max(abs(found[name] - plain[name]) for name in plain)
    figures["spread_of_scores"] = float(np.std(list(plain.values())))
    return figures


def timed(figures: dict[str, Any], name: str, function: Callable[[], Any]) -> Any:
    """Add the seconds of a call, and return its result."""
    start, cpu = time.perf_counter(), time.process_time()
    result = function()
    figures[name], figures[f"{name}_cpu"] = time.perf_counter() - start, time.process_time() - cpu
    return result


def several(figures: dict[str, Any], name: str, function: Callable[[], Any], runs: int) -> None:
    """Add the seconds a query of a call with `QUERIES` queries, the median of several runs."""
    found: list[dict[str, float]] = []
    for _ in range(runs):
        found.append({})
        timed(found[-1], name, function)
    figures |= {key: statistics.median(one[key] for one in found) / QUERIES for key in found[0]}


def draw(folder: Path, start: int, count: int) -> list[str]:
    """Draw images of shapes, each with other content, and return a caption of each."""
    folder.mkdir(exist_ok=True)
    captions = []
    for number, scene in enumerate(islice(draw_scenes(start, "test", count), count)):
        draw_image(scene, SIDE, random_stream(start, "test", number, IMAGE)).save(folder / f"{start}_{number:06}.png")
        captions.append(all_captions(scene)[0])
    return captions


def change(folder: Path, count: int) -> int:
    """Remove, replace and add images, one per cent together, and return how many."""
    changed = max(3, count // 100)
    paths = sorted(folder.iterdir())
    draw(folder, 1, changed // 3)  # new names
    for path in paths[: changed // 3]:
        path.unlink()
    replaced = paths[changed // 3 : changed - changed // 3]
    for path, new in zip(replaced, draw_others(len(replaced)), strict=True):
        new.save(path)
    return changed


def draw_others(count: int) -> list[Any]:
    """Return further images."""
    scenes = islice(draw_scenes(2, "test", count), count)
    return [draw_image(scene, SIDE, random_stream(2, "test", n, IMAGE)) for n, scene in enumerate(scenes)]


def save_model(folder: Path, is_base: bool) -> Path:
    """Save a model with random weights and its processor."""
    words = [caption for scene in islice(draw_scenes(0, "train", 200), 200) for caption in all_captions(scene)]
    processor = AlbefProcessor(AlbefImageProcessor(size=384 if is_base else 64), build_tokenizer(words))
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
    small: dict[str, Any] = {
        "projection_dim": 32,
        "vision_config": {**sizes, "image_size": 64, "patch_size": 16},
        "text_config": {**sizes, "num_fusion_layers": 2, "encoder_hidden_size": 64},
    }
    config = AlbefConfig() if is_base else AlbefConfig(**small)
    if is_base:
        config.image_size = 384
    config.text_config.vocab_size = max(config.text_config.vocab_size if is_base else 0, len(processor.tokenizer))
    torch.manual_seed(0)
    AlbefForImageTextRetrieval(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
