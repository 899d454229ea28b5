"""Search in a folder of images: indexing, an update of one per cent, a restart, queries, memory and disk.

    python -m benchmarks.search --model output/demo_retrieval    # 10,000 drawn images
    python -m benchmarks.search --base                           # 100 images, a base model with random weights
    python -m benchmarks.search --quick

Seconds on the clock and, in `.._cpu`, of the processor over all threads, which other work on the machine changes less.
`query_k` ranks the k closest by their kept states; `encoding_k` by images that are opened and encoded again. With
`--base` states and embeddings are random numbers, since to encode 100 images takes minutes and their values change no
time: it measures the ranking, with a text of 10 tokens (`--query` for another; `query_tokens` counts them).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
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
from modeling_albef.kept_images_albef import KeptImages
from modeling_albef.packed_fusion_albef import match_images
from processing import AlbefImageProcessor, AlbefProcessor, build_tokenizer

QUERIES = 16
QUERY = "two dogs play with a ball on a beach"
KS = (0, 16, 100)
PART = 4000  # images that are drawn with one seed
SIDE = 128  # pixels of a drawn image
make_pipeline: Any = pipeline  # whose overloads know the library's own tasks alone


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and report."""
    parser = arguments(__doc__)
    parser.add_argument("--model", help="retrieval model; default: a small one with random weights")
    parser.add_argument("--base", action="store_true", help="a base model at 384 pixels, with random weights")
    parser.add_argument("--query", default=QUERY, help="the query of a base model; its words are in the vocabulary")
    parser.add_argument("--images", type=int, help="number of images; default: 10,000, with --base 100")
    options = parser.parse_args(argv)
    count = options.images or (120 if options.quick else 100 if options.base else 10_000)
    with tempfile.TemporaryDirectory(prefix="albef_search_") as place:
        folder = Path(place)
        model = options.model or str(save_model(folder / "model", options.query if options.base else None))
        captions = draw(folder / "photos", 0, count)
        report({f"{count} images": measure(model, folder, captions, options)}, options.output)


def measure(model: str, folder: Path, captions: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures."""
    photos, kept = folder / "photos", folder / "index"
    queries = [options.query] if options.base else captions[:QUERIES]
    search = make_pipeline("image-text-retrieval", model=model)
    figures: dict[str, Any] = {}
    if options.base:
        fill(search, photos, kept)
    reset_peak()
    timed(figures, "indexing", lambda: search.index_images(photos, keep_in=kept))
    if not options.base:
        figures["images_per_cpu_second"] = len(captions) / figures["indexing_cpu"]
    figures["indexing_peak_mb"] = peak_megabytes()
    figures["disk_mb_an_image"] = sum(path.stat().st_size for path in kept.rglob("*.*")) / 1e6 / len(captions)
    if not options.base:
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
        one_by_one, together = partial(ask_one_by_one, search, queries, k), partial(search, queries, k=k)
        several(figures, f"query_k{k}", one_by_one, options.runs, len(queries))
        if len(queries) > 1:
            several(figures, f"query_k{k}_batched", together, options.runs, len(queries))
    figures["search_peak_mb"] = peak_megabytes()
    if options.base:
        figures["query_tokens"] = len(search.processor(text=queries[0])["input_ids"])
        figures["max_score_difference"] = rounding_error(search, queries[0])
        return figures
    index = search.index
    found = {one["image"]: one["score"] for one in search(queries[0], k=16, top_k=16)}
    index.kept = None
    timed(figures, "encoding_k16", lambda: search(queries[0], k=16))
    plain = {one["image"]: one["score"] for one in search(queries[0], k=16, top_k=16)}
    figures["max_score_difference"] = max(abs(found[name] - plain[name]) for name in plain)
    figures["spread_of_scores"] = float(np.std(list(plain.values())))
    return figures


def ask_one_by_one(search: Any, queries: list[str], k: int) -> None:
    """Run queries, each by itself."""
    for query in queries:
        search(query, k=k)


def timed(figures: dict[str, Any], name: str, function: Callable[[], Any]) -> Any:
    """Add the seconds of a call, and return its result."""
    start, cpu = time.perf_counter(), time.process_time()
    result = function()
    figures[name], figures[f"{name}_cpu"] = time.perf_counter() - start, time.process_time() - cpu
    return result


def several(figures: dict[str, Any], name: str, function: Callable[[], Any], runs: int, count: int) -> None:
    """Add the seconds a query of a call with `count` queries, the median of several runs."""
    found: list[dict[str, float]] = []
    for _ in range(runs):
        found.append({})
        timed(found[-1], name, function)
    figures |= {key: statistics.median(one[key] for one in found) / count for key in found[0]}


def fill(search: Any, photos: Path, folder: Path) -> None:
    """Keep random states and embeddings for the images of a folder."""
    config = search.model.config
    tokens = 1 + (config.vision_config.image_size // config.vision_config.patch_size) ** 2
    random = torch.Generator().manual_seed(0)

    def encode(images: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        embeds = torch.randn(len(images), config.projection_dim, generator=random)
        states = torch.randn(len(images), tokens, config.vision_config.hidden_size, generator=random)
        return torch.nn.functional.normalize(embeds, dim=1), states

    names = sorted(map(str, photos.iterdir()))
    kept = KeptImages(folder, search._fingerprint(True))
    kept.update(names, lambda name: name, encode)


@torch.no_grad()
def rounding_error(search: Any, query: str) -> float:
    """Return the largest difference of a score that float16 makes, of 16 images."""
    names = search.index.names[:16]
    states = search.index.kept.states_of(names).float()
    exact = states + (torch.rand_like(states) - 0.5) * states.abs() * 2.0**-10  # what may have been rounded so
    inputs = search.processor(text=[query], return_tensors="pt")
    text = search.model.get_text_features(**inputs).last_hidden_state.expand(len(names), -1, -1)
    mask = inputs["attention_mask"].expand(len(names), -1)
    scores = [match_images(search.model, text, mask, one)[:, 1] for one in (states, exact)]
    return float((scores[0] - scores[1]).abs().max())


def draw(folder: Path, start: int, count: int) -> list[str]:
    """Draw images of shapes, each with other content, and return a caption of each."""
    folder.mkdir(exist_ok=True)
    captions = []
    for part in range(0, count, PART):  # a part has no two images alike; more scenes than these do not
        seed = start + part
        for number, scene in enumerate(islice(draw_scenes(seed, "test", PART), min(PART, count - part))):
            image = draw_image(scene, SIDE, random_stream(seed, "test", number, IMAGE))
            image.save(folder / f"{seed:06}_{number:04}.png")
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


def save_model(folder: Path, query: str | None = None) -> Path:
    """Save a model with random weights, a small one or a base model for a query, and its processor."""
    is_base = query is not None
    words = [caption for scene in islice(draw_scenes(0, "train", 200), 200) for caption in all_captions(scene)]
    words += [query] if query is not None else []
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
