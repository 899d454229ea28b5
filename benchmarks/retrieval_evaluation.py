"""Re-ranking of retrieval candidates: our engine against the published algorithm, same model, same inputs.

    python -m benchmarks.retrieval_evaluation [--quick] [--output results.json]

Base size, 384 pixels, random weights; captions of 8 to 20 tokens, as on COCO. The published algorithm is that of
`published.py`. Cases: 64 texts of one image in float32 and in bfloat16; re-ranking in both directions, which ask for
the same pairs where the gallery is as small as here, metrics compared; memory of evaluations of 100 to 800 images with
room for 50 images' states; and one of COCO's size (5,000 images, 25,010 texts) at tiny width. The last two have
a single vision layer, since the vision tower's cost is another.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import published
from benchmarks.measure import arguments, compare, report, run_once
from modeling_albef import AlbefConfig, AlbefForImageTextRetrieval
from modeling_albef.packed_fusion_albef import Packing, finish_fusion, start_fusion
from modeling_albef.training import RetrievalEvaluator

MAX_LENGTH = 30
SMALL = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}


def make_model(quick: bool, vision_layers: int | None = None) -> AlbefForImageTextRetrieval:
    """A model of base size, or a small one, with random weights."""
    torch.manual_seed(0)
    vision: dict[str, Any] = {} if vision_layers is None else {"num_hidden_layers": vision_layers}
    config = AlbefConfig(vision_config=vision, initializer_range=0.05)
    if quick:
        vision = {**SMALL, "image_size": 64, **vision}
        config = AlbefConfig(vision_config=vision, text_config={**SMALL, "num_fusion_layers": 1}, projection_dim=16)
    return AlbefForImageTextRetrieval(config).eval()


def draw_texts(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask (count, 30) of texts of 8 to 20 tokens."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(8, 21, (count,), generator=generator)
    mask = (torch.arange(MAX_LENGTH) < lengths[:, None]).long()
    return torch.randint(1000, 30_000, (count, MAX_LENGTH), generator=generator) * mask, mask


class Gallery:
    """Images of noise with captions that are the numbers of drawn texts, as a data set gives them."""

    def __init__(self, images: int, captions: int, side: int) -> None:
        self.side, self.images = side, images
        self.captions = [
            [str(t) for t in range(i * captions // images, (i + 1) * captions // images)] for i in range(images)
        ]

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, key: Any) -> Any:
        if key == "caption":
            return self.captions
        pixels = np.random.default_rng(key).integers(0, 256, (self.side, self.side, 3), dtype=np.uint8)
        return {"image": Image.fromarray(pixels), "caption": self.captions[key]}


class DrawnTexts:
    """Replaces a processor: captions are numbers of drawn texts, pixels are scaled to -1 .. 1."""

    def __init__(self, count: int) -> None:
        self.ids, self.mask = draw_texts(count)

    def __call__(self, text: Any = None, images: Any = None, **_: Any) -> dict[str, Any]:
        """Token ids of texts, or pixel values of images."""
        if text is not None:
            return {"input_ids": [self.ids[int(t)][: int(self.mask[int(t)].sum())].tolist() for t in text]}
        pixels = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images])
        return {"pixel_values": pixels.float() / 127.5 - 1}


def one_image(quick: bool, runs: int, dtype: torch.dtype) -> dict[str, float]:
    """64 texts of one image."""
    model = make_model(quick)
    torch.nn.Module.to(model, dtype)  # the library's own declaration takes no type alone
    vision, text_model = model.config.vision_config, model.albef.text_model
    ids, mask = draw_texts(64)
    image = torch.randn(1, 1 + vision.num_patches, vision.hidden_size).to(dtype)
    evaluator = RetrievalEvaluator(model, None)
    with torch.inference_mode():
        texts = published.encode_texts(model, ids, mask)
    packing, lengths = Packing.from_lengths(mask.sum(dim=1)), mask.sum(dim=1)
    store = torch.cat([text[:length] for text, length in zip(texts, lengths.tolist(), strict=True)])
    with evaluator.inference():
        tokens = store[packing.tokens(lengths.cumsum(0) - lengths)].to(model.dtype)
        read = start_fusion(text_model, tokens, packing)

    def ours() -> torch.Tensor:
        with evaluator.inference():
            fused = finish_fusion(text_model, read, packing, text_model.project_images(image.to(model.dtype)))
            return model.itm_head(fused)[:, 1].float()

    @torch.inference_mode()
    def plain() -> torch.Tensor:
        return published.score_texts(model, image[0], texts, mask)[packing.order].float()

    ours()
    return compare(ours, plain, lambda a, b: (a - b).abs().max().item(), runs)


def whole(quick: bool, runs: int) -> dict[str, float]:
    """Re-ranking of a small gallery in both directions; candidates, ranks and metrics must be the same."""
    from modeling_albef.training.evaluation.retrieval_metrics import rank_of_first_match, retrieval_metrics

    num_images, num_texts = (4, 20) if quick else (8, 40)
    model = make_model(quick)
    gallery, processor = Gallery(num_images, num_texts, model.config.vision_config.image_size), DrawnTexts(num_texts)
    evaluator = RetrievalEvaluator(model, processor, k_test=64)
    captions = [caption for row in gallery.captions for caption in row]
    with evaluator.inference():
        encoded_images, encoded_texts = evaluator.encode_images(gallery), evaluator.encode_texts(captions)
    drawn = [gallery[image]["image"] for image in range(num_images)]
    pixels: Any = processor(images=drawn, return_tensors="pt")["pixel_values"]
    owner = torch.tensor([image for image, row in enumerate(gallery.captions) for _ in row])

    def ours() -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
        with evaluator.inference():
            states = dict(encoded_images.states)
            by_image, by_text = evaluator.rank(gallery, replace(encoded_images, states=states), encoded_texts)
        dense = [
            torch.full((len(ranked.ids), width), -100.0).scatter(1, ranked.ids, ranked.scores)
            for ranked, width in ((by_image, num_texts), (by_text, num_images))
        ]
        ranks = rank_of_first_match(owner[by_image.ids] == torch.arange(num_images)[:, None])
        metrics = retrieval_metrics(ranks, rank_of_first_match(by_text.ids == owner[:, None]))
        return dense[0], dense[1], metrics

    with torch.inference_mode():
        albef, normalize = model.albef, torch.nn.functional.normalize
        images = published.encode_images(albef.vision_model, pixels)
        texts = published.encode_texts(model, processor.ids, processor.mask)
        image_embeds = normalize(albef.vision_proj(images[:, 0]), dim=-1)
        similarity = image_embeds @ normalize(albef.text_proj(texts[:, 0]), dim=-1).T

    @torch.inference_mode()
    def plain() -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
        by_image, by_text = published.rerank(model, images, texts, processor.mask, similarity, 64)
        text_order, image_order = by_image.argsort(1, descending=True), by_text.argsort(1, descending=True)
        ranks = rank_of_first_match(owner[text_order] == torch.arange(num_images)[:, None])
        return by_image, by_text, retrieval_metrics(ranks, rank_of_first_match(image_order == owner[:, None]))

    def difference(own: Any, theirs: Any) -> float:
        if own[2] != theirs[2]:
            raise SystemExit(f"The metrics differ: {own[2]} and {theirs[2]}")
        return max((a - b).abs().max().item() for a, b in zip(own[:2], theirs[:2], strict=True))

    return compare(ours, plain, difference, runs)


def growth(quick: bool, num_images: int) -> dict[str, float]:
    """Memory of one evaluation: a caption an image, 2 candidates, room for the states of 50 images."""
    model = make_model(quick, vision_layers=1)
    vision = model.config.vision_config
    room = round(50 * (1 + vision.num_patches) * vision.hidden_size * 4 / 1e6)
    gallery = Gallery(num_images, num_images, vision.image_size)
    evaluator = RetrievalEvaluator(model, DrawnTexts(num_images), k_test=2, batch_size=10, image_memory=room)
    seconds, peak, _ = run_once(lambda: evaluator(gallery))
    return {"seconds": seconds, "peak_memory_mb": peak}


def coco_size(quick: bool) -> dict[str, float]:
    """An evaluation of COCO's size with all its pairs, at tiny width."""
    num_images, num_texts = (50, 250) if quick else (5000, 25_010)
    torch.manual_seed(0)
    tiny = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AlbefConfig(
        vision_config={**tiny, "image_size": 32, "num_hidden_layers": 1},
        text_config={**tiny, "num_fusion_layers": 1},
        projection_dim=16,
    )
    evaluator = RetrievalEvaluator(AlbefForImageTextRetrieval(config), DrawnTexts(num_texts), k_test=256)
    seconds, peak, result = run_once(lambda: evaluator(Gallery(num_images, num_texts, 32)))
    candidates = result.image_to_text.ids.numel() + result.text_to_image.ids.numel()
    return {"seconds": seconds, "peak_memory_mb": peak, "candidates": candidates}


def main() -> None:
    """Runs the cases; those of memory in processes of their own."""
    parser = arguments(__doc__)
    parser.add_argument("--growth", type=int, help="images of a single memory case; prints its figures alone")
    args = parser.parse_args()
    if args.growth:
        print(json.dumps(growth(args.quick, args.growth)))
        return
    cases: dict[str, dict[str, Any]] = {}
    bfloat16_runs = 1 if args.runs < 4 else args.runs
    todo = {
        "one image, 64 texts, float32": lambda: one_image(args.quick, args.runs, torch.float32),
        "one image, 64 texts, bfloat16": lambda: one_image(args.quick, bfloat16_runs, torch.bfloat16),
        "both directions": lambda: whole(args.quick, args.runs),
        "coco size, tiny width": lambda: coco_size(args.quick),
    }
    for name, case in todo.items():
        if not args.only or any(word in name for word in args.only):
            cases[name] = case()
    if not args.only or "growth" in args.only:
        for images in (100, 200) if args.quick else (100, 200, 400, 800):
            words = [sys.executable, "-m", "benchmarks.retrieval_evaluation", "--growth", str(images)]
            words += ["--quick"] * args.quick
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            cases[f"growth, {images} images"] = json.loads(done.stdout.splitlines()[-1])
    report(cases, args.output)


if __name__ == "__main__":
    main()
