"""Images that look the same, found by a perceptual hash without comparing all with each other."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

SIDE = 9  # of the thumbnails that images are compared by, pixels
MAX_BITS = 8  # of the 144 bits of two hashes that may differ; below the number of bands, so that one of them agrees
MAX_DIFFERENCE = 8.0  # mean absolute difference of two thumbnails, levels of 0..255
MIN_STEP = 2  # levels between neighbors below which there is no edge: what JPEG adds to an even area
MIN_CONTRAST = 12  # levels between the darkest and the lightest pixel of a thumbnail; with less, a hash says nothing
PAIRS_AT_ONCE = 1 << 18  # bounds the memory of a comparison
_BITS_SET = np.array([value.bit_count() for value in range(1 << 16)], np.uint8)
_LUMA = np.array([299, 587, 114], np.int32)


def difference_hashes(thumbnails: np.ndarray) -> np.ndarray:
    """Return the dHash of thumbnails: whether each pixel is darker than its right and its lower neighbor.

    Args:
        thumbnails: (N, 9, 9, 3), RGB of 0..255.

    Returns:
        (N, 9) of 16 bits: 72 bits for neighbors in a row, then 72 for neighbors in a column.
    """
    luma = thumbnails.astype(np.int32) @ _LUMA // 1000
    across, down = (np.diff(luma, axis=axis) > MIN_STEP for axis in (2, 1))
    bits = np.concatenate([one.reshape(len(luma), SIDE * (SIDE - 1)) for one in (across, down)], axis=1)
    return np.packbits(bits, axis=1).view(np.uint16)


def near_identical(thumbnails: np.ndarray) -> list[list[int]]:
    """Return groups of images that look the same, such as one that was saved again or made smaller.

    Two images look the same if at most `MAX_BITS` bits of their dHash differ and their thumbnails by `MAX_DIFFERENCE`
    on average. Images that look like the same third one are in one group. Crops, mirror images and other exposures are
    not found; images of one color are left out. Hashes are compared where one of their nine bands is equal, which
    misses no pair, and of large bands only images of about the same brightness.

    Args:
        thumbnails: (N, 9, 9, 3), RGB of 0..255.

    Returns:
        Indices, rising, of groups of at least two.
    """
    luma = thumbnails.astype(np.int32) @ _LUMA // 1000
    rows = np.flatnonzero(np.ptp(luma, axis=(1, 2)) >= MIN_CONTRAST)
    means = thumbnails[rows].mean(axis=(1, 2, 3))
    rows, means = rows[order := np.argsort(means, kind="stable")], means[order]
    pixels, hashes = thumbnails[rows].reshape(len(rows), SIDE * SIDE * 3), difference_hashes(thumbnails[rows])
    leaders = np.arange(len(rows))
    for band in range(hashes.shape[1]):
        by_value = np.argsort(hashes[:, band], kind="stable")  # of equal values the darkest first
        starts = np.flatnonzero(np.diff(hashes[by_value, band], prepend=-1))
        for bucket in np.split(by_value, starts[1:]):
            if len(bucket) > 1:
                _join_alike(bucket, means[bucket], hashes, pixels, leaders)
    groups = defaultdict(list)
    for index in range(len(rows)):
        groups[_leader(leaders, index)].append(int(rows[index]))
    return sorted(sorted(group) for group in groups.values() if len(group) > 1)


def _join_alike(
    bucket: np.ndarray, means: np.ndarray, hashes: np.ndarray, pixels: np.ndarray, leaders: np.ndarray
) -> None:
    """Join the images of a bucket that look the same; they are in order of brightness."""
    ends = np.searchsorted(means, means + MAX_DIFFERENCE, side="right")  # the means of alike images are as near
    counts = ends - np.arange(len(bucket)) - 1
    totals = np.concatenate([[0], np.cumsum(counts)])
    start, num_pairs = 0, 1  # few at first: where many images are alike, most pairs are joined by then
    while start < len(bucket):
        end = max(start + 1, int(np.searchsorted(totals, totals[start] + num_pairs, side="right")) - 1)
        some = counts[start:end]
        one = np.repeat(np.arange(start, end), some)
        other = one + 1 + np.arange(len(one)) - np.repeat(np.cumsum(some) - some, some)
        one, other = bucket[one], bucket[other]
        apart = leaders[one] != leaders[other]
        one, other = one[apart], other[apart]
        near = _BITS_SET[hashes[one] ^ hashes[other]].sum(1, dtype=np.uint16) <= MAX_BITS
        one, other = one[near], other[near]
        alike = _mean_difference(pixels, one, other) <= MAX_DIFFERENCE
        for first, second in zip(one[alike].tolist(), other[alike].tolist(), strict=True):
            leaders[_leader(leaders, second)] = _leader(leaders, first)
        while np.any(leaders[bucket] != (further := leaders[leaders[bucket]])):
            leaders[bucket] = further
        start, num_pairs = end, min(2 * num_pairs, PAIRS_AT_ONCE)


def _mean_difference(pixels: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the mean absolute difference of pairs of thumbnails."""
    step = PAIRS_AT_ONCE >> 4
    parts = [
        np.abs(pixels[one[n : n + step]].astype(np.int16) - pixels[other[n : n + step]]).mean(1)
        for n in range(0, len(one), step)
    ]
    return np.concatenate(parts) if parts else np.empty(0)


def _leader(leaders: np.ndarray, index: int) -> int:
    """Return the image that stands for a group."""
    while leaders[index] != index:
        leaders[index] = index = leaders[leaders[index]]
    return int(index)
