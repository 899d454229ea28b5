"""COCO's 5,000 test images: five folds of 1,000, and the positives that COCO's own captions leave out.

CxC (Parekh et al. 2021) and ECCV Caption (Chun et al. 2022) name further captions that fit an image, and images that
fit a caption. They come with the package `eccv-caption` (MIT); what is computed here equals its own numbers.
"""

from __future__ import annotations

import importlib.util
import re
import warnings
from collections.abc import Mapping, Sequence

from .retrieval_metrics import RECALL_DEPTHS

NUM_IMAGES, NUM_FOLDS, CAPTIONS_AN_IMAGE = 5_000, 5, 5
_COCO_NAME = re.compile(r"(?:^|[/\\_])0{6}(\d{6})\.\w+$")  # 000000391895.jpg, COCO_val2014_000000391895.jpg
_MODALITIES = {"txt": "i2t", "img": "t2i"}  # prefix of metrics -> the package's word


def coco_image_id(name: str) -> int | None:
    """Return COCO's id of an image from the name of its file; None where that is not named as COCO's are."""
    found = _COCO_NAME.search(name)
    return None if found is None else int(found[1])


def coco_image_ids(names: Sequence[str]) -> list[int] | None:
    """Return COCO's ids of images from the names of their files; None where these are not 5,000 images of COCO."""
    ids = dict.fromkeys(number for name in names if (number := coco_image_id(name)) is not None)
    return list(ids) if len(ids) == len(names) == NUM_IMAGES else None


def known_positives() -> dict[str, dict[str, dict[int, list[int]]]] | None:
    """Return COCO's, CxC's and ECCV Caption's positives from the package `eccv-caption`; None without it.

    "coco", "cxc" and "eccv" each have "i2t", image id -> caption ids, and "t2i", the reverse.
    """
    if importlib.util.find_spec("eccv_caption") is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for a faster JSON reader
        from eccv_caption import Metrics

        metrics = Metrics()
    return {"coco": metrics.coco_gts, "cxc": metrics.cxc_gts, "eccv": metrics.eccv_gts}


def coco_caption_ids(
    image_ids: Sequence[int], caption_image: Sequence[int], captions_of: Mapping[int, Sequence[int]]
) -> list[int | None]:
    """Return COCO's ids of captions, which are listed image by image in the order of their ids.

    Karpathy's files list them so, and ALBEF's, which are made of these.

    Args:
        image_ids: Of the images.
        caption_image: The index of each caption's image.
        captions_of: Image id -> caption ids; five an image. Further captions have None.
    """
    waiting = {index: sorted(captions_of[number]) for index, number in enumerate(image_ids)}
    return [waiting[image].pop(0) if waiting[image] else None for image in caption_image]


def eccv_metrics(
    retrieved: Mapping[str, Mapping[int, Sequence[int]]], positives: Mapping[str, Mapping[str, Mapping[int, list[int]]]]
) -> dict[str, float]:
    """Return mAP@R, R-precision and recalls by ECCV Caption's positives, and recalls by CxC's, per cent.

    Args:
        retrieved: "i2t": image id -> caption ids, best first; "t2i": caption id -> image ids.
        positives: From `known_positives`.

    Returns:
        For "txt" (text retrieval) and "img": `_eccv_map_at_r`, `_eccv_r_precision`, `_eccv_r1` .., `_cxc_r1` ..
    """
    metrics = {}
    for prefix, modality in _MODALITIES.items():
        ranked = retrieved[modality]
        for name in ("eccv", "cxc"):
            right = {query: set(found) for query, found in positives[name][modality].items()}
            for depth in RECALL_DEPTHS:
                hits = [not right[query].isdisjoint(ranked[query][:depth]) for query in right]
                metrics[f"{prefix}_{name}_r{depth}"] = 100 * sum(hits) / len(hits)
        right = {query: set(found) for query, found in positives["eccv"][modality].items()}
        pairs = [precision_at_r(ranked[query], found) for query, found in right.items()]
        for name, values in zip(("map_at_r", "r_precision"), zip(*pairs, strict=True), strict=True):
            metrics[f"{prefix}_eccv_{name}"] = 100 * sum(values) / len(values)
    return metrics


def precision_at_r(ranked: Sequence[int], positives: set[int]) -> tuple[float, float]:
    """Return mAP@R and R-precision, 0..1, of a ranking whose R positives are known (Musgrave et al. 2020).

    mAP@R is the sum of the precisions at the ranks of the positives among the first R, divided by R.
    """
    hits, total = 0, 0.0
    for rank, candidate in enumerate(ranked[: len(positives)], start=1):
        if candidate in positives:
            hits += 1
            total += hits / rank
    return total / len(positives), hits / len(positives)
